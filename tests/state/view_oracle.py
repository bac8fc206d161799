"""What the windows of a view must give, recomputed from the log the slow way: every reading looks at every event.

It follows the rule that `state.view_windows` states and shares no code with it.
"""

import math
import statistics


class Log:
    """The events of a view's keys, as one lane takes them."""

    def __init__(self, *, pane_ms, lateness_ms, include_late, longest_ms):
        self._pane, self._lateness, self._include = pane_ms, lateness_ms, include_late
        self._longest = longest_ms // pane_ms
        self._source, self._taken = {}, {}

    def behind(self, event):
        """By how much an event is behind in its lane of the source; None where it is ahead of the broker's time."""
        if event["time"] - event["append"] > max(self._lateness, 60_000):
            return None
        return max(0, self._source.get(event["lane"], event["time"]) - event["time"])

    def take(self, event):
        """Add an event that is not ahead: lane, key, time and values."""
        key, late = event["key"], self.behind(event) > self._lateness
        if key is not None and (self._include or not late):
            floor = max(self._lanes_floor(), self._key_floor(self._alive(key)))
            if event["time"] // self._pane >= floor:
                self._taken[key] = [*self._alive(key), event]
        self._source[event["lane"]] = max(self._source.get(event["lane"], event["time"]), event["time"])

    def _lanes_floor(self):
        times = self._source.values()
        return self._oldest(max(min(times), max(times) - 86_400_000)) if times else -math.inf

    def _key_floor(self, taken):
        return self._oldest(max(event["time"] for event in taken)) if taken else -math.inf

    def _oldest(self, latest):
        return (latest - self._lateness) // self._pane - self._longest

    def _alive(self, key):
        """The events of a key; one that has expired begins anew."""
        taken = self._taken.get(key, [])
        if taken and max(event["time"] for event in taken) // self._pane < self._lanes_floor():
            self._taken[key] = taken = []
        return taken

    def read(self, key, at, feature):
        """A feature (function, window in milliseconds, value column or None, kind) of a key at a time."""
        function, window_ms, of, kind = feature
        stop, taken = at // self._pane, self._alive(key)
        start = stop - window_ms // self._pane if kind == "sliding" else at // window_ms * window_ms // self._pane
        seen = [e for e in taken if max(start, self._key_floor(taken)) <= e["time"] // self._pane < stop]
        if of is not None:
            seen = [e for e in seen if isinstance(e[of], str) or (e[of] is not None and math.isfinite(e[of]))]
        return _reduce(seen, at, function, window_ms, of)


def _reduce(seen, at, function, window_ms, of):
    values = [e[of] for e in seen] if of is not None else [None] * len(seen)
    if function in _OF_ANY:
        return float(_OF_ANY[function](values, window_ms))
    if not seen:
        return math.nan
    if function == "seconds_since_last":
        return (at - max(e["time"] for e in seen)) / 1000
    if function in ("first", "last"):
        best = (min if function == "first" else max)(e["time"] for e in seen)
        return [e[of] for e in seen if e["time"] == best][0 if function == "first" else -1]
    return float(_OF_SOME[function](values))


_OF_ANY = {
    "count": lambda values, _: len(values),
    "rate": lambda values, window_ms: len(values) / (window_ms / 1000),
    "distinct": lambda values, _: len(set(values)),
    "sum": lambda values, _: math.fsum(values),
}
_OF_SOME = {
    "mean": lambda values: math.fsum(values) / len(values),
    "min": min,
    "max": max,
    "stddev": lambda values: statistics.stdev(values) if len(values) > 1 else math.nan,
}
