"""The engine under load while its Redis meets a fault or fails over: nothing lost, `degraded` just where it lacked."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import redis
from confluent_kafka import TopicPartition

from console.embedded import KafkaServer
from console.ports import free_port
from console.topics import topics_of
from dataflows.pipeline import Pipeline, load
from state.feature_writer import FeatureWriter
from state.views import LoadedView
from tests.benchmarks.measure import percentile
from tests.integration import redis_faults as faults
from tests.integration.launched import LANES, _read, firsts, launched, small_pipeline, wait
from tests.integration.redis_faults import Fault, Place
from tests.integration.redis_kinds import Absent, behind_sentinel, cluster_of, server
from tests.integration.relay import Relay
from tests.integration.traffic import Traffic

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
PEOPLE = [f"W-{n}" for n in range(50)]
RATE = 200
BUDGET = 1.0
"""Seconds from append to decision: 0.1 for Redis, the rest for the other stages and the commits of two busy cores.
Where half of all took longer than a quarter of it before the fault, since the cores are busy: four times that."""
RECOVERY = 5.0
SECONDS = 2.0
"""How long a fault lasts."""
LAST = 100
"""Decisions, those of half a second, that must have all values in the end."""


@pytest.fixture
def pipeline(kafka: KafkaServer, unique: Callable[[str], str], tmp_path: Path) -> tuple[Path, Pipeline]:
    """File and pipeline, with topics; a rule uses what the view has."""
    file = small_pipeline(unique("fault"), tmp_path, VIEWS)
    file.write_text(file.read_text().replace("amount > 100", "amount > 100 OR person_visits > 1000"))
    pipeline = load(file)
    kafka.create_topics(topics_of(pipeline, LANES))
    return file, pipeline


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
    fault: Fault, kafka: KafkaServer, pipeline: tuple[Path, Pipeline], tmp_path: Path, absent: Absent
) -> None:
    name = pipeline[1].pipeline
    with server(tmp_path / "redis", absent) as redis_server:
        relay = Relay(free_port(), redis_server.port)
        url = f"redis://127.0.0.1:{relay.port}/0"
        broken = tuple(key(name, who) for who in PEOPLE[:3])
        place = Place(redis_server, relay, url, lambda url: fill(url, name), broken)
        fill(redis_server.url, name)
        try:
            seen = under_load(kafka, pipeline, url, tmp_path, fault(place))
        finally:
            relay.close()

    within = [at for at in seen.lacked if seen.began <= at <= seen.ended]
    if fault in faults.LACKING_NONE:
        assert not seen.lacked
    else:
        assert len(within) > 100 if fault in faults.LACKING_ALL else within
        assert max(seen.lacked) - seen.ended < RECOVERY
    seen.settled(fault.__name__)


@pytest.mark.ci
def test_the_engine_goes_on_at_the_new_master(
    kafka: KafkaServer, pipeline: tuple[Path, Pipeline], tmp_path: Path, absent: Absent, until: Callable[..., None]
) -> None:
    with behind_sentinel(tmp_path, absent, until) as (master, replica, url):
        fill(url, pipeline[1].pipeline)
        with redis.Redis.from_url(replica.url) as client:
            until(lambda: client.dbsize() == len(PEOPLE), "the replica has them", timeout=5)
        seen = under_load(kafka, pipeline, url, tmp_path, dying(master))

    assert seen.lacked, "until the Sentinel has chosen another"
    assert max(seen.lacked) - seen.began < RECOVERY
    seen.settled("Sentinel")


@pytest.mark.ci
def test_the_engine_goes_on_at_the_replica_of_a_node_of_a_cluster(
    kafka: KafkaServer, pipeline: tuple[Path, Pipeline], tmp_path: Path, absent: Absent, until: Callable[..., None]
) -> None:
    """Whose keys are on the other nodes is not degraded by it."""
    with cluster_of(tmp_path, absent, until) as nodes:
        url = "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in nodes)
        name = pipeline[1].pipeline
        fill(url, name)
        with redis.RedisCluster.from_url(f"redis://127.0.0.1:{nodes[1].port}") as client:
            first = {who for who in PEOPLE if client.get_node_from_key(key(name, who)).port == nodes[0].port}
        with redis.Redis.from_url(nodes[3].url) as client:
            until(lambda: client.dbsize() == len(first), "the replica has them", timeout=5)
        seen = under_load(kafka, pipeline, url, tmp_path, dying(nodes[0]))

    assert 0 < len(first) < len(PEOPLE)
    assert seen.lacked, "until the replica has taken over"
    assert max(seen.lacked) - seen.began < RECOVERY
    assert {body["entity"] for _, body in seen.made if body["degraded"]} <= first
    seen.settled("cluster")


@dataclass
class Seen:
    """Decisions, with the moments in Unix seconds at which they were appended."""

    began: float
    ended: float
    made: list[tuple[float, dict[str, Any]]]
    """In the order of those moments."""
    asked: dict[tuple[int, int], float]
    """Lane and offset of an event to when it was appended."""

    @property
    def lacked(self) -> list[float]:
        return _degraded(self.made)

    def settled(self, what: str) -> None:
        """Degraded exactly where a value was lacking, not before and not at the end; p99 within the budget."""
        named = {"view:person:unavailable", "view:person:missing"}
        for _, body in self.made:
            assert (body["features"]["person_visits"] == -1) == bool(named & set(body["degraded"]))
        assert not [at for at in self.lacked if at < self.began - 0.5]
        assert not _degraded(self.made[-LAST:])
        took = [(asked := self.asked[_origin(body)], at - asked) for at, body in self.made]
        usual = percentile([seconds for asked, seconds in took if asked < self.began], 0.5)
        p99 = percentile([seconds for asked, seconds in took if asked >= self.began], 0.99)
        after = max(self.lacked, default=self.began) - self.began
        lacked = f"{len(self.lacked)} degraded, until {after:.2f} s on"
        print(f"{what}: {len(took)} decisions, {lacked}; p99 {p99:.3f} s; usual {usual:.3f}")
        assert p99 <= max(BUDGET, 4 * usual)


def under_load(
    kafka: KafkaServer, on: tuple[Path, Pipeline], url: str, folder: Path, fault: AbstractContextManager[None]
) -> Seen:
    """Decide events at a steady rate before, during and after a fault; each has one first record."""
    file, pipeline = on

    def decisions() -> list[tuple[float, dict[str, Any]]]:
        made = [(_moment(each), json.loads(each.value())) for each in _all(kafka, pipeline.topic("decisions"))]
        return sorted(made, key=lambda one: one[0])

    with launched(file, kafka.bootstrap, folder, REDIS=url) as run:
        run.until_ready()
        with Traffic({"bootstrap.servers": kafka.bootstrap}, pipeline, RATE) as traffic:
            wait(lambda: len(traffic.seen) > RATE, 30, run, "to decide events for a second")
            with fault:
                began = time.time()
                time.sleep(SECONDS)  # the fault itself
            ended = time.time()

            def well_again() -> bool:
                last = decisions()[-LAST:]
                after = [origin for _, body in last if traffic.sent.get(origin := _origin(body), 0) > ended]
                return len(after) == LAST and not _degraded(last)

            wait(well_again, 30, run, "to have all values for what came after the fault")
        asked = {
            (message.partition(), message.offset()): _moment(message)
            for message in _all(kafka, pipeline.topic("events"))
        }
        wait(lambda: len(firsts(kafka.bootstrap, pipeline)) >= len(asked), 20, run, "to decide what is there")
    assert sorted(firsts(kafka.bootstrap, pipeline).values()) == [1] * len(asked), "every event has one first record"
    return Seen(began, ended, decisions(), asked)


def fill(url: str, pipeline: str) -> None:
    """Give each person a number of visits."""
    writer = FeatureWriter.connect(url, pipeline)
    now = int(time.time() * 1000)
    writer.load(PERSON, [(who, now, [float(n)]) for n, who in enumerate(PEOPLE)])
    writer.close()


def key(pipeline: str, who: str) -> str:
    return f"penstock:{pipeline}:person:{who}"


@contextmanager
def dying(node: Any) -> Iterator[None]:
    """A server that dies and does not come back."""
    node.kill()
    yield


def _all(kafka: KafkaServer, topic: str) -> list[Any]:
    return list(_read(kafka.bootstrap, [TopicPartition(topic, lane, 0) for lane in range(LANES)]))


def _origin(body: dict[str, Any]) -> tuple[int, int]:
    return body["origin"]["partition"], body["origin"]["offset"]


def _degraded(made: list[tuple[float, dict[str, Any]]]) -> list[float]:
    return [at for at, body in made if body["degraded"]]


def _moment(message: Any) -> float:
    return float(message.timestamp()[1] / 1000)
