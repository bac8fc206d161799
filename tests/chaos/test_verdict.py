"""The account finds each kind of wrong in records that are wrong in that way alone, and each way to prove nothing."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import orjson
import pytest

from tests.chaos.account import Account, Form, hollow
from tests.chaos.history import Kill, Outage
from tests.chaos.plan import CALLS, CHANGES, KILLS, Incident, plan
from tests.chaos.reader import Record
from tests.chaos.verdict import Origin, Verdict, Windows, judge, kills_before

WINDOWS = Windows({"seen_1h": ("count", 3_600_000, None)}, pane_ms=60_000, lateness_ms=600_000, include_late=True)
AT = "2026-01-01T10:00:00.000Z"
EVENTS: dict[Origin, Record] = {
    (lane, offset): Record(("events", lane, offset), 1_767_261_600_000, orjson.dumps({"noticed_at": AT}))
    for lane in range(2)
    for offset in range(3)
}


def body(lane: int, offset: int, **more: Any) -> dict[str, Any]:
    decided = {"kind": "decision", "entity": f"E-{lane}", "outcome": "approve", "features": {"seen_1h": float(offset)}}
    return {"origin": {"partition": lane, "offset": offset}, **decided, **more}


Logs = dict[tuple[str, int], list[dict[str, Any]]]


def logs() -> Logs:
    """Two lanes of three decisions each, one of which is for review."""
    found: Logs = {("decisions", lane): [body(lane, offset) for offset in range(3)] for lane in range(2)}
    found["decisions", 1][2]["outcome"] = "review"
    return found | {("reviews", 1): [found["decisions", 1][2]]}


def judged(found: Logs) -> Verdict:
    records = [
        Record((topic, lane, at), 0, orjson.dumps(each))
        for (topic, lane), bodies in found.items()
        for at, each in enumerate(bodies)
    ]
    arrived = {record.place: 100.0 + record.place[2] for record in records}
    return judge(EVENTS, records, "reviews", WINDOWS, arrived)[0]


def test_nothing_is_wrong_where_nothing_is() -> None:
    verdict = judged(logs())

    assert verdict.clean
    assert verdict.roles == {"decisions": 6, "reviews": 1}


def forget(found: Logs) -> None:
    del found["decisions", 0][2]


def repeat(found: Logs) -> None:
    found["decisions", 0].append(body(0, 1))


def swap(found: Logs) -> None:
    first, second, *_ = found["decisions", 0]
    found["decisions", 0][:2] = second, first


def misplace(found: Logs) -> None:
    found["decisions", 1].insert(0, found["decisions", 0].pop(0))


def miscount(found: Logs) -> None:
    found["decisions", 0][1]["features"]["seen_1h"] = 0.0


def ask_twice(found: Logs) -> None:
    found["reviews", 1] *= 2


def ask_nobody(found: Logs) -> None:
    found["reviews", 1].clear()


@pytest.mark.parametrize(
    ("wrong", "kind", "since"),
    [
        (forget, "missing", 1_767_261_600.0),
        (repeat, "twice", 103.0),
        (swap, "out of lane order", 101.0),
        (misplace, "in a wrong lane", 100.0),
        (miscount, "windows wrong", 101.0),
        (ask_twice, "reviews wrong", 102.0),
        (ask_nobody, "reviews wrong", 102.0),
    ],
)
def test_each_kind_of_wrong_is_found_and_dated(wrong: Callable[[Logs], None], kind: str, since: float) -> None:
    found = logs()
    wrong(found)
    verdict = judged(found)

    assert verdict.counts[kind] == 1
    assert verdict.since[kind] == since


def test_what_is_lost_was_lost_by_the_kill_that_followed() -> None:
    kills = [10.0, 20.0, 30.0]

    assert kills_before("twice", 20.5, kills) == 2
    assert kills_before("missing", 20.5, kills) == 3
    assert kills_before("missing", math.inf, kills) == 3


def test_a_plan_follows_from_its_seed_and_has_all_that_was_asked_for() -> None:
    incidents = plan(7, 100_000, 200, 20)
    points = [incident.point for incident in incidents if incident.kind in ("commit", "change")]

    assert incidents == plan(7, 100_000, 200, 20) != plan(8, 100_000, 200, 20)
    assert sum(incident.kind in KILLS for incident in incidents) == 200
    assert Counter(incident.kind for incident in incidents if incident.kind not in KILLS) == {
        "nap": 10,
        "zombie": 10,
        "outage": 20,
    }
    assert sum(incident.kind == "outage" and incident.seconds > 6 for incident in incidents) == 8
    assert set(points) == {*CALLS, *CHANGES}
    assert [incident.at for incident in incidents] == sorted(incident.at for incident in incidents)


def account(**more: Any) -> Account:
    """Of a run in which all that `PLANNED` says did happen to slots at work."""
    kills = [Kill(1.0, "commit", "produce-before"), Kill(2.0, "change", "open-after"), Kill(3.0, "slot", "")]
    verdict = Verdict(roles=Counter({"copy.decisions": 9}))
    did = {"kills": kills, "naps": 1, "visits": 1, "overtaken": 1, "outages": [Outage(1.0, 90)]}
    found = {"refused": Counter(["UNKNOWN_MEMBER_ID"]), "latencies": [0.1], "slowest": "", "stall": 0.0, "longest": 0.0}
    return Account(**{"form": FORM, "verdict": verdict, "unlike": [], "seconds": 10.0, **did, **found, **more})


FORM = Form(9, 3, 1, 7)
PLANNED = [Incident(0, kind) for kind in ("commit", "change", "slot", "nap", "zombie", "outage")]


def test_a_run_in_which_all_that_was_planned_happened_says_something() -> None:
    assert hollow(account(), PLANNED, looks=50) == []


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"kills": account().kills[:2]}, "2 of 3 kills happened"),
        (
            {"kills": [*account().kills[:2], Kill(3.0, "slot", "", idle=True)]},
            "1 of 3 kills came when there was nothing",
        ),
        ({"kills": [Kill(1.0, "slot", "")] * 3}, "0 of 2 aimed kills met their point"),
        ({"outages": []}, "0 of 1 outages happened"),
        ({"outages": [Outage(1.0, 0)]}, "1 of 1 outages came when nothing was sent"),
        ({"naps": 0}, "0 of 1 naps happened"),
        ({"overtaken": 0}, "0 of 1 zombies were overtaken"),
        ({"refused": Counter()}, "no zombie's offsets were refused"),
        ({"visits": 0}, "0 of 1 visitors were given lanes"),
        ({"verdict": Verdict(roles=Counter({"copy.quarantine": 9}))}, "0 decisions"),
        ({"seconds": 1000.0}, "50 looks at open transactions in 1000 s"),
    ],
)
def test_a_run_in_which_it_did_not_is_refused(more: dict[str, Any], why: str) -> None:
    found = account(**more)
    found.hollow = hollow(found, PLANNED, looks=50)

    assert [each.startswith(why) for each in found.hollow] == [True]
    assert (found.clean, found.proven) == (True, False)


def test_nothing_refuses_a_mutant_of_which_that_is_the_point() -> None:
    assert hollow(account(refused=Counter(), form=replace(FORM, mutant="stranger")), PLANNED, looks=50) == []
