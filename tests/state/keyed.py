"""Windows of a view as the tests feed them: events as dicts, and features of every function."""

import math

from state.view_windows import ViewWindows
from state.window_spec import Feature

PANE = 1_000
T = 10**12
FEATURES = {
    "events_4": ("count", 4 * PANE, None, "sliding"),
    "values_20": ("count", 20 * PANE, "amount", "sliding"),
    "today": ("count", 12 * PANE, None, "tumbling"),
    "rate": ("rate", 20 * PANE, None, "sliding"),
    "sum_20": ("sum", 20 * PANE, "amount", "sliding"),
    "sum_today": ("sum", 12 * PANE, "amount", "tumbling"),
    "mean": ("mean", 20 * PANE, "amount", "sliding"),
    "low": ("min", 20 * PANE, "amount", "sliding"),
    "high": ("max", 4 * PANE, "amount", "sliding"),
    "spread": ("stddev", 20 * PANE, "amount", "sliding"),
    "cards": ("distinct", 20 * PANE, "card", "sliding"),
    "amounts": ("distinct", 12 * PANE, "amount", "tumbling"),
    "last": ("last", 20 * PANE, "amount", "sliding"),
    "first": ("first", 20 * PANE, "amount", "sliding"),
    "first_today": ("first", 12 * PANE, "amount", "tumbling"),
    "since": ("seconds_since_last", 20 * PANE, None, "sliding"),
    "since_value": ("seconds_since_last", 20 * PANE, "amount", "sliding"),
}


def spec(**changes):
    features = tuple(Feature(name, f, w, of, kind) for name, (f, w, of, kind) in FEATURES.items())
    return ViewWindows("device", "device_id", features, **{"pane_ms": PANE, "lateness_ms": 5 * PANE, **changes})


def event(key, time, amount=1.0, **others):
    return {"key": key, "lane": 0, "time": time, "offset": 0, "amount": amount, "card": None, **others}


def observe(windows, events, behind, of=("amount", "card")):
    values = {name: [e.get(name) for e in events] for name in of}
    values["amount"] = [math.nan if amount is None else amount for amount in values["amount"]]
    return windows.observe(
        [e["key"] for e in events],
        [e["time"] for e in events],
        behind_ms=behind,
        values=values,
        lanes=[e["lane"] for e in events],
        offsets=[e["offset"] for e in events],
    )


def store(windows, stored):
    for key, value in windows.changes():
        if value is None:
            stored.pop(key, None)
        else:
            stored[key] = value
