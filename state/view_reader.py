"""Read the features of a view from the packed panes of its keys, at any moment: all values of a batch at once.

The rows of all values are put into one table, and each feature is one reduction over the rows of each value that its
window has. So a value costs little even where a window has hundreds of panes, and its bits depend on it alone, not on
the batch that it is read in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from state.distinct import count_distinct
from state.packed import Packing
from state.pane_table import Floats, Integers, PaneTable, Ranges
from state.panes import COUNT, LATEST
from state.view_windows import ViewWindows
from state.window_spec import Feature, Function


class ViewReader:
    """Evaluates one view."""

    def __init__(self, spec: ViewWindows) -> None:
        self._spec = spec
        self._packing = Packing(spec)
        self._plans = [(feature, _PLANS[feature.function]) for feature in spec.features]

    def readable(self, value: bytes) -> bool:
        """Whether a value is one of this view as it is declared now, and whole."""
        return self._packing.readable(value)

    def evaluate(self, value: bytes | None, at_ms: int) -> tuple[float, ...]:
        """The features of one key at a time, in the order of the spec; see `evaluate_many`."""
        return tuple(column.item() for column in self.evaluate_many([value], np.array([at_ms])).values())

    def evaluate_many(
        self, values: Sequence[bytes | None], at_ms: Integers, rows: Integers | None = None
    ) -> dict[str, Floats]:
        """Evaluate every feature in every row.

        Args:
            values: packed panes, each readable; None for a key without events.
            at_ms: (n,) the moment at which each row is read, Unix milliseconds.
            rows: (n,) which of `values` each row reads; the rows are those of `values` where it is not said.

        Returns:
            Feature to (n,) float64; NaN where there is nothing in the window (0 for count, sum, rate and distinct).

        Raises:
            StateUnreadable: a value is broken.
        """
        rows = np.arange(len(values)) if rows is None else rows
        table = PaneTable.of(values, self._spec.layout)
        ranges: dict[tuple[int, str], Ranges] = {}
        out = {}
        with np.errstate(all="ignore"):
            for feature, plan in self._plans:
                window = (feature.window_ms, feature.kind)
                if window not in ranges:
                    ranges[window] = table.ranges(rows, *self._bounds(feature, at_ms))
                out[feature.name] = plan(_Reading(feature, self._spec, table, rows, ranges[window], at_ms))
        return out

    def _bounds(self, feature: Feature, at_ms: Integers) -> tuple[Integers, Integers]:
        """The first pane of each window, and the one after its last."""
        pane_ms = self._spec.pane_ms
        stop = at_ms // pane_ms
        length = feature.window_ms // pane_ms
        return (stop - length if feature.kind == "sliding" else at_ms // feature.window_ms * length), stop


@dataclass(frozen=True)
class _Reading:
    """One feature in n readings."""

    feature: Feature
    spec: ViewWindows
    table: PaneTable
    rows: Integers
    """(n,) the value of each."""
    ranges: Ranges
    at_ms: Integers

    def column(self, part: str) -> Floats:
        """A part of the feature's value column in every row."""
        column: Floats = self.table.rows[self.spec.layout.place(part, str(self.feature.of))]
        return column

    def reduced(self, how: np.ufunc, column: Floats, blank: float) -> Floats:
        """(n,) the rows of each window as one number; `blank` where there is none."""
        out = np.full(len(self.at_ms), blank)
        if len(self.ranges.some):
            out[self.ranges.some] = how.reduceat(column, self.ranges.cuts)[::2]
        return out

    def total(self, part: str) -> Floats:
        """(n,) the sum of a part over each window."""
        return self._sum(self.spec.layout.place(part, str(self.feature.of)))

    def last_row(self, times: Floats) -> Integers:
        """(n,) the last row of each window that has a time, -1 where there is none."""
        rows = np.arange(len(times))
        latest = np.maximum.accumulate(np.where(np.isfinite(times), rows, -1))
        found = latest[self.ranges.stop - 1]
        return np.where((found >= self.ranges.start) & (self.ranges.stop > self.ranges.start), found, -1)

    def first_row(self, times: Floats) -> Integers:
        """(n,) the first row of each window that has a time, -1 where there is none."""
        rows = np.arange(len(times))
        earliest = np.minimum.accumulate(np.where(np.isfinite(times), rows, len(times))[::-1])[::-1]
        found = earliest[self.ranges.start]
        return np.where(found < self.ranges.stop, found, -1)

    def picked(self, rows: Integers, column: Floats) -> Floats:
        """(n,) what the column has in these rows; NaN for row -1."""
        picked: Floats = np.where(rows >= 0, column[rows], np.nan)
        return picked

    def events(self) -> Floats:
        """(n,) how many events, or values where the feature has a value column."""
        return self._sum(COUNT) if self.feature.of is None else self.total("n")

    def _sum(self, place: int) -> Floats:
        if place not in self.ranges.sums:
            self.ranges.sums[place] = self.reduced(np.add, self.table.rows[place], 0.0)
        return self.ranges.sums[place]


