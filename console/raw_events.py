"""The events' topic as anyone can read it: as far as it goes by now, and what came since, again and again."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from itertools import groupby
from typing import TYPE_CHECKING

from operators.kafka_source import to_batch

if TYPE_CHECKING:
    from console.steps import Steps
    from operators.batch import Batch
    from operators.lane_state import Message
    from operators.topic_ranges import TopicRanges


class RawEvents:
    """Reads on and on. Joins no group.

    Args:
        reader: of the cluster.
        topic: the events' topic.
        back_ms: how far back of now to begin, by the broker's time.
        steps: told how far it is.
    """

    def __init__(self, reader: TopicRanges, topic: str, *, back_ms: int, steps: Steps) -> None:
        self._reader, self._topic, self._back_ms, self._steps = reader, topic, back_ms, steps
        self._at: dict[int, int] = {}

    def read(self, take: Callable[[Batch], None], begins: Callable[[int], None]) -> None:
        """Read what came since the last call.

        Args:
            take: gets the events, of one lane at a time, in the order of their offsets.
            begins: gets, before the first event of a lane that is not the lane's first, its time (Unix ms).

        Raises:
            operators.topic_ranges.TopicUnreadable: the topic cannot be read.
        """
        bounds = self._reader.bounds(self._topic)
        fresh = set() if self._at else {lane for lane, at in self._starts(bounds).items() if at}
        ranges = {lane: (at, bounds[lane][1]) for lane, at in self._at.items()}
        self._steps.begin(f"reading {self._topic}", sum(end - at for at, end in ranges.values()))
        for messages in self._reader.read(self._topic, ranges):
            for lane, some in groupby(sorted(messages, key=_lane), _lane):
                batch = to_batch(list(some), 0)
                if lane in fresh:
                    fresh.discard(lane)
                    begins(int(batch.append_ms[0]))
                take(batch)
            self._steps.advance(len(messages))
        self._at = {lane: end for lane, (_, end) in ranges.items()}

    def _starts(self, bounds: Mapping[int, tuple[int, int]]) -> dict[int, int]:
        """Where to begin."""
        moment = round(time.time() * 1000) - self._back_ms
        since = self._reader.since(self._topic, dict.fromkeys(bounds, moment))
        self._at = {lane: max(first, since[lane]) for lane, (first, _) in bounds.items()}
        return self._at


def _lane(message: Message) -> int:
    return int(message.partition())
