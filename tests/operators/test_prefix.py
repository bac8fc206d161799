"""A lane's state says whose it is and how far it goes."""

from __future__ import annotations

import pytest

from operators import metrics
from operators.batch import Open
from operators.prefix import KEY, STEP, LaneBroken, begin_at, prefix


def opened(group: str = "g", following: int = 100) -> Open:
    return Open(3, {STEP: {KEY: prefix(group, following)}})


def test_a_lane_begins_where_its_state_ends() -> None:
    assert begin_at(opened(), 100, "g", exactly_once=True) == 100


def test_a_lane_that_nobody_has_decided_begins_at_its_beginning() -> None:
    assert begin_at(Open(3, {}), 0, "g", exactly_once=True) == 0
    assert begin_at(Open(3, {}), -1001, "g", exactly_once=True) < 0


def test_a_lane_that_has_lost_its_state_is_refused() -> None:
    with pytest.raises(LaneBroken, match=r"lane 3.*offset 7.*no state.*penstock lanes skip FILE 3 --to 7"):
        begin_at(Open(3, {}), 7, "g", exactly_once=True)


def test_the_state_of_a_topic_that_was_made_again_is_refused() -> None:
    lane = Open(3, {STEP: {KEY: prefix("g", 100, "old")}})

    assert begin_at(lane, 100, "g", "old", exactly_once=True) == 100
    assert begin_at(lane, 100, "g", exactly_once=True) == 100, "not known, as on a broker that does not tell"
    with pytest.raises(LaneBroken, match=r"lane 3: the topic of the events was deleted and made again.*skip"):
        begin_at(lane, 100, "g", "new", exactly_once=True)


def test_what_somebody_chose_to_pass_over_is_said_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    before = metrics._passed_over._value.get()
    skipped = Open(3, {STEP: {KEY: prefix("g", 140, passed=40)}})

    assert begin_at(skipped, 140, "g", exactly_once=True) == 140
    assert begin_at(opened(), 103, "g", exactly_once=True) == 103
    assert "lane 3: 40 events are passed over" in caplog.text
    assert metrics._passed_over._value.get() - before == 43


def test_an_expired_offset_is_found_again_in_the_state() -> None:
    assert begin_at(opened(), -1001, "g", exactly_once=True) == 100


def test_the_state_of_another_group_is_refused() -> None:
    with pytest.raises(LaneBroken, match=r"lane 3.*belongs to group other.*this is g"):
        begin_at(opened("other"), 100, "g", exactly_once=True)


def test_a_rewound_offset_is_refused_where_it_would_decide_twice() -> None:
    with pytest.raises(LaneBroken, match=r"lane 3.*offset is 40.*before 100"):
        begin_at(opened(), 40, "g", exactly_once=True)
    assert begin_at(opened(), 40, "g", exactly_once=False) == 40, "at least once repeats"


def test_an_offset_set_forward_by_hand_passes_events_over() -> None:
    assert begin_at(opened(), 140, "g", exactly_once=True) == 140
