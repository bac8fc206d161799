"""What the views are worth: how much of what can be known about fraud they add to a payment's own fields.

    python -m deploy.pipelines.payments.worth

Two models are trained on earlier payments and judged on later ones of the same stream: one on the payments' own fields,
one on the inputs of the pipeline, views among them. The third figure is that of the true probability, which no model
beats but by luck. All three have the same payments, none of which were trained on.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from dataflows.pipeline import load
from deploy.pipelines.payments.history import Table, table
from deploy.pipelines.payments.payments import auc
from deploy.pipelines.payments.train import HERE, train_fraud
from deploy.pipelines.training import Rows, Values

SEEDS = (7_101, 7_102, 7_103)
TRAINED, JUDGED = 60_000, 40_000
"""Payments."""
RESAMPLES = 60


@dataclass(frozen=True, eq=False)
class Worth:
    """Scores of the payments that were judged, (n,) each, and which of them are fraud."""

    fields: Values
    views: Values
    best: Values
    fraud: Values

    @cached_property
    def aucs(self) -> tuple[float, float, float]:
        """Of the fields alone, with views, and the best there can be."""
        return auc(self.fields, self.fraud), auc(self.views, self.fraud), auc(self.best, self.fraud)

    @property
    def share(self) -> float:
        """Of what is beyond the fields, as much as the views find."""
        fields, views, best = self.aucs
        return (views - fields) / (best - fields)

    @cached_property
    def error(self) -> float:
        """Standard error of the share, by resampling the payments (Efron's bootstrap)."""
        draw = np.random.default_rng(0)
        rows = [draw.integers(0, len(self.fraud), len(self.fraud)) for _ in range(RESAMPLES)]
        return float(np.std([self._of(each).share for each in rows], ddof=1))

    def _of(self, rows: np.ndarray[tuple[int], np.dtype[np.int64]]) -> Worth:
        return Worth(self.fields[rows], self.views[rows], self.best[rows], self.fraud[rows])

    def __str__(self) -> str:
        fields, views, best = self.aucs
        return (
            f"{len(self.fraud)} later payments, {int(self.fraud.sum())} of them fraud: AUC {fields:.4f} with their own "
            f"fields alone, {views:.4f} with views, {best:.4f} at best: {self.share:.1%} of what there is beyond the "
            f"fields (standard error {self.error:.1%})"
        )


def judge(found: Table, trained: int) -> Worth:
    """Train on the first payments and score the others."""

    def scores(rows: Rows) -> Values:
        model = train_fraud(rows[:trained], found.fraud[:trained])
        return np.asarray(model.predict_proba(rows[trained:])[:, 1], np.float64)

    return Worth(scores(found.fields), scores(found.rows), found.p[trained:], found.fraud[trained:])


def main() -> None:
    """Print the three figures for a few seeds."""
    pipeline = load(HERE / "pipeline.yaml")
    for seed in SEEDS:
        print(f"seed {seed}: {judge(table(pipeline, seed, TRAINED + JUDGED, drift=False), TRAINED)}", flush=True)


if __name__ == "__main__":
    main()
