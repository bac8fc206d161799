"""The windows of every key of a view, for one lane.

`state.view_windows` says what they mean, `state.packed` how a key's panes are stored.

Stored: one entry per key, `e` and the key in UTF-8 (`key_of` tells the key); `w` has the greatest event time of each
lane of the source, `l` the ways in which the view was declared. A key whose panes are all too old is deleted as time
moves on, `EXPIRED_PER_ROW` looked at per row at most.

Where the view is declared in another way than before, a key keeps what both measure; it is written again, as many per
row, or (on disk) with its next event. With another key, condition or pane its windows fill anew.

Memory: a key is its packed value: 250 bytes with one pane and two measures, or the latest ones where they are on disk.
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Iterator, Mapping, Sequence

from state.entities import EXPIRED_PER_ROW, AllInMemory, Entities, HotInMemory, entity_key, entity_of
from state.entries import OnDisk, StateUnreadable
from state.lateness import NEVER
from state.open_key import Measured, OpenKey, Value
from state.packed import Declarations, Packing
from state.view_windows import ViewWindows
from state.window_spec import DAY_MS, Tally

_DECLARED, _LATEST = b"l", b"w"
_LANE = struct.Struct("<iq")
_VERSION = b"\x01"
_log = logging.getLogger(__name__)


def key_of(name: bytes) -> str | None:
    """The view key of an entry's state key; None where the entry is not a key's."""
    return entity_of(name) if name[:1] == b"e" else None


class KeyWindows:
    """The windows of every key of one lane."""

    def __init__(self, spec: ViewWindows) -> None:
        self._spec = spec
        self.restore({})

    def __len__(self) -> int:
        """Keys in memory."""
        return len(self._known)

    def restore(self, entries: Mapping[bytes, bytes]) -> None:
        """Take the stored entries in place of what is known now.

        Raises:
            StateUnreadable: an entry is of an unknown version or broken.
        """
        for _ in self.restoring(entries):
            pass

    def restoring(self, entries: Mapping[bytes, bytes]) -> Iterator[None]:
        """Do the same in parts of a millisecond."""
        self._dirty: dict[str, None] = {}
        self._declarations = Declarations(self._spec, entries.get(_DECLARED))
        self._packing = Packing(self._spec, self._declarations)
        self._outdated: list[str] = []
        self._latest = _read_latest(entries.get(_LATEST))
        self._moved = False
        self._move_floor()
        if isinstance(entries, OnDisk):
            self._keys: Entities[bytes] = HotInMemory(entries, self._packing)
        else:
            self._keys = in_memory = AllInMemory(self._packing)
            yield from in_memory.restoring(entries)
            if self._declarations.earlier:
                yield from self._find_outdated(entries)
            if in_memory.foreign:
                _log.warning("view %s is declared in another way than before: its windows fill anew", self._spec.name)
        self._known = self._keys.known

    def observe(
        self,
        keys: Sequence[str | None],
        event_ms: Sequence[int],
        *,
        behind_ms: Sequence[int],
        values: Mapping[str, Sequence[Value]],
        lanes: Sequence[int],
        offsets: Sequence[int],
    ) -> Tally:
        """Add events to the windows of their keys.

        Args:
            keys: (n,); None where the event is not for this view.
            event_ms: (n,) event times, Unix milliseconds.
            behind_ms: (n,) how far each was behind in its lane of the source, as `state.lateness` says; rows that are
                ahead are left out.
            values: each of the spec's measures, (n,): numbers, NaN where missing, or texts, None where missing.
            lanes: (n,) lanes of the source.
            offsets: (n,) offsets in them.

        Returns:
            What became of the events out of time; `ahead` is the caller's to say.
        """
        tally, opened = Tally(), dict[str, OpenKey]()
        measured, pane_ms = Measured(self._spec, values), self._spec.pane_ms
        lateness, include = self._spec.lateness_ms, self._spec.include_late
        self._keys.fetch([key for key in keys if key is not None])
        for row, key in enumerate(keys):
            time, late = event_ms[row], behind_ms[row] > lateness
            if key is None:
                pass
            elif late and not include:
                tally.ignored += 1
            else:
                panes, pane = opened.get(key), time // pane_ms
                if panes is None or panes.latest // pane_ms < self._floor:
                    panes = opened[key] = OpenKey(self._spec, self._alive(key))
                if pane < max(panes.floor, self._floor):
                    tally.too_late += 1
                else:
                    tally.included += late
                    panes.add(pane, time, measured, row)
                    panes.came_from(lanes[row], offsets[row])
            if time > self._latest.get(lanes[row], NEVER):
                self._advance(lanes[row], time)
        self._close(opened, tally)
        for key in self._keys.expire(self._floor, len(keys)):
            self._dirty[key] = None
        for _ in range(min(len(self._outdated), EXPIRED_PER_ROW * len(keys))):
            self._dirty[self._outdated.pop()] = None
        return tally

    def read(self, keys: Sequence[str]) -> list[bytes | None]:
        """The values of keys as they are now, in the order of `keys`."""
        self._keys.fetch(keys)
        return [self._alive(key) for key in keys]

    def changes(self) -> list[tuple[bytes, bytes | None]]:
        """Give the entries that changed since the last call; None deletes."""
        out: list[tuple[bytes, bytes | None]] = [(entity_key(key), self._known.get(key)) for key in self._dirty]
        self._dirty = {}
        self._keys.trim()
        if self._declarations.is_new:
            self._declarations.is_new = False
            out.append((_DECLARED, self._declarations.pack()))
        if self._moved:
            self._moved = False
            out.append((_LATEST, _VERSION + b"".join(_LANE.pack(*pair) for pair in sorted(self._latest.items()))))
        return out

    def _find_outdated(self, entries: Mapping[bytes, bytes]) -> Iterator[None]:
        """Keys that were stored as the view was declared before: to be written again, for readers know it as it is."""
        for number, (name, value) in enumerate(entries.items()):
            if (key := key_of(name)) is not None and not self._packing.readable(value) and key in self._keys.known:
                self._outdated.append(key)
            if number % 1000 == 999:
                yield

    def _alive(self, key: str) -> bytes | None:
        """A key's value, unless it has expired and only waits to be deleted."""
        value = self._known.get(key)
        return value if value is not None and self._packing.newest(value) >= self._floor else None

    def _close(self, opened: Mapping[str, OpenKey], tally: Tally) -> None:
        """Pack the keys that have changed."""
        for key, panes in opened.items():
            if panes.changed:
                value, overfull = panes.pack(self._spec.digest)
                tally.overfull += overfull
                if key not in self._known:
                    self._keys.enlist(key, self._packing.newest(value))
                self._known[key] = value
                self._dirty[key] = None

    def _advance(self, lane: int, time: int) -> None:
        self._latest[lane] = time
        self._moved = True
        self._move_floor()

    def _move_floor(self) -> None:
        """Of the lanes of the source, the one that is behind holds up the others, but for a day at most."""
        times = self._latest.values()
        self._floor = self._spec.floor(max(min(times), max(times) - DAY_MS)) if times else NEVER


def _read_latest(stored: bytes | None) -> dict[int, int]:
    if stored is None:
        return {}
    if stored[:1] != _VERSION or len(stored[1:]) % _LANE.size:
        raise StateUnreadable("could not restore the event times of a view's lanes: this build reads version 1 of them")
    return dict(_LANE.iter_unpack(stored[1:]))
