"""One broker that is slow, paused, killed, away for longer than the delivery time-out, or out of room, under load.

One engine lives through all of it. After each fault every event that was sent has exactly one first record.
PENSTOCK_LONG=1 makes each fault last longer than every time-out.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
from confluent_kafka import KafkaException, Producer

from console.embedded import KafkaServer, PartMissing
from console.topics import Topic
from dataflows.pipeline import Pipeline
from tests.integration.launched import LANES, Launched, committed, firsts, launched, small_on, wait
from tests.integration.relay import Relay, broker_behind_relay, java

pytestmark = pytest.mark.ci

LONG = os.environ.get("PENSTOCK_LONG") == "1"
SESSION = 6.0
"""Seconds; the producer's `delivery.timeout.ms` is no longer, since it is that of its transactions."""
RATE = 200


@dataclass
class Stand:
    """A broker behind a relay, an engine on it, and how many events it was sent."""

    server: KafkaServer
    relay: Relay
    run: Launched
    pipeline: Pipeline
    sent: int = 0

    @contextmanager
    def load(self) -> Iterator[None]:
        """Send `RATE` events a second meanwhile; a producer waits for its broker, too."""
        stop = threading.Event()
        thread = threading.Thread(target=self._send, args=(stop,))
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def _send(self, stop: threading.Event) -> None:
        address = {"bootstrap.servers": f"127.0.0.1:{self.server.port}", "log_level": 0}
        producer = Producer({**address, "enable.idempotence": True, "reconnect.backoff.max.ms": 500})
        while not stop.is_set():
            at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
            body = {"id": f"E-{self.sent}", "who": f"W-{self.sent % 50}", "at": at, "amount": self.sent % 200}
            producer.produce(self.pipeline.topic("events"), json.dumps(body), partition=self.sent % LANES)
            self.sent += 1
            producer.poll(1 / RATE)
        assert producer.flush(60) == 0

    def restarts(self) -> int:
        return int(self.run.table()[0]["restarts"])

    def all_decided_once(self, timeout: float = 45.0) -> None:
        def done() -> bool:
            try:
                return sum(committed(self.server.bootstrap, self.pipeline).values()) == self.sent
            except KafkaException:  # a broker that has just started is still loading its groups
                return False

        wait(done, timeout, self.run, f"to commit {self.sent} events")
        origins = firsts(self.server.bootstrap, self.pipeline)
        upto = committed(self.server.bootstrap, self.pipeline)
        assert origins == {(lane, offset): 1 for lane, end in upto.items() for offset in range(end)}
        self.run.until_ready()


@pytest.fixture(scope="module")
def stand(tmp_path_factory: pytest.TempPathFactory, absent: Callable[[str], None]) -> Iterator[Stand]:
    folder = tmp_path_factory.mktemp("faults")
    try:
        with broker_behind_relay(folder / "kafka") as (server, relay):
            file, pipeline = small_on(server, "faults", folder)
            settings = {"SESSION_TIMEOUT": str(SESSION), "WATCHDOG": "30"}
            with launched(file, server.bootstrap, folder, **settings) as run:
                run.until_ready()
                yield Stand(server, relay, run, pipeline)
                print(run.said()[-8000:])
    except PartMissing as missing:
        absent(f"a real Kafka cannot be started: {missing}")


def test_a_slow_broker_makes_decisions_late_and_nothing_else(stand: Stand) -> None:
    """40 ms each way on every request, 200 kB/s: the engine waits, commits in larger transactions, and stays."""
    before = stand.restarts()
    with stand.load():
        stand.relay.delay, stand.relay.rate = 0.04, 200_000.0
        time.sleep(20 if LONG else 3)
        stand.relay.mend()
    stand.all_decided_once()
    assert stand.restarts() == before


def test_a_paused_broker_is_waited_for(stand: Stand) -> None:
    """SIGSTOP for less than a session: nobody leaves. The long form outlasts the session."""
    before = stand.restarts()
    with stand.load():
        os.kill(java(stand.server), signal.SIGSTOP)
        try:
            time.sleep(25 if LONG else 2)
        finally:
            os.kill(java(stand.server), signal.SIGCONT)
    stand.all_decided_once()
    assert LONG or stand.restarts() == before


def test_a_killed_broker_comes_back_to_the_same_engine(stand: Stand) -> None:
    with stand.load():
        time.sleep(0.5)
        stand.server.kill()
        time.sleep(20 if LONG else 1)
        stand.server.start()
    stand.all_decided_once()


def test_brokers_that_are_away_for_longer_than_the_delivery_time_out(stand: Stand) -> None:
    """Cut off for the session's time-out and half as much: what is at its commit fails, and is decided again."""
    with stand.load():
        time.sleep(0.5)
        stand.relay.cut()
        wait(lambda: "is the broker reachable?" in stand.run.said(), 30, stand.run, "to say what is wrong")
        wait(lambda: not stand.run.page("/readyz"), 30, stand.run, "not to be ready")
        time.sleep(60 if LONG else 1.5 * SESSION)
        stand.relay.mend()
    stand.all_decided_once(90)


def test_a_broker_without_room_fails_and_goes_on_where_there_is(stand: Stand) -> None:
    """No file of the broker may grow beyond 300 kB: its log directory fails, and it ends; then there is room again."""
    stand.server.create_topics({"filler": Topic()})
    with stand.load():
        resource.prlimit(java(stand.server), resource.RLIMIT_FSIZE, (300_000, 300_000))
        filler = Producer({"bootstrap.servers": stand.server.bootstrap, "message.timeout.ms": 5000, "log_level": 0})
        deadline = time.monotonic() + 30
        while stand.server.running and time.monotonic() < deadline:
            filler.produce("filler", os.urandom(50_000))
            filler.poll(0.02)
        assert not stand.server.running, "the broker refuses to go on without room"
        stand.server.stop()
        stand.server.start()
    stand.all_decided_once(60)
