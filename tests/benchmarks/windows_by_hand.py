"""What the loops by hand remember: seen ids and recent claims, in plain dicts that a crash would empty."""

from __future__ import annotations

import math
from collections import deque

DAY_MS, HOUR_MS, PANE_MS, LATENESS_MS = 86_400_000, 3_600_000, 60_000, 600_000
_COUNT, _LATEST, _SUM, _LAST_AT, _LAST = range(5)


class Seen:
    """The event ids of one lane's last day, by broker time."""

    def __init__(self) -> None:
        self._first: dict[str, int] = {}
        self._order: deque[tuple[int, str]] = deque()

    def first(self, event_id: str, offset: int, append_ms: int) -> int | None:
        """Give the offset of the first event with this id, or remember this one and give None."""
        while self._order and append_ms - self._order[0][0] >= DAY_MS:
            del self._first[self._order.popleft()[1]]
        if (found := self._first.get(event_id)) is not None:
            return found
        self._first[event_id] = offset
        self._order.append((append_ms, event_id))
        return None


class Recent:
    """The claims of each policyholder in one lane, by panes of a minute of their time; nothing expires in a bench."""

    def __init__(self) -> None:
        self._panes: dict[str, dict[int, list[float]]] = {}
        self._latest = -math.inf

    def observe(self, holder: str, at_ms: int, append_ms: int, limit: float) -> dict[str, float]:
        """Give the features of a claim from those before it, then add it."""
        panes = self._panes.setdefault(holder, {})
        pane = at_ms // PANE_MS
        watermark = self._latest - LATENESS_MS
        floor = watermark // PANE_MS - DAY_MS // PANE_MS + 1 if watermark > -math.inf else -math.inf
        features = _read(panes, pane, at_ms, max(pane - DAY_MS // PANE_MS + 1, floor))
        if at_ms > append_ms + LATENESS_MS:
            return features
        if at_ms >= watermark or pane >= floor:
            row = panes.setdefault(pane, [0.0, -math.inf, 0.0, -math.inf, math.nan])
            row[_COUNT] += 1
            row[_LATEST] = max(row[_LATEST], at_ms)
            row[_SUM] += limit
            if at_ms >= row[_LAST_AT]:
                row[_LAST_AT], row[_LAST] = at_ms, limit
        self._latest = max(self._latest, at_ms)
        return features


def _read(panes: dict[int, list[float]], pane: int, at_ms: int, oldest: float) -> dict[str, float]:
    hour = max(pane - HOUR_MS // PANE_MS + 1, oldest)
    day = sorted(number for number in panes if oldest <= number <= pane)
    if not day:
        nothing = {"limit_mean_1d": math.nan, "last_limit": math.nan, "since_last_claim": math.nan}
        return {"claims_1h": 0.0, "claims_1d": 0.0, "limit_1d": 0.0, **nothing}
    newest = panes[day[-1]]
    count = sum(panes[number][_COUNT] for number in day)
    total = math.fsum(panes[number][_SUM] for number in day if number < pane) + (
        newest[_SUM] if day[-1] == pane else 0.0
    )
    return {
        "claims_1h": sum(panes[number][_COUNT] for number in day if number >= hour),
        "claims_1d": count,
        "limit_1d": total,
        "limit_mean_1d": total / count,
        "last_limit": newest[_LAST],
        "since_last_claim": max(0.0, (at_ms - newest[_LATEST]) / 1000),
    }
