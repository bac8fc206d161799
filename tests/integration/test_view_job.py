"""The job `views` on a real broker and a real Redis: late, stopped, and a Redis that loses everything."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
import redis
from confluent_kafka import Producer
from typer.testing import CliRunner

from console.cli import app
from console.embedded import KafkaServer, PartMissing
from console.redis_server import RedisServer
from dataflows.pipeline import Pipeline
from dataflows.views import view_of
from operators.batch import Batch
from operators.enrich import Enricher, ViewRule
from operators.window import step_of
from state.entities import entity_key
from state.features import FeatureStore
from state.key_windows import KeyWindows
from state.murmur2 import lanes_of
from state.tide import KEY, STEP, pack_tide
from state.windowed_view import WindowedView
from tests.integration.launched import LANES, launched, small_on

MAX_AGE = 2.0
VIEWS = f"""
views:
  person:
    key: who
    windows: {{ visits: {{ function: count, window: 1h }} }}
    max_age: {MAX_AGE:g}s
    on_missing: default
    on_stale: last_known
    defaults: {{ visits: -1 }}
"""
PEOPLE = [f"W-{n}" for n in range(50)]
EACH = 3
"""Visits of each person."""


class Feed:
    """The changelog as the job `features` would write it: values once, and the tides of all lanes all the time."""

    def __init__(self, bootstrap: str, pipeline: Pipeline, view: WindowedView) -> None:
        self._producer = Producer({"bootstrap.servers": bootstrap, "linger.ms": 2, "log_level": 0})
        self._topic, self._ending = pipeline.topic("features"), threading.Event()
        self._values(view)
        self._thread = threading.Thread(target=self._tides, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._ending.set()
        self._thread.join(10)
        assert self._producer.flush(10) == 0

    def _values(self, view: WindowedView) -> None:
        windows, now = KeyWindows(view.windows), round(time.time() * 1000)
        windows.restore({})
        n = len(PEOPLE)
        for visit in range(EACH):
            at = [now - 60_000 * (visit + 1)] * n
            windows.observe(PEOPLE, at, behind_ms=[0] * n, values={}, lanes=[0] * n, offsets=range(n))
        lanes = lanes_of([who.encode() for who in PEOPLE], LANES).tolist()
        for who, lane, value in zip(PEOPLE, lanes, windows.read(PEOPLE), strict=True):
            self._producer.produce(self._topic, value, step_of("person").encode() + b"\0" + entity_key(who), lane)

    def _tides(self) -> None:
        while not self._ending.wait(0.1):
            for lane in range(LANES):
                tide = pack_tide(round(time.time() * 1000))
                self._producer.produce(self._topic, tide, STEP.encode() + b"\0" + KEY, lane)
            self._producer.poll(0)


@pytest.fixture
def server(tmp_path: Path, absent: Callable[[str], NoReturn]) -> Iterator[RedisServer]:
    try:
        server = RedisServer(tmp_path / "redis")
    except PartMissing as missing:
        absent(f"a real Redis cannot be started: {missing}")
    with server:
        yield server


def test_values_follow_their_changelog_and_say_stale_when_they_do_not(
    kafka: KafkaServer, unique: Callable[[str], str], tmp_path: Path, server: RedisServer
) -> None:
    file, pipeline = small_on(kafka, unique("views"), tmp_path, VIEWS)
    view = view_of(pipeline, "person")
    assert isinstance(view, WindowedView)
    store = FeatureStore.connect(server.url, pipeline.pipeline, timeout=1.0, entries=100, max_age=0.5)
    rule = ViewRule(view, "who", max_age=MAX_AGE, defaults={"visits": -1})
    enricher = Enricher(store, [rule])

    def said() -> tuple[set[tuple[str, ...]], set[float]]:
        """What a decision about everybody, and about somebody unknown, has to do without, and how many visits."""
        n = len(PEOPLE) + 1
        now = np.full(n, round(time.time() * 1000))
        done = enricher.work(
            Batch(
                "events", np.zeros(n, np.int32), np.arange(n), now, [None] * n, [b""] * n, [[]] * n,
                event_ms=now, columns={"who": [*PEOPLE, "nobody"]}, degraded=[()] * n,
            )
        )  # fmt: skip
        return set(done.degraded), set(np.asarray(done.columns["person_visits"]).tolist())

    well: Any = ({()}, {float(EACH), 0.0})
    stale: Any = ({("view:person:stale",)}, {float(EACH), 0.0})

    def within(seconds: float, wanted: Any, what: str) -> float:
        began = time.monotonic()
        while (found := said()) != wanted:
            assert time.monotonic() < began + seconds, f"{what}: {found} after {seconds} s"
            time.sleep(0.02)
        return time.monotonic() - began

    assert said() == ({("view:person:missing",)}, {-1.0}), "without tides nothing is known"
    feed = Feed(kafka.bootstrap, pipeline, view)
    try:
        with launched(file, kafka.bootstrap, tmp_path, JOB="views", REDIS=server.url) as run:
            run.until_ready()
            within(10, well, "written")
            with redis.Redis.from_url(server.url) as client:
                client.flushall()
            print(f"an emptied Redis is whole again after {within(10, well, 'written again'):.2f} s")
            assert "Redis has lost values" in run.said()
            server.kill()
            run_waits(run)
            server.start()
            print(f"a Redis that came back empty is whole after {within(10, well, 'written once more'):.2f} s")
        stopped = time.monotonic()
        within(MAX_AGE + 1.0, stale, "stale")
        print(f"without a writer all is stale after {time.monotonic() - stopped:.2f} s; max_age is {MAX_AGE:g} s")
        with redis.Redis.from_url(server.url) as client:
            client.flushall()
        options = ["--pipeline", str(file), "--redis", server.url, "--bootstrap", kafka.bootstrap, "--json"]
        told = json.loads(CliRunner().invoke(app, ["features", "rebuild", *options]).stdout)
        within(2, well, "rebuilt")
        assert told["changelogs"][pipeline.topic("features")]["newer"] == len(PEOPLE)
        again = json.loads(CliRunner().invoke(app, ["features", "rebuild", *options]).stdout)
        assert again["changelogs"][pipeline.topic("features")]["newer"] == 0
    finally:
        feed.close()
        store.close()


def run_waits(run: Any) -> None:
    """Until the writer has said that Redis does not take values, and is not ready."""
    deadline = time.monotonic() + 10
    while "Redis does not take values" not in run.said() or run.page("/readyz"):
        assert time.monotonic() < deadline, run.said()[-3000:]
        time.sleep(0.05)
