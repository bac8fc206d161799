"""Join what is known about each row from the feature views: one read per batch, ages checked, every lack declared."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from bytewax.dataflow import Stream, operator

from operators import metrics
from operators.batch import Batch, Column, Item
from operators.stage import stage
from operators.view_keys import keys_of
from state.features import FeatureStore
from state.views import Lack, Values, View


@dataclass(frozen=True, slots=True)
class ViewRule:
    """A view, where its key is found, and what holds when its value is not what it should be."""

    view: View
    key: str
    """Column of the key: strings, or whole numbers."""
    max_age: float = math.inf
    """Seconds since the moment that a value speaks for, its event time or its lane's tide, beyond which it is stale."""
    on_missing: str = "default"
    """`default`, or the outcome that is demanded; it holds for unreadable and unavailable values too."""
    on_stale: str = "last_known"
    """`default`, `last_known`, or the outcome that is demanded; the features are then the last known."""
    defaults: Mapping[str, float | str | None] = field(default_factory=dict)


class Enricher:
    """Adds the columns `<view>_<feature>`, the ages of the values, and what was degraded."""

    def __init__(
        self,
        store: FeatureStore,
        rules: Sequence[ViewRule],
        *,
        outcomes: Sequence[str] = ("review", "decline"),
        now: Callable[[], float] = time.time,
    ) -> None:
        """Take the views to read.

        Args:
            store: where they are.
            rules: one per view.
            outcomes: from mild to severe: of two demanded ones, the more severe holds.
            now: Unix seconds, the time of the decision.
        """
        self._store = store
        self._rules = [(rule, _Defaults(rule)) for rule in rules]
        self._severity = {outcome: place for place, outcome in enumerate(outcomes)}
        self._now = now

    def work(self, batch: Batch) -> Batch:
        """Enrich every row; none is ever lost, whatever Redis does."""
        if not self._rules or not len(batch):
            return batch
        found = self._store.read({rule.view: keys_of(batch.columns[rule.key]) for rule, _ in self._rules})
        metrics.set_breaker("redis", self._store.is_open)
        joined = _Joined(len(batch), batch.degraded, batch.forced, self._severity)
        now = self._now()
        columns: dict[str, Column] = dict(batch.columns)
        ages = dict(batch.ages)
        for rule, defaults in self._rules:
            here = found[rule.view]
            values = rule.view.values(here.kept, here.rows, batch.event_ms)
            ages[rule.view.name] = age = now - values.as_of
            stale = np.flatnonzero(age > rule.max_age).tolist() if rule.max_age < math.inf else []
            for row, lack in values.lacks.items():
                joined.note(row, f"view:{rule.view.name}:{_SAID[lack]}", rule.on_missing)
            for row in stale:
                joined.note(row, f"view:{rule.view.name}:stale", rule.on_stale)
            defaults.fill(values, [*values.lacks, *(stale if rule.on_stale == "default" else ())])
            columns |= _columns(rule.view, values)
            metrics.count_features(
                rule.view.name, hits=here.hits, misses=here.misses, missing=len(values.lacks), stale=len(stale)
            )
        return replace(batch, columns=columns, ages=ages, degraded=joined.degraded, forced=joined.forced)


@operator
def enrich(step_id: str, up: Stream[Item], *, enricher: Enricher) -> Stream[Item]:
    """Join the feature views.

    In: batches with the views' key columns. Out: the same rows with `<view>_<feature>` columns and `ages`.
    Leaves: nothing. Missing, stale and unavailable values follow the view's rule and are in `degraded`.
    State: none that matters: a local cache of at most its `max_age`.
    """
    return stage("enrich", up, enricher.work)


_SAID = {Lack.MISSING: "missing", Lack.UNREADABLE: "unavailable", Lack.UNAVAILABLE: "unavailable"}


class _Joined:
    """What becomes of the rows of one batch."""

    def __init__(
        self, rows: int, degraded: list[tuple[str, ...]], forced: list[str | None], severity: Mapping[str, int]
    ) -> None:
        self.degraded = list(degraded) or [()] * rows
        self.forced = list(forced) or [None] * rows
        self._severity = severity

    def note(self, row: int, what: str, rule: str) -> None:
        self.degraded[row] = (*self.degraded[row], what)
        if rule in {"default", "last_known"}:
            return
        before = self.forced[row]
        if before is None or self._severity.get(rule, -1) > self._severity.get(before, -1):
            self.forced[row] = rule


class _Defaults:
    """What stands for a value that is not there."""

    def __init__(self, rule: ViewRule) -> None:
        given = [(kind, rule.defaults.get(name)) for name, kind in rule.view.features]
        self._numbers = [math.nan if value is None else float(value) for kind, value in given if kind == "number"]
        self._strings = [None if value is None else str(value) for kind, value in given if kind != "number"]

    def fill(self, values: Values, rows: list[int]) -> None:
        """Put the defaults into `rows`."""
        if not rows:
            return
        values.numbers[:, rows] = np.array(self._numbers)[:, None]
        for column, default in zip(values.strings, self._strings, strict=True):
            for row in rows:
                column[row] = default


def _columns(view: View, values: Values) -> dict[str, Column]:
    numbers, strings = iter(values.numbers), iter(values.strings)
    return {f"{view.name}_{name}": next(numbers if kind == "number" else strings) for name, kind in view.features}
