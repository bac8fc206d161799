"""What the windows of a slice of keys must give, recomputed from the log: for comparing with what is served.

It follows the rule that `state.view_windows` states and shares no arithmetic with what it checks: it keeps every event
of a key, looks at all of them for each reading, and knows neither panes in memory, nor packing, nor sketches.

Each key is compared at a moment of its own, so that events under way do not matter. Events that the broker appended
before the tide of the served values are in these; of later ones nobody knows. So the key is read as of its earliest
event that may not have been taken: the pane of that moment and all later ones are in no window. Where there is none,
it is read one pane after the greatest event time of all. A key that has no such moment within the allowed lateness, or
whose window would begin before the log does, is not compared.

Memory: 200 bytes for each event of a key in the slice that a window can still have, `most` of them at most: then the
slice is halved, and `share` says so.
"""

from __future__ import annotations

import math
import statistics
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from state.distinct import ERROR, EXACT
from state.view_windows import ViewWindows
from state.window_spec import Feature

FLOATS = 1e-9
"""Relative: how far sums of doubles may be from exact ones."""
_NEVER = -(2**62)

Measure: TypeAlias = "float | str | None"
Range: TypeAlias = "tuple[float, float]"
"""What a feature may be, both ends included; two NaN where it must be NaN."""


class _Seen(NamedTuple):
    append_ms: int
    event_ms: int
    values: tuple[Measure, ...]


@dataclass(frozen=True, slots=True)
class Expected:
    """What a key must give at a moment."""

    at_ms: int
    """Event time, Unix milliseconds."""
    features: tuple[Range, ...]
    """In the order of the view's."""


