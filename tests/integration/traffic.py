"""Events at a steady rate, and what an independent `read_committed` reader sees become of them."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from types import TracebackType
from typing import Any, Self

from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition

from dataflows.pipeline import Pipeline
from tests.integration.launched import FIRSTS, LANES, event

RATE = 200
_GOES_ON = (
    KafkaError._TRANSPORT,
    KafkaError._ALL_BROKERS_DOWN,
    KafkaError._TIMED_OUT,
    KafkaError._RESOLVE,
    KafkaError._PARTITION_EOF,
)


class Traffic:
    """A context manager. The producer loses nothing that it was told is written; the reader joins no group."""

    def __init__(self, connection: dict[str, str], pipeline: Pipeline, rate: int = RATE) -> None:
        # A client's own minute for a broker that hangs would be measured instead of the engine's.
        self._connection = {**connection, "socket.timeout.ms": 2000, "log_level": 0}
        self._topic, self._rate = pipeline.topic("events"), rate
        self._outputs = [pipeline.topic(role) for role in FIRSTS]
        self._ending = threading.Event()
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._write, self._read)]
        self._problem: BaseException | None = None
        self.unsent: dict[int, float] = {}
        """Number of an event that the reader has not found in its topic yet to when it was produced."""
        self.sent: dict[tuple[int, int], float] = {}
        """Lane and offset to when it was produced, as the topic has it: where a broker dies before it has answered, the
        client learns from another that the event is there and not at which offset."""
        self.seen: Counter[tuple[int, int]] = Counter()
        self.first_seen: dict[tuple[int, int], float] = {}

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, _: object, __: TracebackType | None) -> None:
        self._ending.set()
        for thread in self._threads:
            thread.join(40)
        if self._problem is not None and kind is None:
            raise self._problem

    def waiting(self, until: float) -> int:
        """How many events that were produced before a time have no first record yet."""
        unsent = list(self.unsent.copy().values())  # first: an event goes from here to `sent`
        undecided = [at for origin, at in self.sent.copy().items() if origin not in self.first_seen]
        return sum(at < until for at in [*unsent, *undecided])

    def worst(self, since: float) -> float:
        """The longest that an event produced since then has taken to its first record, in seconds."""
        took = [self.first_seen.get(origin, time.time()) - at for origin, at in self.sent.copy().items() if at >= since]
        return max(took, default=0.0)

    def twice(self) -> list[tuple[int, int]]:
        """Origins with more than one first record."""
        return [origin for origin, count in self.seen.copy().items() if count > 1]

    def _write(self) -> None:
        try:
            producer = Producer({**self._connection, "enable.idempotence": True, "linger.ms": 2})
            began, n = time.time(), 0
            while not self._ending.is_set():
                if time.time() < began + n / self._rate:
                    producer.poll(0.002)
                    continue
                moment = time.time()

                self.unsent[n] = moment
                producer.produce(self._topic, event(n), partition=n % LANES, on_delivery=_delivered)
                n += 1
            assert producer.flush(30) == 0
        except BaseException as problem:
            self._problem = problem

    def _read(self) -> None:
        settings = {
            **self._connection,
            "group.id": "traffic",
            "isolation.level": "read_committed",
            "enable.auto.commit": False,
            "auto.offset.reset": "error",
        }
        reader = Consumer(settings)
        topics = [self._topic, *self._outputs]
        reader.assign([TopicPartition(name, lane, 0) for name in topics for lane in range(LANES)])
        try:
            while not self._ending.is_set():
                for message in reader.consume(500, 0.05):
                    if (error := message.error()) is not None:
                        assert error.code() in _GOES_ON or error.retriable(), error
                        continue
                    self._take(message)
        except BaseException as problem:
            self._problem = problem
        finally:
            reader.close()

    def _take(self, message: Any) -> None:
        body = json.loads(message.value())
        if message.topic() == self._topic:
            # Noted in one place before it is gone from the other: `waiting` must not miss it. While brokers die, one
            # may come twice (seen once; whether it was written or read twice is not known): each place is an event.
            number = int(body["id"].removeprefix("E-"))
            self.sent.setdefault((message.partition(), message.offset()), self.unsent.get(number, time.time()))
            self.unsent.pop(number, None)
            return
        origin = body["origin"]["partition"], body["origin"]["offset"]
        self.seen[origin] += 1
        self.first_seen.setdefault(origin, time.time())


def _delivered(error: object, _: object) -> None:
    assert error is None, error
