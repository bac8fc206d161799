"""Where the panes of a lane's entities or keys are: all in memory, or on disk with the active ones in memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from heapq import heappop, heappush
from itertools import islice
from typing import Generic, Protocol, TypeVar

from state.entries import OnDisk

Panes = TypeVar("Panes")
"""What an entity's panes are in memory."""

HOT = 10_000
"""Entities of a lane that stay in memory at least once they were active; at most twice as many. 5 MB."""
EXPIRED_PER_ROW = 4
SWEPT_PER_ROW = 2
"""Entities on disk looked at per row. As many entities as come while all are looked at once, half of those there, are
there for nothing: a third of the store at most."""
_PART = 500
"""Entities restored in one go."""
_SWEEP = 256
"""Rows after which the disk is swept: finding the place costs 25 µs each time."""


class Stored(Protocol[Panes]):
    """How the panes of an entity are stored."""

    def unpack(self, value: bytes) -> Panes | None:
        """Read an entry; None where it is of no use any more. Raises `StateUnreadable`."""

    def newest(self, panes: Panes) -> int:
        """The newest pane."""


class Entities(Protocol[Panes]):
    """What the windows of a lane ask of where its entities are."""

    known: dict[str, Panes]
    """Entity to its panes; all that are stored, or those in memory."""

    def fetch(self, entities: Sequence[str]) -> None:
        """See to it that `known` has those of a batch that are stored."""

    def enlist(self, entity: str, newest: int) -> None:
        """Take note of a new entity, whose newest pane is `newest`."""

    def expire(self, floor: int, rows: int) -> list[str]:
        """Remove some entities without a pane from `floor` on, `rows` rows after the last call."""

    def trim(self) -> None:
        """Let go of what is stored and not needed in memory. After the changes of a batch were taken."""


def entity_key(entity: str) -> bytes:
    """Key of an entity's entry."""
    return b"e" + entity.encode("utf-8", "surrogatepass")


def entity_of(key: bytes) -> str:
    """The entity of such a key."""
    return key[1:].decode("utf-8", "surrogatepass")


class AllInMemory(Generic[Panes]):
    """Every entity is in `known`. An `Entities`."""

    def __init__(self, stored: Stored[Panes]) -> None:
        """Begin with none."""
        self.known: dict[str, Panes] = {}
        self._stored = stored
        self._due: dict[int, list[str]] = {}
        """Newest pane, when last looked at, to its entities; each entity is in it once."""
        self._due_panes: list[int] = []
        self.foreign: list[str] = []
        """Entities whose entry is of no use any more: to be deleted."""

    def restoring(self, entries: Mapping[bytes, bytes]) -> Iterator[None]:
        """Take the stored entries, of which those that begin with `e` are entities, in parts of a millisecond."""
        for number, (key, value) in enumerate(entries.items()):
            if key[:1] == b"e":
                self._take(entity_of(key), self._stored.unpack(value))
            if number % _PART == _PART - 1:
                yield

    def _take(self, entity: str, panes: Panes | None) -> None:
        if panes is None:
            self.foreign.append(entity)
        else:
            self.known[entity] = panes
            self.enlist(entity, self._stored.newest(panes))

    def fetch(self, entities: Sequence[str]) -> None:
        """Do nothing: they are all there."""

    def enlist(self, entity: str, newest: int) -> None:
        """Look at it again when `newest` exists no more."""
        if newest not in self._due:
            self._due[newest] = []
            heappush(self._due_panes, newest)
        self._due[newest].append(entity)

    def expire(self, floor: int, rows: int) -> list[str]:
        """Look at `EXPIRED_PER_ROW` entities per row at most, and only at those that may be due."""
        budget, gone = EXPIRED_PER_ROW * rows, []
        while self.foreign and budget:
            budget -= 1
            if (entity := self.foreign.pop()) not in self.known:
                gone.append(entity)
        while budget and self._due_panes and self._due_panes[0] < floor:
            due = self._due[self._due_panes[0]]
            while budget and due:
                budget -= 1
                entity = due.pop()
                newest = self._stored.newest(self.known[entity])
                if newest < floor:
                    del self.known[entity]
                    gone.append(entity)
                else:
                    self.enlist(entity, newest)
            if not due:
                del self._due[heappop(self._due_panes)]
        return gone

    def trim(self) -> None:
        """Keep all of them."""


class HotInMemory(Generic[Panes]):
    """Only entities of late are in `known`, the others on disk. An `Entities`."""

    def __init__(self, entries: OnDisk, stored: Stored[Panes]) -> None:
        """Read nothing yet."""
        self.known: dict[str, Panes] = {}
        self._entries, self._stored = entries, stored
        self._owed = 0
        self._swept = b"e"

    def fetch(self, entities: Sequence[str]) -> None:
        """Read those of a batch that are not in memory; all of them are now the latest in use."""
        known, missing = self.known, []
        for entity in dict.fromkeys(entities):
            if (panes := known.pop(entity, None)) is None:
                missing.append(entity)
            else:
                known[entity] = panes
        for entity, value in zip(missing, self._entries.fetch([entity_key(e) for e in missing]), strict=True):
            if value is not None and (panes := self._stored.unpack(value)) is not None:
                known[entity] = panes

    def enlist(self, entity: str, newest: int) -> None:
        """Do nothing: the sweep finds it on disk."""

    def expire(self, floor: int, rows: int) -> list[str]:
        """Look at the next entities on disk in the order of their keys, round and round."""
        self._owed += rows
        if self._owed < _SWEEP:
            return []
        budget, self._owed = SWEPT_PER_ROW * self._owed, 0
        looked = list(islice(self._entries.scan(self._swept), budget))
        self._swept = looked[-1][0] + b"\0" if len(looked) == budget else b"e"
        due = [key for key, value in looked if key[:1] == b"e" and self._is_over(value, floor)]
        gone = []
        for key, value in zip(due, self._entries.fetch(due) if due else (), strict=True):
            entity = entity_of(key)
            panes = self.known.get(entity)
            if value is not None and (
                self._is_over(value, floor) if panes is None else self._stored.newest(panes) < floor
            ):
                self.known.pop(entity, None)
                gone.append(entity)
        return gone

    def trim(self) -> None:
        """Keep the latest `HOT`, once there are twice as many."""
        if len(self.known) > 2 * HOT:
            kept = list(islice(self.known.items(), len(self.known) - HOT, None))
            self.known.clear()
            self.known.update(kept)

    def _is_over(self, value: bytes, floor: int) -> bool:
        """Whether an entry has no pane any more, or is of no use."""
        panes = self._stored.unpack(value)
        return panes is None or self._stored.newest(panes) < floor