class KeySlice:
    """The events of those keys of one view that fall into a slice."""

    def __init__(self, spec: ViewWindows, share: float, *, most: int = 1_000_000) -> None:
        """Take this share of the keys, by their hash.

        Args:
            spec: the view.
            share: above 0, at most 1.
            most: events to remember.
        """
        self.share = share
        self._spec, self._most, self._events = spec, most, 0
        self._seen: dict[str, list[_Seen]] = {}
        self._latest = _NEVER
        self._begins = _NEVER

    def __contains__(self, key: str) -> bool:
        return zlib.crc32(key.encode("utf-8", "surrogatepass")) < self.share * 2**32

    def __len__(self) -> int:
        """Events that are remembered."""
        return self._events

    def keys(self) -> list[str]:
        """Those that had an event lately."""
        return list(self._seen)

    def begin(self, append_ms: int) -> None:
        """Say that a lane of the log has nothing from before this moment."""
        self._begins = max(self._begins, append_ms)

    def take(
        self,
        keys: Sequence[str | None],
        append_ms: Sequence[int],
        event_ms: Sequence[int],
        behind_ms: Sequence[int],
        values: Mapping[str, Sequence[Measure]],
    ) -> None:
        """Remember those rows that are in the slice.

        Args:
            keys: (n,); None where the event is not for this view.
            append_ms: (n,) broker times, Unix milliseconds.
            event_ms: (n,) event times, Unix milliseconds.
            behind_ms: (n,) as `state.lateness` says; rows that are ahead are left out.
            values: the view's measures, (n,) each.
        """
        self._latest = max(self._latest, *event_ms) if len(event_ms) else self._latest
        columns = [values[measure] for measure in self._spec.measures]
        for row, key in enumerate(keys):
            late = behind_ms[row] > self._spec.lateness_ms
            if key is not None and key in self and (self._spec.include_late or not late):
                seen = _Seen(append_ms[row], event_ms[row], tuple(column[row] for column in columns))
                self._seen.setdefault(key, []).append(seen)
                self._events += 1
        if self._events > self._most:
            self._forget()

    def expected(self, tide_ms: Callable[[str], int | None]) -> Iterator[tuple[str, Expected | None]]:
        """Give each key with what it must give, or None where that cannot be said now.

        Args:
            tide_ms: the tide of a key's lane, read before the values that are compared; None where there is none.
        """
        self._forget()
        for key, seen in self._seen.items():
            tide = tide_ms(key)
            at = None if tide is None else self._moment(seen, tide)
            yield (
                key,
                None if at is None else Expected(at, tuple(self._range(f, seen, at) for f in self._spec.features)),
            )

    def _moment(self, seen: Sequence[_Seen], tide_ms: int) -> int | None:
        after = self._latest + self._spec.pane_ms
        at = min((event.event_ms for event in seen if event.append_ms >= tide_ms), default=after)
        oldest = (at // self._spec.pane_ms - self._spec.longest) * self._spec.pane_ms
        return at if at >= self._latest - self._spec.lateness_ms and oldest >= self._begins else None

    def _forget(self) -> None:
        """Forget what no window can have any more, and half of the keys where that is not enough."""
        floor = self._spec.floor(self._latest) * self._spec.pane_ms
        while True:
            kept = {
                key: [event for event in seen if event.event_ms >= floor]
                for key, seen in self._seen.items()
                if key in self
            }
            self._seen = {key: seen for key, seen in kept.items() if seen}
            self._events = sum(map(len, self._seen.values()))
            if self._events <= self._most * 3 // 4:  # not `most`: looking through all of them must be rare
                return
            self.share /= 2

    def _range(self, feature: Feature, seen: Sequence[_Seen], at_ms: int) -> Range:
        """What a feature may be at a moment."""
        pane_ms, window_ms = self._spec.pane_ms, feature.window_ms
        stop = at_ms // pane_ms * pane_ms
        start = stop - window_ms if feature.kind == "sliding" else at_ms // window_ms * window_ms
        within = [event for event in seen if start <= event.event_ms < stop]
        if feature.of is None:
            return _of_events(feature, [event.event_ms for event in within], at_ms)
        place = self._spec.measures.index(feature.of)
        valued = [(event.event_ms, event.values[place]) for event in within if _is_value(event.values[place])]
        if feature.function in ("count", "rate", "seconds_since_last"):
            return _of_events(feature, [time for time, _ in valued], at_ms)
        if feature.function == "distinct":
            return _of_distinct(len({value for _, value in valued}))
        # None was left out by `_is_value`, and of text there is only `distinct`, which mypy cannot know.
        numbers = [(time, float(value)) for time, value in valued]  # type: ignore[arg-type]
        if feature.function in ("sum", "mean", "stddev") and any(abs(number) > _LARGE for _, number in numbers):
            return _ANYTHING
        return _of_numbers(feature.function, numbers)


_LARGE = 1e140
"""Beyond it sums and squares of doubles may overflow: what is served is then a number or unknown, by the order in which
events came."""
_ANYTHING: Range = (-math.inf, math.inf)


def matches(value: float, expected: Range) -> bool:
    """Whether a served value is one that may be."""
    low, high = expected
    if (low, high) == _ANYTHING:
        return True
    return math.isnan(value) if math.isnan(low) else low <= value <= high


def _is_value(value: Measure) -> bool:
    return isinstance(value, str) or (value is not None and math.isfinite(value))


def _of_events(feature: Feature, times: Sequence[int], at_ms: int) -> Range:
    if feature.function == "count":
        return float(len(times)), float(len(times))
    if feature.function == "rate":
        return _around(len(times) / (feature.window_ms / 1000), len(times))
    since = (at_ms - max(times)) / 1000 if times else math.nan
    return since, since


def _of_distinct(n: int) -> Range:
    """Exact while two values that share a hash are out of the question, then within four times the stated error."""
    slack = 0 if n <= 20 else 1 if n <= EXACT else 4 * ERROR * n
    return n - slack, n + slack


def _of_numbers(function: str, valued: Sequence[tuple[int, float]]) -> Range:
    values = [value for _, value in valued]
    if function == "sum":
        return _around(math.fsum(values), math.fsum(map(abs, values)))
    if not values:
        return math.nan, math.nan
    if function in ("first", "last"):
        time = (min if function == "first" else max)(time for time, _ in valued)
        equals = [value for at, value in valued if at == time]  # of several lanes: whichever was taken first
        return min(equals), max(equals)
    size = max(map(abs, values))
    if function == "stddev":
        # A root: where all values are nearly equal, their last digits are half of its digits.
        return _around(statistics.stdev(values), 100 * size) if len(values) > 1 else (math.nan, math.nan)
    if function == "mean":
        return _around(statistics.fmean(values), size)
    exact = min(values) if function == "min" else max(values)
    return exact, exact


def _around(value: float, size: float) -> Range:
    """A value of arithmetic with doubles as large as `size`."""
    return value - FLOATS * size, value + FLOATS * size
