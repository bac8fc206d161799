"""Faults of a real Redis under load: every event is decided within the time, what was lacking is said, and no more."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn, TypeAlias

import pytest
import redis

from console.embedded import PartMissing
from console.ports import free_port
from console.redis_server import RedisServer
from state.feature_writer import FeatureWriter, RedisFailed
from state.features import FeatureStore
from state.views import LoadedView
from tests.integration import redis_faults as faults
from tests.integration.enriching import KEYS, batch, enricher_of, fill, lacking, timed
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
