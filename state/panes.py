"""How the panes of one entity or key are laid out, in memory and in the state topic.

An entity's panes are one `array('d')`: a row of equal length per non-empty pane, ascending. The first three columns are
the pane's number, its count of events and its greatest event time; those that follow belong to the value columns that
the features need. Stored, it is the layout's number (2 bytes) and the array's bytes (little-endian, as on every machine
that Bytewax runs on).
"""

from __future__ import annotations

import json
import math
import struct
from array import array
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from state.entries import StateUnreadable

VERSION = 1
PANE, COUNT, LATEST = 0, 1, 2
_FIXED = ("pane", "count", "latest")
_BLANK = {
    "n": 0.0, "sum": 0.0, "m2": 0.0, "min": math.inf, "max": -math.inf,
    "at": -math.inf, "last": math.nan, "first_at": math.inf, "first": math.nan, "sketch": 0.0,
}  # fmt: skip
"""Per value column: how many values, their sum, the sum of their squared distances from the mean, the smallest and the
greatest; the greatest event time of one, and that value; the smallest, and that value; and how many bytes the sketch of
the distinct ones has, which `state.packed` keeps beside the rows."""
_NUMBER = struct.Struct("<H")


@dataclass(frozen=True)
class Layout:
    """The columns of a pane's row."""

    pane_ms: int
    columns: tuple[str, ...]

    @classmethod
    def of(cls, pane_ms: int, needs: Sequence[tuple[str, str]]) -> Layout:
        """Make the layout for `needs`: (part, value column), such as ("sum", "amount")."""
        return cls(pane_ms, (*_FIXED, *dict.fromkeys(f"{part}:{column}" for part, column in needs)))

    @cached_property
    def stride(self) -> int:
        """Doubles per pane."""
        return len(self.columns)

    @cached_property
    def blank(self) -> array[float]:
        """The row of a pane in which nothing has happened."""
        return array("d", [0.0, 0.0, -math.inf, *(_BLANK[name.partition(":")[0]] for name in self.columns[3:])])

    def place(self, part: str, column: str) -> int:
        """Where a part of a value column is in a row."""
        return self.columns.index(f"{part}:{column}")

    @cached_property
    def sketches(self) -> tuple[tuple[int, str], ...]:
        """Where in a row the length of each sketch is, and its value column, in the order of the row."""
        named = [(place, name.partition(":")) for place, name in enumerate(self.columns)]
        return tuple((place, column) for place, (part, _, column) in named if part == "sketch")

    def places(self, column: str) -> tuple[int, ...]:
        """Where n, sum, m2, min, max, at, last, first_at and first of a value column are; -1 for what is not needed."""
        names = [f"{part}:{column}" for part in _BLANK if part != "sketch"]
        return tuple(self.columns.index(name) if name in self.columns else -1 for name in names)


class Layouts:
    """Every layout that entries of the lane may still have; the last life's and this one's."""

    def __init__(self, current: Layout, stored: bytes | None) -> None:
        """Read the lane's table of layouts (None for a new lane).

        Raises:
            StateUnreadable: the table is of another version or broken.
        """
        self._current = current
        self._known = _read_table(stored) if stored is not None else []
        self.is_new = current not in self._known
        self.pane_changed = any(layout.pane_ms != current.pane_ms for layout in self._known)
        """Whether some entries may be of another size of pane, and so are lost."""
        if self.is_new:
            self._known.append(current)
        self._prefix = _NUMBER.pack(self._known.index(current))

    def table(self) -> bytes:
        """The table to store."""
        layouts = [{"pane_ms": layout.pane_ms, "columns": layout.columns} for layout in self._known]
        return json.dumps({"v": VERSION, "layouts": layouts}, separators=(",", ":")).encode()

    def newest(self, panes: array[float]) -> int:
        """The newest pane of an entity."""
        return int(panes[-self._current.stride])

    def pack(self, panes: array[float]) -> bytes:
        """Write an entity's panes."""
        return self._prefix + panes.tobytes()

    def unpack(self, value: bytes) -> array[float] | None:
        """Read an entity's panes into the current layout; None where they are of another size of pane.

        Columns that the stored layout lacks begin empty.

        Raises:
            StateUnreadable: the layout is unknown or the length is wrong.
        """
        try:
            layout = self._known[_NUMBER.unpack_from(value)[0]]
            panes = array("d", value[_NUMBER.size :])
        except (struct.error, IndexError, ValueError):
            raise StateUnreadable("could not restore an entity's panes: unknown layout or broken length") from None
        if not panes or len(panes) % layout.stride:
            raise StateUnreadable("could not restore an entity's panes: the length does not fit the layout")
        if layout == self._current:
            return panes
        return convert(panes, layout, self._current) if layout.pane_ms == self._current.pane_ms else None


def _read_table(stored: bytes) -> list[Layout]:
    try:
        table = json.loads(stored)
        if table["v"] != VERSION:
            raise StateUnreadable(
                f"could not restore the windows of a lane: this build reads version {VERSION} of their layout table; "
                "run the build that wrote it, or delete the step's entries from the state topic"
            )
        return [Layout(int(entry["pane_ms"]), tuple(map(str, entry["columns"]))) for entry in table["layouts"]]
    except (ValueError, KeyError, TypeError):
        raise StateUnreadable("could not restore the windows of a lane: their layout table is broken") from None


def convert(panes: array[float], old: Layout, new: Layout) -> array[float]:
    """Carry the columns that both layouts have; the others begin empty."""
    out = array("d", new.blank * (len(panes) // old.stride))
    for place, column in enumerate(new.columns):
        if column in old.columns:
            out[place :: new.stride] = panes[old.columns.index(column) :: old.stride]
    return out


def find(panes: array[float], stride: int, pane: int) -> int:
    """Where the first row with this pane or a later one begins."""
    return bisect_left(panes[::stride], pane) * stride


def add(panes: array[float], base: int, places: Sequence[int], value: float, time: int) -> None:
    """Add a value to the row at `base`; NaN and infinity are no values.

    The sum of squared distances is updated after Welford (1962), with the mean as the sum by the number.
    """
    if not math.isfinite(value):
        return
    n, total, m2, low, high, at, last, first_at, first = places
    if m2 >= 0 and (count := panes[base + n]):
        distance = value - panes[base + total] / count
        panes[base + m2] += distance * (value - (panes[base + total] + value) / (count + 1))
    if n >= 0:
        panes[base + n] += 1
    if total >= 0:
        panes[base + total] += value
    if low >= 0 and value < panes[base + low]:
        panes[base + low] = value
    if high >= 0 and value > panes[base + high]:
        panes[base + high] = value
    if at >= 0 and time >= panes[base + at]:
        panes[base + at] = time
        if last >= 0:
            panes[base + last] = value
    if first_at >= 0 and time < panes[base + first_at]:
        panes[base + first_at] = time
        panes[base + first] = value
