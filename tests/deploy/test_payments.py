"""The payments: probabilities that are true, a drift where it is said to be, the inputs that the pipeline computes."""

import json
from collections import Counter
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import numpy as np
import pytest

from dataflows.pipeline import load
from deploy.pipelines.payments import history, payments, process

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


@pytest.fixture(scope="module")
def made():
    return [m for m in payments.payments(1, 20_000) if m.index >= 0]


@pytest.fixture(scope="module")
def planned():
    return list(payments.stream(1, 8_000, now=lambda: NOON))


def test_labels_occur_with_their_probability(made):
    p, fraud = np.array([m.p for m in made]), np.array([m.fraud for m in made])
    edges = np.quantile(p, [0, 0.5, 0.9, 0.95, 0.98, 1])

    for low, high in pairwise(edges):
        rows = (p >= low) & (p <= high)
        sigma = np.sqrt((p[rows] * (1 - p[rows])).sum()) / rows.sum()
        assert fraud[rows].mean() == pytest.approx(p[rows].mean(), abs=4 * sigma)


def test_probability_follows_from_the_events_alone(made):
    """Recomputed from what a reader of the topic sees: ids, amounts, times."""
    whole = list(payments.payments(1, 20_000))
    for m in made[5_000:5_200] + made[15_000:15_200]:
        past = [e for e in whole if e.index < m.index and m.at - process.DAY < e.at]
        mine = [e for e in past if e.card.id == m.card.id]
        mean = np.mean([e.amount for e in mine]) if mine else m.amount
        facts = process.Facts(
            amount_ratio=m.amount / mean,
            payments_10m=sum(e.at > m.at - 600 for e in mine),
            spent_1h=sum(e.amount for e in mine if e.at > m.at - 3600),
            since_last=min(m.at - mine[-1].at, process.DAY) if mine else process.DAY,
            other_cards_1d=len({e.card.id for e in past if e.device == m.device} - {m.card.id}),
            is_abroad=m.country != m.card.country,
            is_online=m.channel == "online",
        )
        assert m.p == pytest.approx(process.probability(facts, drifted=m.index >= payments.drift_index(20_000)))


def test_true_probability_is_the_best_score(made):
    truth = np.array([float(m.fraud) for m in made])
    p = np.array([m.p for m in made])
    noisy = p * np.exp(np.random.default_rng(3).normal(0, 1, len(p)))

    best = payments.bayes_optimal_auc(1, 20_000)

    assert best == payments.auc(p, truth)
    assert 0.85 < best < 0.98
    assert best > payments.auc(noisy, truth) + 0.005
    assert best > payments.auc(np.array([m.amount for m in made]), truth) + 0.1


def test_auc_counts_ties_half():
    assert payments.auc(np.array([1.0, 1.0, 0.0, 2.0]), np.array([1.0, 0.0, 0.0, 1.0])) == 0.875
    with pytest.raises(ValueError, match="0 frauds"):
        payments.auc(np.array([1.0]), np.array([0.0]))


def test_drift_begins_where_it_is_planted(made):
    start = payments.drift_index(len(made))
    fraud = np.array([m.amount for m in made if m.fraud and m.index < start])
    drifted = np.array([m.amount for m in made if m.fraud and m.index >= start])

    assert [m.drifted for m in made] == [m.index >= start for m in made]
    assert np.median(drifted) < 0.5 * np.median(fraud)
    assert not any(m.drifted for m in payments.payments(1, 1_000, drift=False))


def test_rings_share_devices(made):
    cards = {}
    for m in made:
        cards.setdefault(m.device, set()).add(m.card.id)
    ring = [d for d in cards if d.startswith("dev_9")]

    assert len(ring) > 20
    assert np.mean([len(cards[d]) for d in ring]) > 6


def test_table_is_of_the_payments_that_are_given_out():
    pipeline = load("deploy/pipelines/payments/pipeline.yaml")
    table = history.table(pipeline, 1, 2_000)
    whole = [m for m in payments.payments(1, 2_000) if m.index >= 0]
    rows = dict(zip(pipeline.models["fraud"].inputs, table.rows.T, strict=True))

    assert table.p.tolist() == [m.p for m in whole]
    assert table.fraud.tolist() == [float(m.fraud) for m in whole]
    assert np.isfinite(table.rows).all()
    assert rows["is_abroad"].tolist() == [m.facts.is_abroad for m in whole]
    np.testing.assert_allclose(rows["amount_log"], np.log1p([m.amount for m in whole]), rtol=1e-6)
    assert table.fields.shape == (2_000, 4 + len(process.CATEGORIES))


def test_views_of_the_table_are_those_of_the_events_in_earlier_panes():
    """Recomputed from what a reader of the topic sees: ids, amounts, times."""
    pipeline = load("deploy/pipelines/payments/pipeline.yaml")
    table = history.table(pipeline, 1, 2_000)
    rows = dict(zip(pipeline.models["fraud"].inputs, table.rows.T, strict=True))
    whole = [(round(history.BEGAN.timestamp() * 1000 + m.at * 1000), m) for m in payments.payments(1, 2_000)]
    for at in range(5_000, 7_000, 50):
        time, m = whole[at]
        before = [(t, e) for t, e in whole[:at] if t // 10_000 < time // 10_000]
        mine = [(t, e) for t, e in before if e.card.id == m.card.id]
        ratio = m.amount / np.mean([e.amount for _, e in mine]) if mine else 1.0
        burst = sum(t // 10_000 >= time // 10_000 - 60 for t, _ in mine)
        cards = len({e.card.id for _, e in before if e.device == m.device})
        assert rows["ratio_log"][at - 5_000] == pytest.approx(np.log(0.05 + ratio), rel=1e-5)
        assert rows["burst"][at - 5_000] == min(burst, 6)
        assert rows["shared_log"][at - 5_000] == pytest.approx(np.log(max(cards, 1)), rel=1e-5)


def test_stream_has_the_declared_shares(planned):
    share = {kind: count / len(planned) for kind, count in Counter(p.kind for p in planned).items()}

    for kind in ("broken", "duplicate", "late", "pii"):
        assert share[kind] == pytest.approx(0.01, abs=0.005)
    assert {p.detail for p in planned if p.kind == "broken"} == set(payments.BREAKS)


def test_stream_is_the_same_for_the_same_seed(planned):
    assert list(payments.stream(1, 8_000, now=lambda: NOON)) == planned
    assert list(payments.stream(2, 8_000, now=lambda: NOON)) != planned


def test_stream_carries_the_payments_of_the_seed(planned):
    truth = {f"pay-{m.index:08d}": m for m in payments.payments(1, 8_000) if m.index >= 0}
    events = [json.loads(p.value) for p in planned if p.kind in ("clean", "pii", "late")]

    assert len(events) == len({e["id"] for e in events})
    assert all(e["amount"]["value"] == truth[e["id"]].amount for e in events)
    assert all(p.key.decode() == json.loads(p.value)["card"]["token"] for p in planned if p.kind == "clean")


def test_stream_ends_about_now(planned):
    last = datetime.fromisoformat(json.loads(next(p for p in reversed(planned) if p.kind == "clean").value)["time"])

    assert abs(last - NOON) < timedelta(hours=1)


def test_duplicates_repeat_what_came_before(planned):
    seen = set()
    for p in planned:
        assert (p.kind == "duplicate") == ((p.key, p.value, p.headers) in seen)
        seen.add((p.key, p.value, p.headers))


def test_any_length_can_be_planned():
    for n in (0, 1, 2, 500, 501):
        assert [len(list(payments.stream(seed, n))) for seed in range(5)] == [n] * 5
