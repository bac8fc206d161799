"""The payments of a seed as a table with the truth: what models are trained on and judged by.

Views are computed as `penstock features backfill` does, by the code that computes them while payments flow, and derived
features by the pipeline's own expressions. So training and serving cannot differ.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np

from dataflows.backfill import Backfill
from dataflows.pipeline import Pipeline
from dataflows.view_stages import windowed_views
from deploy.pipelines.payments.process import CATEGORIES, Payment, payments
from deploy.pipelines.training import Rows, Values, rows_for
from models.expressions import Expressions

BEGAN = datetime(2026, 1, 1, tzinfo=UTC)
"""When the first payment that is given out is made."""
AT_ONCE = 4096
"""Payments, as `penstock features backfill` takes them."""


@dataclass(frozen=True, slots=True)
class Table:
    """Payments in order of time."""

    rows: Rows
    """(n, f) float32: the inputs of the model `fraud`."""
    fields: Rows
    """(n, g) float32: the same of the payment itself alone, and which category its merchant is of."""
    p: Values
    """(n,) true probability of fraud."""
    fraud: Values
    """(n,) 1 for fraud."""


def table(pipeline: Pipeline, seed: int, n: int, *, drift: bool = True) -> Table:
    """The `n` payments of a seed; those of the warm-up are in the views only."""
    made = list(payments(seed, n, drift=drift))
    rows = rows_for(pipeline, "fraud", _columns(pipeline, made), len(made))
    category = np.array([[m.category == each for each in CATEGORIES] for m in made], np.float32)
    fields = np.hstack([rows[:, _own(pipeline)], category])
    p, fraud = _numbers(m.p for m in made), _numbers(m.fraud for m in made)
    given = slice(len(made) - n, None)
    return Table(rows[given], fields[given], p[given], fraud[given])


def _own(pipeline: Pipeline) -> list[int]:
    """Which inputs of the model are computed from fields of the payment alone."""
    own = set(pipeline.contract.fields)
    for derived in Expressions.compile(pipeline.features, pipeline.columns, "number").expressions:
        if own.issuperset(derived.uses):
            own.add(derived.name)
    return [place for place, name in enumerate(pipeline.models["fraud"].inputs) if name in own]


def _events(made: Sequence[Payment]) -> list[dict[str, Any]]:
    """The payments as rows of a file of history: contract fields by name."""
    return [
        {
            "payment_id": f"pay{m.index}",
            "paid_at": (BEGAN + timedelta(seconds=m.at)).isoformat(timespec="milliseconds"),
            "card_id": m.card.id,
            "device_id": m.device,
            "amount": m.amount,
        }
        for m in made
    ]


def _columns(pipeline: Pipeline, made: Sequence[Payment]) -> dict[str, Any]:
    """Every column that the model's inputs are computed from, as in a batch."""
    filler = Backfill(pipeline, windowed_views(pipeline))
    filled = [filler.take(_events(made[at : at + AT_ONCE])).features for at in range(0, len(made), AT_ONCE)]
    return {
        **{name: np.concatenate([part[name] for part in filled]) for name in filled[0]},
        "country": [m.country for m in made],
        "card_country": [m.card.country for m in made],
        "channel": [m.channel for m in made],
        "amount": _numbers(m.amount for m in made),
        "card_limit": _numbers(m.card.limit for m in made),
        "spent_1h": _numbers(m.facts.spent_1h for m in made),  # recalled for a rule, so no input, but a column
    }


def _numbers(values: Iterable[float]) -> Values:
    return np.fromiter(values, np.float64)
