"""The events: claims at a steady rate, whatever happens to the broker; beyond the file's end they come with new ids."""

from __future__ import annotations

import math
import threading
import time

from confluent_kafka import Message, Producer

from deploy.pipelines.claims import claims


class Load(threading.Thread):
    """Sends `events` claims at `rate` a second. What could be sent is what is in the topic: that is the truth."""

    def __init__(self, bootstrap: str, topic: str, *, seed: int, events: int, rate: float) -> None:
        super().__init__(name="load", daemon=True)
        self.sent = 0
        """Events handed to the client so far; while the broker is away they wait there."""
        self.events, self.seed = events, seed
        self.until = math.inf
        """Events to send before it waits, so that there is still load when an incident comes late."""
        self.acked: list[tuple[int, int]] = []
        """Lane and offset of each event that the broker has, but for those of which it says so without an offset: it
        died before it had answered, and was asked again."""
        self.failed = ""
        self._sent_at = 0.0
        self._enough = False
        self.rate, self._topic = rate, topic
        self._producer = Producer(
            {
                "bootstrap.servers": bootstrap,
                "partitioner": "murmur2_random",
                "enable.idempotence": True,
                "linger.ms": 2,
                "delivery.timeout.ms": 600_000,
                "reconnect.backoff.max.ms": 500,
                "queue.buffering.max.messages": 1_000_000,
                "log_level": 0,
            }
        )

    @property
    def sending(self) -> bool:
        """Whether events are being sent: neither over nor waiting for an incident."""
        return self.is_alive() and time.monotonic() - self._sent_at < 1.0

    def run(self) -> None:
        """Send them all and wait until the broker has them."""
        due = time.monotonic()
        for planned in claims.stream(self.seed, self.events):
            due += 1 / self.rate
            while (ahead := due - time.monotonic()) > 0:
                self._producer.poll(min(ahead, 0.02))
            if self._enough:
                break
            while self.sent >= self.until:
                self._producer.poll(0.02)
                due = time.monotonic()
            self._producer.produce(
                self._topic, planned.value, planned.key, headers=list(planned.headers), on_delivery=self._delivered
            )
            self._producer.poll(0)
            self.sent += 1
            self._sent_at = time.monotonic()
        if left := self._producer.flush(120):
            self.failed = self.failed or f"{left} events could not be sent within 120 s"

    def stop(self) -> None:
        """Send no more."""
        self._enough = True

    def _delivered(self, error: object, message: Message) -> None:
        if error is not None:
            self.failed = str(error)
        elif (offset := message.offset()) is not None:
            self.acked.append((message.partition(), offset))
