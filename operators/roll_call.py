"""Lanes that nobody has: found by asking the group, given out by making it rebalance once more.

A cooperative rebalance has two rounds: a member first gives lanes up, then joins again so that they can be given to
another. A static member that dies in between is, in its next life, handed its last assignment without a rebalance. The
second round never comes, and the lanes that it gave up belong to no one for good (seen on Kafka 4.1.1 in one of three
tries).

A client whose coordinator dies while it asks can abort the process (librdkafka issue 4605: use after free; once in two
runs of the tests that kill it). The slot is then started again, as after any crash.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future
from typing import Any

from confluent_kafka import Consumer, ConsumerGroupState, KafkaError, KafkaException
from confluent_kafka.admin import AdminClient, ConsumerGroupDescription

from operators import metrics
from operators.lane_state import QUIET

log = logging.getLogger(__name__)

_CALL_SECONDS = 10.0
_SOON, _SELDOM, _AFTER_NUDGE = 0.3, 5.0, 5.0
_NUDGE_SECONDS = 5.0
_TELL_SECONDS = 15.0


class RollCall:
    """Asks now and then whether every lane has a member; `look` never blocks."""

    def __init__(
        self, admin: AdminClient, connection: Mapping[str, Any], *, group: str, name: str, events: str, other: str
    ) -> None:
        """Watch the lanes of topic `events` as member `name` of `group`; `other` is any other topic that exists."""
        self._admin, self._connection = admin, connection
        self._group, self._name, self._events, self._other = group, name, events, other
        self._lanes: frozenset[int] = frozenset()
        self._next_at = 0.0
        self._asked: Future[ConsumerGroupDescription] | None = None
        self._suspects: frozenset[int] = frozenset()
        self._silent_since = 0.0
        """Since when the group has not answered; 0 where it has, infinity where that was told."""
        self.complete = False
        """Whether every lane has had a member since this slot began."""

    def begin(self, lanes: int) -> None:
        """Expect lanes 0 to `lanes` - 1."""
        self._lanes = frozenset(range(lanes))
        self.soon()

    def soon(self) -> None:
        """Look again in a moment: the group has just changed."""
        self._next_at = time.monotonic() + _SOON

    def look(self) -> None:
        """Ask the group when it is time, and act on its answer once it is there."""
        if self._asked is not None:
            if self._asked.done():
                answer, self._asked = self._asked, None
                self._next_at = time.monotonic() + self._judge(answer)
        elif time.monotonic() >= self._next_at:
            self._asked = self._admin.describe_consumer_groups([self._group], request_timeout=_CALL_SECONDS)[
                self._group
            ]

    def _judge(self, answer: Future[ConsumerGroupDescription]) -> float:
        """Seconds until the next look. Lanes missing in two looks in a row are given out again, by one member only."""
        try:
            group = answer.result()
        except KafkaException as failure:
            log.debug("could not describe group %s: %s", self._group, failure)
            if failure.args[0].code() == KafkaError._UNSUPPORTED_FEATURE:  # the mock cluster; nothing can be known
                self.complete = True
            else:
                self._tell_silence(failure.args[0])
            if failure.args[0].code() == KafkaError.NOT_COORDINATOR:
                # A client remembers a coordinator for as long as it goes on asking (librdkafka's cache): after that has
                # moved, only a new client finds it.
                self._admin = AdminClient({**self._connection, "log_level": QUIET})
            return _SELDOM
        self._silent_since = 0.0
        if group.state != ConsumerGroupState.STABLE:
            return _SOON
        had = {
            tp.partition
            for member in group.members
            for tp in member.assignment.topic_partitions
            if tp.topic == self._events
        }
        missing = self._lanes - had
        confirmed, self._suspects = missing & self._suspects, missing
        if not missing:
            self.complete = True
            return _SELDOM
        names = [member.group_instance_id for member in group.members if member.group_instance_id]
        if not confirmed or self._name != min(names, default=""):
            return _SOON
        log.warning("lanes %s belong to no member of %s; the group rebalances once more", sorted(missing), self._group)
        metrics.count_orphaned_lanes(len(missing))
        threading.Thread(target=self._nudge, name="nudge", daemon=True).start()
        self._suspects = frozenset()
        return _AFTER_NUDGE

    def _tell_silence(self, error: KafkaError) -> None:
        """Say once that nothing is known of the group, and so perhaps nobody has lanes, though brokers can be reached.

        Kafka 4.1.1, stopped for a while and let go on, may refuse to coordinate a group until it is started again
        (KAFKA-20115, mended in 4.1.2): no slot is given a lane, and no client says a word about it.
        """
        now = time.monotonic()
        self._silent_since = self._silent_since or now
        if now - self._silent_since > _TELL_SECONDS:
            log.warning(
                "group %s has not said for %.0f s who has which lanes (%s); is the broker that coordinates it well?",
                self._group,
                now - self._silent_since,
                error.name(),
            )
            self._silent_since = math.inf

    def _nudge(self) -> None:
        """Join and leave as a member that wants no lane: both make the group assign all lanes anew."""
        consumer = Consumer(
            {
                **self._connection,
                "log_level": QUIET,
                "group.id": self._group,
                "partition.assignment.strategy": "cooperative-sticky",
                "enable.auto.commit": False,
                # Should this process die now, the group waits for its ghost no longer than a broker allows at least;
                # with the client's 45 s a second kill left lanes unread for 40.
                "session.timeout.ms": 6000,
                "heartbeat.interval.ms": 500,
            }
        )
        joined = threading.Event()
        consumer.subscribe([self._other], on_assign=lambda *_: joined.set())
        deadline = time.monotonic() + _NUDGE_SECONDS
        while not joined.is_set() and time.monotonic() < deadline:
            consumer.poll(0.05)
        consumer.close()
