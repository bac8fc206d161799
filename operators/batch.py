"""What flows between the stages: micro-batches of events, lane control, and the records that leave.

A `Batch` holds `n` events as columns of equal length. The rows of one lane are contiguous and in offset order. Each
stage takes a batch and returns a new one: with more columns, with fewer rows (what left is then in `records`), or both.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Column: TypeAlias = "list[Any] | npt.NDArray[Any]"
"""One value a row: float64 with NaN for missing, or a list with None for missing."""

Headers: TypeAlias = "list[tuple[str, bytes | None]]"


UNREADABLE: Headers = [("\N{REPLACEMENT CHARACTER}", None)]
"""Stands for headers with a name that is not UTF-8: the client cannot give them."""


@dataclass(frozen=True, slots=True)
class Record:
    """One record to write, in the lane of the event that caused it."""

    topic: str
    """Role of the topic in the pipeline, such as `decisions`; the sink knows its full name."""
    lane: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...] = ()
    partition: int | None = None
    """Where it is written, if that is not the partition with the lane's number."""
    others: tuple[int, ...] = ()
    """Further lanes that it speaks for; it is written only where all of them are."""


@dataclass(frozen=True, slots=True)
class Change:
    """One entry of a lane's state as it is after a batch. `value` None deletes it."""

    lane: int
    step: str
    key: bytes
    value: bytes | None


@dataclass(frozen=True, slots=True)
class Open:
    """A lane was assigned: its state at its committed offset, per step."""

    lane: int
    entries: Mapping[str, Mapping[bytes, bytes]]
    complete: bool = True
    """Whether every stage that it has passed has taken all of its entries; if not, it is to be handed in again."""


@dataclass(frozen=True, slots=True)
class Close:
    """A lane was revoked: forget it."""

    lane: int


@dataclass(frozen=True, slots=True)
class Batch:
    """The events of one poll, or the part of it that belongs to one lane."""

    topic: str
    lane: npt.NDArray[np.int32]
    """(n,) partition of each row."""
    offset: npt.NDArray[np.int64]
    """(n,) offset of each row."""
    append_ms: npt.NDArray[np.int64]
    """(n,) the broker's time of each row, Unix milliseconds."""
    keys: list[bytes | None]
    values: list[bytes | None]
    headers: list[Headers]
    arrived_at: float = 0.0
    """When the poll returned, `time.monotonic()` seconds."""
    poll: int = 0
    """Number of the poll in this process; its pieces share it."""
    pieces: int = 1
    """How many pieces the poll is in at present."""
    progress: Mapping[int, int] = field(default_factory=dict)
    """Lane to the next offset to read once every row of this batch has its first record."""
    tides: Mapping[int, Mapping[int, int]] = field(default_factory=dict)
    """Lane to lane of the source to the moment (Unix ms) up to which this batch and those before have all of it."""

    event_ids: list[str] = field(default_factory=list)
    entities: list[str] = field(default_factory=list)
    event_ms: npt.NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    """(n,) the contract's own event time, Unix milliseconds. Empty before `decode`, like the two lists above."""
    behind_ms: npt.NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    """(n,) by how much each row is behind the greatest event time before it in its lane. Empty before `lateness`."""
    source_lane: npt.NDArray[np.int32] = field(default_factory=lambda: np.empty(0, np.int32))
    """(n,) of re-keyed rows: the event's lane in the source; else empty, as the next."""
    source_offset: npt.NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    columns: Mapping[str, Column] = field(default_factory=dict)
    """Contract fields, derived features, recalled features, feature views and scores: one flat name space."""
    ages: Mapping[str, npt.NDArray[np.float64]] = field(default_factory=dict)
    """Feature view to (n,) seconds since the moment that its value speaks for; NaN where there is no value."""
    releases: Mapping[str, list[str | None]] = field(default_factory=dict)
    """Model to (n,) the release that gave the score; None where the fallback did."""
    shadows: Mapping[str, Mapping[str, npt.NDArray[np.float64]]] = field(default_factory=dict)
    """Model to shadow release to (n,) its score."""
    degraded: list[tuple[str, ...]] = field(default_factory=list)
    """(n,) what each row's decision had to do without, such as `view:holder:stale`. Empty before `decode`."""
    outcomes: list[str] = field(default_factory=list)
    reasons: list[tuple[str, ...]] = field(default_factory=list)
    forced: list[str | None] = field(default_factory=list)
    """(n,) outcome that a stage demands whatever the rules say (a view with `on_missing: review`), else None."""

    records: tuple[Record, ...] = ()
    changes: tuple[Change, ...] = ()

    def __len__(self) -> int:
        return len(self.offset)

    def take(self, rows: npt.NDArray[Any] | slice) -> Batch:
        """Keep the rows of a boolean mask (n,), an index array or a slice; records, changes and progress stay."""
        if not isinstance(rows, slice) and rows.dtype == np.bool_:
            rows = np.flatnonzero(rows)
        index = None if isinstance(rows, slice) else rows.tolist()

        def pick(column: Any) -> Any:
            if not len(column):  # a column that a later stage fills
                return column
            return column[rows] if index is None or isinstance(column, np.ndarray) else [column[i] for i in index]

        return self._each_column(pick)

    def leave(self, stays: npt.NDArray[np.bool_], records: Sequence[Record]) -> Batch:
        """Drop the rows that have left, adding the first record of each one."""
        return replace(self.take(stays), records=(*self.records, *records)) if records else self

    def by_lane(self) -> list[tuple[int, Batch]]:
        """Cut into one piece per lane. The first piece carries what the whole has beside its rows."""
        lanes = self.lane
        if not len(lanes):
            return [(next(iter(self.progress), 0), self)]
        cuts = [0, *(np.flatnonzero(lanes[1:] != lanes[:-1]) + 1).tolist(), len(lanes)]
        if len(cuts) == 2:
            return [(int(lanes[0]), self)]
        pieces = len(cuts) - 1
        first = replace(self.take(slice(0, cuts[1])), pieces=pieces)
        rest = replace(self, pieces=pieces, records=(), changes=(), progress={}, tides={})
        others = [rest.take(slice(start, stop)) for start, stop in itertools.pairwise(cuts[1:])]
        return [(int(piece.lane[0]), piece) for piece in (first, *others)]

    def _each_column(self, change: Callable[[Any], Any]) -> Batch:
        return replace(
            self,
            **{name: change(getattr(self, name)) for name in _ROW_COLUMNS},
            columns={name: change(column) for name, column in self.columns.items()},
            ages={name: change(column) for name, column in self.ages.items()},
            releases={name: change(column) for name, column in self.releases.items()},
            shadows={m: {r: change(c) for r, c in by.items()} for m, by in self.shadows.items()},
        )


