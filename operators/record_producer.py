"""The records of a commit as a slot sends them: outputs, lane state, and the offsets that belong to them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from confluent_kafka import Producer, TopicPartition

from operators import prefix
from operators.held import Held
from operators.membership import Membership

_FULL_QUEUE_PAUSE = 0.05


@dataclass(frozen=True, slots=True)
class Places:
    """Where the parts of a commit go."""

    group: str
    """Whose offsets are committed."""
    events: str
    """Topic of these offsets."""
    state: str
    """Compacted topic of the lane state."""
    topics: Mapping[str, str]
    """Role of an output topic to its name."""
    topic_id: Callable[[], str] = lambda: ""
    """Kafka's id of the topic of the events; empty while it is not known."""
    ends: dict[int, int] | None = None
    """Lane to the offset after its last state record that was delivered; also by a transaction that is then aborted,
    until the same is sent again. None where nobody asks: it takes a delivery report per lane and commit."""

    @classmethod
    def of(cls, who: Membership, *, ends: dict[int, int] | None, topic_id: Callable[[], str]) -> Places:
        """Make those of a member of the group."""
        return cls(who.group, who.events, who.state, who.topics, topic_id, ends)

    def state_of(self, held: Held) -> Iterator[tuple[int, bytes, bytes | None]]:
        """Give lane, key and value of each state record of a commit; a lane's last one says how far it goes."""
        for (lane, step, key), value in held.changes.items():
            yield lane, state_key(step, key), value
        for lane, following in held.progress.items():
            yield lane, _PREFIX, prefix.prefix(self.group, following, self.topic_id())


@dataclass(frozen=True, slots=True)
class RecordProducer:
    """A slot's producer, and where its records go."""

    client: Producer
    places: Places

    def outputs(self, held: Held, on_delivery: Callable[..., None] | None = None) -> None:
        """Produce all outputs, each in the lane of its event or in the partition that it names."""
        for record in held.records:
            partition = record.lane if record.partition is None else record.partition
            topic, headers = self.places.topics[record.topic], list(record.headers)
            self._put(topic, partition, record.key, record.value, on_delivery, headers=headers)

    def lane_state(self, held: Held, on_delivery: Callable[..., None] | None = None) -> None:
        """Produce the last value of each changed entry, and for each lane whose it is and how far it goes."""
        ends = self.places.ends
        last = on_delivery if ends is None else _noting(ends, on_delivery)
        for lane, key, value in self.places.state_of(held):
            self._put(self.places.state, lane, key, value, last if key == _PREFIX else on_delivery)

    def offsets(self, progress: Mapping[int, int]) -> list[TopicPartition]:
        """Lane to next offset, as the client takes it."""
        return [TopicPartition(self.places.events, lane, offset) for lane, offset in progress.items()]

    def _put(
        self,
        topic: str,
        lane: int,
        key: bytes | None,
        value: bytes | None,
        on_delivery: Callable[..., None] | None,
        **more: Any,
    ) -> None:
        if on_delivery is not None:
            more["on_delivery"] = on_delivery
        while True:
            try:
                self.client.produce(topic, value, key, lane, **more)
                return
            except BufferError:  # the client's queue is full: let it drain
                self.client.poll(_FULL_QUEUE_PAUSE)


def state_key(step: str, key: bytes) -> bytes:
    """Key of a state record: the step's name, a zero byte, the step's own key."""
    return step.encode() + b"\0" + key


def _noting(ends: dict[int, int], on_delivery: Callable[..., None] | None) -> Callable[..., None]:
    """The delivery report of a lane's last state record."""

    def report(error: Any, message: Any) -> None:
        if error is None:
            ends[message.partition()] = message.offset() + 1
        if on_delivery is not None:
            on_delivery(error, message)

    return report


_PREFIX = state_key(prefix.STEP, prefix.KEY)
