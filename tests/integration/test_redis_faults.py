"""Faults of a real Redis under load: every event is decided within the time, what was lacking is said, and no more."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn, TypeAlias

import pytest
import redis
from confluent_kafka import TopicPartition

from console.embedded import KafkaServer, PartMissing
from console.ports import free_port
from console.redis_server import RedisServer
from console.topics import topics_of
from dataflows.pipeline import load
from state.feature_writer import FeatureWriter, RedisFailed
from state.features import FeatureStore
from state.views import LoadedView
from tests.integration import redis_faults as faults
from tests.integration.enriching import KEYS, batch, enricher_of, fill, lacking, timed
from tests.integration.launched import LANES, _read, firsts, launched, send, small_pipeline
from tests.integration.redis_faults import Fault, Place
from tests.integration.relay import Relay

TIMEOUT, SLACK = 0.25, 0.1
"""Seconds that a read may take, and what a busy machine of two cores adds to a batch."""
PACE = 0.01
"""Between batches, as in a slot: else the quick ones, while the breaker is open, would hide the others."""
RECOVERY = 5.0
Redis: TypeAlias = tuple[RedisServer, Relay]


@pytest.fixture
def server(tmp_path: Path, absent: Callable[[str], NoReturn]) -> Iterator[RedisServer]:
    try:
        server = RedisServer(tmp_path / "redis")
    except PartMissing as missing:
        absent(f"a real Redis cannot be started: {missing}")
    with server:
        yield server


@pytest.fixture
def redis_behind(server: RedisServer, relay: Relay) -> Redis:
    return server, relay


@pytest.fixture
def relay(server: RedisServer) -> Iterator[Relay]:
    relay = Relay(free_port(), server.port)
    yield relay
    relay.close()


def place_of(server: RedisServer, relay: Relay, filling: Callable[[str], None], *keys: str) -> Place:
    place = Place(server, relay, f"redis://127.0.0.1:{relay.port}/0", filling, keys)
    filling(server.url)
    return place


def percentile(seconds: list[float], share: float) -> float:
    return sorted(seconds)[min(int(len(seconds) * share), len(seconds) - 1)]


@pytest.mark.parametrize(
    "fault",
    [
        faults.killed,
        faults.stopped,
        faults.trickling,
        *faults.LACKING_NONE,
        faults.wrong_type,
        pytest.param(faults.slow, marks=pytest.mark.long),  # to a reader much like `trickling`
        pytest.param(faults.cut, marks=pytest.mark.long),  # and like `killed`
    ],
    ids=lambda fault: fault.__name__,
)
def test_enrich_meets_a_fault(fault: Fault, server: RedisServer, relay: Relay, until: Callable[..., None]) -> None:
    broken = KEYS[3:6]
    place = place_of(server, relay, fill, *(f"penstock:claims:holder:{key}" for key in broken))
    store = FeatureStore.connect(place.url, "claims", timeout=TIMEOUT, failures=2, reset=1.0, max_age=0.0)
    enricher, took = enricher_of(store), []

    def lacks() -> list[str]:
        done, seconds = timed(enricher)
        took.append(seconds)
        return lacking(done)  # which says that exactly those have their default

    try:
        until(lambda: not lacks(), "it is read", timeout=5)
        took.clear()
        with fault(place):
            began, seen = time.monotonic(), []
            while time.monotonic() < began + 1.0:
                seen.append(lacks())
                time.sleep(PACE)
            if fault in faults.LACKING_NONE:
                assert seen == [[]] * len(seen)
                writer = FeatureWriter.connect(place.url, "claims", timeout=1.0)
                with pytest.raises(RedisFailed):
                    writer.put([(b"penstock:claims:holder:new", b"v" * 40, None)])
                writer.close()
            else:
                assert seen[-1] == (KEYS if fault in faults.LACKING_ALL else broken)
        ended = time.monotonic()
        until(lambda: not lacks(), "it recovers by itself", timeout=RECOVERY)
        recovered = time.monotonic() - ended
        while time.monotonic() < ended + recovered + 0.5:
            assert not lacks(), "and stays so"
            time.sleep(PACE)
    finally:
        store.close()
    worst = percentile(took, 0.99)
    print(f"{fault.__name__}: {len(took)} batches, p99 {worst:.3f} s, most {max(took):.3f}, well after {recovered:.2f}")
    assert worst <= TIMEOUT + SLACK


def test_a_time_out_holds_for_all_of_a_read(server: RedisServer, relay: Relay, until: Callable[..., None]) -> None:
    """Drop by drop, each within the time-out, an answer may not take longer than it."""
    place = place_of(server, relay, fill)
    store = FeatureStore.connect(place.url, "claims", timeout=TIMEOUT, max_age=0.0)
    enricher = enricher_of(store)
    until(lambda: not lacking(enricher.work(batch())), "it is read", timeout=5)
    with faults.trickling(place):
        done, seconds = timed(enricher)
    store.close()

    assert lacking(done) == KEYS
    assert TIMEOUT <= seconds < TIMEOUT + SLACK


def test_a_connection_that_the_server_closed_costs_no_value_until_retries_run_out(server: RedisServer) -> None:
    """As after `timeout` in redis.conf: the batch that meets it asks once more, on a new connection."""
    fill(server.url)
    store = FeatureStore.connect(server.url, "claims", timeout=1.0, failures=100, max_age=0.0)
    enricher, lacked = enricher_of(store), []
    with redis.Redis.from_url(server.url) as client:
        for _ in range(30):
            client.client_kill_filter(_type="normal", skipme=True)
            lacked.append(bool(lacking(enricher.work(batch()))))
    store.close()

    assert lacked[:10] == [False] * 10
    assert sum(lacked[10:]) >= 3, "a server that closes every connection is not asked twice each time"


def test_what_is_no_value_of_the_view_is_said_and_harms_no_other_row(server: RedisServer) -> None:
    fill(server.url)
    names = [f"penstock:claims:holder:{key}" for key in KEYS]
    with redis.Redis.from_url(server.url) as client:
        client.delete(*names[:1], *names[3:4])
        client.rpush(names[0], "a list")
        client.set(names[1], os.urandom(64))
        client.set(names[2], LoadedView("holder", (("other", "number"),)).pack(1, [2.0]))
    store = FeatureStore.connect(server.url, "claims", timeout=5.0, max_age=0.0)
    done = enricher_of(store).work(batch())
    store.close()

    assert lacking(done) == KEYS[:4]
    assert [what for (what,) in done.degraded[:4]] == [
        f"view:holder:{lack}" for lack in ("missing", "unavailable", "unavailable", "missing")
    ]


# --- The whole engine ------------------------------------------------------------------------------------------------

VIEWS = """
views:
  person:
    key: who
    features: { visits: number }
    on_missing: default
    on_stale: last_known
    defaults: { visits: -1 }
