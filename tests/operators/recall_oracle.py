"""What `recall` must give, recomputed from the log the slow way: every event looks back at every earlier one.

It follows the fold that `state.windows` states and shares no code with it.
"""

import math


def recompute(events, features, *, pane_ms=60_000, lateness_ms=600_000, include_late=True):
    """Give each event's features.

    Args:
        events: of one lane, in lane order, without those that left before `recall`: dicts with `entity`, `event_ms`,
            `append_ms` and the value columns (None or absent where missing).
        features: name to (function, window in milliseconds, value column or None).

    Returns:
        One dict a row: feature name to value, NaN where there is none.
    """
    longest = max((window // pane_ms for _, window, _ in features.values()), default=1)
    latest, taken, out = None, {}, []
    for event in events:
        time, pane = event["event_ms"], event["event_ms"] // pane_ms
        watermark = -math.inf if latest is None else latest - lateness_ms
        floor = -math.inf if latest is None else watermark // pane_ms - longest + 1
        past = [e for e in taken.get(event["entity"], []) if e["event_ms"] // pane_ms >= floor]
        out.append({name: _feature(past, time, pane, pane_ms, *what) for name, what in features.items()})
        if event["append_ms"] > 0 and time > event["append_ms"] + max(lateness_ms, 60_000):
            continue
        if time >= watermark or (include_late and pane >= floor):
            taken.setdefault(event["entity"], []).append(event)
        latest = time if latest is None else max(latest, time)
    return out


def _feature(past, time, pane, pane_ms, function, window_ms, of):  # noqa: PLR0917
    oldest = pane - window_ms // pane_ms + 1
    seen = [e for e in past if oldest <= e["event_ms"] // pane_ms <= pane]
    if of is not None:
        seen = [e for e in seen if e.get(of) is not None and math.isfinite(e[of])]
    if function == "count":
        return float(len(seen))
    if function == "sum":
        return _sum_by_pane(seen, of, pane, pane_ms)
    if not seen:
        return math.nan
    if function == "mean":
        return _sum_by_pane(seen, of, pane, pane_ms) / len(seen)
    newest = max(e["event_ms"] for e in seen)
    if function == "last":
        return [e[of] for e in seen if e["event_ms"] == newest][-1]
    return max(0.0, (time - newest) / 1000)


def _sum_by_pane(seen, of, pane, pane_ms):
    sums = {}
    for event in seen:
        at = event["event_ms"] // pane_ms
        sums[at] = sums.get(at, 0.0) + event[of]
    own = sums.pop(pane, 0.0)
    return _fsum(sums.values()) + own


def _fsum(numbers):
    try:
        return math.fsum(numbers)
    except (OverflowError, ValueError):
        return sum(numbers)
