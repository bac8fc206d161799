"""`recall` adds a column per feature and the changes that bring the same windows back."""

from dataclasses import replace
from datetime import timedelta

import bytewax.operators as op
import numpy as np
from bytewax.dataflow import Dataflow
from bytewax.testing import TestingSink, TestingSource, run_main

from operators.batch import Batch, Close, Open
from operators.dedupe import Dedupe, dedupe
from operators.recall import Recall, recall
from operators.stage import by_lane, together
from state.window_spec import Feature, WindowSpec

SPEC = WindowSpec(
    (
        Feature("claims_1h", "count", 3_600_000),
        Feature("limit_1h", "sum", 3_600_000, "policy_limit"),
        Feature("since", "seconds_since_last", 3_600_000),
    )
)
NOW = 1_700_000_000_000


def batch(entities, event_ms, limits):
    n = len(entities)
    return Batch(
        topic="claims.events",
        lane=np.zeros(n, np.int32),
        offset=np.arange(n),
        append_ms=np.full(n, NOW),
        keys=[None] * n,
        values=[b""] * n,
        headers=[[]] * n,
        event_ids=[str(i) for i in range(n)],
        entities=list(entities),
        event_ms=np.array(event_ms, np.int64),
        columns={"policy_limit": np.array(limits, np.float64)},
        degraded=[()] * n,
    )


def test_each_row_sees_what_came_before_it_also_in_its_own_batch():
    work = Recall(0, SPEC)
    work.open({})
    done = work.work(batch(["a", "b", "a", "a"], [NOW, NOW, NOW + 2000, NOW + 5000], [10, 20, np.nan, 1]))

    assert done.columns["claims_1h"].tolist() == [0, 0, 1, 2]
    assert done.columns["limit_1h"].tolist() == [0, 0, 10, 10]
    np.testing.assert_array_equal(done.columns["since"], [np.nan, np.nan, 2, 3])
    assert done.columns["policy_limit"].dtype == done.columns["claims_1h"].dtype == np.float64


def test_a_lane_opened_with_its_changes_goes_on_as_before():
    work = Recall(0, SPEC)
    work.open({})
    done = work.work(batch(["a", "ä"], [NOW, NOW], [10, 20]))
    again = Recall(0, SPEC)
    again.open({change.key: change.value for change in done.changes})

    assert {(change.lane, change.step) for change in done.changes} == {(0, "recall")}
    assert again.work(batch(["ä"], [NOW], [1])).columns["limit_1h"].tolist() == [20]


def test_without_features_nothing_is_added_and_nothing_remembered():
    before, work = Recall(0, SPEC), Recall(0, WindowSpec(()))
    before.open({})
    stored = before.work(batch(["a"], [NOW], [1])).changes
    work.open({change.key: change.value for change in stored})
    given = batch(["a", "b"], [NOW, NOW], [1, 2])

    assert work.work(given) is given


def run(items):
    """Both stages with memory in a real flow, as `dataflows.decisions` wires them."""
    out, flow = [], Dataflow("memory")
    lanes = by_lane("by_lane", op.input("events", flow, TestingSource(items, batch_size=1)))
    window = timedelta(hours=1)
    fresh = dedupe("dedupe", lanes, build=lambda lane: Dedupe(lane, pipeline="claims", window=window, max_ids=1000))
    recalled = recall("recall", fresh, build=lambda lane: Recall(lane, SPEC))
    op.output("out", together("together", recalled), TestingSink(out))
    run_main(flow)
    return out


def test_in_a_flow_the_memory_opens_and_closes_with_its_lane():
    two_lanes = replace(batch(["a", "a", "a"], [NOW] * 3, [1, 2, 4]), lane=np.array([0, 0, 1], np.int32), poll=1)
    repeat = replace(batch(["a", "a"], [NOW] * 2, [8, 16]), offset=np.array([2, 3]), event_ids=["1", "9"], poll=2)
    out = run([Open(0, {}), Open(1, {}), two_lanes, repeat, Close(1)])
    first, second = (item for item in out if isinstance(item, Batch))
    entries = {"dedupe": {}, "recall": {}}
    for change in (*first.changes, *second.changes):
        if change.lane == 0:
            entries[change.step][change.key] = change.value
    later = replace(batch(["a", "a"], [NOW] * 2, [32, 64]), event_ids=["9", "10"], poll=1)
    _, after = run([Open(0, entries), later])

    assert first.columns["limit_1h"].tolist() == [0, 1, 0]
    assert (second.event_ids, second.columns["limit_1h"].tolist()) == (["9"], [3])
    assert [record.topic for record in (*first.records, *second.records)] == ["duplicates"]
    assert (after.event_ids, after.columns["limit_1h"].tolist()) == (["10"], [19])
    assert [type(item) for item in out if not isinstance(item, Batch)] == [Open, Open, Close]
