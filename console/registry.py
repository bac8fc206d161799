"""The registry as a person asks about it: read to its end, appended to, and waited for."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition

from models.acceptance import Acceptances
from models.history import Change, Entry, History
from models.release import TRANSIENT, PromotionRecord, ReleaseRecord, heartbeat_key

if TYPE_CHECKING:
    from dataflows.pipeline import Pipeline

CALL_SECONDS = 15.0
_PASSING = {
    KafkaError._TRANSPORT,
    KafkaError._TIMED_OUT,
    KafkaError.REQUEST_TIMED_OUT,
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.NOT_LEADER_FOR_PARTITION,
}
"""What a broker or the client says while a leader moves, a topic is new or the machine is busy: it is asked again."""


class RegistryUnreachable(Exception):
    """The registry cannot be read or written. The message says what to look at."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a release or promotion is."""

    in_force_from: int | None
    """Unix milliseconds; None while it is not activated."""
    overtaken: bool
    """It counts for nothing: a later champion or a later change of its version came first, or its version was taken."""
    live: frozenset[str]
    accepted: frozenset[str]
    refused: Mapping[str, str]
    """Slot to the reason in words."""
    hopeless: bool
    """A live slot refused it for good."""


class Registry:
    """The registry and the slots' answers for one pipeline. Use it as a context manager.

    Args:
        pipeline: whose releases they are.
        connection: librdkafka properties; `bootstrap.servers` at least.
    """

    def __init__(self, pipeline: Pipeline, connection: Mapping[str, Any]) -> None:
        self._topic, self._admissions = pipeline.topic("registry"), pipeline.topic("admissions")
        self._connection = {**connection, "log_level": 0}
        self.history = History(pipeline.pipeline, round(pipeline.activation_delay.total_seconds() * 1000))
        self.answers = Acceptances(pipeline.pipeline)
        self._next: dict[str, int] = {self._topic: 0, self._admissions: 0}
        self._consumer = Consumer(
            {
                **self._connection,
                "group.id": "penstock-console",  # the client wants one; nothing is ever committed to it
                "enable.auto.commit": False,
                "auto.offset.reset": "error",
                "isolation.level": "read_committed",
                "enable.partition.eof": True,
                "fetch.wait.max.ms": 50,
            }
        )

    def __enter__(self) -> Registry:
        try:
            self._consumer.assign([TopicPartition(topic, 0, OFFSET_BEGINNING) for topic in self._next])
            self.read()
        except BaseException:
            self._consumer.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._consumer.close()

    def read(self) -> History:
        """Read both topics to where they end now.

        Raises:
            RegistryUnreachable: a topic is not there, or is not read to its end in time.
        """
        deadline = time.monotonic() + CALL_SECONDS
        while True:
            try:
                return self._read(deadline)
            except KafkaException as error:
                if error.args[0].code() in _PASSING and time.monotonic() < deadline:
                    continue
                topics = " and ".join(self._next)
                raise RegistryUnreachable(
                    f"could not read {topics}: {error.args[0].str()}; are --bootstrap and --client-config "
                    "right, and do the topics exist?"
                ) from error

    def _read(self, deadline: float) -> History:
        ends = {topic: self._end(topic, deadline) for topic in self._next}
        while any(self._next[topic] < end for topic, end in ends.items()):
            if time.monotonic() > deadline:
                raise RegistryUnreachable(f"could not read the registry to its end within {CALL_SECONDS:.0f} s")
            for message in self._consumer.consume(500, 0.05):
                self._take(message)
        return self.history

    def append(self, record: ReleaseRecord | PromotionRecord) -> int:
        """Append a record; give its offset.

        Raises:
            RegistryUnreachable: the broker did not take it, or did and it is not known at which offset.
        """
        offset = self._write(self._topic, record.pipeline.encode(), record.to_bytes())
        if offset is None:
            raise RegistryUnreachable(
                f"{self._topic} has the record, but a broker died meanwhile and it is not known at which offset; "
                "`penstock models list` tells what became of it"
            )
        return offset

    def say_goodbye_for(self, slot: str) -> None:
        """Tell the slots that they need not wait for one that will not come back.

        Raises:
            RegistryUnreachable: the broker did not take it.
        """
        self._write(self._admissions, heartbeat_key(self.answers.pipeline, slot), None)

    def _write(self, topic: str, key: bytes, value: bytes | None) -> int | None:
        """Give its offset; None where the broker that wrote it died before it had told, and another only has it."""
        delivered: list[tuple[KafkaError | None, Message]] = []
        producer = Producer({**self._connection, "enable.idempotence": True, "linger.ms": 0})
        producer.produce(
            topic,
            value,
            key,
            partition=0,
            on_delivery=lambda error, message: delivered.append((error, message)),
        )
        producer.flush(CALL_SECONDS)
        error, message = delivered[0] if delivered else (None, None)
        if message is None or error is not None:
            why = error.str() if error is not None else f"no answer within {CALL_SECONDS:.0f} s"
            raise RegistryUnreachable(f"could not append to {topic}: {why}")
        return message.offset()

    def progress(self, of: int) -> Progress:
        """How far the release or promotion at an offset is, as of the last `read`."""
        answers, live = self.answers.answers(of), self.answers.live()
        change = self.history.changes.get(of)
        if change is None:  # somebody published the same version a moment earlier
            return Progress(None, True, live, frozenset(), {}, True)
        refused = {slot: answer for slot, answer in answers.items() if slot in live and not answer.accepted}
        activated = change.activated_ms is not None
        return Progress(
            in_force_from=self.history.in_force_from(change),
            overtaken=not activated and change not in self.history.pending(),
            live=live,
            accepted=frozenset(slot for slot, answer in answers.items() if answer.accepted),
            refused={slot: f"{answer.reason}: {answer.detail}" for slot, answer in refused.items()},
            hopeless=any(answer.reason not in TRANSIENT for answer in refused.values()),
        )

    def wait(self, of: int, timeout: float, tell: Callable[[Progress], None]) -> Progress:
        """Read on until the record at an offset is in force, or cannot come to be, or time is up.

        Args:
            of: offset of a release or promotion.
            timeout: seconds.
            tell: called with the progress after each look.
        """
        deadline = time.monotonic() + timeout
        while True:
            self.read()
            found = self.progress(of)
            tell(found)
            start = found.in_force_from
            # By this machine's clock: the broker's decides for the events.
            over = start is not None and start <= time.time() * 1000
            if over or found.overtaken or (start is None and found.hopeless) or time.monotonic() > deadline:
                return found
            time.sleep(0.1)

    def state_of(self, change: Change, at_ms: int) -> str:
        """What has become of a change, in one or two words."""
        start = self.history.in_force_from(change)
        if start is None:
            return "pending" if change in self.history.pending() else "overtaken"
        if start > at_ms:
            return "activated"
        state = self.history.in_force(change.model, at_ms)
        if state.champion is not None and state.champion.version == change.version:
            return "champion"
        return "shadow" if change.version in {release.version for release in state.shadows} else "retired"

    def _end(self, topic: str, deadline: float) -> int:
        left = max(0.1, deadline - time.monotonic())
        return int(self._consumer.get_watermark_offsets(TopicPartition(topic, 0), timeout=left, cached=False)[1])

    def _take(self, message: Message) -> None:
        topic, offset = str(message.topic()), int(message.offset() or 0)
        if (error := message.error()) is not None:
            if error.code() != KafkaError._PARTITION_EOF:
                raise KafkaException(error)
            self._next[topic] = max(self._next[topic], offset)
            return
        self._next[topic] = offset + 1
        append_ms = message.timestamp()[1]
        if topic == self._topic:
            self.history = self.history.then([Entry(offset, append_ms, message.value())])
        else:
            self.answers.add(message.key(), message.value(), append_ms)
