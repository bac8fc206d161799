"""Each entity's own recent events, counted by panes of event time: read before the event, updated after it.

The fold, per lane, row by row in offset order, for an event of an entity at event time t (Unix milliseconds):

* Its pane is k = floor(t / pane). A window of n panes covers panes k-n+1 ... k, never those after k. So a feature is
  exact to the pane: the window's old end is a pane's start, and events later than t in pane k itself are in it.
* The lane's watermark is the greatest event time of the rows before, less the allowed lateness. Panes older than
  floor(watermark / pane) - (longest window in panes) + 1 exist no more, whatever memory still holds.
* *Read*. `count`: events (with `of`: those with a value); `sum`, `mean` of the values; `last`: the value with the
  greatest event time (of equals, the later row's); `seconds_since_last`: t less the greatest event time, at least 0.
  With nothing there, count and sum are 0 and the others NaN. A window's sum is `math.fsum` over its panes before k,
  plus pane k; each pane is added up in row order. So a recomputation with the same panes gives the same bits.
* *Update*. The event and its values (NaN and infinity are none) go into pane k, unless the event is *late*
  (t < watermark) and late ones are ignored, or its pane exists no more (*too late*), or it is dated further
  after the broker's time than the allowed lateness, or than a minute if that is more (*ahead*; see `state.lateness`).
* The greatest event time is that of all rows that are not ahead.

Stored. One entry per entity, key = `e` and the entity in UTF-8, value = its non-empty panes (see `state.panes`); `l`
is the table of layouts, so that a changed set of features keeps what it can; `w` the greatest event time. An entity
without a pane left is deleted as the watermark moves on, by looking at `EXPIRED_PER_ROW` entities per row at most.

Memory: 240 bytes for an entity with one pane and one value column (measured), 56 for each further one. Its entry is
written whole when it changes: for entities that are always active, choose panes of a hundredth of the longest window.
"""

from __future__ import annotations

import logging
import math
from array import array
from collections.abc import Iterator, Mapping, Sequence

from state.entities import AllInMemory, Entities, HotInMemory, entity_key
from state.entries import OnDisk
from state.lateness import is_ahead, most_ahead, pack_time, read_time
from state.panes import COUNT, LATEST, PANE, Layout, Layouts, add, find
from state.window_reader import WindowReader
from state.window_spec import Tally, WindowSpec

_LAYOUTS, _LATEST = b"l", b"w"
_log = logging.getLogger(__name__)