enrich:
  timeout: 100ms
  cache: { entries: 0, max_age: 0s }
"""
PERSON = LoadedView("person", (("visits", "number"),))
RATE = 200
BUDGET = 1.0
"""Seconds from append to decision: 0.1 for Redis, the rest for the other stages and the commits of two busy cores."""


def _fill_people(pipeline: str) -> Callable[[str], None]:
    def filling(url: str) -> None:
        writer = FeatureWriter.connect(url, pipeline)
        now = int(time.time() * 1000)
        writer.load(PERSON, [(f"W-{n}", now, [float(n)]) for n in range(50)])
        writer.close()

    return filling


def read(bootstrap: str, topic: str) -> list[Any]:
    return list(_read(bootstrap, [TopicPartition(topic, lane, 0) for lane in range(LANES)]))


@pytest.mark.parametrize(
    "fault",
    [
        faults.stopped,
        *(
            pytest.param(fault, marks=pytest.mark.long)
            for fault in (*faults.LACKING_ALL, *faults.LACKING_NONE, faults.wrong_type)
            if fault is not faults.stopped
        ),
    ],
    ids=lambda f: f.__name__,
)
def test_the_engine_meets_a_fault(
    fault: Fault, kafka: KafkaServer, unique: Callable[[str], str], tmp_path: Path, redis_behind: Redis
) -> None:
    server, relay = redis_behind
    file = small_pipeline(unique("fault"), tmp_path, VIEWS)
    logged = file.read_text().replace("amount > 100", "amount > 100 OR person_visits > 1000")  # what a rule uses
    file.write_text(logged)
    pipeline = load(file)
    kafka.create_topics(topics_of(pipeline, LANES))
    people = [f"W-{n}" for n in range(3)]
    place = place_of(
        server,
        relay,
        _fill_people(pipeline.pipeline),
        *(f"penstock:{pipeline.pipeline}:person:{who}" for who in people),
    )
    ending, sent = threading.Event(), [0]

    def flow() -> None:
        while not ending.wait(20 / RATE):
            send(kafka.bootstrap, pipeline, 20, first=sent[0])
            sent[0] += 20

    with launched(file, kafka.bootstrap, tmp_path, REDIS=place.url) as run:
        run.until_ready()
        events = threading.Thread(target=flow, daemon=True)
        events.start()
        try:
            time.sleep(1.0)
            with fault(place):
                began = time.time()
                time.sleep(2.0)
            ended = time.time()
            time.sleep(3.5)
        finally:
            ending.set()
            events.join(30)
        until = time.monotonic() + 20
        while len(found := firsts(kafka.bootstrap, pipeline)) < sent[0] and time.monotonic() < until:
            time.sleep(0.2)

    asked = {
        (message.partition(), message.offset()): message.timestamp()[1] / 1000
        for message in read(kafka.bootstrap, pipeline.topic("events"))
    }
    made = [
        (message.timestamp()[1] / 1000, json.loads(message.value()))
        for message in read(kafka.bootstrap, pipeline.topic("decisions"))
    ]
    assert sorted(found.values()) == [1] * sent[0], "every event has one first record"
    named = {"view:person:unavailable", "view:person:missing"}
    for _, body in made:
        assert (body["features"]["person_visits"] == -1) == bool(named & set(body["degraded"]))
    lacked = [at for at, body in made if body["degraded"]]
    within = [at for at in lacked if began <= at <= ended]
    if fault in faults.LACKING_NONE:
        assert not lacked
    else:
        assert len(within) > 100 if fault in faults.LACKING_ALL else within
        assert max(lacked) - ended < RECOVERY
        assert not [at for at in lacked if at < began - 0.5]
    assert not [body["degraded"] for _, body in sorted(made, key=lambda each: each[0])[-100:] if body["degraded"]]
    worst = percentile([at - asked[body["origin"]["partition"], body["origin"]["offset"]] for at, body in made], 0.99)
    print(f"{fault.__name__}: {len(made)} decisions, {len(lacked)} degraded, p99 {worst:.3f} s")
    assert worst <= BUDGET
