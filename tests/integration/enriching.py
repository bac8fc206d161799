"""A loaded view of 64 keys in whatever kind of Redis, and enrichment from it."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from operators.batch import Batch
from operators.enrich import Enricher, ViewRule
from state.feature_writer import FeatureWriter
from state.features import FeatureStore
from state.views import LoadedView

HOLDER = LoadedView("holder", (("claims_3y", "number"),))
KEYS = [f"PH-{i:06d}" for i in range(64)]
PIPELINE = "claims"


def fill(url: str, keys: Sequence[str] = KEYS) -> None:
    """Give each key its number as its value."""
    now = round(time.time() * 1000)
    writer = FeatureWriter.connect(url, PIPELINE)
    try:
        writer.load(HOLDER, [(key, now, [float(KEYS.index(key))]) for key in keys])
    finally:
        writer.close()


def enricher_of(store: FeatureStore) -> Enricher:
    rule = ViewRule(HOLDER, "holder_id", max_age=3600, on_missing="review", defaults={"claims_3y": -1})
    return Enricher(store, [rule])


def batch() -> Batch:
    n = len(KEYS)
    zeros = np.zeros(n, np.int64)
    return Batch(
        "claims.events", np.zeros(n, np.int32), np.arange(n), zeros, [None] * n, [b""] * n, [[]] * n,
        event_ms=zeros, columns={"holder_id": KEYS}, degraded=[()] * n,
    )  # fmt: skip


def lacking(done: Batch) -> list[str]:
    """The keys that were degraded; each is checked to have its default exactly then, and else its value."""
    values = list(done.columns["holder_claims_3y"])
    found = [row for row, what in enumerate(done.degraded) if what]
    assert all(done.degraded[row] in {("view:holder:unavailable",), ("view:holder:missing",)} for row in found)
    assert values == [-1.0 if row in found else float(row) for row in range(len(KEYS))]
    assert [row for row, outcome in enumerate(done.forced) if outcome] == found
    return [KEYS[row] for row in found]


def is_whole(done: Batch) -> bool:
    return not lacking(done)


def is_without(done: Batch) -> bool:
    return lacking(done) == KEYS and done.degraded == [("view:holder:unavailable",)] * len(KEYS)


def timed(enricher: Enricher) -> tuple[Batch, float]:
    began = time.monotonic()
    done = enricher.work(batch())
    return done, time.monotonic() - began
