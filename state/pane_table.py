"""The panes of many keys as one table, and which of its rows each reading has in its window."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt

from state.entries import StateUnreadable
from state.packed import HEAD, panes_of
from state.panes import PANE, Layout

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Ranges:
    """The rows of a table that each reading has in its window."""

    start: Integers
    stop: Integers
    sums: dict[int, Floats] = field(default_factory=dict)
    """Place in a pane's row to (n,) its sum over each window, once it was asked for."""

    @cached_property
    def some(self) -> Integers:
        """The readings that have any."""
        return np.flatnonzero(self.stop > self.start)

    @cached_property
    def cuts(self) -> Integers:
        """Start and stop of each of those, in turn, as `reduceat` wants them."""
        return np.stack([self.start[self.some], self.stop[self.some]], axis=1).ravel()


@dataclass(frozen=True)
class PaneTable:
    """The rows of many values, one value after the other, and a last row that belongs to none."""

    values: Sequence[bytes | None]
    rows: Floats
    """(stride, rows + 1)"""
    counts: Integers
    """(values,) rows of each."""
    layout: Layout

    @classmethod
    def of(cls, values: Sequence[bytes | None], layout: Layout) -> PaneTable:
        """Put readable values into a table.

        Raises:
            StateUnreadable: a value is broken.
        """
        stride, begin = layout.stride, HEAD.size
        width = stride * 8
        counts = [0 if value is None else panes_of(value) for value in values]
        parts = [
            value[begin : begin + count * width]
            for value, count in zip(values, counts, strict=True)
            if value is not None
        ]
        rows = np.frombuffer(b"".join([*parts, bytes(width)]), np.float64)
        if len(rows) != (sum(counts) + 1) * stride:
            raise StateUnreadable("could not read the windows of a key: its length is wrong")
        return cls(values, np.ascontiguousarray(rows.reshape(-1, stride).T), np.array(counts, np.int64), layout)

    @cached_property
    def first(self) -> Integers:
        """(values,) where the rows of each begin."""
        return np.cumsum(self.counts) - self.counts

    def ranges(self, of: Integers, start: Integers, stop: Integers) -> Ranges:
        """The rows of the values `of` (n,) whose panes are from `start` (n,) to before `stop` (n,)."""
        return Ranges(self._find(of, start), self._find(of, stop))

    def _find(self, of: Integers, pane: Integers) -> Integers:
        """(n,) the first row of each value with this pane or a later one."""
        ordered, oldest, span = self._ordered
        return np.searchsorted(ordered, of * span + np.minimum(np.maximum(pane - oldest, 0), span - 1))

    @cached_property
    def _ordered(self) -> tuple[Integers, int, int]:
        """A number for each row that ascends over values and panes; the oldest pane; numbers per value."""
        panes = self.rows[PANE, :-1].astype(np.int64)
        if not len(panes):
            return panes, 0, 1
        oldest, span = int(panes.min()), int(np.ptp(panes)) + 2
        return np.repeat(np.arange(len(self.counts)), self.counts) * span + (panes - oldest), oldest, span

    def sketch_offsets(self, place: int) -> Integers:
        """(rows, 2) where the sketch whose length is at `place` of a pane's row starts and stops in its value."""
        places = [each for each, _ in self.layout.sketches]
        starts, stops = self._sketch_bounds
        return np.stack([starts, stops], axis=2)[:, places.index(place)]

    @cached_property
    def _sketch_bounds(self) -> tuple[Integers, Integers]:
        """(rows, sketches in a row) each, of all sketches."""
        lengths = self.rows[[place for place, _ in self.layout.sketches], :-1].T.astype(np.int64)
        stops = np.cumsum(lengths).reshape(lengths.shape)
        starts = stops - lengths
        has = np.flatnonzero(self.counts)
        rows_end = HEAD.size + self.counts[has] * self.layout.stride * 8
        shift = np.repeat(rows_end - starts[self.first[has], 0], self.counts[has])[:, None]
        return starts + shift, stops + shift
