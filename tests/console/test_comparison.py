"""What a comparison counts, and where a range begins and ends."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from console.comparison import Comparison, range_of
from console.rejections import SelectionWrong
from dataflows.replay import Redecided
from operators.wire import decision_id

PIPELINE: Any = SimpleNamespace(pipeline="claims", topic=lambda role: f"claims.{role}")


def decision(offset: int, outcome: str, score: float | None = 1.0, release: str | None = "1") -> dict[str, Any]:
    return {
        "decision_id": decision_id("claims", 0, offset),
        "revision": 0,
        "outcome": outcome,
        "reasons": [],
        "scores": {"severity": {"score": score, "release": release}},
    }


def compared(*pairs: tuple[dict[str, Any], dict[str, Any] | str], named: int = 9) -> Any:
    found = Comparison(named)
    for before, after in pairs:
        if isinstance(after, str):
            found.take(Redecided(before, None, after, ()))
        else:
            found.take(Redecided(before, after, after["outcome"], ()))
    return found.as_json()


def test_outcomes_are_counted_by_what_they_were_and_what_they_are_the_most_first() -> None:
    found = compared(
        (decision(0, "approve"), decision(0, "approve")),
        (decision(1, "approve"), decision(1, "review")),
        (decision(2, "approve"), decision(2, "approve")),
        (decision(3, "review"), "rejected:empty"),
    )

    assert found["outcomes"] == [
        {"before": "approve", "after": "approve", "count": 2, "share": 0.5},
        {"before": "approve", "after": "review", "count": 1, "share": 0.25},
        {"before": "review", "after": "rejected:empty", "count": 1, "share": 0.25},
    ]
    assert (found["compared"], found["changed"], found["kept_out"]) == (4, 2, 1)
    assert [each["decision_id"] for each in found["decisions"]] == [decision_id("claims", 0, n) for n in (1, 3)]


def test_scores_are_equal_to_seven_digits_and_by_the_same_release() -> None:
    found = compared(
        (decision(0, "approve"), decision(0, "approve", 1.0 + 1e-8)),
        (decision(1, "approve"), decision(1, "approve", 1.5)),
        (decision(2, "approve"), decision(2, "approve", release="2")),
        (decision(3, "approve", None, None), decision(3, "approve", 2.0)),
        (decision(4, "approve", None, None), decision(4, "approve", None, None)),
    )

    assert found["scores"] == {"severity": {"differ": 3, "greatest": 0.5}}
    assert found["changed"] == 3


def test_no_more_decisions_are_named_than_were_asked_for() -> None:
    found = compared(*[(decision(n, "approve"), decision(n, "review")) for n in range(5)], named=2)

    assert len(found["decisions"]) == 2
    assert found["changed"] == 5


def test_a_range_without_decisions_has_no_shares() -> None:
    assert compared()["outcomes"] == []


class Bounds:
    """Three lanes of 100 events, the first 10 of which are gone; one a millisecond."""

    def bounds(self, topic: str) -> dict[int, tuple[int, int]]:
        assert topic == "claims.events"
        return dict.fromkeys(range(3), (10, 100))

    def since(self, _: str, moments: dict[int, int]) -> dict[int, int]:
        return {lane: min(at, 100) for lane, at in moments.items()}


def at(ms: int) -> str:
    return f"1970-01-01T00:00:00.{ms:03d}Z"


@pytest.mark.parametrize(
    "since, until, lanes, expected",
    [
        (at(20), at(30), [], dict.fromkeys(range(3), (20, 30))),
        (at(0), at(999), [1], {1: (10, 100)}),
        ("2:5", "2:50", [], {2: (10, 50)}),
        ("2:20", at(50), [], {2: (20, 50)}),
        (at(20), decision_id("claims", 0, 40), [], {0: (20, 40)}),
        ("1:20", "1:999", [], {1: (20, 100)}),
    ],
)
def test_a_range_is_of_times_or_of_one_lanes_offsets(since: str, until: str, lanes: list[int], expected: Any) -> None:
    reader: Any = Bounds()
    assert range_of(reader, PIPELINE, since, until, lanes) == expected


@pytest.mark.parametrize(
    "since, until, lanes, why",
    [
        ("1:2", "2:3", [], "in one lane"),
        ("1:2", "1:3", [1], "in one lane"),
        (at(0), at(9), [7], "lanes 0 to 2"),
        ("7:0", "7:1", [], "lanes 0 to 2"),
        (at(9), at(8), [], "--to must be later"),
        ("1:9", "1:9", [], "--to must be later"),
        ("yesterday", at(9), [], "LANE:OFFSET"),
        ("2026-05-01", at(9), [], "with its zone"),
    ],
)
def test_a_range_that_cannot_be_is_refused(since: str, until: str, lanes: list[int], why: str) -> None:
    reader: Any = Bounds()
    with pytest.raises(SelectionWrong, match=why):
        range_of(reader, PIPELINE, since, until, lanes)
