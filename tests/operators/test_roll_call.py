"""What a slot says of a group that does not answer; what it does about lanes that nobody has is in test_lanes.py."""

from __future__ import annotations

import logging
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import ConsumerGroupState, KafkaError, KafkaException, TopicPartition

from operators.roll_call import RollCall


class Deaf:
    """An admin client of a broker that does not coordinate the group."""

    def describe_consumer_groups(self, groups: list[str], **_: Any) -> dict[str, Future[Any]]:
        answer: Future[Any] = Future()
        answer.set_exception(KafkaException(KafkaError(KafkaError.NOT_COORDINATOR)))
        return dict.fromkeys(groups, answer)


class Told(Deaf):
    """One that finds the broker that does."""

    def describe_consumer_groups(self, groups: list[str], **_: Any) -> dict[str, Future[Any]]:
        lanes = SimpleNamespace(topic_partitions=[TopicPartition("claims.events", lane) for lane in range(4)])
        member = SimpleNamespace(assignment=lanes, group_instance_id="claims-0")
        answer: Future[Any] = Future()
        answer.set_result(SimpleNamespace(state=ConsumerGroupState.STABLE, members=[member]))
        return dict.fromkeys(groups, answer)


def test_it_looks_for_the_coordinator_again_once_the_old_one_says_it_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr("operators.roll_call.time.monotonic", lambda: clock[0])
    made: list[dict[str, Any]] = []
    monkeypatch.setattr("operators.roll_call.AdminClient", lambda settings: made.append(settings) or Told())
    deaf: Any = Deaf()
    roll_call = RollCall(
        deaf, {"bootstrap.servers": "b"}, group="claims", name="claims-0", events="claims.events", other="claims.state"
    )
    roll_call.begin(4)
    for second in range(20):
        clock[0] = 100.0 + second
        roll_call.look()

    assert roll_call.complete
    assert [settings["bootstrap.servers"] for settings in made] == ["b"]


def test_it_says_once_that_a_group_does_not_answer(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clock = [100.0]
    monkeypatch.setattr("operators.roll_call.time.monotonic", lambda: clock[0])
    deaf: Any = Deaf()
    monkeypatch.setattr("operators.roll_call.AdminClient", lambda _: deaf)
    roll_call = RollCall(deaf, {}, group="claims", name="claims-0", events="claims.events", other="claims.state")
    roll_call.begin(4)
    said = {}
    with caplog.at_level(logging.WARNING):
        for second in range(60):
            clock[0] = 100.0 + second
            roll_call.look()
            said[second] = caplog.text.count("group claims has not said for")

    assert said[10] == 0
    assert said[30] == said[59] == 1
    assert "NOT_COORDINATOR" in caplog.text
    assert not roll_call.complete
