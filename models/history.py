"""The history: which release is in force for an event, a pure function of the registry log and the event's time.

Every slot folds the same log, so all slots agree without talking to each other:

* A release or a promotion is a *change*. It counts only when an *activation* names its offset; the first activation
  counts.
* An activated change is in force from max(its `valid_from`, the activation's append time + the activation delay).
* Changes of one model take effect in the order of these times; equal times in the order of the log.
* A new champion retires the one before it. A version is published once: a second release of it is ignored.
* A change that was overtaken can no longer be activated, so a release that was accepted late never pushes out a newer
  one. A change is overtaken when a later one is active that made a champion of its model, or that was about the same
  version; a later shadow overtakes no other version.

Nothing here reads a clock. Times are the broker's append times, Unix milliseconds.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from models.release import (
    ActivationRecord,
    RegistryRecord,
    ReleaseRecord,
    Role,
    read_registry,
    unix_ms,
)


@dataclass(frozen=True, slots=True)
class Entry:
    """One record of the registry log as it was read."""

    offset: int
    append_ms: int
    value: bytes | None


@dataclass(frozen=True, slots=True)
class Release:
    """One published version of a model, as the catalog hands it out."""

    offset: int
    """Of the release record: the identity of the release in this log."""
    record: ReleaseRecord

    @property
    def model(self) -> str:
        """Name of the model."""
        return self.record.model

    @property
    def version(self) -> str:
        """The version that decisions name."""
        return self.record.version


@dataclass(frozen=True, slots=True)
class Change:
    """A release or promotion: at `offset` somebody asked that `version` of `model` has `role`."""

    offset: int
    append_ms: int
    model: str
    version: str
    role: Role
    valid_from_ms: int
    activated_ms: int | None = None
    """Append time of the activation that counts; None while the change is pending."""


@dataclass(frozen=True, slots=True)
class InForce:
    """What scores for one model at one moment."""

    champion: Release | None = None
    shadows: tuple[Release, ...] = ()
    """In the order of their release records."""

    def releases(self) -> tuple[Release, ...]:
        """Champion and shadows."""
        return self.shadows if self.champion is None else (self.champion, *self.shadows)


@dataclass(frozen=True, slots=True)
class Part:
    """Part of a batch: rows for which the same releases are in force."""

    rows: slice | npt.NDArray[np.int64]
    in_force: InForce


@dataclass(frozen=True, slots=True)
class Timeline:
    """What is in force for one model: `states[i]` from `starts[i]` (Unix milliseconds) until the next start."""

    starts: tuple[int, ...] = ()
    states: tuple[InForce, ...] = ()

    def at(self, at_ms: int) -> InForce:
        """Look up what is in force for an event appended at `at_ms`."""
        found = bisect_right(self.starts, at_ms)
        return self.states[found - 1] if found else NOTHING

    def since(self, at_ms: int) -> tuple[InForce, ...]:
        """All that is in force at `at_ms` or later."""
        return self.states[max(0, bisect_right(self.starts, at_ms) - 1) :]


NOTHING: Final = InForce()
_EMPTY: Final = Timeline()

Releases: TypeAlias = Mapping[tuple[str, str], Release]


@dataclass(frozen=True, slots=True)
class History:
    """The fold of a prefix of the registry log, for one pipeline. Immutable."""

    pipeline: str
    delay_ms: int
    next_offset: int = 0
    """Everything below it has been folded."""
    releases: Releases = field(default_factory=lambda: MappingProxyType({}))
    """(model, version) to its release."""
    changes: Mapping[int, Change] = field(default_factory=lambda: MappingProxyType({}))
    """Offset to change, in the order of the log."""
    overtaken_below: Mapping[tuple[str, str | None], int] = field(default_factory=lambda: MappingProxyType({}))
    """Offset of the latest activated change of a (model, version), and of the latest that made a champion of a
    (model, None): a change of theirs that is before it and not active is overtaken."""
    timelines: Mapping[str, Timeline] = field(default_factory=lambda: MappingProxyType({}))
    ignored: int = 0
    """Records of this log that count for nothing: of an unknown kind, unreadable, repeated, overtaken."""

    def then(self, entries: Iterable[Entry]) -> History:
        """Fold more of the log. Entries below `next_offset` were folded before and change nothing."""
        fold = _Fold(self)
        for entry in entries:
            fold.take(entry)
        return fold.history()

    def pending(self) -> tuple[Change, ...]:
        """Changes that wait for their activation, in the order of the log."""
        return tuple(
            change
            for change in self.changes.values()
            if change.activated_ms is None and not _overtaken(change, self.overtaken_below)
        )

    def in_force(self, model: str, at_ms: int) -> InForce:
        """Look up what is in force for an event of append time `at_ms`."""
        return self.timelines.get(model, _EMPTY).at(at_ms)

    def parts(self, model: str, append_ms: npt.NDArray[np.int64]) -> list[Part]:
        """Group the rows of a batch by what is in force for each; usually one group.

        Args:
            model: name of the model.
            append_ms: (n,) append time of each row, Unix milliseconds, in any order.
        """
        timeline = self.timelines.get(model, _EMPTY)
        if not len(append_ms):
            return []
        first, last = timeline.at(int(append_ms.min())), timeline.at(int(append_ms.max()))
        if first is last:
            return [Part(slice(0, len(append_ms)), first)]
        states = np.searchsorted(np.array(timeline.starts, np.int64), append_ms, side="right")
        return [
            Part(np.flatnonzero(states == state), timeline.states[state - 1] if state else NOTHING)
            for state in np.unique(states)
        ]

    def in_force_from(self, change: Change) -> int | None:
        """When an activated change takes effect, Unix milliseconds; None while it is pending."""
        return None if change.activated_ms is None else max(change.valid_from_ms, change.activated_ms + self.delay_ms)

    def release_of(self, change: Change) -> Release:
        """The release that a change is about."""
        return self.releases[change.model, change.version]


class _Fold:
    """A history in the making: copied once, however many records follow, so that reading a long log is quick."""

    def __init__(self, before: History) -> None:
        self._before = before
        self._next, self._ignored = before.next_offset, before.ignored
        self._releases, self._changes = dict(before.releases), dict(before.changes)
        self._overtaken_below = dict(before.overtaken_below)
        self._activated: set[str] = set()

    def take(self, entry: Entry) -> None:
        """Fold one record, unless it was folded before."""
        if entry.offset < self._next:
            return
        self._next = entry.offset + 1
        record = read_registry(entry.value)
        if record is not None and record.pipeline != self._before.pipeline:
            return
        if record is None or not self._counts(entry, record):
            self._ignored += 1

    def history(self) -> History:
        """The history so far."""
        after = replace(
            self._before,
            next_offset=self._next,
            releases=MappingProxyType(self._releases),
            changes=MappingProxyType(self._changes),
            overtaken_below=MappingProxyType(self._overtaken_below),
            ignored=self._ignored,
        )
        timelines = {model: _timeline(after, model) for model in self._activated}
        return replace(after, timelines=MappingProxyType({**after.timelines, **timelines}))

    def _counts(self, entry: Entry, record: RegistryRecord) -> bool:
        """Fold a record of this pipeline; False when it counts for nothing."""
        if isinstance(record, ActivationRecord):
            return self._activate(entry, record)
        known = (record.model, record.version) in self._releases
        if known == isinstance(record, ReleaseRecord):
            return False
        if isinstance(record, ReleaseRecord):
            self._releases[record.model, record.version] = Release(entry.offset, record)
        valid_from = unix_ms(record.valid_from)
        self._changes[entry.offset] = Change(
            entry.offset, entry.append_ms, record.model, record.version, record.role, valid_from
        )
        return True

    def _activate(self, entry: Entry, record: ActivationRecord) -> bool:
        change = self._changes.get(record.of)
        if change is None or change.activated_ms is not None or _overtaken(change, self._overtaken_below):
            return False
        self._changes[change.offset] = replace(change, activated_ms=entry.append_ms)
        for version in (change.version, None) if change.role == "champion" else (change.version,):
            before = self._overtaken_below.get((change.model, version), -1)
            self._overtaken_below[change.model, version] = max(before, change.offset)
        self._activated.add(change.model)
        return True


def _overtaken(change: Change, below: Mapping[tuple[str, str | None], int]) -> bool:
    return any(change.offset < below.get((change.model, version), -1) for version in (change.version, None))


def _timeline(history: History, model: str) -> Timeline:
    """Lay a model's activated changes out in time."""
    active = [
        (start, change)
        for change in history.changes.values()
        if change.model == model and (start := history.in_force_from(change)) is not None
    ]
    champion: Release | None = None
    shadows: dict[int, Release] = {}
    starts: list[int] = []
    states: list[InForce] = []
    for start, change in sorted(active, key=lambda item: (item[0], item[1].offset)):
        release = history.release_of(change)
        shadows.pop(release.offset, None)
        if change.role == "champion":
            champion = release
        elif champion is not None and champion.version == release.version:
            champion = None
        if change.role == "shadow":
            shadows[release.offset] = release
        state = InForce(champion, tuple(shadows[offset] for offset in sorted(shadows)))
        if starts and starts[-1] == start:
            states[-1] = state
        else:
            starts.append(start)
            states.append(state)
    return Timeline(tuple(starts), tuple(states))
