"""What decisions logged, back as columns: an event is decided again from the features of its first decision."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np

from operators.batch import Batch, Column
from operators.enrich import ViewRule

CARRIED: Final = ("view:", "recall:")
"""How what is carried over from `degraded` begins: guard and models have their say again."""


class Logged:
    """Gives rows the recalled and view features of their decisions, with ages, degradations and demanded outcomes."""

    def __init__(
        self,
        columns: Mapping[str, str],
        needed: Sequence[str],
        views: Sequence[ViewRule],
        outcomes: Sequence[str],
    ) -> None:
        """Prepare for one pipeline.

        Args:
            columns: recalled and view features to `number` or `string`.
            needed: those that are computed with; a decision that did not log one of them cannot be made again.
            views: the views' rules.
            outcomes: from mild to severe.
        """
        self._columns = dict(columns)
        self._needed = tuple(needed)
        self._views = [rule.view.name for rule in views]
        self._demands = {
            f"view:{rule.view.name}:{what}": outcome
            for rule in views
            for what, outcome in (
                ("missing", rule.on_missing), ("unavailable", rule.on_missing), ("stale", rule.on_stale)
            )
            if outcome in outcomes
        }  # fmt: skip
        self._severity = list(outcomes)

    def lacks(self, decision: Mapping[str, Any]) -> str | None:
        """Name a needed feature that a decision did not log; None where it has all."""
        return next((name for name in self._needed if name not in decision["features"]), None)

    def join(self, batch: Batch, decisions: Sequence[Mapping[str, Any]]) -> Batch:
        """Join each row with its decision, as read from JSON; (n,) of them."""
        features = [decision["features"] for decision in decisions]
        columns: dict[str, Column] = {name: _column(name, kind, features) for name, kind in self._columns.items()}
        ages = {
            view: np.array([_number(decision["ages"].get(view)) for decision in decisions], np.float64)
            for view in self._views
        }
        carried = [tuple(what for what in decision["degraded"] if what.startswith(CARRIED)) for decision in decisions]
        return replace(
            batch,
            columns={**batch.columns, **columns},
            ages={**batch.ages, **ages},
            degraded=[before + more for before, more in zip(batch.degraded, carried, strict=True)],
            forced=[self._demanded(what) for what in carried],
        )

    def _demanded(self, degraded: tuple[str, ...]) -> str | None:
        """What the views' rules demand, as `operators.enrich` did."""
        demanded = [self._demands[what] for what in degraded if what in self._demands]
        return max(demanded, key=self._severity.index, default=None)


def _column(name: str, kind: str, features: Sequence[Mapping[str, Any]]) -> Column:
    """A feature that no decision logs, since nothing uses it, is unknown."""
    if kind == "number":
        return np.array([_number(row.get(name)) for row in features], np.float64)
    return [row.get(name) for row in features]


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)
