"""The windows of a view: what each key's events were like, by panes of event time, read at any moment.

The rule. An event of key k at event time t (Unix milliseconds) is in pane floor(t / pane). A view *at time t* holds the
events of its key in the panes before t's own pane that lie in the window, as far as its writer has taken them:

* sliding, n panes long: panes floor(t / pane) - n ... floor(t / pane) - 1;
* tumbling: from the pane in which the window that contains t begins, to floor(t / pane) - 1. Windows begin at the
  multiples of their length since 1970-01-01 UTC.

So nothing that happens in t's own pane is in it, neither the event that is decided nor another, however the writer and
the reader race; and what is stored decays by itself as t moves on. With no event in the window:

* `count` and `rate` are 0, `sum` is 0, `distinct` is 0; every other function gives NaN.
* `count`: events, or values where there is a value column. `rate`: the same by the seconds of the whole window.
* `sum`, `mean`, `min`, `max`, `stddev` of the values. `stddev` is that of a sample (divided by n - 1, as pandas does by
  default), NaN for one value.
* `first`, `last`: the value with the smallest, greatest event time; of equals the one taken first, last.
* `seconds_since_last`: t less the greatest event time (of a value, where there is a value column), in seconds.
* `distinct`: different values, estimated by HyperLogLog; `state.distinct` states its error.

Lateness. An event is late when it is more than the allowed lateness behind the greatest event time before it *in the
lane of the source* where it was (`state.lateness`); this is decided there, and `on_late` says whether it still counts.
An event is dated ahead when it is further ahead of the broker's time than the least lateness that any view of the
pipeline allows, or than a minute if that is more: a lane has one clock for all views. It enters none and moves nothing.
Taken late or not, an event has no effect where its pane is older than any window that could be asked for by an event
in time: panes before floor((latest - lateness) / pane) - n, n the longest window in panes, exist no more, with latest
the key's own greatest event time. So a key's panes depend on which events it had, not on how lanes came together.

A key expires when all its panes are older than that for the lane: there latest is the smallest of the greatest event
times of each lane of the source, or a day before the greatest of all, whichever is later.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b

from state.panes import Layout
from state.window_spec import OF_EVENTS, Feature

MOST_BYTES = 900_000
"""Of one key's value: a record of Kafka may have 1 MB by default."""


@dataclass(frozen=True)
class ViewWindows:
    """The windows of one view.

    Raises:
        ValueError: a window does not fit its panes, a function lacks its column, or a value may become too large.
    """

    name: str
    key: str
    """Column of the key."""
    features: tuple[Feature, ...]
    """A feature's `of` names a measure: a column of what is observed, numbers, or strings where all ask `distinct`."""
    pane_ms: int
    lateness_ms: int = 600_000
    include_late: bool = True
    where: str | None = None
    """Which events it is about; who measures them sees to it."""

    def __post_init__(self) -> None:
        for feature in self.features:
            where = f"view {self.name}, feature {feature.name}"
            if feature.window_ms <= 0 or feature.window_ms % self.pane_ms:
                raise ValueError(f"{where}: its window must be a multiple of the pane")
            if feature.of is None and feature.function not in OF_EVENTS:
                raise ValueError(f"{where}: {feature.function} needs `of`")
        if self.most_panes * self.layout.stride * 8 > MOST_BYTES:
            raise ValueError(
                f"view {self.name}: a key may have {self.most_panes} panes of {self.layout.stride * 8} bytes, more "
                f"than the {MOST_BYTES} that fit a record; choose a longer pane or shorter windows"
            )

    @cached_property
    def layout(self) -> Layout:
        """The columns of a pane's row."""
        return Layout.of(self.pane_ms, [need for feature in self.features for need in feature.needs])

    @cached_property
    def measures(self) -> tuple[str, ...]:
        """The columns that the features need."""
        return tuple(dict.fromkeys(feature.of for feature in self.features if feature.of is not None))

    def may_be_text(self, measure: str) -> bool:
        """Whether nothing but different values are counted of a measure."""
        return all(feature.function == "distinct" for feature in self.features if feature.of == measure)

    @property
    def counts_events(self) -> bool:
        """Whether a feature is about the events themselves, whatever is measured."""
        return any(feature.of is None for feature in self.features)

    @cached_property
    def longest(self) -> int:
        """The longest window in panes."""
        return max(feature.window_ms // self.pane_ms for feature in self.features)

    @property
    def most_panes(self) -> int:
        """How many panes of a key may exist at once."""
        return self.longest + -(-self.lateness_ms // self.pane_ms) + 1

    @cached_property
    def digest(self) -> bytes:
        """8 bytes that change with what is stored: the view's name, key, condition, panes and measures."""
        return blake2b(json.dumps([*self.meaning, *self.layout.columns]).encode(), digest_size=8).digest()

    @property
    def meaning(self) -> tuple[str, ...]:
        """What has to be the same for values to mean the same: name, key, condition, and pane in ms."""
        return self.name, self.key, self.where or "", str(self.pane_ms)

    def floor(self, latest_ms: int) -> int:
        """The oldest pane that exists where `latest_ms` is the greatest event time."""
        return (latest_ms - self.lateness_ms) // self.pane_ms - self.longest
