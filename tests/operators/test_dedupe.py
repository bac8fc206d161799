"""A repeat leaves with a mark that names the first decision; what passes is untouched."""

from dataclasses import replace
from datetime import timedelta

import numpy as np
import orjson
import pytest

from operators import wire
from operators.batch import Batch
from operators.dedupe import Dedupe


def batch(ids, first_offset=0, append_ms=1_000):
    n = len(ids)
    return Batch(
        topic="claims.events",
        lane=np.full(n, 3, np.int32),
        offset=np.arange(first_offset, first_offset + n),
        append_ms=np.full(n, append_ms),
        keys=[None] * n,
        values=[b""] * n,
        headers=[[]] * n,
        progress={3: first_offset + n},
        event_ids=list(ids),
        entities=[f"entity-{event_id}" for event_id in ids],
        event_ms=np.full(n, append_ms),
        degraded=[()] * n,
    )


@pytest.fixture
def work():
    return Dedupe(3, pipeline="claims", window=timedelta(hours=1), max_ids=1000)


def test_a_repeat_leaves_with_a_mark_that_names_the_first_decision(work):
    work.open({})
    first = work.work(batch(["a", "b", "a"]))
    second = work.work(batch(["c", "b"], first_offset=3))

    assert (first.event_ids, second.event_ids) == (["a", "b"], ["c"])
    assert second.progress == {3: 5}
    (mark,) = second.records
    assert (mark.topic, mark.lane, mark.key) == ("duplicates", 3, b"entity-b")
    body = wire.Duplicate.model_validate_json(mark.value)
    assert body.first == wire.decision_id("claims", 3, 1)
    assert body.origin.offset == 4
    assert orjson.loads(first.records[0].value)["first"] == wire.decision_id("claims", 3, 0)


def test_a_lane_opened_with_its_changes_marks_as_before(work):
    work.open({})
    done = work.work(batch(["a", "b"]))
    again = Dedupe(3, pipeline="claims", window=timedelta(hours=1), max_ids=1000)
    again.open({change.key: change.value for change in done.changes})

    assert {(change.lane, change.step) for change in done.changes} == {(3, "dedupe")}
    assert again.work(batch(["b", "c"], 2)).event_ids == ["c"]


def test_a_time_far_ahead_neither_ends_the_window_nor_keeps_ids_for_ever():
    now = 1_800_000_000
    work = Dedupe(3, pipeline="claims", window=timedelta(hours=1), max_ids=1000, now=lambda: now)
    work.open({})

    def passed(ids, *seconds, offset):
        times = np.array([1000 * at for at in seconds], np.int64)
        done = work.work(replace(batch(ids, first_offset=offset), append_ms=times))
        return done.event_ids, {change.key: change.value for change in done.changes}

    year = 365 * 86_400
    assert passed(["a", "wrong", "a"], now, now + year, now, offset=0)[0] == ["a", "wrong"]
    assert passed(["a", "wrong", "b"], now + 1, now + year, now + 2, offset=3)[0] == ["b"]
    now += 3600 + 61
    _, stored = passed(["c"], now, offset=6)
    assert passed(["b", "wrong", "c"], now, now, now, offset=7)[0] == ["b", "wrong"]
    work = Dedupe(3, pipeline="claims", window=timedelta(hours=1), max_ids=1000, now=lambda: now)
    work.open(stored)
    now += 3600
    assert passed(["c"], now, offset=10)[0] == ["c"]


def test_beyond_the_window_the_event_is_new(work):
    work.open({})
    work.work(batch(["a"]))

    assert work.work(batch(["a"], 1, append_ms=1_000 + 3_600_000)).event_ids == ["a"]


def test_a_repeat_changes_no_state(work):
    work.open({})
    work.work(batch(["a"]))

    assert work.work(batch(["a"], 1)).changes == ()
