"""Compute windowed views from a history of events, for training: what a decision about each of them would have read.

The rows are walked in the order in which they arrived, and each one's values are read before the row is taken. So it is
the rule of `state.view_windows` with a writer that is never behind, in the code that serves: the same contract,
measures, windows and reader. What cannot be had from a file is left out: the guard (rows are taken as they stand) and
the broker's times (no event is ahead; an event id is a repeat within the window of `dedupe` by event time).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dataflows.pipeline import Pipeline
from dataflows.view_stages import ahead_of, fields_of, measurer_of, view_windows
from operators.batch import Column
from operators.contract import ContractSpec
from operators.measure import Measured
from operators.payload import Fault, Payloads
from operators.view_keys import keys_of
from state.dedupe import SeenIds
from state.key_windows import KeyWindows
from state.lateness import Lateness
from state.murmur2 import lanes_of
from state.view_reader import ViewReader
from state.view_windows import ViewWindows
from state.window_spec import Tally


@dataclass(frozen=True, slots=True)
class Filled:
    """The rows of a batch that are events, and what was known when each of them came."""

    event_ids: list[str]
    entities: list[str]
    event_ms: npt.NDArray[np.int64]
    """(n,) Unix milliseconds."""
    features: dict[str, npt.NDArray[np.float64]]
    """Column to (n,), NaN where it is unknown."""
    faults: dict[int, Fault]
    """Row of the batch to why the contract refuses it."""
    repeats: int
    """Rows that were left out because their event id came before."""


class Backfill:
    """Computes the windowed views of a pipeline, batch by batch."""

    def __init__(self, pipeline: Pipeline, views: Sequence[str], *, lanes: int = 1) -> None:
        """Compile, which starts Polars' threads.

        Args:
            pipeline: the pipeline file.
            views: names of windowed views.
            lanes: partitions of the events' topic: whether an event is late is decided within its lane.
        """
        self.contract = _contract_of(pipeline, views)
        """What rows must have: the event's id, entity and time and what the views need, each under its own name."""
        self._payloads = Payloads(self.contract)
        self._views = [_View(view_windows(name, pipeline.views[name])) for name in views]
        self._measurer = measurer_of(pipeline, views)
        dedupe = pipeline.dedupe
        self._seen = [SeenIds(round(dedupe.window.total_seconds() * 1000), dedupe.max_ids) for _ in range(lanes)]
        self._lateness = [Lateness(ahead_of(pipeline)) for _ in range(lanes)]
        self._taken = 0

    @property
    def late(self) -> dict[str, Tally]:
        """View to what became of its events out of time so far."""
        return {view.spec.name: view.tally for view in self._views}

    def take(self, rows: Sequence[Mapping[str, Any]]) -> Filled:
        """Read, then take, the next rows.

        Args:
            rows: field to value, as JSON has it, in the order of arrival.
        """
        good, faults = self._payloads.check(rows)
        columns, event_ms, found = self._payloads.columns(good)
        if found:
            places = [row for row in range(len(rows)) if row not in faults]
            faults |= {places[i]: fault for i, fault in found.items()}
            good = [payload for i, payload in enumerate(good) if i not in found]
            columns, event_ms, _ = self._payloads.columns(good)
        entities: list[str] = list(columns[self.contract.entity])
        lanes = lanes_of([entity.encode() for entity in entities], len(self._seen))
        firsts = self._firsts(list(columns[self.contract.event_id]), lanes, event_ms)
        columns = {name: _pick(column, firsts) for name, column in columns.items()}
        return Filled(
            event_ids=list(columns[self.contract.event_id]),
            entities=list(columns[self.contract.entity]),
            event_ms=event_ms[firsts],
            features=self._features(columns, event_ms[firsts], lanes[firsts]),
            faults=faults,
            repeats=len(entities) - len(firsts),
        )

    def _firsts(
        self, event_ids: list[str], lanes: npt.NDArray[np.int64], event_ms: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.int64]:
        """The rows whose event id is new in its lane."""
        repeats: list[int] = []
        for lane in np.unique(lanes).tolist():
            rows = np.flatnonzero(lanes == lane)
            marked = self._seen[lane].mark(
                [event_ids[row] for row in rows.tolist()], (rows + self._taken).tolist(), event_ms[rows].tolist()
            )
            self._seen[lane].changes()
            repeats += rows[list(marked)].tolist()
        self._taken += len(event_ids)
        return np.setdiff1d(np.arange(len(event_ids)), repeats)

    def _features(
        self, columns: Mapping[str, Column], event_ms: npt.NDArray[np.int64], lanes: npt.NDArray[np.int64]
    ) -> dict[str, npt.NDArray[np.float64]]:
        n = len(event_ms)
        behind = np.zeros(n, np.int64)
        for lane in np.unique(lanes).tolist():
            rows = np.flatnonzero(lanes == lane)
            behind[rows] = self._lateness[lane].behind(event_ms[rows].tolist(), [0] * len(rows))
        measured = self._measurer.work(columns, n)
        features: dict[str, npt.NDArray[np.float64]] = {}
        for view in self._views:
            of = view.fill(keys_of(columns[view.spec.key]), event_ms, behind, lanes, measured[view.spec.name])
            features |= {f"{view.spec.name}_{feature}": column for feature, column in of.items()}
        return features


