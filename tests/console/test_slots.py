"""When a slot counts as alive, and how lanes are named. The real group is in tests/integration/test_slots.py."""

from __future__ import annotations

from typing import Any, cast

import pytest

from console import retirement
from console.retirement import Retirement, SlotAlive
from console.slots import _lanes
from models.acceptance import HEARTBEAT_LIMIT_MS, Acceptances
from models.release import HeartbeatRecord, heartbeat_key
from operators.membership import Membership


class Heard:
    """A registry whose reading adds the next record of the admissions topic, if there is one."""

    def __init__(self) -> None:
        self.answers = Acceptances("claims")
        self.coming: list[tuple[bytes, bytes | None, int]] = []

    def beat(self, slot: str, at_ms: int) -> tuple[bytes, bytes, int]:
        record = HeartbeatRecord(pipeline="claims", slot=slot, next_offset=0)
        return record.key(), record.to_bytes(), at_ms

    def read(self) -> None:
        if self.coming:
            self.answers.add(*self.coming.pop(0))


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> Heard:
    monkeypatch.setattr(retirement, "LISTEN_SECONDS", 0.05)
    monkeypatch.setattr(retirement, "_LOOK_SECONDS", 0.001)
    return Heard()


def listen(heard: Heard) -> list[str]:
    """What it tells while it listens whether slot 1 lives."""
    said: list[str] = []
    membership = Membership("claims", 1, "claims.events", "claims.state", {})
    Retirement({}, membership, cast(Any, None), cast(Any, heard), said.append).listen()
    return said


def test_a_slot_that_beats_while_it_is_listened_to_is_alive(heard: Heard) -> None:
    heard.answers.add(*heard.beat("claims-1", 1000))
    heard.coming = [heard.beat("claims-0", 1100), heard.beat("claims-1", 1200)]

    with pytest.raises(SlotAlive, match="slot 1 is alive: it sent a heartbeat just now"):
        listen(heard)


def test_a_slot_that_was_heard_and_stays_silent_is_not(heard: Heard) -> None:
    heard.answers.add(*heard.beat("claims-1", 1000))
    heard.coming = [heard.beat("claims-0", 1100), heard.beat("claims-11", 1200)]

    assert listen(heard) == ["slot 1 was heard lately; listening for 0 s whether it lives"]


@pytest.mark.parametrize("goodbye", [True, False])
def test_nobody_listens_for_a_slot_that_said_goodbye_or_has_been_silent_for_long(heard: Heard, goodbye: bool) -> None:
    heard.answers.add(*heard.beat("claims-1", 1000))
    if goodbye:
        heard.answers.add(heartbeat_key("claims", "claims-1"), None, 1100)
    else:
        heard.answers.add(*heard.beat("claims-0", 1001 + HEARTBEAT_LIMIT_MS))

    assert listen(heard) == []


def test_nor_for_one_that_says_goodbye_meanwhile(heard: Heard) -> None:
    heard.answers.add(*heard.beat("claims-1", 1000))
    heard.coming = [(heartbeat_key("claims", "claims-1"), None, 1100)]

    assert len(listen(heard)) == 1


@pytest.mark.parametrize(
    "lanes, said", [([], ""), ([3], "3"), ([0, 1, 2, 3], "0-3"), ([0, 2, 3, 7], "0, 2-3, 7"), ([1, 2], "1-2")]
)
def test_lanes_are_named_briefly(lanes: list[int], said: str) -> None:
    assert _lanes(lanes) == said
