"""A windowed view, read through the default cache, while Redis serves what it has and takes nothing new."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import pytest
from confluent_kafka import Producer, TopicPartition

from console.embedded import KafkaServer, PartMissing
from console.ports import free_port
from console.redis_server import RedisServer
from console.topics import topics_of
from dataflows.pipeline import Pipeline, load
from tests.integration import redis_faults as faults
from tests.integration.launched import LANES, Launched, _read, event, firsts, launched, small_pipeline, wait
from tests.integration.redis_faults import Place
from tests.integration.relay import Relay

MAX_AGE, STALE_WITHIN, RECOVERY = 4.0, 1.0, 5.0
"""Seconds: of the view; beyond it until every decision says so; from a fault's end until none does."""
RATE = 100
VIEWS = f"""
views:
  person:
    key: who
    pane: 1s
    windows: {{ visits: {{ function: count, window: 1m }} }}
    max_age: {MAX_AGE:g}s
    on_stale: last_known
    defaults: {{ visits: -1 }}
enrich: {{ timeout: 500ms }}
"""
JOBS = ("features", "views", "decisions")
STALE = ["view:person:stale"]


@dataclass
class Traffic:
    """Events at a rate, each where a producer would send its key."""

    bootstrap: str
    pipeline: Pipeline
    sent: int = 0

    def __enter__(self) -> Traffic:
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join(30)

    def _run(self) -> None:
        producer = Producer({"bootstrap.servers": self.bootstrap, "partitioner": "murmur2_random", "log_level": 0})
        while not self._ending.wait(1 / RATE):
            producer.produce(self.pipeline.topic("events"), event(self.sent), f"W-{self.sent % 50}")
            self.sent += 1
            producer.poll(0)
        assert producer.flush(20) == 0

    def decisions(self) -> list[tuple[float, Any]]:
        """Append time in Unix seconds and body of each."""
        parts = [TopicPartition(self.pipeline.topic("decisions"), lane, 0) for lane in range(LANES)]
        messages = _read(self.bootstrap, parts)
        return sorted(
            ((message.timestamp()[1] / 1000, json.loads(message.value())) for message in messages),
            key=lambda each: each[0],
        )


@pytest.fixture
def server(tmp_path: Path, absent: Callable[[str], NoReturn]) -> Iterator[RedisServer]:
    try:
        server = RedisServer(tmp_path / "redis")
    except PartMissing as missing:
        absent(f"a real Redis cannot be started: {missing}")
    with server:
        yield server


@pytest.fixture
def place(server: RedisServer) -> Iterator[Place]:
    relay = Relay(free_port(), server.port)
    yield Place(server, relay, f"redis://127.0.0.1:{relay.port}/0", lambda _: None)
    relay.close()


@pytest.mark.ci
@pytest.mark.timeout(240)
def test_decisions_say_stale_while_redis_takes_no_views_and_only_then(
    kafka: KafkaServer, unique: Callable[[str], str], tmp_path: Path, place: Place
) -> None:
    """Out of memory, and then a replica that is only read; the cache and `CLIENT TRACKING` hide neither its end."""
    file = small_pipeline(unique("unwritten"), tmp_path, VIEWS)
    file.write_text(file.read_text().replace("amount > 100", "amount > 100 OR person_visits > 1000"))
    pipeline = load(file)
    kafka.create_topics(topics_of(pipeline, LANES))
    spans: dict[str, tuple[float, float]] = {}
    with ExitStack() as stack:
        runs = [
            stack.enter_context(launched(file, kafka.bootstrap, tmp_path, JOB=job, REDIS=place.url)) for job in JOBS
        ]
        for run in runs:
            run.until_ready(120)
        with Traffic(kafka.bootstrap, pipeline) as traffic:
            until_well(traffic, runs[-1])
            for fault in faults.LACKING_NONE:
                with fault(place):
                    began = time.time()
                    time.sleep(MAX_AGE + STALE_WITHIN + 1.5)
                    spans[fault.__name__] = began, time.time()
                time.sleep(RECOVERY + 1.5)
        wait(lambda: len(firsts(kafka.bootstrap, pipeline)) >= traffic.sent, 20, runs[-1], "to decide all events")

    assert sorted(firsts(kafka.bootstrap, pipeline).values()) == [1] * traffic.sent, "every event has one first record"
    made = traffic.decisions()
    for name, (began, ended) in spans.items():
        after = ended + RECOVERY + 1.0
        stale = [at for at, body in made if began <= at < after and body["degraded"]]
        print(f"{name}: stale {min(stale) - began:.2f} s after it began, well {max(stale) - ended:.2f} s after its end")
        assert said(made, began - 1.0, began) == said(made, ended + RECOVERY, after) == [[]]
        assert said(made, began + MAX_AGE + STALE_WITHIN, ended) == [STALE]
        kept = [body["features"]["person_visits"] for at, body in made if began - 1.0 <= at < after]
        assert min(kept) >= 0, "the last that is known stands in"


def until_well(traffic: Traffic, run: Launched) -> None:
    wait(lambda: [body["degraded"] for _, body in traffic.decisions()[-RATE:]] == [[]] * RATE, 30, run, "to read views")


def said(made: list[tuple[float, Any]], start: float, stop: float) -> list[list[str]]:
    """What decisions of a span had to do without, each once."""
    return [list(each) for each in sorted({tuple(body["degraded"]) for at, body in made if start <= at < stop})]
