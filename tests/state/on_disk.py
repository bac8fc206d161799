"""A lane's entries on a real disk, driven as a slot does: held, then committed and written, or lost in a crash."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from state.entries import Entry, Index, OnDisk
from state.lane_stamp import Stamp
from state.lane_store import LaneStore, Shared

_SHARED = Shared()


class Disk:
    """One lane's store, and the entries of one step in it."""

    def __init__(self, path: Path, step: str, indexes: Mapping[str, Index] | None = None) -> None:
        self._path, self._step, self._indexes = path, step, indexes or {}
        self._offset, self._uncommitted = 0, list[Entry]()
        self._open()

    def _open(self) -> None:
        wanted = Stamp("p.state", "id", "g", lane=0, at=1.0)
        self.store = LaneStore(self._path, _SHARED, wanted, end=10**9, max_age=100.0, indexes=self._indexes)
        self.entries = OnDisk(self.store, self._step)

    def hold(self, changes: Iterable[Entry]) -> None:
        """Take a batch's changes as the sink does."""
        for name, value in changes:
            key = self._step.encode() + b"\0" + name
            self._uncommitted.append((key, value))
            self.store.hold(key, value)

    def commit(self) -> None:
        """Commit all that is held."""
        self._offset += len(self._uncommitted) + 1
        self.store.write(self._uncommitted, self._offset, at=1.0)
        self._uncommitted = []

    def crash(self) -> None:
        """Lose what is not committed, and open again."""
        self.store.close()
        self._uncommitted = []
        self._open()
