"""Read several changelogs as a member of one group: lanes come and go, each begins where its reader says.

What has been taken from a changelog is known where it was taken to, not in Kafka; the group's offsets are committed for
those who look at the lag. A lane that could not be taken is closed and opened again: that is the only way back.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from confluent_kafka import Consumer, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

from operators import view_metrics
from operators.lane_state import QUIET, Message
from operators.lanes import LanesLost
from operators.membership import Membership, consumer_properties
from operators.patience import CALL_SECONDS, passes
from operators.roll_call import RollCall
from operators.topic_watch import TopicsUnfit

log = logging.getLogger(__name__)

_COMMIT_SECONDS = 1.0

Lane: TypeAlias = "tuple[str, int]"
"""Topic and partition."""


@dataclass(frozen=True, slots=True)
class Row:
    """One record."""

    offset: int
    append_ms: int
    key: bytes
    value: bytes | None


def rows_of(messages: Iterable[Message]) -> dict[int, list[Row]]:
    """Lane to its records, by offset."""
    rows: dict[int, list[Row]] = {}
    for message in messages:
        row = Row(message.offset(), message.timestamp()[1], message.key() or b"", message.value())
        rows.setdefault(message.partition(), []).append(row)
    return rows


class Changelogs:
    """The changelogs' lanes that this slot has. One thread calls it, but for `open_lanes` and `waiting`."""

    def __init__(
        self, connection: Mapping[str, Any], membership: Membership, topics: Sequence[str], other: str
    ) -> None:
        """Prepare to read `topics` as a static member of the group; `other` is any other topic that exists."""
        group, name = membership.group, membership.name
        self._topics = list(topics)
        self._consumer = Consumer(
            {
                **consumer_properties(connection, membership),
                "auto.offset.reset": "earliest",  # a topic made again, or one that has been emptied: all there is
            },
            logger=log,
        )
        admin = AdminClient({**connection, "log_level": QUIET})
        self._roll_calls = [
            RollCall(admin, connection, group=group, name=name, events=topic, other=other) for topic in topics
        ]
        self._waiting: set[Lane] = set()
        self._next: dict[Lane, int] = {}
        self._joined = False
        self._commit_at = 0.0

    def start(self) -> dict[str, int]:
        """Join the group; topic to how many lanes it has.

        Raises:
            TopicsUnfit: a topic is not there.
        """
        counts = {}
        for topic, roll_call in zip(self._topics, self._roll_calls, strict=True):
            found = self._consumer.list_topics(topic, timeout=CALL_SECONDS).topics[topic]
            if found.error is not None:
                raise TopicsUnfit(f"topic {topic}: {found.error.str()}; `penstock topics` creates what is missing")
            counts[topic] = len(found.partitions)
            roll_call.begin(counts[topic])
        self._consumer.subscribe(self._topics, on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._lost)
        return counts

    def joined(self) -> bool:
        """Whether the group has given out all lanes since this slot joined it."""
        return self._joined and all(roll_call.complete for roll_call in self._roll_calls)

    def waiting(self) -> list[Lane]:
        """Lanes of this slot that are not read yet."""
        return sorted(self._waiting)

    def open_lanes(self) -> list[Lane]:
        """Lanes of this slot that are read."""
        return sorted(self._next)

    def open(self, starts: Mapping[Lane, int]) -> None:
        """Read waiting lanes, each from its offset on."""
        self._consumer.incremental_assign([TopicPartition(*lane, start) for lane, start in starts.items()])
        self._next |= starts
        self._waiting -= starts.keys()

    def reopen(self, lanes: Iterable[Lane]) -> None:
        """Close lanes, which then wait to be opened."""
        closing = [lane for lane in lanes if lane in self._next]
        self._consumer.incremental_unassign([TopicPartition(*lane) for lane in closing])
        for lane in closing:
            del self._next[lane]
            self._waiting.add(lane)

    def poll(self, most: int, seconds: float) -> dict[str, dict[int, list[Row]]]:
        """Serve the group, then read up to `most` records of open lanes: topic to lane to records, by offset.

        Raises:
            LanesLost: the session was lost.
            KafkaException: a broken world.
        """
        first = self._consumer.poll(seconds)
        messages: list[Any] = [] if first is None else [first, *self._consumer.consume(most - 1, 0)]
        taken: dict[str, list[Message]] = {}
        for message in messages:
            if (error := message.error()) is not None:
                if not passes(error):
                    raise KafkaException(error)
                continue
            at = str(message.topic()), message.partition()
            if message.offset() >= self._next.get(at, message.offset() + 1):  # not of a lane that was closed meanwhile
                self._next[at] = message.offset() + 1
                taken.setdefault(at[0], []).append(message)
        return {topic: rows_of(messages) for topic, messages in taken.items()}

    def tick(self) -> None:
        """Commit now and then what has been taken, which is all that was polled; tell the lag."""
        for roll_call in self._roll_calls:
            roll_call.look()
        if time.monotonic() - self._commit_at < _COMMIT_SECONDS:
            return
        self._commit_at = time.monotonic()
        if self._next:
            self._commit(asynchronous=True)
        lags = {}
        for (topic, lane), following in self._next.items():
            _, high = self._consumer.get_watermark_offsets(TopicPartition(topic, lane), cached=True)
            lags[topic, lane] = max(high - following, 0)
        view_metrics.set_lags(lags)

    def close(self) -> None:
        """Commit and go. A static member's lanes wait for it until its session ends."""
        if self._next:
            self._commit(asynchronous=False)
        self._consumer.close()

    def _commit(self, *, asynchronous: bool) -> None:
        offsets = [TopicPartition(*lane, following) for lane, following in self._next.items()]
        try:
            self._consumer.commit(offsets=offsets, asynchronous=asynchronous)  # type: ignore[call-overload]
        except KafkaException as failure:  # nobody begins at these offsets
            log.debug("could not commit the offsets of the changelogs: %s", failure)

    def _assigned(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        lanes = [(partition.topic, partition.partition) for partition in partitions]
        log.info("changelog lanes %s assigned", sorted(lanes))
        self._waiting |= set(lanes)
        self._joined = True
        for roll_call in self._roll_calls:
            roll_call.soon()
        consumer.incremental_assign([])  # each is fetched once it is known from where

    def _revoked(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        lanes = [(partition.topic, partition.partition) for partition in partitions]
        log.info("changelog lanes %s revoked", sorted(lanes))
        self.reopen(lanes)
        self._waiting -= set(lanes)

    def _lost(self, _consumer: Consumer, partitions: list[TopicPartition]) -> None:
        raise LanesLost(f"lost changelog lanes {sorted(p.partition for p in partitions)}: the session ended")