def join(pieces: Sequence[Batch]) -> Batch:
    """Put the pieces of `by_lane` together again, in the order given.

    Rows that left or columns that came while they were apart are kept. A piece without rows may lack columns.
    """
    if len(pieces) == 1:
        return pieces[0]
    full = [piece for piece in pieces if len(piece)] or [pieces[0]]
    whole = full[0]
    if len(full) > 1:
        whole = replace(
            whole,
            **{name: _concat([getattr(piece, name) for piece in full]) for name in _ROW_COLUMNS},
            columns={name: _concat([piece.columns[name] for piece in full]) for name in whole.columns},
            ages={name: _concat([piece.ages[name] for piece in full]) for name in whole.ages},
            releases={name: _concat([piece.releases[name] for piece in full]) for name in whole.releases},
            shadows={
                model: {name: _concat([piece.shadows[model][name] for piece in full]) for name in shadows}
                for model, shadows in whole.shadows.items()
            },
        )
    return replace(
        whole,
        pieces=1,
        progress={lane: offset for piece in pieces for lane, offset in piece.progress.items()},
        tides={lane: tides for piece in pieces for lane, tides in piece.tides.items()},
        records=tuple(record for piece in pieces for record in piece.records),
        changes=tuple(change for piece in pieces for change in piece.changes),
    )


def _concat(columns: list[Any]) -> Any:
    return (
        np.concatenate(columns) if isinstance(columns[0], np.ndarray) else list(itertools.chain.from_iterable(columns))
    )


Item: TypeAlias = Batch | Open | Close

_ROW_COLUMNS = (
    "lane",
    "offset",
    "append_ms",
    "keys",
    "values",
    "headers",
    "event_ids",
    "entities",
    "event_ms",
    "behind_ms",
    "source_lane",
    "source_offset",
    "degraded",
    "outcomes",
    "reasons",
    "forced",
)
