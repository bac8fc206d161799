"""The follower of the registry log: a thread that keeps a slot's catalog at the log's end and knows when it was there.

A slot may decide an event only when it knows every activation that could be in force for it. An activation counts one
`activation_delay` after its append, so it is enough to have seen the log's end in an answer to a question that was
sent after the event arrived, or at most half a delay before. The follower asks for the end (ListOffsets) four times a
second, reads up to it, and remembers in `seen_at` when the question was *sent*; the source waits for
`covers(arrived)`.

This takes for granted that a fetch sees a record half a delay after its append at the latest. The broker shows a
record once all in-sync replicas have it, so a replica that lags behind by more than half the delay (and is still in
sync: `replica.lag.time.max.ms`) breaks the proof; the delay must be longer than that, or the replicas be watched.

In the same thread the slot speaks (`registry_voice.py`). When the broker is away, `seen_at` grows old, the source
waits, and the follower tries again with the clients that it has: librdkafka connects again by itself. New clients are
made only after an error that these cannot get over, ever more slowly while that does not help.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition

from models.acceptance import Acceptances
from models.catalog import Catalog
from models.history import Entry
from operators import metrics
from operators.admitter import Admitter
from operators.registry_voice import RegistryTopics, Voice

__all__ = ["RegistryFollower", "RegistryTopics"]

log = logging.getLogger(__name__)

_ASK_SECONDS: Final = 0.25
_LOADING_SECONDS: Final = 0.01  # between two looks whether a release is loaded
_CALL_SECONDS: Final = 2.0
_AGAIN_SECONDS: Final = 1.0
_AGAIN_AT_MOST: Final = 15.0
_EAGER_MS: Final = 60_000
"""Releases in force this long ago are still loaded ahead: clocks differ, and a lane may be a little behind."""
_AWAY: Final = frozenset({
    KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN, KafkaError._RESOLVE, KafkaError._TIMED_OUT,
    KafkaError._UNKNOWN_TOPIC, KafkaError._UNKNOWN_PARTITION,
    KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError.LEADER_NOT_AVAILABLE, KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.REQUEST_TIMED_OUT, KafkaError.BROKER_NOT_AVAILABLE, KafkaError.NETWORK_EXCEPTION,
})  # fmt: skip
"""Errors that the same clients get over."""


class RegistryFollower:
    """Keeps a catalog current. `covers`, `ready`, `trouble`, `notice` and `seen_at` may be asked from any thread."""

    def __init__(
        self,
        catalog: Catalog,
        *,
        slot: str,
        connection: Mapping[str, Any],
        owns_lane_zero: Callable[[], bool],
        topics: RegistryTopics | None = None,
        group: str = "",
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare; `start` connects and begins.

        Args:
            catalog: folded and filled by this follower alone.
            slot: group and number, `<group>-<slot>`.
            connection: librdkafka properties that every client shares.
            owns_lane_zero: whether this slot writes activations now.
            topics: where the registry and the answers are.
            group: the slot's own group. The client wants one and looks for its coordinator, which access rules must
                allow; nothing joins it here and nothing is committed.
            now: the clock of the batches' `arrived_at`.
        """
        history = catalog.history
        self.catalog, self.pipeline, self.slot = catalog, history.pipeline, slot
        self.delay = history.delay_ms / 1e3
        self.topics = topics or RegistryTopics()
        self._connection, self._now, self._group = dict(connection), now, group or f"{self.slot}-registry"
        self._every = min(_ASK_SECONDS, max(0.01, self.delay / 4))
        self._seen_at = float("-inf")
        self._trouble: str | None = "the registry log has not been read yet"
        self._notice: str | None = None
        self._admitter = Admitter(catalog, now=now)
        self._heard = Acceptances(self.pipeline)
        self._voice = Voice(slot, self._heard, self.topics, owns_lane_zero, now)
        self._heard_to = self._read_to = 0
        self._ignored = 0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="registry", daemon=True)

    @property
    def seen_at(self) -> float:
        """When the question was sent to whose answer the catalog has caught up, with every champion loaded."""
        return self._seen_at

    @property
    def trouble(self) -> str | None:
        """Why the slot is not ready, in plain words; None when it is."""
        stale = self._now() - self._seen_at
        if self._trouble is None and stale > max(2.0, self.delay):
            return f"the end of the registry log was last seen {stale:.0f} s ago; is the broker reachable?"
        return self._trouble

    @property
    def notice(self) -> str | None:
        """Which shadows in force give no scores, and why, in plain words; the slot is ready all the same."""
        return self._notice

    @property
    def ready(self) -> bool:
        """Whether the slot knows what is in force and has loaded the champions."""
        return self.trouble is None

    def covers(self, arrived_at: float) -> bool:
        """Whether an event that arrived at a time of the clock `now` may be decided."""
        return self._seen_at >= arrived_at - self.delay / 2

    def start(self) -> None:
        """Begin to follow, in threads that end with the process."""
        self._admitter.start()
        self._thread.start()

    def stop(self) -> None:
        """Say goodbye to the other slots and end. Returns within a few seconds, broker or not."""
        self._stopping.set()
        self._admitter.stop()
        if self._thread.ident is not None:
            self._thread.join(2 * _CALL_SECONDS + 3)

    def _run(self) -> None:
        wait = _AGAIN_SECONDS
        while not self._stopping.is_set():
            before = self._seen_at
            try:
                self._life()
            except KafkaException as error:
                self._cannot_read(error)
            except Exception as error:  # the thread must not end while the slot lives
                log.exception("the follower of the registry log starts again")
                self._fail(f"the follower of the registry log failed: {type(error).__name__}")
            wait = _AGAIN_SECONDS if self._seen_at > before else min(2 * wait, _AGAIN_AT_MOST)
            self._stopping.wait(wait)

    def _life(self) -> None:
        """From one pair of clients to an error that they cannot get over."""
        connection = {"reconnect.backoff.max.ms": 1_000, **self._connection}
        consumer = Consumer(
            {
                **connection,
                "group.id": self._group,
                "enable.auto.commit": False,
                "auto.offset.reset": "error",
                "isolation.level": "read_committed",
                "fetch.wait.max.ms": 100,
                "enable.partition.eof": True,
            },
            logger=log,
        )
        broken = threading.Event()
        producer = Producer(
            {
                **connection,
                "enable.idempotence": True,
                "linger.ms": 0,
                "message.timeout.ms": 10_000,
                "error_cb": lambda error: broken.set() if error.code() == KafkaError._FATAL else None,  # noqa: SLF001
            },
            logger=log,
        )
        self._voice.begin(producer)
        assigned = False
        try:
            while not self._stopping.is_set() and not broken.is_set():
                try:
                    if not assigned:
                        self._assign(consumer)
                        assigned = True
                    self._tick(consumer, producer)
                except KafkaException as error:
                    if error.args[0].code() not in _AWAY:
                        raise
                    self._cannot_read(error)
                    self._stopping.wait(_AGAIN_SECONDS)
            if self._stopping.is_set():
                self._voice.say_goodbye()
        finally:
            producer.flush(1.0)
            consumer.close()

    def _assign(self, consumer: Consumer) -> None:
        # Asking first spares the first fetch a second: the client knows the leader then.
        for topic in (self.topics.registry, self.topics.admissions):
            consumer.list_topics(topic, _CALL_SECONDS)
        at, heard_to = self.catalog.history.next_offset or OFFSET_BEGINNING, self._heard_to or OFFSET_BEGINNING
        registry, admissions = self.topics.registry, self.topics.admissions
        consumer.assign([TopicPartition(registry, 0, at), TopicPartition(admissions, 0, heard_to)])

    def _tick(self, consumer: Consumer, producer: Producer) -> None:
        sent = self._now()
        registry = TopicPartition(self.topics.registry, 0)
        _, end = consumer.get_watermark_offsets(registry, timeout=_CALL_SECONDS, cached=False)
        if end < self.catalog.history.next_offset:
            self._fail(f"the registry log ends at {end}, before what was read of it; was the topic made again?")
            self._stopping.wait(1.0)
            return
        deadline = sent + 2 * _CALL_SECONDS
        while self._reached() < end and self._now() < deadline and not self._stopping.is_set():
            self._read(consumer, 0.05)
        if self._reached() >= end:
            self._caught_up(sent)
        elif not self._stopping.is_set():
            self._fail(f"the registry log ends at {end} and can be read to {self._reached()} only; is the broker well?")
        self._voice.speak(self.catalog.history, self._admitter.take(), self._heard_to)
        self._wait(consumer, sent + self._every)
        producer.poll(0)

    def _wait(self, consumer: Consumer, until: float) -> None:
        """Read what comes until it is time to ask again: as soon as all is loaded where something was not."""
        loading = self._admitter.missing() is not None
        while (left := until - self._now()) > 0 and not self._stopping.is_set():
            if loading and self._admitter.missing() is None:
                return
            self._read(consumer, min(left, _LOADING_SECONDS) if loading else left)

    def _read(self, consumer: Consumer, wait: float) -> None:
        """Fold what has come; wait for the first record at most `wait` seconds."""
        first = consumer.poll(wait)
        messages = [] if first is None else [first, *consumer.consume(500, 0)]
        entries = []
        for message in messages:
            offset, append_ms = _place(message)
            if (error := message.error()) is not None:
                if error.code() != KafkaError._PARTITION_EOF:
                    raise KafkaException(error)
                if message.topic() == self.topics.registry:
                    self._read_to = offset  # beyond the last record there may be markers of transactions
            elif message.topic() == self.topics.registry:
                entries.append(Entry(offset, append_ms, message.value()))
            else:
                self._heard.add(message.key(), message.value(), append_ms)
                self._heard_to = offset + 1
        if entries:
            self._fold(entries)

    def _reached(self) -> int:
        return max(self.catalog.history.next_offset, self._read_to)

    def _fold(self, entries: list[Entry]) -> None:
        ignored = self.catalog.follow(entries).ignored
        metrics.count_registry_ignored(ignored - self._ignored)
        self._ignored = ignored

    def _caught_up(self, sent: float) -> None:
        """The catalog is at the log's end as it was at `sent`: make it count when every champion is loaded."""
        wall_ms = time.time_ns() // 1_000_000
        history = self.catalog.history
        eager_ms = wall_ms - _EAGER_MS
        self._admitter.want(self.catalog.needed(eager_ms), history.pending(), self.catalog.optional(eager_ms))
        notice = self._admitter.missing_shadows()
        if notice is not None and notice != self._notice:
            log.warning("ready all the same: %s", notice)
        self._notice = notice
        if (missing := self._admitter.missing()) is not None:
            self._fail(missing)
            return
        if self._trouble is not None:
            log.info("all that is in force is loaded")
        self._trouble, self._seen_at = None, sent
        metrics.set_releases(
            (model, release.version, role)
            for model in self.catalog.places
            for state in [history.in_force(model, wall_ms)]
            for role, releases in (("champion", [state.champion]), ("shadow", state.shadows))
            for release in releases
            if release is not None
        )
        self.catalog.unload(eager_ms)

    def _cannot_read(self, error: KafkaException) -> None:
        refused = error.args[0].code() == KafkaError.TOPIC_AUTHORIZATION_FAILED
        ask = f"may this user READ topic {self.topics.registry}?" if refused else "is the broker reachable?"
        self._fail(f"the registry log cannot be read: {error.args[0].str()}; {ask}")

    def _fail(self, trouble: str) -> None:
        if trouble != self._trouble:
            log.warning("not ready: %s", trouble)
        self._trouble = trouble


def _place(message: Message) -> tuple[int, int]:
    offset, (_, append_ms) = message.offset(), message.timestamp()
    assert offset is not None  # noqa: S101 -- for the type checker: what was consumed has one
    return offset, append_ms
