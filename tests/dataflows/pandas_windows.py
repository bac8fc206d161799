"""The windows of a view recomputed in pandas, over pairs of events: each one with every earlier one of its key.

It follows the rule of `state/WINDOWS.md` and shares no code with what it checks.
"""

import numpy as np
import pandas as pd

NEVER = -(2**62)
WITHIN = {"distinct": 3 * 0.023}
"""Relative, beyond 190 different values: three times the stated standard error."""


def recompute(events, key, features, *, pane_ms, lateness_ms, include_late=True):
    """Give each event's features.

    Args:
        events: in the order of arrival: `lane`, `t` (Unix ms), the key (None where an event has none), and per feature
            a column of that name with what it takes of an event, NaN or None for nothing. `taken` says which events
            enter at all.
        key: column of the key.
        features: name to (function, window in ms, kind).

    Returns:
        A frame with a column for each feature, and how many events were late.
    """
    latest = events.groupby("lane")["t"].cummax().groupby(events["lane"]).shift()
    late = (latest - events["t"] > lateness_ms).to_numpy()
    taken = events["taken"].to_numpy() & (include_late | ~late)
    longest = max(window for _, window, _ in features.values()) // pane_ms
    own = pd.Series(np.where(taken, events["t"], NEVER)).groupby(events[key]).cummax()
    newest = own.groupby(events[key]).shift(fill_value=NEVER).to_numpy()
    floor = (newest - lateness_ms) // pane_ms - longest
    gone = newest // pane_ms < (_clock(events) - lateness_ms) // pane_ms - longest
    floor = np.where(gone, events["t"].max(), floor)
    log = _Log(events, key, pane_ms, taken)
    parts = []
    for first in range(0, len(events), 20_000):
        readers = np.arange(first, min(first + 20_000, len(events)))
        part = {}
        for window, kind in {(window, kind) for _, window, kind in features.values()}:
            pairs = log.pairs(readers, window, kind, floor)
            for name, (function, *of) in features.items():
                if of == [window, kind]:
                    part[name] = _reduced(pairs, events, name, function, window)
        parts.append(pd.DataFrame(part, index=readers))
    return pd.concat(parts), int((late & events["taken"]).sum())


def _clock(events):
    """Before each event, the least of the greatest event times of the lanes, or a day before the greatest of all."""
    lanes = pd.DataFrame({lane: events["t"].where(events["lane"] == lane) for lane in events["lane"].unique()})
    latest = lanes.cummax().ffill().shift()
    return np.maximum(latest.min(axis=1), latest.max(axis=1) - 86_400_000).fillna(NEVER).to_numpy()


class _Log:
    """The events in the order of key and pane."""

    def __init__(self, events, key, pane_ms, taken):
        self._t, self._pane_ms, self._taken = events["t"].to_numpy(), pane_ms, taken
        self._pane = self._t // pane_ms
        self._low = self._pane.min() - 1
        self._span = self._pane.max() - self._low + 2
        self._key = events[key].factorize()[0].astype("int64")
        place = self._key * self._span + self._pane - self._low
        self._order = np.argsort(place, kind="stable")
        self._places = place[self._order]

    def pairs(self, readers, window, kind, floor):
        """Each reader with every event that it may see."""
        t, pane = self._t[readers], self._pane[readers]
        panes = window // self._pane_ms
        start = np.maximum(pane - panes if kind == "sliding" else t // window * panes, floor[readers])
        first, stop = (
            np.searchsorted(self._places, self._key[readers] * self._span + np.clip(at - self._low, 0, None))
            for at in (start, pane)
        )
        n = np.maximum(stop - first, 0)
        reader = np.repeat(readers, n)
        seen = self._order[np.arange(n.sum()) - np.repeat(np.cumsum(n) - n - first, n)]
        sees = (seen < reader) & self._taken[seen]
        return readers, reader[sees], seen[sees]


def _reduced(pairs, events, name, function, window):
    readers, reader, seen = pairs
    found = pd.DataFrame(
        {"reader": reader, "value": events[name].to_numpy()[seen], "t": events["t"].to_numpy()[seen]}
    ).dropna(subset=["value"])
    grouped = found.groupby("reader")["value"]
    if function in ("count", "rate", "distinct"):
        number = (grouped.nunique() if function == "distinct" else grouped.size()).reindex(readers, fill_value=0)
        return number / (window / 1000) if function == "rate" else number
    if function == "sum":
        return grouped.sum().reindex(readers, fill_value=0.0)
    if function == "seconds_since_last":
        return (events["t"][readers] - found.groupby("reader")["t"].max().reindex(readers)) / 1000
    if function in ("first", "last"):  # of equal times the first, the last to arrive
        grouped = found.sort_values(["t", "reader"], kind="stable").groupby("reader")["value"]
    return getattr(grouped, {"stddev": "std"}.get(function, function))().reindex(readers)


def differences(found, expected, features):
    """How many values of each feature are not what they must be."""
    wrong = {}
    for name, (function, *_) in features.items():
        got, want = found[name].to_numpy(float), expected[name].to_numpy(float)
        if function in ("sum", "mean", "stddev", "rate"):
            # A deviation of nothing is what rounding leaves of values that are all the same.
            same = np.isclose(got, want, rtol=1e-9, atol=1e-6 if function == "stddev" else 1e-9, equal_nan=True)
        elif function == "distinct":
            same = np.where(want <= 190, got == want, np.abs(got - want) <= WITHIN["distinct"] * want)
        else:
            same = (got == want) | (np.isnan(got) & np.isnan(want))
        if not same.all():
            wrong[name] = int((~same).sum())
    return wrong
