"""The voice of a slot: what it writes to the admissions topic, and, in the slot that owns lane 0, to the registry.

To the admissions topic go heartbeats and answers (accepted, refused with the reason); to the registry the activation,
once every live slot has accepted. Two slots that both believe they own lane 0 do no harm: the first activation counts.

Delivery: at least once. What was produced may be lost with the broker or a client, so what this slot has said counts
as heard only when it has come back from the topic; until then an answer to a pending change is repeated with each
heartbeat, and an activation every few seconds. Readers fold these records, and repeats change nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from confluent_kafka import KafkaError, Message, Producer

from models.acceptance import Acceptances
from models.history import History
from models.release import ActivationRecord, AdmissionRecord, HeartbeatRecord, heartbeat_key
from operators.admitter import Answered

_BEAT_SECONDS: Final = 2.0
_REPEAT_SECONDS: Final = 5.0
"""An activation that has not come back from the log after this long is written again."""


@dataclass(frozen=True, slots=True)
class RegistryTopics:
    """Full names of the two topics, each of one partition."""

    registry: str = "penstock.registry"
    admissions: str = "penstock.admissions"


class Voice:
    """Speaks for one slot, in the follower's thread."""

    def __init__(
        self,
        slot: str,
        heard: Acceptances,
        topics: RegistryTopics,
        owns_lane_zero: Callable[[], bool],
        now: Callable[[], float],
    ) -> None:
        """Prepare; `begin` gives it a producer.

        Args:
            slot: group and number.
            heard: this slot's own reading of the admissions topic, kept small here.
            topics: where the registry and the answers are.
            owns_lane_zero: whether this slot writes activations now.
            now: clock in seconds.
        """
        self.slot, self.pipeline = slot, heard.pipeline
        self._heard, self._topics, self._owns, self._now = heard, topics, owns_lane_zero, now
        self._producer: Producer
        self._said: dict[int, AdmissionRecord] = {}
        self._activate_at: dict[int, float] = {}
        self._beat_at = float("-inf")
        self._beat_offset: int | None = None

    def begin(self, producer: Producer) -> None:
        """Speak through a new producer, beginning with a heartbeat."""
        self._producer = producer
        self._beat_offset, self._beat_at = None, float("-inf")

    def speak(self, history: History, answers: Sequence[Answered], heard_to: int) -> None:
        """Write what there is to say now.

        Args:
            history: what is pending.
            answers: this slot's new answers.
            heard_to: offset of the admissions topic up to which `heard` has been filled.
        """
        self._producer.poll(0)
        now = self._now()
        pending = [change.offset for change in history.pending()]
        if now - self._beat_at >= _BEAT_SECONDS:
            self._beat_at = now
            self._forget(set(pending), history.next_offset)
            self._beat(history.next_offset)
            self._repeat()
        for answered in answers:
            self._said[answered.of] = record = answered.record(self.pipeline, self.slot)
            self._answer(record)
        # This life's first heartbeat has come back, so every heartbeat before it was heard too.
        if self._owns() and self._beat_offset is not None and heard_to > self._beat_offset:
            self._activate(pending, now)

    def say_goodbye(self) -> None:
        """Tell the other slots that they need not wait for this one."""
        self._producer.produce(self._topics.admissions, None, heartbeat_key(self.pipeline, self.slot), partition=0)

    def _beat(self, next_offset: int) -> None:
        beat = HeartbeatRecord(pipeline=self.pipeline, slot=self.slot, next_offset=next_offset)
        self._producer.produce(
            self._topics.admissions, beat.to_bytes(), beat.key(), partition=0, on_delivery=self._beat_delivered
        )

    def _beat_delivered(self, error: KafkaError | None, message: Message) -> None:
        if error is None and self._beat_offset is None:
            self._beat_offset = message.offset()

    def _answer(self, record: AdmissionRecord) -> None:
        self._producer.produce(self._topics.admissions, record.to_bytes(), record.key(), partition=0)

    def _repeat(self) -> None:
        """Answer again where the topic, as this slot has read it, shows no answer of its or another one."""
        for of, record in self._said.items():
            if self._heard.answers(of).get(self.slot) != record:
                self._answer(record)

    def _activate(self, pending: Sequence[int], now: float) -> None:
        for of in pending:
            if self._heard.all_accept(of) and now >= self._activate_at.get(of, now):
                self._activate_at[of] = now + _REPEAT_SECONDS
                record = ActivationRecord(pipeline=self.pipeline, of=of)
                self._producer.produce(self._topics.registry, record.to_bytes(), self.pipeline.encode(), partition=0)

    def _forget(self, pending: set[int], next_offset: int) -> None:
        """Keep what is about pending changes only, so that nothing here grows with the log's age."""
        self._heard.keep(pending, next_offset)
        self._said = {of: record for of, record in self._said.items() if of in pending}
        self._activate_at = {of: at for of, at in self._activate_at.items() if of in pending}
