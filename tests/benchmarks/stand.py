"""What every system is measured on: one broker or three, one Redis, the same events in the same lanes."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import orjson
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition

from console.embedded import KafkaServer, RedisServer, Topic
from console.kafka_cluster import KafkaCluster
from deploy.pipelines.claims import claims
from deploy.pipelines.planned import Planned

PIPELINE = Path("deploy/pipelines/claims/pipeline.yaml")
LANES = 8
FIRSTS = ("decisions", "rejected", "quarantine", "duplicates")
"""Topics of which one has the first record of each event."""
ROLES = ("events", "reviews", *FIRSTS, "state")
"""All topics that a system reads and writes."""
_SEED = 20180101


class Stand:
    """The servers, the topics of each system, and an endless supply of events that were never used before."""

    def __init__(self, folder: Path, brokers: int = 1) -> None:
        jvm: dict[str, Any] = {"heap_mb": 1024, "steady": True}
        self.kafka: KafkaServer | KafkaCluster = (
            KafkaServer(folder / "kafka", **jvm)
            if brokers == 1
            else KafkaCluster(folder / "kafka", brokers=brokers, **jvm)  # makes its topics with three copies
        )
        self.redis = RedisServer(folder / "redis")
        self.folder = folder
        self._stack = ExitStack()
        # One plan for the whole run: claim ids do not repeat, so no round is full of duplicates of the one before.
        self._planned = claims.stream(_SEED, 10**9)

    def __enter__(self) -> Self:
        self._stack.enter_context(self.kafka)
        self._stack.enter_context(self.redis)
        self._producer = Producer(
            {
                "bootstrap.servers": self.kafka.bootstrap,
                "partitioner": "murmur2_random",
                "enable.idempotence": True,
                "linger.ms": 5,
                "log_level": 0,
                "queue.buffering.max.messages": 1_000_000,
            }
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def make_topics(self, prefix: str) -> None:
        """Create the topics that a system named `prefix` reads and writes."""
        compact = {"cleanup.policy": "compact"}
        topics = {f"{prefix}.{role}": Topic(LANES, compact if role == "state" else {}) for role in ROLES}
        self.kafka.create_topics(topics)

    def plan(self, n: int) -> list[Planned]:
        """Take the next `n` events."""
        return list(itertools.islice(self._planned, n))

    def feed(self, topic: str, events: Iterable[Planned]) -> None:
        """Write events and wait until the broker has them. Equal events get equal lanes and offsets in every topic."""
        for event in events:
            self._producer.produce(topic, event.value, event.key, headers=list(event.headers))
        if self._producer.flush(120):
            raise TimeoutError(f"could not write all events to {topic} within 120 s")

    def ends(self, topic: str) -> dict[int, int]:
        """Lane to the offset after its last event."""
        with _consumer(self.kafka.bootstrap, "ends") as consumer:
            return {
                lane: consumer.get_watermark_offsets(TopicPartition(topic, lane), timeout=10)[1]
                for lane in range(LANES)
            }

    def wait_until_committed(self, group: str, topic: str, seconds: float) -> None:
        """Wait until a group has committed all that is in a topic.

        Raises:
            TimeoutError: it has not.
        """
        lanes = [TopicPartition(topic, lane) for lane, end in self.ends(topic).items() if end]
        ends = self.ends(topic)
        deadline = time.monotonic() + seconds
        with _consumer(self.kafka.bootstrap, group) as consumer:
            while any(at.offset < ends[at.partition] for at in _committed(consumer, lanes)):
                if time.monotonic() > deadline:
                    raise TimeoutError(f"{group} has not finished {topic} within {seconds:.0f} s; its log says why")
                time.sleep(0.02)

    def first_records(self, prefix: str) -> dict[tuple[int, int], dict[str, object]]:
        """Every first record of a system, by lane and offset of its event, as a reader of committed records sees it.

        Raises:
            AssertionError: an event has two.
        """
        firsts: dict[tuple[int, int], dict[str, object]] = {}
        for role in FIRSTS:
            for value in read_all(self.kafka.bootstrap, f"{prefix}.{role}"):
                record = orjson.loads(value)
                origin = record["origin"]["partition"], record["origin"]["offset"]
                assert origin not in firsts, f"{prefix}: two first records of lane {origin[0]}, offset {origin[1]}"
                firsts[origin] = record
        return firsts


def read_all(bootstrap: str, topic: str, lanes: int = LANES) -> Iterator[bytes]:
    """Every committed value that is in a topic now."""
    with _consumer(
        bootstrap, "read-all", **{"enable.partition.eof": True, "isolation.level": "read_committed"}
    ) as consumer:
        consumer.assign([TopicPartition(topic, lane, 0) for lane in range(lanes)])
        ended: set[int] = set()
        while len(ended) < lanes:
            for message in consumer.consume(1000, 0.2):
                if message.error() is None:
                    yield message.value()
                elif message.error().code() == KafkaError._PARTITION_EOF:
                    ended.add(message.partition())
                else:
                    raise KafkaException(message.error())


class _consumer:  # noqa: N801 - reads as a function
    """A plain consumer that is closed at the end."""

    def __init__(self, bootstrap: str, group: str, **settings: object) -> None:
        base = {"bootstrap.servers": bootstrap, "group.id": group, "enable.auto.commit": False, "log_level": 0}
        self._consumer = Consumer({**base, **settings})

    def __enter__(self) -> Consumer:
        return self._consumer

    def __exit__(self, *_: object) -> None:
        self._consumer.close()


def _committed(consumer: Consumer, lanes: Sequence[TopicPartition]) -> list[TopicPartition]:
    try:
        return list(consumer.committed(list(lanes), timeout=10))
    except KafkaException:  # the coordinator of a new group is still loading
        return [TopicPartition(lane.topic, lane.partition, -1) for lane in lanes]
