"""Real parts for the tests, and what every test can ask for.

A test that needs a part which is not on this machine is skipped and says why; with PENSTOCK_REQUIRE_REAL=1 it fails.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable, Iterator
from typing import NoReturn

import pytest
from hypothesis import settings

from console.embedded import KafkaServer, PartMissing, choose_redis
from console.kafka_cluster import KafkaCluster
from console.kafka_security import Security

settings.register_profile("same", deadline=None, derandomize=True, print_blob=True)
settings.register_profile("explore", deadline=None, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is marked `long`, and outside CI what is marked `ci`; the closing line counts it as deselected.

    A test on three brokers is such a one: to start them takes twenty seconds of both cores.
    """
    for item in items:
        if {"cluster", "secured"} & set(getattr(item, "fixturenames", ())):
            item.add_marker("ci")
    switches = {"long": "PENSTOCK_LONG", "ci": "PENSTOCK_REQUIRE_REAL"}
    left_out = [marker for marker, switch in switches.items() if os.environ.get(switch) != "1"]
    out = [item for item in items if any(map(item.get_closest_marker, left_out))]
    config.hook.pytest_deselected(items=out)
    items[:] = [item for item in items if item not in set(out)]


def _absent(reason: str) -> NoReturn:
    if os.environ.get("PENSTOCK_REQUIRE_REAL") == "1":
        pytest.fail(f"PENSTOCK_REQUIRE_REAL=1, but {reason}")
    pytest.skip(reason)


@pytest.fixture(scope="session")
def absent() -> Callable[[str], NoReturn]:
    """Call it with the reason when a real part is not here: the test is skipped, or fails where it must not be."""
    return _absent


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaServer]:
    """One real broker for the whole session: `bootstrap`, `create_topics`, `stop`, `kill`, `start`.

    A test that stops or kills it starts it again.
    """
    server = KafkaServer(tmp_path_factory.mktemp("kafka"))
    try:
        server.start()
    except PartMissing as missing:
        _absent(f"a real Kafka cannot be started: {missing}")
    yield server
    server.stop()


@pytest.fixture(scope="session")
def three_brokers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaCluster]:
    """Started when a test first asks for `cluster`."""
    yield from _cluster(KafkaCluster(tmp_path_factory.mktemp("cluster")))


@pytest.fixture
def cluster(three_brokers: KafkaCluster) -> Iterator[KafkaCluster]:
    """Three real brokers, replication 3, two of which must have a record. A test may leave them in any state."""
    yield three_brokers
    for broker in three_brokers.brokers.values():
        broker.resume()
    three_brokers.start()
    three_brokers.wait_until_in_sync()


@pytest.fixture(scope="session")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaCluster]:
    """Three brokers that encrypt, ask for user and password, and allow a user only what a test has granted."""
    folder = tmp_path_factory.mktemp("secured")
    yield from _cluster(KafkaCluster(folder, security=Security(folder / "clients")))


def _cluster(cluster: KafkaCluster) -> Iterator[KafkaCluster]:
    try:
        cluster.start()
    except PartMissing as missing:
        _absent(f"a real Kafka cannot be started: {missing}")
    yield cluster
    cluster.stop()


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of one real Redis or Valkey for the whole session. Use keys of your own: see `unique`."""
    try:
        server = choose_redis(tmp_path_factory.mktemp("redis"))
    except PartMissing as missing:
        _absent(f"a real Redis cannot be started: {missing}")
    with server:
        yield server.url


@pytest.fixture
def unique() -> Callable[[str], str]:
    """Makes a name that no other test uses: `unique("claims")` gives `claims-4f1c02aa`."""
    return lambda stem: f"{stem}-{uuid.uuid4().hex[:8]}"


@pytest.fixture
def topic_name(unique: Callable[[str], str]) -> str:
    """The name of a topic that does not exist yet."""
    return unique("topic")


@pytest.fixture
def until() -> Callable[..., None]:
    """Waits for a condition, or fails: `until(lambda: seen == 3, "three records", timeout=10)`."""

    def wait(condition: Callable[[], object], what: str, timeout: float = 20.0) -> None:
        deadline = time.monotonic() + timeout
        while not condition():
            if time.monotonic() > deadline:
                pytest.fail(f"waited {timeout:g} s for {what}")
            time.sleep(0.01)

    return wait
