"""Do two systems say the same about every event?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

_COMPARED: Mapping[str, tuple[str, ...]] = {
    "decision": ("event_id", "entity", "outcome", "reasons", "scores", "features", "degraded"),
    "rejection": ("reason", "field"),
    "quarantine": ("findings",),
    "duplicate": ("event_id", "first"),
}
"""All that does not depend on when it was decided."""

Firsts = Mapping[tuple[int, int], Mapping[str, Any]]


def differences(ours: Firsts, theirs: Firsts) -> list[str]:
    """Say in words where the first records of the same events differ; no value is quoted."""
    found: Counter[str] = Counter()
    for origin in ours.keys() | theirs.keys():
        mine, other = ours.get(origin), theirs.get(origin)
        if mine is None or other is None:
            found["no first record in one of them"] += 1
        elif mine["kind"] != other["kind"]:
            found[f"{mine['kind']} in one, {other['kind']} in the other"] += 1
        else:
            for name in _COMPARED[mine["kind"]]:
                if mine[name] != other[name]:
                    found[f"{mine['kind']}: {name}{_which(mine[name], other[name])}"] += 1
    return [f"{n} events: {what}" for what, n in found.most_common()]


def _which(mine: Any, other: Any) -> str:
    """The names of members that differ."""
    if not (isinstance(mine, dict) and isinstance(other, dict)):
        return ""
    names = sorted(name for name in mine.keys() | other.keys() if mine.get(name) != other.get(name))
    return f" ({', '.join(names)})"
