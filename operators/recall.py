"""Recall each entity's own last hours as features: read before the event, updated after it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from bytewax.dataflow import operator
from bytewax.operators import KeyedStream

from operators import metrics
from operators.batch import Batch, Change, Item
from operators.stage import lane_stage
from state.window_spec import WindowSpec
from state.windows import EntityWindows

STEP = "recall"


class Recall:
    """The windows of one lane's entities. `state.windows` says what each feature means."""

    def __init__(self, lane: int, spec: WindowSpec) -> None:
        self._lane = lane
        self._of = tuple(dict.fromkeys(column for feature in spec.features for _, column in feature.needs))
        self._asked = bool(spec.features)
        self._windows = EntityWindows(spec)

    def open(self, entries: Mapping[bytes, bytes]) -> None:
        """Take the lane's stored windows."""
        if self._asked:
            self._windows.restore(entries)

    def opening(self, entries: Mapping[bytes, bytes]) -> Iterator[None]:
        """Take them some hundreds at a time."""
        return self._windows.restoring(entries if self._asked else {})

    def work(self, batch: Batch) -> Batch:
        """Add a float64 column (n,) for each feature; NaN where there is nothing to recall.

        Without features there is nothing to remember either: the batch passes as it is.
        """
        if not self._asked:
            return batch
        features, tally = self._windows.observe(
            batch.entities,
            batch.event_ms.tolist(),
            batch.append_ms.tolist(),
            {name: _numbers(batch.columns[name]) for name in self._of},
        )
        for taken in ("included", "ignored", "too_late", "ahead"):
            if n := getattr(tally, taken):
                metrics.count_late(taken, n)
        columns = {name: np.array(column, np.float64) for name, column in features.items()}
        changes = [Change(self._lane, STEP, key, value) for key, value in self._windows.changes()]
        return replace(batch, columns={**batch.columns, **columns}, changes=(*batch.changes, *changes))


def _numbers(column: Any) -> list[float]:
    numbers: list[float] = np.asarray(column, np.float64).tolist()
    return numbers


@operator
def recall(step_id: str, up: KeyedStream[Item], *, build: Callable[[int], Recall]) -> KeyedStream[Item]:
    """Add what the entity itself did of late.

    In: `Batch` pieces keyed by lane, decoded. Out: the same with one column per feature.
    Leaves: nothing; events behind the watermark are counted, and follow the spec's rule.
    State: one entry per entity, deleted when it was idle longer than the longest window, by the lane's watermark.
    """
    return lane_stage(STEP, up, build)