class _View:
    """One view in memory."""

    def __init__(self, spec: ViewWindows) -> None:
        self.spec = spec
        self.tally = Tally()
        self._windows, self._reader = KeyWindows(spec), ViewReader(spec)

    def fill(
        self,
        keys: list[str | None],
        event_ms: npt.NDArray[np.int64],
        behind: npt.NDArray[np.int64],
        lanes: npt.NDArray[np.int64],
        measured: Measured,
    ) -> dict[str, npt.NDArray[np.float64]]:
        """Read each row before it is taken: feature to (n,)."""
        out = {feature.name: np.full(len(keys), np.nan) for feature in self.spec.features}
        panes, late = event_ms // self.spec.pane_ms, behind > self.spec.lateness_ms
        for start, stop in _waves(keys, measured.keys, panes.tolist(), late.tolist()):
            wave = slice(start, stop)
            rows = [row for row in range(start, stop) if keys[row] is not None]
            places = {
                key: place for place, key in enumerate(dict.fromkeys(key for key in keys[wave] if key is not None))
            }
            found = self._reader.evaluate_many(
                self._windows.read(list(places)),
                event_ms[rows],
                np.array([places[key] for row in rows if (key := keys[row]) is not None], np.int64),
            )
            for feature, column in found.items():
                out[feature][rows] = column
            self.tally += self._windows.observe(
                measured.keys[wave],
                event_ms[wave].tolist(),
                behind_ms=behind[wave].tolist(),
                values={measure: column[wave] for measure, column in measured.values.items()},
                lanes=lanes[wave].tolist(),
                offsets=list(range(start, stop)),
            )
            self._windows.changes()
        return out


def _waves(
    reads: Sequence[str | None], takes: Sequence[str | None], panes: Sequence[int], late: Sequence[bool]
) -> Iterator[tuple[int, int]]:
    """Cut rows so that reading all rows of a part, then taking them, gives what one by one would.

    A row sees an earlier one of its key only if that has an earlier pane. A late row, moreover, may see less because
    of any row before.
    """
    start, oldest = 0, dict[str, int]()
    for row, (reading, taking) in enumerate(zip(reads, takes, strict=True)):
        if row > start and (late[row] or (reading is not None and oldest.get(reading, panes[row]) < panes[row])):
            yield start, row
            start, oldest = row, {}
        if taking is not None:
            oldest[taking] = min(panes[row], oldest.get(taking, panes[row]))
    if start < len(reads):
        yield start, len(reads)


def _contract_of(pipeline: Pipeline, views: Sequence[str]) -> ContractSpec:
    """The part of the contract that views need, with every field at the top."""
    contract = pipeline.contract
    needed = [contract.event_id, contract.entity, contract.event_time, *fields_of(pipeline, views)]
    fields = {name: contract.fields[name].model_copy(update={"source": None}) for name in dict.fromkeys(needed)}
    return contract.model_copy(update={"fields": fields, "unknown_fields": "drop"})


def _pick(column: Column, rows: npt.NDArray[np.int64]) -> Column:
    return column[rows] if isinstance(column, np.ndarray) else [column[row] for row in rows.tolist()]
