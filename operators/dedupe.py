"""Mark an event id that its lane has already seen, so that each event is decided once however often it is sent."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import timedelta

import numpy as np
from bytewax.dataflow import operator
from bytewax.operators import KeyedStream

from operators import metrics, wire
from operators.batch import Batch, Change, Item, Record
from operators.stage import lane_stage
from state.dedupe import SeenIds

STEP = "dedupe"
MAX_AHEAD_MS = 60_000
"""Broker times further ahead of this machine's clock are taken as so far ahead; clocks of machines differ by less."""


class Dedupe:
    """The event ids seen in one lane. See `state.dedupe` for what counts as seen.

    Args:
        lane: whose events come.
        pipeline: its name, for the ids of decisions.
        window: how long an id is remembered.
        max_ids: ids remembered at most; beyond them the oldest are forgotten and would pass again.
        now: Unix seconds. Where the topic has the producer's time (`CreateTime`), one wrong clock could otherwise end
            the window of every id in the lane and keep those that follow for ever. With the broker's own time a row is
            never that far ahead, and what is marked depends on the rows alone.
    """

    def __init__(
        self,
        lane: int,
        *,
        pipeline: str,
        window: timedelta,
        max_ids: int,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._lane = lane
        self._pipeline = pipeline
        self._now = now
        self._seen = SeenIds(round(window.total_seconds() * 1000), max_ids)

    def open(self, entries: Mapping[bytes, bytes]) -> None:
        """Take the lane's stored chunks."""
        self._seen.restore(entries)

    def opening(self, entries: Mapping[bytes, bytes]) -> Iterator[None]:
        """Take them a chunk at a time."""
        return self._seen.restoring(entries)

    def work(self, batch: Batch) -> Batch:
        """Let firsts pass; a repeat leaves with a duplicate mark that names the first one's decision."""
        times = np.minimum(batch.append_ms, round(self._now() * 1000) + MAX_AHEAD_MS)
        repeats = self._seen.mark(batch.event_ids, batch.offset.tolist(), times.tolist())
        changes = [Change(self._lane, STEP, key, value) for key, value in self._seen.changes()]
        batch = replace(batch, changes=(*batch.changes, *changes))
        if not repeats:
            return batch
        metrics.count_duplicates(len(repeats))
        stays = np.ones(len(batch), np.bool_)
        stays[list(repeats)] = False
        return batch.leave(stays, [self._mark(batch, row, first) for row, first in repeats.items()])

    def _mark(self, batch: Batch, row: int, first: int) -> Record:
        return wire.duplicate(
            self._pipeline,
            batch.topic,
            self._lane,
            int(batch.offset[row]),
            event_id=batch.event_ids[row],
            entity=batch.entities[row],
            first=wire.decision_id(self._pipeline, self._lane, first),
        )


@operator
def dedupe(step_id: str, up: KeyedStream[Item], *, build: Callable[[int], Dedupe]) -> KeyedStream[Item]:
    """Let each event id pass once per window of its lane.

    In: `Batch` pieces keyed by lane, decoded. Out: the same without repeats.
    Leaves: repeats, as records of role `duplicates`, also those within one batch.
    State: one entry per chunk of ids, deleted when its last id is beyond the window (broker time). A repeat that comes
    later than the window, or after `max_ids` other ids, is a new event.
    """
    return lane_stage(STEP, up, build)
