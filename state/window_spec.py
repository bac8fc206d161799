"""What the windows of a lane are asked for. `state.windows` and `state.view_windows` say what each function means."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Literal, TypeAlias

DAY_MS = 86_400_000

Function: TypeAlias = Literal[
    "count", "sum", "mean", "min", "max", "stddev", "distinct", "last", "first", "rate", "seconds_since_last"
]
WindowKind: TypeAlias = Literal["sliding", "tumbling"]
NEEDS: Mapping[Function, tuple[str, ...]] = {
    "count": ("n",),
    "sum": ("sum",),
    "mean": ("n", "sum"),
    "min": ("min",),
    "max": ("max",),
    "stddev": ("n", "sum", "m2"),
    "distinct": ("sketch",),
    "last": ("at", "last"),
    "first": ("first_at", "first"),
    "rate": ("n",),
    "seconds_since_last": ("at",),
}
"""What a function needs to know of its value column in each pane."""
RECALLED = ("count", "sum", "mean", "last", "seconds_since_last")
"""Functions of an entity's own windows."""
OF_EVENTS = ("count", "rate", "seconds_since_last")
"""Functions that may be asked of the events themselves, without a value column."""


@dataclass(frozen=True, slots=True)
class Feature:
    """One figure about a key's own past."""

    name: str
    function: Function
    window_ms: int
    """A multiple of the pane."""
    of: str | None = None
    """The value column; needed by all but `OF_EVENTS`."""
    kind: WindowKind = "sliding"

    @property
    def needs(self) -> list[tuple[str, str]]:
        """Pairs of part and value column that its panes must hold."""
        return [(part, self.of) for part in NEEDS[self.function]] if self.of is not None else []


@dataclass(frozen=True, slots=True)
class WindowSpec:
    """The windows of a lane's entities: sliding, and of the functions in `RECALLED`.

    Raises:
        ValueError: a window is no multiple of the pane or longer than a day, or a function lacks its column or is
            another one.
    """

    features: tuple[Feature, ...]
    pane_ms: int = 60_000
    lateness_ms: int = 600_000
    include_late: bool = True

    def __post_init__(self) -> None:
        for feature in self.features:
            if feature.window_ms % self.pane_ms or not 0 < feature.window_ms <= DAY_MS:
                raise ValueError(
                    f"recall feature {feature.name}: its window must be a multiple of the pane, at most 1d"
                )
            if feature.function not in RECALLED or feature.kind != "sliding":
                raise ValueError(f"recall feature {feature.name}: expected a sliding window of {', '.join(RECALLED)}")
            if feature.of is None and feature.function not in OF_EVENTS:
                raise ValueError(f"recall feature {feature.name}: {feature.function} needs `of`, a numeric column")

    @property
    def longest(self) -> int:
        """The longest window in panes."""
        return max((feature.window_ms // self.pane_ms for feature in self.features), default=1)


@dataclass(slots=True)
class Tally:
    """What became of the events out of time."""

    included: int = 0
    ignored: int = 0
    too_late: int = 0
    ahead: int = 0
    overfull: int = 0
    """Values of keys that lost their oldest panes, because a record may only be so large."""

    def __add__(self, other: Tally) -> Tally:
        return Tally(*(getattr(self, one.name) + getattr(other, one.name) for one in fields(self)))
