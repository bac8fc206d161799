"""Who is in a group while its coordinator comes and goes. The real group is in tests/integration/test_slots.py."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException, TopicPartition

from console import roster
from console.roster import Group, RosterUnreadable, members_of


class Cluster:
    """One group without members and one lane; each question is first answered by what `says` has."""

    def __init__(self) -> None:
        self.says: deque[int] = deque()

    def _answer(self, answer: Any) -> Future[Any]:
        future: Future[Any] = Future()
        if self.says:
            future.set_exception(KafkaException(KafkaError(self.says.popleft())))
        else:
            future.set_result(answer)
        return future

    def describe_consumer_groups(self, groups: list[str], request_timeout: float) -> Any:
        state = SimpleNamespace(name="EMPTY")
        return {groups[0]: self._answer(SimpleNamespace(members=[], state=state))}

    def list_consumer_group_offsets(self, asked: Any, request_timeout: float) -> Any:
        return {"claims": self._answer(SimpleNamespace(topic_partitions=[TopicPartition("claims.events", 0, 7)]))}

    def list_topics(self, topic: str, timeout: float) -> Any:
        return SimpleNamespace(topics={topic: SimpleNamespace(error=None, partitions={0: None})})

    def list_offsets(self, wanted: Any, request_timeout: float) -> Any:
        return {part: self._answer(SimpleNamespace(offset=10)) for part in wanted}


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    cluster = Cluster()
    monkeypatch.setattr(roster, "AdminClient", lambda _: cluster)
    return cluster


def test_a_group_whose_coordinator_is_on_its_way_is_asked_again(cluster: Any) -> None:
    cluster.says.extend([KafkaError.NOT_COORDINATOR, KafkaError.COORDINATOR_NOT_AVAILABLE])

    assert Group({}, "claims", "claims.events").roster({}).state == "empty"
    cluster.says.append(KafkaError.COORDINATOR_LOAD_IN_PROGRESS)
    assert members_of(cluster, "claims") == []
    cluster.says.append(KafkaError.GROUP_ID_NOT_FOUND)
    assert members_of(cluster, "claims") == []


def test_what_else_is_wrong_is_said_at_once(cluster: Any) -> None:
    cluster.says.append(KafkaError.GROUP_AUTHORIZATION_FAILED)

    with pytest.raises(RosterUnreadable, match="could not ask for group claims"):
        Group({}, "claims", "claims.events").roster({})