class EntityWindows:
    """The windows of every entity of one lane."""

    def __init__(self, spec: WindowSpec) -> None:
        self._spec = spec
        needs = [need for feature in spec.features for need in feature.needs]
        self._layout = Layout.of(spec.pane_ms, needs)
        self._stride = self._layout.stride
        self._writes = {column: self._layout.places(column) for _, column in needs}
        """Value column to the places of its parts in a pane's row."""
        self._longest = spec.longest
        self._ahead_ms = most_ahead([spec.lateness_ms])
        self.restore({})

    def __len__(self) -> int:
        """Entities in memory."""
        return len(self._known)

    def restore(self, entries: Mapping[bytes, bytes]) -> None:
        """Take the stored entries in place of what is known now.

        Raises:
            StateUnreadable: an entry is of an unknown version or broken.
        """
        for _ in self.restoring(entries):
            pass

    def restoring(self, entries: Mapping[bytes, bytes]) -> Iterator[None]:
        """Do the same in parts of a millisecond: 2 µs an entity."""
        self._dirty: dict[str, None] = {}
        self._reader = WindowReader(self._spec, self._layout)
        self._layouts = Layouts(self._layout, entries.get(_LAYOUTS))
        self._latest = self._stored_latest = read_time(entries.get(_LATEST))
        self._advance(self._latest)
        if self._layouts.is_new and self._layouts.pane_changed:
            _log.warning("the pane of recall has changed: windows that are stored start empty")
        if isinstance(entries, OnDisk):
            self._entities: Entities[array[float]] = HotInMemory(entries, self._layouts)
        else:
            self._entities = in_memory = AllInMemory(self._layouts)
            yield from in_memory.restoring(entries)
        self._known = self._entities.known

    def observe(
        self,
        entities: Sequence[str],
        event_ms: Sequence[int],
        append_ms: Sequence[int],
        values: Mapping[str, Sequence[float]],
    ) -> tuple[dict[str, list[float]], Tally]:
        """Read and then update the windows, row by row.

        Args:
            entities: (n,)
            event_ms: (n,) event times, Unix milliseconds.
            append_ms: (n,) broker times, Unix milliseconds; 0 or less where there is none.
            values: each `of` column, (n,), NaN where missing.

        Returns:
            Feature name to (n,) floats, and what became of the events out of time.
        """
        features = {
            feature.name: [0.0 if feature.function in ("count", "sum") else math.nan] * len(entities)
            for feature in self._spec.features
        }
        outs = list(features.values())
        writes = [(values[column], places) for column, places in self._writes.items()]
        self._entities.fetch(entities)
        known, read, pane_ms, tally = self._known, self._reader.read, self._spec.pane_ms, Tally()
        for row, entity in enumerate(entities):
            time = event_ms[row]
            pane = time // pane_ms
            panes = known.get(entity)
            if panes is not None:
                read(entity, panes, pane, time, self._floor, outs, row)
            if is_ahead(time, append_ms[row], self._ahead_ms):
                tally.ahead += 1
                self._reader.forget(entity)
                continue
            if time >= self._watermark or self._is_taken(pane, tally):
                base, panes = self._row_of(entity, panes, pane)
                panes[base + COUNT] += 1
                panes[base + LATEST] = max(panes[base + LATEST], time)
                for column, places in writes:
                    add(panes, base, places, column[row], time)
                self._dirty[entity] = None
            else:
                self._reader.forget(entity)
            if time > self._latest:
                self._advance(time)
        for entity in self._entities.expire(self._floor, len(entities)):
            self._reader.forget(entity)
            self._dirty[entity] = None
        return features, tally

    def changes(self) -> list[tuple[bytes, bytes | None]]:
        """Give the entries that changed since the last call; None deletes."""
        out: list[tuple[bytes, bytes | None]] = []
        for entity in self._dirty:
            panes = self._known.get(entity)
            out.append((entity_key(entity), None if panes is None else self._layouts.pack(panes)))
        self._dirty = {}
        self._entities.trim()
        if self._layouts.is_new:
            self._layouts.is_new = False
            out.append((_LAYOUTS, self._layouts.table()))
        if self._latest != self._stored_latest:
            self._stored_latest = self._latest
            out.append((_LATEST, pack_time(self._latest)))
        return out

    def _row_of(self, entity: str, panes: array[float] | None, pane: int) -> tuple[int, array[float]]:
        """Find the row of a pane, made blank where there is none, and drop the entity's panes that exist no more."""
        stride = self._stride
        if panes is None:
            panes = self._known[entity] = array("d", self._layout.blank)
            panes[PANE] = pane
            self._entities.enlist(entity, pane)
            return 0, panes
        if panes[-stride] == pane:
            return len(panes) - stride, panes
        if panes[PANE] < self._floor:
            del panes[: find(panes, stride, self._floor)]
        base = len(panes) if not panes or panes[-stride] < pane else find(panes, stride, pane)
        if base < len(panes):
            self._reader.forget(entity)
        if base == len(panes) or panes[base] != pane:
            panes[base:base] = self._layout.blank
            panes[base] = pane
        return base, panes

    def _is_taken(self, pane: int, tally: Tally) -> bool:
        """Decide about a late event."""
        if pane < self._floor:
            tally.too_late += 1
        elif self._spec.include_late:
            tally.included += 1
            return True
        else:
            tally.ignored += 1
        return False

    def _advance(self, latest: int) -> None:
        self._latest = latest
        self._watermark = latest - self._spec.lateness_ms
        self._floor = self._watermark // self._spec.pane_ms - self._longest + 1
