"""Deciding again: from what was logged the same comes out; rejected events are decided once, as of now."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from dataflows.pipeline import Pipeline, loads
from dataflows.replay import (
    UNRECALLED,
    DecidedAgain,
    NamedReleases,
    PolicyUnfit,
    Redecided,
    RejectedAgain,
    StoppedClock,
    differs,
    unhurried,
    with_policy,
)
from dataflows.stages import Stages, build_stages
from models.history import Release
from operators.batch import Batch, Record
from operators.sealed import open_original
from operators.wire import Decision, Rejection, decision_id
from state.latest import Latest
from tests.operators import passage
from tests.operators.guarded import scanner

TEXT = Path("deploy/pipelines/claims/pipeline.yaml").read_text()
POLICY = """
  version: "2"
  outcomes: [approve, review, decline]
  default: approve
  on_unknown: review
  rules:
"""


class NoStore:
    """The feature views, which a replay must not ask."""

    def read(self, wanted: Any) -> Any:
        raise AssertionError("a replay uses what was logged")


def first_records() -> list[Record]:
    """Of every kind of event in three lanes, as three slots would write them."""
    records: list[Record] = []
    for lane in passage.LANES:
        batch = passage.events([lane])
        for _, work in passage.stages().in_order(lane):
            batch = work(batch) if len(batch) else batch
        records += batch.records
    return records


def decisions(records: Sequence[Record]) -> list[dict[str, Any]]:
    return [orjson.loads(record.value or b"") for record in records if record.topic == "decisions"]


def built(pipeline: Pipeline, store: Any, named: dict[str, Release] | None = None) -> tuple[Stages, StoppedClock]:
    clock = StoppedClock()
    shelf: Any = passage.Shelf(passage.claims())
    catalog = NamedReleases(shelf, named or {})
    stages = build_stages(pipeline, vault=passage.VAULT, scanner=scanner(), store=store, catalog=catalog, now=clock)
    return stages, clock


def decided_again(pipeline: Pipeline, before: list[dict[str, Any]], **more: Any) -> list[Redecided]:
    """Decide the events of these decisions again, all in one batch."""
    again = DecidedAgain(pipeline, *built(pipeline, NoStore(), **more))
    events = passage.events()
    places = [(each["origin"]["partition"], each["origin"]["offset"]) for each in before]
    each_lane = len(events) // len(passage.LANES)
    rows = np.array([lane * each_lane + offset for lane, offset in places])
    assert all(again.lacks(each) is None for each in before)
    return again.decide(events.take(rows), before)


@pytest.fixture(scope="module")
def records() -> list[Record]:
    return first_records()


@pytest.fixture(scope="module")
def before(records: list[Record]) -> list[dict[str, Any]]:
    found = decisions(records)
    said = {what for each in found for what in each["degraded"]}
    assert {"view:holder:missing", "view:holder:stale"} <= said, "the events are worth the test"
    assert {each["scores"]["severity"]["release"] for each in found} == {"1", "2"}
    return found


def test_the_same_policy_and_releases_decide_the_same(before: list[dict[str, Any]]) -> None:
    again = decided_again(unhurried(passage.claims()), before)

    assert len(again) == len(before)
    for old, each in zip(before, again, strict=True):
        assert each.after is not None
        assert not differs(old, each.after)
        own = {name: each.after[name] for name in old if name not in ("decided_at", "shadows")}
        assert own == {name: old[name] for name in own}


def test_a_changed_policy_changes_what_it_says_and_names_what_it_replaces(before: list[dict[str, Any]]) -> None:
    head = TEXT[: TEXT.index("\npolicy:")]
    rule = '    - {name: large, when: "policy_limit > 9000000", outcome: decline, reason: L}\n'
    other = loads(head + "\npolicy:" + POLICY + rule)
    pipeline = unhurried(with_policy(passage.claims(), other))
    again = decided_again(pipeline, before)
    large = {(lane, 7) for lane in passage.LANES if lane}

    origins = [each.before["origin"] for each in again if each.outcome == "decline"]
    declined = {(origin["partition"], origin["offset"]) for origin in origins}
    assert declined == large
    for each in again:
        assert each.after is not None
        record = Decision.model_validate_json(each.records[0].value or b"")
        assert record.revision == 1
        assert record.supersedes is not None
        assert (record.supersedes.kind, record.supersedes.revision) == ("decision", 0)
        assert record.policy.version == "2"
        assert dict(each.records[0].headers)["ce_id"] == f"{record.decision_id}.1".encode()
        assert [r.topic for r in each.records] == ["decisions"] + ["reviews"] * (each.outcome == "review")


def test_what_a_view_demanded_it_demands_again(before: list[dict[str, Any]]) -> None:
    assert TEXT.count("on_missing: default") == 1
    strict = loads(TEXT.replace("on_missing: default", "on_missing: review"))
    again = decided_again(unhurried(strict), before)

    for each in again:
        if "view:holder:missing" in each.before["degraded"]:
            assert each.after is not None
            assert each.outcome == "review"
            assert "DEGRADED" in each.after["reasons"]


def test_a_named_release_scores_all(before: list[dict[str, Any]]) -> None:
    release = passage.Shelf(passage.claims()).parts("severity", np.array([2**60]))[0].in_force.champion
    assert release is not None
    again = decided_again(unhurried(passage.claims()), before, named={"severity": release})

    assert {each.after["scores"]["severity"]["release"] for each in again if each.after} == {"2"}
    for old, each in zip(before, again, strict=True):
        assert each.after is not None
        assert differs(old, each.after) == (old["scores"]["severity"]["release"] == "1")


def test_a_decision_that_did_not_log_what_is_needed_says_so(before: list[dict[str, Any]]) -> None:
    again = DecidedAgain(passage.claims(), *built(passage.claims(), NoStore()))
    features = {name: value for name, value in before[0]["features"].items() if name != "holder_claims_3y"}

    assert again.lacks(before[0] | {"features": features}) == "holder_claims_3y"


def test_a_policy_that_uses_what_is_not_there_is_refused() -> None:
    head = TEXT[: TEXT.index("\npolicy:")].replace("claims_1d", "claims_2d")
    rule = '    - {name: many, when: "claims_2d > 3", outcome: decline, reason: MANY}\n'
    with pytest.raises(PolicyUnfit, match=r"policy\.rules.*claims_2d"):
        with_policy(passage.claims(), loads(head + "\npolicy:" + POLICY + rule))


def rejected_batch(values: Sequence[bytes]) -> Batch:
    n = len(values)
    return Batch(
        topic="claims.events",
        lane=np.zeros(n, np.int32),
        offset=np.arange(100, 100 + n, dtype=np.int64),
        append_ms=np.zeros(n, np.int64),
        keys=[None] * n,
        values=list(values),
        headers=[list(passage.HEADERS) for _ in range(n)],
    )


def mended(values: Sequence[bytes], latest: Latest) -> Any:
    pipeline = unhurried(passage.claims())
    stages, clock = built(pipeline, passage.stored())
    return RejectedAgain(pipeline, stages, latest, clock).decide(rejected_batch(values))


def test_rejected_events_are_decided_as_of_now_without_windows() -> None:
    with closing(Latest()) as latest:
        found = mended([passage.claim(1), b"{", passage.claim(5, description="write to ann@example.com")], latest)

    assert found.outcomes.total() == 1
    assert found.rejected == {"invalid_json": 1}
    assert (found.quarantined, found.duplicates) == (1, 0)
    made = [orjson.loads(record.value or b"") for record in found.records if record.topic != "reviews"]
    assert {each["kind"]: each["origin"]["offset"] for each in made} == {"decision": 100, "quarantine": 102}
    assert all(each["supersedes"] == {"kind": "rejection", "revision": 0} for each in made)
    assert {each["revision"] for each in made} == {1}
    decision = next(each for each in made if each["kind"] == "decision")
    Decision.model_validate(decision)
    assert UNRECALLED in decision["degraded"]
    assert decision["features"]["claims_1d"] is None
    assert decision["features"]["holder_claims_3y"] is not None
    assert decision["scores"]["severity"]["release"] == "2", "in force now"
    assert decision["decision_id"] == decision_id("claims", 0, 100)


def test_an_event_that_was_sent_again_is_no_second_decision() -> None:
    with closing(Latest()) as latest:
        twice = mended([passage.claim(1), passage.claim(1), passage.claim(3)], latest)
        latest.take(twice.known)
        later = mended([passage.claim(3)], latest)

    marks = [orjson.loads(record.value or b"") for record in twice.records if record.topic == "duplicates"]
    assert [(mark["origin"]["offset"], mark["first"]) for mark in marks] == [(101, decision_id("claims", 0, 100))]
    assert (twice.outcomes.total(), twice.duplicates) == (2, 1)
    assert (later.outcomes.total(), later.duplicates) == (0, 1)


def test_a_rejection_that_was_decided_is_compared_as_of_its_decision() -> None:
    with closing(Latest()) as latest:
        found = mended([passage.claim(1), passage.claim(3)], latest)
    again = DecidedAgain(passage.claims(), *built(unhurried(passage.claims()), NoStore()))
    old = decisions(found.records)
    batch = replace(rejected_batch([passage.claim(1), passage.claim(3)]), append_ms=np.array([5, 5]))

    for each in again.decide(batch, old):
        assert each.after is not None
        assert not differs(each.before, each.after)
        assert UNRECALLED in each.after["degraded"]
        assert orjson.loads(each.records[0].value or b"")["supersedes"] == {"kind": "decision", "revision": 1}


def test_what_the_contract_takes_now_is_what_was_sealed(records: list[Record]) -> None:
    """The original in a rejection is the event that is decided."""
    rejected = [Rejection.model_validate_json(r.value or b"") for r in records if r.topic == "rejected"]

    sent = {(lane, at): value for lane in passage.LANES for at, value in enumerate(passage.values_of(lane))}
    for each in rejected:
        original = open_original(passage.VAULT, each)
        assert original.value == sent[each.origin.partition, each.origin.offset]


PICK: dict[str, Callable[[dict[str, Any]], Any]] = {
    "outcome": lambda each: each | {"outcome": "other"},
    "reasons": lambda each: each | {"reasons": ["OTHER"]},
    "score": lambda each: each | {"scores": each["scores"] | {"severity": {"score": 1.0, "release": "1"}}},
    "release": lambda each: each | {"scores": {m: s | {"release": "9"} for m, s in each["scores"].items()}},
    "no score": lambda each: each | {"scores": {m: s | {"score": None} for m, s in each["scores"].items()}},
}


@pytest.mark.parametrize("what", PICK)
def test_a_difference_is_seen(before: list[dict[str, Any]], what: str) -> None:
    assert differs(before[0], PICK[what](before[0]))
    assert not differs(before[0], dict(before[0]))
