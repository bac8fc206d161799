"""Readers that share nothing with the engine: they know brokers, topics and JSON."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from confluent_kafka import Consumer, IsolationLevel, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

_SETTINGS = {
    "group.id": "reader",
    "enable.auto.commit": False,
    "isolation.level": "read_committed",
    "auto.offset.reset": "error",
    "fetch.wait.max.ms": 20,
    "reconnect.backoff.max.ms": 500,
    "log_level": 0,
}
_LOOK_SECONDS = 0.1

Place = tuple[str, int, int]
"""Topic, partition and offset of a record."""


@dataclass(frozen=True, slots=True)
class Record:
    """A record as it is in its log."""

    place: Place
    append_ms: int
    value: bytes | None


class LiveReader(threading.Thread):
    """Reads first records as they are committed, and remembers when each could be read."""

    def __init__(self, bootstrap: str, topics: Sequence[str], lanes: int) -> None:
        super().__init__(name="reader", daemon=True)
        self.arrived: dict[Place, float] = {}
        """Record to Unix seconds."""
        self.decided: dict[tuple[int, int], float] = {}
        """Lane and offset of an event to when its first record came, in Unix seconds."""
        self.again = 0
        """First records of events that had one."""
        self._ending = threading.Event()
        self._consumer = Consumer({**_SETTINGS, "bootstrap.servers": bootstrap})
        self._consumer.assign([TopicPartition(topic, lane, 0) for topic in topics for lane in range(lanes)])

    def run(self) -> None:
        """Read until told to end; a broker that is away is waited for."""
        while not self._ending.is_set():
            messages = self._consumer.consume(500, 0) or [self._consumer.poll(0.05)]
            now = time.time()
            for message in messages:
                if message is None or message.error() is not None:
                    continue
                self.arrived[message.topic(), message.partition(), message.offset()] = now
                body = orjson.loads(message.value())["origin"]
                origin = body["partition"], body["offset"]
                self.again += origin in self.decided
                self.decided.setdefault(origin, now)
        self._consumer.close()

    def end(self) -> None:
        """End and wait for it."""
        self._ending.set()
        self.join()


class StallWatch(threading.Thread):
    """Looks ten times a second for partitions whose end a `read_committed` reader cannot reach, and since when.

    A log's last stable offset stays where the oldest open transaction began. Under load it moves on with every commit;
    where it does not, nobody can read what was committed behind it.
    """

    def __init__(self, bootstrap: str, topics: Sequence[str], lanes: int) -> None:
        super().__init__(name="stalls", daemon=True)
        self.stalls: list[tuple[float, float]] = []
        """Begin and end, in Unix seconds, of each that took half a second or longer."""
        self.looks = 0
        """How often it was seen how far readers may read."""
        self._admin = AdminClient({"bootstrap.servers": bootstrap, "reconnect.backoff.max.ms": 500, "log_level": 0})
        self._latest = {TopicPartition(topic, lane): OffsetSpec.latest() for topic in topics for lane in range(lanes)}
        self._since: dict[tuple[str, int], tuple[int, float]] = {}
        """Partition with an open transaction to its last stable offset, and when that was first seen."""
        self._ending = threading.Event()

    def run(self) -> None:
        """Look until told to end."""
        while not self._ending.wait(_LOOK_SECONDS):
            try:
                # The stable end first: a transaction that ends between the two answers must not look open.
                stable = self._ends(IsolationLevel.READ_COMMITTED)
                ends = self._ends(IsolationLevel.READ_UNCOMMITTED)
            except (KafkaException, TimeoutError):  # the broker is away, and nothing is known of what it had
                self._since.clear()
                continue
            self.looks += 1
            self._note(stable, ends)

    def end(self) -> None:
        """End and wait for it."""
        self._ending.set()
        self.join()
        self._note({}, {})

    def _note(self, stable: Mapping[tuple[str, int], int], ends: Mapping[tuple[str, int], int]) -> None:
        now = time.time()
        for place, (at, since) in self._since.copy().items():
            if stable.get(place) != at or ends[place] == at:
                del self._since[place]
                if now - since >= 0.5:
                    self.stalls.append((since, now))
        for place, at in stable.items():
            if at < ends[place]:
                self._since.setdefault(place, (at, now))

    def _ends(self, isolation: IsolationLevel) -> dict[tuple[str, int], int]:
        futures = self._admin.list_offsets(self._latest, isolation_level=isolation, request_timeout=2.0)
        return {(place.topic, place.partition): future.result(5.0).offset for place, future in futures.items()}


def read_all(bootstrap: str, topics: Sequence[str], lanes: int, seconds: float = 120.0) -> Iterator[Record]:
    """Give every committed record of some topics, each partition's in the order of its log.

    Raises:
        TimeoutError: their ends were not reached.
    """
    consumer = Consumer({**_SETTINGS, "bootstrap.servers": bootstrap, "enable.partition.eof": True})
    places = [TopicPartition(topic, lane, 0) for topic in topics for lane in range(lanes)]
    consumer.assign(places)
    ended: set[tuple[str, int]] = set()
    deadline = time.monotonic() + seconds
    try:
        while len(ended) < len(places):
            if time.monotonic() > deadline:
                raise TimeoutError(f"{len(ended)} of {len(places)} partitions were read to their end in {seconds:g} s")
            for message in consumer.consume(5000, 0.1):
                if message.error() is None:
                    yield _record(message)
                elif message.error().code() == KafkaError._PARTITION_EOF:
                    ended.add((message.topic(), message.partition()))
                elif not message.error().retriable():
                    raise KafkaException(message.error())
    finally:
        consumer.close()


def _record(message: Any) -> Record:
    place = message.topic(), message.partition(), message.offset()
    return Record(place, message.timestamp()[1], message.value())
