"""Every row is decided with what the view's rule says, and says what it had to do without."""

import numpy as np
import pytest

from operators.batch import Batch
from operators.enrich import Enricher, ViewRule
from state.cache import AgingCache
from state.features import FeatureStore
from state.link import MemoryLink
from state.views import Lack, LoadedView, redis_keys

HOLDER = LoadedView("holder", (("claims_3y", "number"), ("segment", "string")))
DEVICE = LoadedView("device", (("seen_days", "number"),))
NOW = 1_000_000.0


class Counting(MemoryLink):
    """Counts round trips, and may have nothing available."""

    def __init__(self, values, lack=None):
        super().__init__(values)
        self.reads, self.lack = 0, lack

    def ask(self, names, commands=()):
        self.reads += 1
        return ([self.lack] * len(names), []) if self.lack else super().ask(names, commands)


def store(link):
    return FeatureStore(link, "p", cache=AgingCache(0, 0.0))


def holding(rows, view):
    """A link to a Redis in which key has (event time, features …); bytes stand for themselves."""
    values = [row if isinstance(row, bytes) else view.pack(round(row[0] * 1000), row[1:]) for row in rows.values()]
    return Counting(dict(zip(redis_keys("p", view.name, rows), values, strict=True)))


def batch(**columns):
    n = len(next(iter(columns.values())))
    return Batch(
        topic="claims.events",
        lane=np.zeros(n, np.int32),
        offset=np.arange(n),
        append_ms=np.zeros(n, np.int64),
        keys=[None] * n,
        values=[b""] * n,
        headers=[[]] * n,
        columns=columns,
        degraded=[()] * n,
    )


def enrich(rows, *rules, degraded=None, **columns):
    work = Enricher(
        store(holding(rows, rules[0].view)), rules, outcomes=("approve", "review", "decline"), now=lambda: NOW
    )
    return work.work(batch(**columns))


def test_features_and_ages_become_columns():
    rows = {"a": (NOW - 60, 2.0, "gold"), "b": (NOW - 5, 3.0, None)}
    done = enrich(rows, ViewRule(HOLDER, "holder_id"), holder_id=["a", "b", "a"])

    assert done.columns["holder_claims_3y"].tolist() == [2.0, 3.0, 2.0]
    assert done.columns["holder_claims_3y"].dtype == np.float64
    assert done.columns["holder_segment"] == ["gold", None, "gold"]
    assert done.ages["holder"].tolist() == [60, 5, 60]
    assert done.degraded == [(), (), ()]
    assert done.forced == [None] * 3


@pytest.mark.parametrize(
    ("link", "said"),
    [
        (holding({}, HOLDER), "missing"),
        (holding({"a": b"garbage"}, HOLDER), "unavailable"),
        (Counting({}, lack=Lack.UNAVAILABLE), "unavailable"),
    ],
)
@pytest.mark.parametrize(("rule", "forced"), [("default", None), ("review", "review")])
def test_a_lack_follows_the_rule_and_is_said(link, said, rule, forced):
    view = ViewRule(HOLDER, "holder_id", on_missing=rule, defaults={"claims_3y": 7})
    done = Enricher(store(link), [view], now=lambda: NOW).work(batch(holder_id=["a"]))

    assert done.columns["holder_claims_3y"].tolist() == [7.0]
    assert done.columns["holder_segment"] == [None]
    assert np.isnan(done.ages["holder"]).all()
    assert done.degraded == [(f"view:holder:{said}",)]
    assert done.forced == [forced]


@pytest.mark.parametrize(
    ("rule", "value", "forced"), [("default", 7.0, None), ("last_known", 2.0, None), ("decline", 2.0, "decline")]
)
def test_a_stale_value_follows_the_rule_and_is_said(rule, value, forced):
    view = ViewRule(HOLDER, "holder_id", max_age=30, on_stale=rule, defaults={"claims_3y": 7})
    done = enrich({"old": (NOW - 30.5, 2.0, "x"), "young": (NOW - 30, 2.0, "x")}, view, holder_id=["old", "young"])

    assert done.columns["holder_claims_3y"].tolist() == [value, 2.0]
    assert done.ages["holder"].tolist() == [30.5, 30]
    assert done.degraded == [("view:holder:stale",), ()]
    assert done.forced == [forced, None]


def test_of_two_demanded_outcomes_the_more_severe_holds_whatever_the_order():
    rules = [ViewRule(HOLDER, "h", on_missing="decline"), ViewRule(DEVICE, "d", on_missing="review")]
    for order in (rules, rules[::-1]):
        done = enrich({}, *order, h=["a"], d=["b"])

        assert done.forced == ["decline"]
        assert set(done.degraded[0]) == {"view:holder:missing", "view:device:missing"}


def test_keys_may_be_missing_or_whole_numbers():
    done = enrich({"17": (NOW, 4.0)}, ViewRule(DEVICE, "d"), d=np.array([17.0, np.nan]))

    assert done.columns["device_seen_days"][0] == 4.0
    assert done.degraded == [(), ("view:device:missing",)]


def test_what_earlier_stages_said_stays():
    work = Enricher(store(MemoryLink({})), [ViewRule(DEVICE, "d", on_missing="review")], now=lambda: NOW)
    given = batch(d=["x", "y"])
    given.degraded[0] = ("guard:slow",)
    done = work.work(given)

    assert done.degraded == [("guard:slow", "view:device:missing"), ("view:device:missing",)]
    assert given.degraded == [("guard:slow",), ()]


def test_one_read_per_batch_and_none_without_views():
    link = Counting({})
    Enricher(store(link), [ViewRule(HOLDER, "h"), ViewRule(DEVICE, "d")], now=lambda: NOW).work(batch(h=["a"], d=["b"]))
    Enricher(store(link), [], now=lambda: NOW).work(batch(h=["a"]))

    assert link.reads == 1
