"""Are the topics still those that this slot began with? A client keeps quiet about a topic that was deleted or grown.

Lanes are the partitions of the events. When their number changes, keys move to other lanes, away from their memory;
when a topic is made again, offsets and state speak of records that are gone. Nobody may go on as if nothing were.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Mapping
from concurrent.futures import Future

from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import AdminClient, TopicDescription

from operators.patience import passes

log = logging.getLogger(__name__)

_CALL_SECONDS = 10.0
_SELDOM, _SOON = 3.0, 0.5
_PAUSE = 0.005


class TopicsUnfit(Exception):
    """The topics are not what the lanes, their state and their offsets are about; only people can mend that."""


class TopicWatch:
    """Looks at the topics every few seconds; `look` never blocks."""

    def __init__(self, admin: AdminClient, events: str, others: Collection[str]) -> None:
        """Watch the topic of the events, and `others`, each with a partition for each lane."""
        self._admin, self._events, self._others = admin, events, sorted(set(others))
        self._asked: Mapping[str, Future[TopicDescription]] | None = None
        self._next_at = 0.0
        self._began: dict[str, tuple[str, int]] = {}
        """Topic to its id and partitions, as first seen."""
        self._suspicion = ""
        self._silent = False
        """Whether the broker does not say: it may not be asked, or it is the mock."""

    @property
    def topic_id(self) -> str:
        """Which of all topics that ever had the name of the events' this one is; empty while it is not known."""
        return self._began.get(self._events, ("", 0))[0]

    def wait_until_known(self, seconds: float = _CALL_SECONDS) -> None:
        """Look until the topics were seen: a lane of another topic by the same name must not open.

        Raises:
            TopicsUnfit: two looks in a row found the same thing wrong.
        """
        deadline = time.monotonic() + seconds
        while not (self._began or self._silent) and time.monotonic() < deadline:
            self.look()
            time.sleep(_PAUSE)

    def look(self) -> None:
        """Ask when it is time, and judge the answer once it is there.

        Raises:
            TopicsUnfit: two looks in a row found the same thing wrong.
        """
        if self._asked is not None:
            if all(answer.done() for answer in self._asked.values()):
                answers, self._asked = self._asked, None
                self._next_at = time.monotonic() + self._judge(answers)
        elif time.monotonic() >= self._next_at:
            topics = TopicCollection([self._events, *self._others])
            self._asked = self._admin.describe_topics(topics, request_timeout=_CALL_SECONDS)

    def _judge(self, answers: Mapping[str, Future[TopicDescription]]) -> float:
        """Seconds until the next look."""
        try:
            seen = {topic: _seen(answer) for topic, answer in answers.items()}
        except KafkaException as failure:
            log.debug("could not describe the topics: %s", failure)
            self._silent = not passes(failure.args[0])
            return _SELDOM
        wrong = self._wrong(seen)
        if wrong and wrong == self._suspicion:
            raise TopicsUnfit(wrong)
        self._suspicion = wrong
        if not wrong and not self._began:
            self._began = {topic: is_now for topic, is_now in seen.items() if is_now is not None}
        return _SOON if wrong else _SELDOM

    def _wrong(self, seen: Mapping[str, tuple[str, int] | None]) -> str:
        """What is wrong, or nothing."""
        if missing := [topic for topic, is_now in seen.items() if is_now is None]:
            return f"topics {missing} are not there; `penstock topics` creates what is missing"
        there = {topic: is_now for topic, is_now in seen.items() if is_now is not None}
        if again := [topic for topic, was in self._began.items() if there[topic][0] != was[0]]:
            return f"topics {again} were deleted and made again while this slot ran"
        lanes = there[self._events][1]
        began_with = self._began.get(self._events, ("", lanes))[1]
        if began_with != lanes:
            return f"topic {self._events} has {lanes} partitions and had {began_with} when this slot began"
        if odd := {topic: is_now[1] for topic, is_now in there.items() if is_now[1] != lanes}:
            return f"topic {self._events} has {lanes} partitions, and others of the pipeline have not: {odd}"
        return ""


def _seen(answer: Future[TopicDescription]) -> tuple[str, int] | None:
    try:
        topic = answer.result()
    except KafkaException as failure:
        if failure.args[0].code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
            return None
        raise
    return str(topic.topic_id), len(topic.partitions)
