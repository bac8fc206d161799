"""The panes of one key of a view while events are added to them."""

from __future__ import annotations

import math
from array import array
from collections.abc import Mapping, Sequence
from typing import TypeAlias

from state.distinct import add_distinct
from state.lateness import NEVER
from state.packed import HEAD, VERSION
from state.panes import COUNT, LATEST, PANE, add, find
from state.view_windows import MOST_BYTES, ViewWindows

Value: TypeAlias = "float | str | None"
"""Of a measure; NaN and None are missing."""


class Measured:
    """The measures of a batch, and where the parts of each are in a pane's row."""

    __slots__ = ("numbers", "sketched")

    def __init__(self, spec: ViewWindows, values: Mapping[str, Sequence[Value]]) -> None:
        """Take a column (n,) for each of `spec.measures`."""
        places = {measure: spec.layout.places(measure) for measure in spec.measures}
        self.numbers = [(values[measure], to) for measure, to in places.items() if max(to) >= 0]
        """Columns of numbers, and the places of their parts."""
        self.sketched = [values[measure] for _, measure in spec.layout.sketches]


class OpenKey:
    """The panes of one key, unpacked."""

    __slots__ = ("_first", "_firsts", "_lane", "_last", "_spec", "_stride", "floor", "latest", "rows", "sketches")

    def __init__(self, spec: ViewWindows, value: bytes | None) -> None:
        """Open a readable value, or begin one."""
        self._spec, self._stride = spec, spec.layout.stride
        self.rows = array("d")
        self.sketches = bytearray()
        """One after the other, as the rows tell their lengths."""
        self.latest = self.floor = NEVER
        """Greatest event time, and the oldest pane that exists."""
        self._lane = self._first = self._last = -1
        self._firsts: dict[int, int] = {}
        """Lane to the first offset of it that was added."""
        if value is not None:
            _, _, self.latest, _, _, _, count = HEAD.unpack_from(value)
            end = HEAD.size + count * self._stride * 8
            self.floor = spec.floor(self.latest)
            self.rows.frombytes(value[HEAD.size : end])
            self.sketches += value[end:]

    def add(self, pane: int, time: int, measured: Measured, row: int) -> None:
        """Add row `row` of a batch, an event at `time` ms; `pane` is its own and not older than `floor`."""
        base = self._row_of(pane)
        rows = self.rows
        rows[base + COUNT] += 1
        rows[base + LATEST] = max(rows[base + LATEST], time)
        for column, places in measured.numbers:
            add(rows, base, places, column[row], time)  # type: ignore[arg-type] # texts have no places
        for number, column in enumerate(measured.sketched):
            value = column[row]
            if value is not None and (isinstance(value, str) or math.isfinite(value)):
                self._sketch(base, number, value)
        if time > self.latest:
            self.latest = time
            self.floor = self._spec.floor(time)

    @property
    def changed(self) -> bool:
        """Whether an event was added."""
        return self._last >= 0

    def came_from(self, lane: int, offset: int) -> None:
        """Say where in the source the event was that was added."""
        self._lane, self._first, self._last = lane, self._firsts.setdefault(lane, offset), offset

    def _row_of(self, pane: int) -> int:
        """Find the row of a pane, made blank where there is none."""
        rows, stride = self.rows, self._stride
        base = len(rows) - stride if rows and rows[-stride] == pane else find(rows, stride, pane)
        if base == len(rows) or rows[base] != pane:
            rows[base:base] = self._spec.layout.blank
            rows[base + PANE] = pane
        return base

    def _sketch(self, base: int, number: int, value: float | str) -> None:
        """Add a value to a sketch of the row at `base`."""
        sketches = self._spec.layout.sketches
        place = base + sketches[number][0]
        after = self._sketched(base + self._stride) + sum(self.rows[base + p] for p, _ in sketches[number:])
        start = len(self.sketches) - int(after)
        stop = start + int(self.rows[place])
        sketch = add_distinct(bytes(self.sketches[start:stop]), value)
        self.sketches[start:stop] = sketch
        self.rows[place] = len(sketch)

    def _sketched(self, start: int, stop: int | None = None) -> int:
        """Bytes of the sketches of the rows from `start` to before `stop`."""
        return int(sum(sum(self.rows[start + place : stop : self._stride]) for place, _ in self._spec.layout.sketches))

    def pack(self, digest: bytes) -> tuple[bytes, bool]:
        """Write the panes that exist; whether the oldest of them had to go because a record cannot be so large."""
        if self.rows[PANE] < self.floor:
            self._drop(find(self.rows, self._stride, self.floor))
        overfull = False
        while len(self.rows) * 8 + len(self.sketches) > MOST_BYTES:
            self._drop(self._stride)
            overfull = True
        count = len(self.rows) // self._stride
        head = HEAD.pack(VERSION, digest, self.latest, self._lane, self._first, self._last, count)
        return head + self.rows.tobytes() + self.sketches, overfull

    def _drop(self, rows: int) -> None:
        """Remove the first rows, `rows` doubles of them."""
        del self.sketches[: self._sketched(0, rows)]
        del self.rows[:rows]