def _count(of: _Reading) -> Floats:
    return of.events()


def _rate(of: _Reading) -> Floats:
    return of.events() / (of.feature.window_ms / 1000)


def _sum(of: _Reading) -> Floats:
    return _finite(of.total("sum"))


def _mean(of: _Reading) -> Floats:
    return _finite(_ratio(of.total("sum"), of.total("n")))


def _min(of: _Reading) -> Floats:
    return _finite(of.reduced(np.minimum, of.column("min"), np.nan))


def _max(of: _Reading) -> Floats:
    return _finite(of.reduced(np.maximum, of.column("max"), np.nan))


def _stddev(of: _Reading) -> Floats:
    """Merge panes as Chan, Golub and LeVeque (1979) do, all at once: each pane's mean against that of the window."""
    count, some = of.total("n"), of.ranges.some
    lengths = (of.ranges.stop - of.ranges.start)[some]
    begins = np.cumsum(lengths) - lengths
    inside = np.repeat(of.ranges.start[some] - begins, lengths) + np.arange(lengths.sum())
    n = of.column("n")[inside]
    distance = _ratio(of.column("sum")[inside], n) - np.repeat(_ratio(of.total("sum"), count)[some], lengths)
    squares = of.total("m2").copy()
    if len(some):
        squares[some] += np.add.reduceat(np.where(n > 0, n * distance * distance, 0.0), begins)
    return _finite(np.sqrt(_ratio(squares, np.where(count > 1, count - 1, 0.0))))


def _distinct(of: _Reading) -> Floats:
    out = np.zeros(len(of.at_ms))
    offsets = of.table.sketch_offsets(of.spec.layout.place("sketch", str(of.feature.of)))
    for i in of.ranges.some.tolist():
        value = of.table.values[of.rows[i]] or b""
        within = offsets[of.ranges.start[i] : of.ranges.stop[i]].tolist()
        if sketches := [value[start:stop] for start, stop in within if stop > start]:
            out[i] = count_distinct(sketches)
    return out


def _last(of: _Reading) -> Floats:
    return of.picked(of.last_row(of.column("at")), of.column("last"))


def _first(of: _Reading) -> Floats:
    return of.picked(of.first_row(of.column("first_at")), of.column("first"))


def _since(of: _Reading) -> Floats:
    times = of.table.rows[LATEST] if of.feature.of is None else of.column("at")
    return (of.at_ms - of.picked(of.last_row(times), times)) / 1000


def _ratio(above: Floats, below: Floats) -> Floats:
    """NaN where there is nothing to divide by."""
    ratio: Floats = np.divide(above, below, out=np.full(len(above), np.nan), where=below != 0)
    return ratio


def _finite(numbers: Floats) -> Floats:
    """What is beyond the range of a double is unknown."""
    return np.where(np.isfinite(numbers), numbers, np.nan)


_PLANS: dict[Function, Callable[[_Reading], Floats]] = {
    "count": _count,
    "rate": _rate,
    "sum": _sum,
    "mean": _mean,
    "min": _min,
    "max": _max,
    "stddev": _stddev,
    "distinct": _distinct,
    "last": _last,
    "first": _first,
    "seconds_since_last": _since,
}
