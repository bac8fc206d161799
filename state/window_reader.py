"""Read an entity's panes: the features of one event.

Reading is most of what `recall` costs, so sums over the panes before the event's own are kept for as long as that pane
lasts: an entity that is busy pays for them once a pane, not once an event.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence

from state.panes import COUNT, LATEST, Layout, find
from state.window_spec import WindowSpec

MOST_KEPT = 10_000
"""Entities whose sums are kept; about 5 MB."""


class WindowReader:
    """Turns panes into features. Holds nothing that must survive."""

    def __init__(self, spec: WindowSpec, layout: Layout) -> None:
        self._stride = layout.stride
        self._longest = spec.longest
        self._sums: list[tuple[int, int]] = []
        """(window in panes, place in a row) of every sum that the features need."""
        self._plans = [self._plan(layout, feature.function, feature.window_ms // spec.pane_ms, feature.of)
                       for feature in spec.features]  # fmt: skip
        self._kept: dict[str, tuple[int, Sequence[float]]] = {}
        """Entity to its pane and the sums over the panes before it."""

    def _plan(self, layout: Layout, function: str, length: int, of: str | None) -> tuple[str, int, int, int]:
        """(how to read, window in panes, place, place): places of sums, or in a pane's row."""
        if function == "seconds_since_last":
            return "since", length, LATEST, 0
        if function == "last":
            return "last", length, layout.place("at", str(of)), layout.place("last", str(of))
        if function == "mean":
            return "mean", length, self._sum(length, layout.place("n", str(of))), self._sum(
                length, layout.place("sum", str(of)))  # fmt: skip
        place = COUNT if of is None else layout.place("n" if function == "count" else "sum", of)
        return "sum", length, self._sum(length, place), 0

    def _sum(self, length: int, place: int) -> int:
        if (length, place) not in self._sums:
            self._sums.append((length, place))
        return self._sums.index((length, place))

    def forget(self, entity: str) -> None:
        """Drop what is kept of an entity.

        To be called after each read that no update of that very pane follows, and when an earlier pane changes.
        """
        self._kept.pop(entity, None)

    def read(  # noqa: PLR0917 -- called for each row: keywords cost 0.2 µs
        self, entity: str, panes: array[float], pane: int, time: int, floor: int, outs: list[list[float]], row: int
    ) -> None:
        """Fill row `row` of each feature's list in `outs` for an event at `time` ms; nothing there leaves it as it is.

        Args:
            entity: whose panes these are.
            panes: not empty.
            pane: the event's own pane.
            time: event time, Unix milliseconds.
            floor: the oldest pane that exists.
            outs: a list of n values for each feature.
            row: below n.
        """
        stride = self._stride
        newest = len(panes) - stride
        if panes[newest] > pane:
            newest = find(panes, stride, pane + 1) - stride
            if newest < 0:
                return
        before = self._before(entity, panes, pane, floor, newest)
        totals = before
        if panes[newest] == pane:
            totals = [total + panes[newest + place] for total, (_, place) in zip(before, self._sums, strict=True)]
        for (how, length, first, second), out in zip(self._plans, outs, strict=True):
            if how == "sum":
                out[row] = totals[first]
            elif how == "mean":
                if count := totals[first]:
                    out[row] = totals[second] / count
            elif panes[newest] >= pane - length + 1 and panes[newest] >= floor:
                if how == "since":
                    out[row] = max(0.0, (time - panes[newest + LATEST]) / 1000)
                else:
                    oldest = max(pane - length + 1, floor)
                    out[row] = _last(panes, newest, stride, oldest, at=first, last=second)

    def _before(self, entity: str, panes: array[float], pane: int, floor: int, newest: int) -> Sequence[float]:
        """Sums over the panes of each window that come before `pane`."""
        in_full = pane - self._longest + 1 >= floor  # else the event is late, and a part of its windows is gone
        kept = self._kept.get(entity)
        if kept is not None and kept[0] == pane and in_full:
            return kept[1]
        stride = self._stride
        stop = newest if panes[newest] == pane else newest + stride
        sums, length, start = [], 0, 0
        for window, place in self._sums:
            if window != length:
                length, oldest = window, pane - window + 1 if in_full else max(pane - window + 1, floor)
                start = 0 if panes[0] >= oldest else find(panes, stride, oldest)
            sums.append(_total(panes, start + place, stop, stride) if start < stop else 0.0)
        if in_full:
            if len(self._kept) >= MOST_KEPT:
                self._kept.clear()
            self._kept[entity] = pane, sums
        return sums


def _total(panes: array[float], start: int, stop: int, stride: int) -> float:
    if stop - start <= stride:
        return 0.0 + panes[start]
    column = panes[start:stop:stride]
    try:
        return math.fsum(column)
    except (OverflowError, ValueError):  # beyond the range of a double, or infinities of both signs
        return sum(column)


def _last(panes: array[float], newest: int, stride: int, oldest: int, *, at: int, last: int) -> float:
    base = newest
    while base >= 0 and panes[base] >= oldest:
        if panes[base + at] > -math.inf:
            return panes[base + last]
        base -= stride
    return math.nan
