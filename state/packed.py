"""The panes of one key of a view as bytes: in memory, in the state topic and in Redis.

Little-endian: version (1 byte), the view's digest (8), greatest event time in Unix ms (8), the range of the source that
the latest change came from: lane (4), first and last offset (8 each); number of panes (4); their rows of doubles, as
`state.panes` lays them out, ascending; then, row by row, the sketches whose lengths the rows tell.
"""

from __future__ import annotations

import json
import struct
from array import array
from dataclasses import dataclass

from state.entries import StateUnreadable
from state.panes import Layout, convert
from state.view_windows import ViewWindows

VERSION = 1
HEAD = struct.Struct("<B8sqiqqI")
_LATEST = struct.Struct("<q")
_LATEST_AT, _PANES_AT = 9, HEAD.size - 4


@dataclass(frozen=True, slots=True)
class Origins:
    """Where in the source a value's latest change came from."""

    lane: int
    first: int
    last: int
    """Offsets; what the change took of this lane lies between them."""


class Packing:
    """Tells the values of one view as it is declared now. A `state.entities.Stored` whose panes stay packed."""

    def __init__(self, spec: ViewWindows, declarations: Declarations | None = None) -> None:
        """Read values of `spec`, and bring those of earlier `declarations` over."""
        self._layout, self._pane_ms, self._width = spec.layout, spec.pane_ms, spec.layout.stride * 8
        self._begin = bytes([VERSION]) + spec.digest
        self._earlier = declarations.earlier if declarations is not None else {}

    def readable(self, value: bytes) -> bool:
        """Whether a value is one of this view as it is declared now, and whole."""
        return value.startswith(self._begin) and len(value) >= HEAD.size + self._width * panes_of(value)

    def unpack(self, value: bytes) -> bytes | None:
        """The value; one of an earlier declaration with what both measure; None where they have nothing in common.

        Raises:
            StateUnreadable: it is of an unknown version or broken.
        """
        if self.readable(value):
            return value
        if value[:1] == self._begin[:1] and len(value) >= HEAD.size and not value.startswith(self._begin):
            earlier = self._earlier.get(value[1:_LATEST_AT])
            return None if earlier is None else self._brought_over(value, earlier)
        raise StateUnreadable(
            f"could not read the windows of a key: expected version {VERSION} of their layout, whole; run the build "
            "that wrote it, or delete the step's entries from the state topic"
        )

    def newest(self, value: bytes) -> int:
        """The newest pane."""
        return latest_of(value) // self._pane_ms

    def _brought_over(self, value: bytes, old: Layout) -> bytes:
        end = HEAD.size + panes_of(value) * old.stride * 8
        before = array("d", value[HEAD.size : end])
        rows = convert(before, old, self._layout)
        kept: list[bytes] = []
        for base in range(0, len(before), old.stride):
            found: dict[str, bytes] = {}
            for place, column in old.sketches:
                start, end = end, end + int(before[base + place])
                found[column] = value[start:end]
            kept += [found.get(column, b"") for _, column in self._layout.sketches]
        return b"".join([self._begin, value[_LATEST_AT : HEAD.size], rows.tobytes(), *kept])


class Declarations:
    """In which ways a view was declared as long as its values are there: a lane's table of layouts by digest."""

    def __init__(self, spec: ViewWindows, stored: bytes | None) -> None:
        """Read the table (None for a new lane), and add `spec`.

        Raises:
            StateUnreadable: it is of another version or broken.
        """
        self._all = _read_declarations(stored) if stored is not None else {}
        self.is_new = spec.digest not in self._all
        """Whether the table is to be stored."""
        self._all[spec.digest] = (spec.meaning, spec.layout)
        self.earlier = {
            digest: layout
            for digest, (meaning, layout) in self._all.items()
            if digest != spec.digest and meaning == spec.meaning
        }
        """Digest to layout of those whose values can be brought over: same key, condition and pane."""

    def pack(self) -> bytes:
        """Write the table."""
        table = {digest.hex(): [meaning, layout.columns] for digest, (meaning, layout) in self._all.items()}
        return json.dumps({"v": VERSION, "declarations": table}, separators=(",", ":")).encode()


def _read_declarations(stored: bytes) -> dict[bytes, tuple[tuple[str, ...], Layout]]:
    try:
        table = json.loads(stored)
        if table["v"] != VERSION:
            raise ValueError
        return {
            bytes.fromhex(digest): (tuple(meaning), Layout(int(meaning[-1]), tuple(columns)))
            for digest, (meaning, columns) in table["declarations"].items()
        }
    except (ValueError, KeyError, TypeError, AttributeError):
        raise StateUnreadable("could not restore how a view was declared: this build reads version 1 of it") from None


def latest_of(value: bytes) -> int:
    """Greatest event time of a readable value, Unix milliseconds."""
    return int(_LATEST.unpack_from(value, _LATEST_AT)[0])


def origins_of(value: bytes) -> Origins:
    """Where the latest change of a readable value came from."""
    _, _, _, lane, first, last, _ = HEAD.unpack_from(value)
    return Origins(lane, first, last)


def panes_of(value: bytes) -> int:
    """How many panes a readable value has."""
    return int.from_bytes(value[_PANES_AT : HEAD.size], "little")
