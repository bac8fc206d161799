"""What a lane store says of itself, and when that makes it worthless."""

from __future__ import annotations

from dataclasses import dataclass

VERSION = 1
"""Of the store's layout; it is a cache, so another version is no migration but a fresh start."""
_AHEAD_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Stamp:
    """Whose fold a store is, and how far it goes."""

    topic: str
    topic_id: str
    group: str
    lane: int
    following: int = 0
    """Offset of the first record of the state partition that is not in it."""
    at: float = 0.0
    """Unix seconds when it last equalled the whole partition."""
    version: int = VERSION

    def refuses(self, wanted: Stamp, end: int, max_age: float) -> str | None:
        """Say why this is not a fold of the partition that is `wanted` now, whose end is `end`; None where it is."""
        for what in ("version", "topic", "topic_id", "group", "lane"):
            if getattr(self, what) != getattr(wanted, what):
                return f"its {what.replace('_', ' ')} is {getattr(self, what)}, not {getattr(wanted, what)}"
        if self.following > end:
            return f"it goes to offset {self.following}, and the state partition ends at {end}"
        if wanted.at - self.at >= max_age:
            return f"it is {wanted.at - self.at:.0f} s old, and deletions are kept for {max_age:.0f} s"
        if self.at > wanted.at + _AHEAD_SECONDS:
            return f"it is dated {self.at - wanted.at:.0f} s ahead of this machine's clock"
        return None
