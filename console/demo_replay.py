"""The producing side of the demo: planned events into the events topic, at a rate, as a plain client would."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from deploy.pipelines.planned import Planned

PATIENCE = 30.0
"""Seconds that the last delivery reports may take."""


class ReplayFailed(Exception):
    """Not every event reached the topic; the message says how many did."""


class Replay:
    """Produces events in a thread of its own, each once, in their order.

    `partitioner=murmur2_random` is Java's default and not librdkafka's: every producer of a lane topic must use the
    same one, or an entity would be in two lanes.

    Args:
        connection: librdkafka properties; `bootstrap.servers` at least.
        topic: the events topic.
        planned: taken one by one as they are sent, so that each can be dated when it is.
        rate: events per second; 0 for as fast as the broker takes them.
        on_sent: called from the thread with (partition, offset, `time.monotonic()` when it was given to the client) as
            the broker confirms each one.
        now: the clock.
    """

    def __init__(
        self,
        connection: Mapping[str, Any],
        topic: str,
        planned: Iterable[Planned],
        *,
        rate: float = 0.0,
        on_sent: Callable[[int, int, float], None] = lambda *_: None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._producer = Producer(
            {
                **connection,
                "partitioner": "murmur2_random",
                "enable.idempotence": True,
                "linger.ms": 2,
                "log_level": 0,
            }
        )
        self._topic, self._planned, self._rate = topic, planned, rate
        self._on_sent, self._now = on_sent, now
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="replay", daemon=True)
        self.given = 0
        """Events given to the client so far."""
        self.sent = 0
        """Events confirmed by the broker."""
        self.kinds: dict[str, int] = {}
        """What was planned: kind to events."""
        self.failure: Exception | None = None
        """Why it ended early."""

    def start(self) -> Replay:
        """Begin."""
        self._thread.start()
        return self

    def stop(self) -> None:
        """End early: what was given to the client is still delivered."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join(PATIENCE)

    @property
    def done(self) -> bool:
        """Whether every event has been sent, or will not be."""
        return self._thread.ident is not None and not self._thread.is_alive()

    def _run(self) -> None:
        try:
            self._produce()
            left = self._producer.flush(PATIENCE)
            if left or self.sent != self.given:
                raise ReplayFailed(f"the broker confirmed {self.sent} of {self.given} events; is it still there?")
        except Exception as failure:  # noqa: BLE001,RUF100 - a thread's failure is told by the one who asks
            self.failure = failure

    def _produce(self) -> None:
        began = self._now()
        for event in self._planned:
            ahead = self.given / self._rate - (self._now() - began) if self._rate else 0.0
            while ahead > 0:
                self._producer.poll(min(ahead, 0.005))
                if self._stopped.is_set():
                    return
                ahead = self.given / self._rate - (self._now() - began)
            if self._stopped.is_set():
                return
            self._give(event)
            self.kinds[event.kind] = self.kinds.get(event.kind, 0) + 1

    def _give(self, event: Planned) -> None:
        at = self._now()

        def confirmed(error: KafkaError | None, message: Message) -> None:
            if error is not None:
                self.failure = KafkaException(error)
                self._stopped.set()
                return
            self.sent += 1
            if (offset := message.offset()) is not None:  # a broker may say that it has an event, and not where
                self._on_sent(int(message.partition() or 0), offset, at)

        while not self._stopped.is_set():
            try:
                self._producer.produce(
                    self._topic, event.value, event.key, headers=list(event.headers), on_delivery=confirmed
                )
            except BufferError:  # the client's queue is full: let it deliver
                self._producer.poll(0.1)
            else:
                self.given += 1
                self._producer.poll(0)
                return
