"""When a slot knows its topics, and what it says of them. Topics that really change are in tests/integration."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException

from operators.topic_watch import TopicsUnfit, TopicWatch


class Admin:
    """Answers when it is told to."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Future[Any]]] = []

    def describe_topics(self, topics: Any, request_timeout: float) -> dict[str, Future[Any]]:
        self.asked.append({name: Future() for name in ("t.events", "t.state")})
        return self.asked[-1]

    def say(self, events: int, state: int) -> None:
        for name, lanes in (("t.events", events), ("t.state", state)):
            self.asked[-1][name].set_result(SimpleNamespace(topic_id=f"id of {name}", partitions=[None] * lanes))

    def refuse(self, code: int) -> None:
        for answer in self.asked[-1].values():
            answer.set_exception(KafkaException(KafkaError(code)))


@pytest.fixture
def admin() -> Admin:
    return Admin()


@pytest.fixture
def watch(admin: Any) -> TopicWatch:
    return TopicWatch(admin, "t.events", ["t.state"])


def test_a_lane_waits_until_it_is_known_which_topic_its_events_are_of(
    watch: TopicWatch, admin: Admin, until: Callable[..., None]
) -> None:
    waiting = threading.Thread(target=watch.wait_until_known)
    waiting.start()
    until(lambda: admin.asked, "the question")
    time.sleep(0.05)
    still_waits = waiting.is_alive()
    admin.say(4, 4)
    waiting.join(5)

    assert (still_waits, waiting.is_alive()) == (True, False)
    assert watch.topic_id == "id of t.events"


def test_nobody_waits_for_a_broker_that_does_not_tell_nor_for_ever(watch: TopicWatch, admin: Admin) -> None:
    began = time.monotonic()
    watch.wait_until_known(0.05)
    admin.refuse(KafkaError._UNSUPPORTED_FEATURE)
    watch.look()
    watch.wait_until_known()

    assert time.monotonic() - began < 5
    assert watch.topic_id == ""


def test_topics_that_do_not_fit_are_refused_when_they_are_seen_so_twice(watch: TopicWatch, admin: Admin) -> None:
    watch.look()
    admin.say(4, 3)
    watch.look()
    asking = threading.Timer(0.8, lambda: admin.say(4, 3))
    asking.start()

    with pytest.raises(TopicsUnfit, match=r"t\.events has 4 partitions, and others of the pipeline have not"):
        watch.wait_until_known()
