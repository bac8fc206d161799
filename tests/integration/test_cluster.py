"""Faults of single brokers among three, replication 3, while `penstock run` decides events: it goes on by itself.

Each test injects one for real into the same run of two slots and asks two things of a reader that shares nothing with
the engine: that every event produced up to a moment after the fault gets its first record, and that none gets two.
PENSTOCK_LONG=1 repeats each with other brokers and longer pauses; `-s` shows how long events waited.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from console.kafka_cluster import KafkaCluster
from dataflows.pipeline import Pipeline
from tests.integration.launched import LANES, Launched, launched, small_on, wait
from tests.integration.traffic import Traffic

LONG = os.environ.get("PENSTOCK_LONG") == "1"
ROUNDS = range(3 if LONG else 1)
PAUSE = 25.0 if LONG else 4.0
"""Longer than the broker's session with the controllers (2 s); the long one also than the slots' sessions (10 s)."""
SLOTS = 2
pytestmark = pytest.mark.timeout(200)


@dataclass
class Running:
    """The engine under load."""

    run: Launched
    pipeline: Pipeline
    traffic: Traffic
    cluster: KafkaCluster

    def goes_on(self, fault: str, since: float, timeout: float = 60.0) -> None:
        """Every event up to now gets its first record, and none two."""
        now = time.time()
        wait(
            lambda: self.traffic.waiting(now) == 0, timeout, self.run, f"to decide what came before and during: {fault}"
        )
        restarts = {row["slot"]: row["restarts"] for row in self.run.table()}
        print(f"{fault}: worst event latency {self.traffic.worst(since):.2f} s; restarts of slots so far {restarts}")
        assert self.traffic.twice() == []


@pytest.fixture(scope="module")
def running(three_brokers: KafkaCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("faults")
    file, pipeline = small_on(three_brokers, "faults", folder)
    with launched(file, three_brokers.bootstrap, folder, slots=SLOTS) as run:
        run.until_ready()
        with Traffic(three_brokers.connection, pipeline) as traffic:
            running = Running(run, pipeline, traffic, three_brokers)
            wait(lambda: len(traffic.seen) > 100, 30, run, "to decide its first events")
            yield running
        print(run.said()[-4000:])


@pytest.mark.parametrize("n", ROUNDS)
def test_a_broker_is_killed(running: Running, cluster: KafkaCluster, n: int) -> None:
    """The leader of a lane, by SIGKILL; then it comes back."""
    victim = cluster.leader(running.pipeline.topic("events"), n % LANES)
    since = time.time()
    cluster[victim].kill()
    running.goes_on(f"broker {victim} killed", since)

    since = time.time()
    cluster[victim].start()
    cluster.wait_until_in_sync()
    running.goes_on(f"broker {victim} is back", since)


@pytest.mark.parametrize("n", ROUNDS)
def test_a_broker_hangs_longer_than_its_session_and_goes_on(running: Running, cluster: KafkaCluster, n: int) -> None:
    """By SIGSTOP: its connections stay open and nothing answers. It wakes up as a leader that is none any more."""
    victim = cluster.leader(running.pipeline.topic("decisions"), n % LANES)
    since = time.time()
    cluster[victim].pause()
    time.sleep(PAUSE)  # the fault itself
    running.goes_on(f"broker {victim} frozen for {PAUSE:g} s", since)
    cluster[victim].resume()
    cluster.wait_until_in_sync()
    running.goes_on(f"broker {victim} awake again", since)


@pytest.mark.parametrize("n", ROUNDS)
def test_leaders_move(running: Running, cluster: KafkaCluster, n: int) -> None:
    """Those of an input, an output and a state partition, in order, by Kafka's own tool."""
    since = time.time()
    for role in ("events", "decisions", "state"):
        topic = running.pipeline.topic(role)
        leader = cluster.leader(topic, n % LANES)
        other = next(node for node in cluster.brokers if node != leader)
        cluster.move_leader(topic, n % LANES, other)
    running.goes_on("three leaders moved", since)


@pytest.mark.parametrize("whose", ["transactions", "group"])
@pytest.mark.parametrize("n", ROUNDS)
def test_a_coordinator_is_killed_in_the_middle_of_a_commit(
    running: Running, cluster: KafkaCluster, until: Callable[..., None], whose: str, n: int
) -> None:
    """It is frozen first, until a commit waits for it, and then killed, so that the commit is certainly under way."""
    group = running.pipeline.pipeline
    victim = (
        cluster.transaction_coordinator(f"{group}-{n % SLOTS}")
        if whose == "transactions"
        else cluster.group_coordinator(group)
    )
    since = time.time()
    cluster[victim].pause()
    until(lambda: running.traffic.waiting(time.time() - 0.5) > 0, "a commit to wait for the coordinator")
    cluster[victim].kill()
    running.goes_on(f"coordinator of the {whose} (broker {victim}) killed in mid-commit", since)
    since = time.time()
    cluster[victim].start()
    cluster.wait_until_in_sync()
    running.goes_on("the coordinator is back", since)
