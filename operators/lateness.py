"""Say how late each event is, by the event times of its own lane: decided once, before events are re-keyed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
from bytewax.dataflow import operator
from bytewax.operators import KeyedStream

from operators import metrics
from operators.batch import Batch, Change, Item
from operators.stage import lane_stage
from state.lateness import Lateness

STEP = "lateness"
_LATEST = b"w"


class LaneLateness:
    """The greatest event time of one lane. `state.lateness` says what it means to be behind or ahead."""

    def __init__(self, lane: int, ahead_ms: int) -> None:
        """Take rows that are dated up to `ahead_ms` after the broker's time."""
        self._lane, self._ahead_ms, self._lateness = lane, ahead_ms, Lateness(ahead_ms)

    def open(self, entries: Mapping[bytes, bytes]) -> None:
        """Take the lane's stored event time."""
        self._lateness = Lateness(self._ahead_ms, entries.get(_LATEST))

    def work(self, batch: Batch) -> Batch:
        """Add `behind_ms`; rows that are ahead leave."""
        before = self._lateness.latest_ms
        behind = self._lateness.behind(batch.event_ms.tolist(), batch.append_ms.tolist())
        if self._lateness.latest_ms != before:
            change = Change(self._lane, STEP, _LATEST, self._lateness.pack())
            batch = replace(batch, changes=(*batch.changes, change))
        ahead = behind.count(None)
        if ahead:
            metrics.count_late("ahead", ahead)
            batch = batch.take(np.array([each is not None for each in behind], np.bool_))
        return replace(batch, behind_ms=np.array([each for each in behind if each is not None], np.int64))


@operator
def lateness(step_id: str, up: KeyedStream[Item], *, build: Callable[[int], LaneLateness]) -> KeyedStream[Item]:
    """Say by how much each event is behind its lane.

    In: `Batch` pieces keyed by lane, decoded. Out: the same with `behind_ms`.
    Leaves: events dated too far ahead of the broker's time, which are counted and computed with no further.
    State: one entry per lane, the greatest event time.
    """
    return lane_stage(STEP, up, build)
