"""What the payments' views are worth: nearly all that can be known beyond a payment's own fields."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dataflows.pipeline import load
from deploy.pipelines.payments import worth
from deploy.pipelines.payments.history import Table, table
from deploy.pipelines.payments.train import HERE

SEED, TRAINED, JUDGED = 7_101, 30_000, 25_000
PIPELINE = load(HERE / "pipeline.yaml")
FROM_VIEWS = ("ratio_log", "burst", "shared_log")


@pytest.fixture(scope="module")
def found() -> Table:
    return table(PIPELINE, SEED, TRAINED + JUDGED, drift=False)


def test_views_give_nineteen_twentieths_of_what_can_be_known(found: Table) -> None:
    got = worth.judge(found, TRAINED)

    print(f"seed {SEED}: {got}")
    assert got.share >= 0.95


def test_without_the_views_nothing_of_it_is_known(found: Table) -> None:
    """What the figure above owes to them: the same model where every view is missing, as without their jobs."""
    taken = [PIPELINE.models["fraud"].inputs.index(name) for name in FROM_VIEWS]
    rows = found.rows.copy()
    rows[:, taken] = np.float32(0.0)

    got = worth.judge(replace(found, rows=rows), TRAINED)

    print(f"seed {SEED}, views taken away: {got}")
    assert got.share < 0.1


@pytest.mark.parametrize("view", FROM_VIEWS)
def test_each_view_is_needed(found: Table, view: str) -> None:
    rows = found.rows.copy()
    rows[:, PIPELINE.models["fraud"].inputs.index(view)] = np.float32(0.0)

    assert worth.judge(replace(found, rows=rows), TRAINED).share < 0.95


@pytest.mark.long
@pytest.mark.timeout(600)
def test_it_is_so_for_every_seed_beyond_chance() -> None:
    got = [
        worth.judge(table(PIPELINE, seed, worth.TRAINED + worth.JUDGED, drift=False), worth.TRAINED)
        for seed in worth.SEEDS
    ]
    for seed, each in zip(worth.SEEDS, got, strict=True):
        print(f"seed {seed}: {each}")
    shares = [each.share for each in got]

    assert min(shares) >= 0.95
    assert np.mean(shares) - 2 * np.hypot.reduce([each.error for each in got]) / len(got) >= 0.95
