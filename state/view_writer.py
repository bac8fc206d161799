"""From the changelog of windowed views to Redis, lane by lane: written once more, or late, it does no harm.

A value's version is (greatest append time of its lane's changelog so far, offset), so a later record of a key is newer
even where the broker's clock was set back. A value expires when its last pane has left every window and the lateness,
counted from its record's time or its last event, whichever is later, and an hour more. A deleted key (the changelog
says so once its windows are empty) keeps the version of its deletion for as long. An older value that a slow writer
brings within that time is refused for its version, and after it has itself expired: Redis drops it as it is written.

So Redis forgets by itself what decayed, and whoever writes everything again from the beginning need delete nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from state.feature_writer import Entry, FeatureWriter, Move
from state.key_windows import key_of
from state.packed import latest_of
from state.tide import STEP, read_tide
from state.tides import Mark
from state.versions import version
from state.view_windows import ViewWindows
from state.views import redis_keys

STEPS = "view-"
"""Begins the step of a view in the changelog."""
_GRACE_MS = 3_600_000


class Record(Protocol):
    """One record of a changelog."""

    @property
    def offset(self) -> int:
        """In its lane."""

    @property
    def append_ms(self) -> int:
        """The broker's time, Unix milliseconds."""

    @property
    def key(self) -> bytes:
        """Step, zero byte, name of the entry."""

    @property
    def value(self) -> bytes | None:
        """None deletes."""


@dataclass(slots=True)
class _Lane:
    append_ms: int = 0
    tide_ms: int | None = None
    known: dict[str, bytes] | None = None
    """View to the version that Redis has been seen to have."""


class ViewWriter:
    """Writes the views of one changelog topic."""

    def __init__(self, writer: FeatureWriter, views: Sequence[ViewWindows], lanes: int) -> None:
        """Write the windows of `views`, whose changelog has `lanes` partitions."""
        self._writer = writer
        self._views = {view.name: view for view in views}
        self._count = lanes
        self._lanes: dict[int, _Lane] = {}

    def begin(self, lanes: Sequence[int], *, anew: bool = False) -> dict[int, int]:
        """Lane to the offset from which it is to be read: after what Redis has of all views, or 0, also where `anew`.

        Versions are made of all that was read before, so a lane must be read from there.

        Raises:
            RedisFailed: Redis does not say.
        """
        found = {view: self._writer.marks(view) for view in self._views}
        starts = {}
        for lane in lanes:
            marks = {view: by_lane[lane] for view, by_lane in found.items() if lane in by_lane}
            whole = len(marks) == len(found) and not anew
            behind = min(marks.values(), key=lambda mark: mark.version) if whole else None
            self._lanes[lane] = _Lane(
                behind.append_ms if behind else 0,
                behind.tide_ms if behind else None,
                {view: mark.version for view, mark in marks.items()},
            )
            starts[lane] = behind.offset + 1 if behind else 0
        return starts

    def write(self, batch: Mapping[int, Sequence[Record]]) -> tuple[int, int, list[int]]:
        """Write records by lane, in the order of their offsets.

        Returns:
            How many values were newer than what was there, how many were not, and the lanes that must begin anew since
            Redis has lost something of them.

        Raises:
            RedisFailed: Redis does not take it; nothing is lost if the same is written again.
            StateUnreadable: a record is of a build that this one does not know.
        """
        entries: dict[bytes, Entry] = {}
        moves: list[Move] = []
        for lane, records in batch.items():
            at = self._lanes[lane]
            for record in records:
                at.append_ms = max(at.append_ms, record.append_ms)
                step, _, name = record.key.partition(b"\0")
                if step == STEP.encode() and record.value is not None:
                    at.tide_ms = read_tide(record.value)
                elif (entry := self._entry(at, step.decode(), name, record)) is not None:
                    entries[entry[0]] = entry
            if at.tide_ms is not None and records:
                mark = Mark(at.append_ms, records[-1].offset, at.tide_ms)
                moves += [(view, lane, self._count, mark, (at.known or {}).get(view, b"")) for view in self._views]
        written = self._writer.put(entries.values())
        kept = self._writer.move(moves)
        lost = {move[1] for move, whole in zip(moves, kept, strict=True) if not whole}
        for view, lane, _, mark, _ in moves:
            self._lanes[lane].known = {**(self._lanes[lane].known or {}), view: mark.version}
        return written, len(entries) - written, sorted(lost)

    def tides(self) -> dict[int, int]:
        """Lane to the tide that was written last, Unix milliseconds."""
        return {lane: at.tide_ms for lane, at in self._lanes.items() if at.tide_ms is not None}

    def _entry(self, at: _Lane, step: str, name: bytes, record: Record) -> Entry | None:
        view = self._views.get(step.removeprefix(STEPS))
        key = key_of(name)
        if view is None or key is None:
            return None
        [place] = redis_keys(self._writer.pipeline, view.name, [key])
        head = version(at.append_ms, record.offset)
        if record.value is None:
            return place, head, record.append_ms + _life_ms(view)
        return place, head + record.value, max(record.append_ms, latest_of(record.value)) + _life_ms(view)


def _life_ms(view: ViewWindows) -> int:
    return (view.longest + 1) * view.pane_ms + view.lateness_ms + _GRACE_MS
