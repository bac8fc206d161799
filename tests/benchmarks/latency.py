"""From produce to a committed decision that a reader has, at a steady rate of events."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

import measure
import orjson
from confluent_kafka import Consumer, Message, Producer, TopicPartition
from stand import FIRSTS, LANES, Stand

from deploy.pipelines.planned import Planned

_WARM_SECONDS = 3.0


def measure_latency(stand: Stand, prefix: str, events: Sequence[Planned], rate: int) -> dict[str, float]:
    """Send events at `rate` a second and read every first record. The first three seconds are left out.

    Returns:
        `p50_ms`, `p95_ms`, `p99_ms`, `worst_ms`, and `events` that were measured.
    """
    journey = Journey(stand, prefix, events, rate)
    late_enough = journey.began + _WARM_SECONDS
    waits = [wait * 1000 for sent, wait in journey.travel().values() if sent >= late_enough]
    shares = {"p50_ms": 0.5, "p95_ms": 0.95, "p99_ms": 0.99, "worst_ms": 1.0}
    return {name: round(measure.percentile(waits, share), 1) for name, share in shares.items()} | {"events": len(waits)}


class Journey:
    """Events sent at a steady rate, and the moment at which a read_committed reader has the first record of each."""

    def __init__(self, stand: Stand, prefix: str, events: Sequence[Planned], rate: int) -> None:
        """Connect; `travel` begins at `began`, in `time.monotonic()` seconds."""
        self._stand, self._prefix, self._events, self._rate = stand, prefix, events, rate
        self._reader = _reader(stand, prefix)
        self.began = time.monotonic() + 0.2

    def travel(self) -> dict[tuple[int, int], tuple[float, float]]:
        """Send and read everything.

        Returns:
            Lane and offset of each event to the moment when it was meant to be sent, so that a sender which falls
            behind does not hide what waits, and the seconds from then to its first record.

        Raises:
            TimeoutError: a first record did not come within a minute.
        """
        sent: dict[tuple[int, int], float] = {}
        arguments = (self._stand, f"{self._prefix}.events", self._events, self._rate, self.began, sent)
        sender = threading.Thread(target=_send, args=arguments)
        sender.start()
        seen: dict[tuple[int, int], float] = {}
        events = len(self._events)
        deadline = self.began + events / self._rate + 60
        while len(seen) < events:
            now_or_later = self._reader.consume(500, 0) or [self._reader.poll(0.05)]
            at = time.monotonic()
            for message in now_or_later:
                if message is not None and message.error() is None:
                    origin = orjson.loads(message.value())["origin"]
                    seen[origin["partition"], origin["offset"]] = at
            if at > deadline:
                raise TimeoutError(f"{events - len(seen)} of {events} events have no first record after 60 s")
        sender.join()
        self._reader.close()
        return {origin: (at, seen[origin] - at) for origin, at in sent.items() if origin in seen}


def _reader(stand: Stand, prefix: str) -> Consumer:
    """A reader at the end of every topic that has first records."""
    reader = Consumer(
        {
            "bootstrap.servers": stand.kafka.bootstrap,
            "group.id": "latency",
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
            "fetch.wait.max.ms": 10,
        }
    )
    places = [TopicPartition(f"{prefix}.{role}", lane) for role in FIRSTS for lane in range(LANES)]
    for place in places:
        place.offset = reader.get_watermark_offsets(place, timeout=10)[1]
    reader.assign(places)
    return reader


def _send(  # noqa: PLR0917 - the arguments of a thread
    stand: Stand, topic: str, events: Sequence[Planned], rate: int, began: float, sent: dict[tuple[int, int], float]
) -> None:
    producer = Producer(
        {
            "bootstrap.servers": stand.kafka.bootstrap,
            "partitioner": "murmur2_random",
            "enable.idempotence": True,
            "linger.ms": 5,  # a client's own; with 0 the broker is busy with a thousand requests a second
        }
    )
    for i, event in enumerate(events):
        due = began + i / rate
        if (wait := due - time.monotonic()) > 0:
            producer.poll(0)
            time.sleep(wait)

        def report(error: object, message: Message, due: float = due) -> None:
            if error is None:
                sent[message.partition(), message.offset()] = due

        producer.produce(topic, event.value, event.key, headers=list(event.headers), on_delivery=report)
    producer.flush(60)
