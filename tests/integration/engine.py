"""A pipeline on the session's Kafka and Redis, run by the real engine, and read by one who knows only the topics.

with running("claims", kafka, redis_url, unique("claims"), tmp_path) as engine:
origins = engine.send([(key, value, headers), ...])
firsts = engine.first_records(len(origins))
"""

from __future__ import annotations

import json
import re
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition

from console.demo_releases import Releases
from console.embedded import KafkaServer
from console.scenery import Engine, Servers, load_features, seal_key
from console.topics import topics_of
from dataflows.pipeline import Pipeline, load

ROOT = Path(__file__).resolve().parents[2]
PIPELINES = ROOT / "deploy" / "pipelines"
FIRSTS = ("decisions", "rejected", "quarantine", "duplicates")
"""Topics of first records; each event has exactly one, in one of them."""

Event: TypeAlias = "tuple[bytes | None, bytes | None, Sequence[tuple[str, bytes | None]]]"
"""Key, value and headers, as a producer gives them."""
Origin: TypeAlias = "tuple[int, int]"
"""Partition and offset of an event."""


@dataclass(frozen=True, slots=True)
class First:
    """A first record as a committed reader sees it."""

    role: str
    lane: int
    key: bytes | None
    headers: dict[str, bytes]
    body: Any


class Running:
    """An engine at work on topics of its own."""

    def __init__(
        self, servers: Servers, pipeline: Pipeline, engine: Engine, *, key: str, slots: int, lanes: int
    ) -> None:
        self.servers, self.pipeline, self.engine, self.key, self.slots = servers, pipeline, engine, key, slots
        self.records: dict[str, list[First]] = {}
        """Role to its records, each lane's in order."""
        self._roles = {pipeline.topic(role): role for role in (*FIRSTS, "reviews")}
        self._parts = [(name, lane) for name in self._roles for lane in range(lanes)]

    def send(self, events: Iterable[Event]) -> list[Origin]:
        """Produce like any client; gives the origin of each event, in the order given."""
        settings = {"partitioner": "murmur2_random", "linger.ms": 5, "enable.idempotence": True}
        producer = Producer({**self.servers.connection, **settings})
        origins: dict[int, Origin] = {}
        for number, (key, value, headers) in enumerate(events):

            def delivered(error: Any, message: Any, number: int = number) -> None:
                assert error is None, error
                origins[number] = message.partition(), message.offset()

            producer.produce(self.pipeline.topic("events"), value, key, headers=list(headers), on_delivery=delivered)
            producer.poll(0)
        assert producer.flush(30) == 0
        return [origins[number] for number in range(len(origins))]

    def first_records(self, events: int, timeout: float = 120.0) -> dict[Origin, list[First]]:
        """Wait until `events` first records are committed, stop the engine, and give all there are by origin.

        Fails when that takes longer than `timeout` seconds, or when the engine died or was started again.
        """
        deadline = time.monotonic() + timeout
        with self._reader() as reader:
            seen = 0
            while seen < events:
                seen += sum(first is not None and first.role in FIRSTS for first in self._read(reader))
                if time.monotonic() > deadline or not self.engine.running:
                    pytest.fail(f"{seen} of {events} first records came; the engine said:\n{self.engine.tail()}")
        while not (slots := self.engine.slots()):  # the launcher is busy
            assert time.monotonic() < deadline + 30, "the launcher does not tell of its slots"
        assert [(row["state"], row["restarts"]) for row in slots] == [("running", 0)] * self.slots, self.engine.tail()
        self.engine.stop()
        self.records = defaultdict(list)
        with self._reader() as reader:  # from the first record on, once more, with what came after the last one seen
            ended = 0
            while ended < len(self._parts):
                assert time.monotonic() < deadline + 30, f"{ended} of {len(self._parts)} partitions have an end"
                for first in self._read(reader):
                    if first is None:
                        ended += 1
                    else:
                        self.records[first.role].append(first)
        by_origin: dict[Origin, list[First]] = defaultdict(list)
        for first in (first for role in FIRSTS for first in self.records[role]):
            origin = first.body["origin"]
            assert origin["topic"] == self.pipeline.topic("events")
            by_origin[origin["partition"], origin["offset"]].append(first)
        return dict(by_origin)

    @contextmanager
    def _reader(self) -> Iterator[Consumer]:
        reader = Consumer(
            {
                **self.servers.connection,
                "group.id": f"{self.pipeline.pipeline}-reader",
                "isolation.level": "read_committed",
                "enable.partition.eof": True,
                "auto.offset.reset": "error",
                "fetch.wait.max.ms": 20,
            }
        )
        try:
            reader.assign([TopicPartition(name, lane, 0) for name, lane in self._parts])
            yield reader
        finally:
            reader.close()

    def _read(self, reader: Consumer) -> list[First | None]:
        """Give the records that there are, and None for each end of a partition."""
        found: list[First | None] = []
        for message in reader.consume(2000, 0.1):
            if message.error() is not None:
                assert message.error().code() == KafkaError._PARTITION_EOF, message.error()
                found.append(None)
                continue
            headers, body = dict(message.headers() or []), json.loads(message.value())
            found.append(First(self._roles[message.topic()], message.partition(), message.key(), headers, body))
        return found


def own_copy(name: str, called: str, folder: Path) -> Path:
    """Copy a pipeline of the repository so that it shares no topic with any other; gives the file.

    Redis is waited for as long as a busy machine needs: tests of what is decided ask nothing about its speed.
    """
    text = (PIPELINES / name / "pipeline.yaml").read_text(encoding="utf-8")
    mine = called.replace("-", "_")
    assert text.count(f"\npipeline: {name}\n") == 1
    assert "\ntopics:" not in text
    file = folder / "pipeline.yaml"
    patient, changed = re.subn(r"(\nenrich:\n  timeout: )\S+", r"\g<1>2s", text)
    text = patient if changed else f"{text}enrich: {{ timeout: 2s }}\n"
    file.write_text(
        text.replace(f"\npipeline: {name}\n", f"\npipeline: {mine}\n")
        + f"\ntopics: {{ registry: {mine}.registry, admissions: {mine}.admissions }}\n"
    )
    return file


@contextmanager
def running(
    name: str,
    kafka: KafkaServer,
    redis_url: str,
    called: str,
    folder: Path,
    *,
    slots: int = 1,
    lanes: int = 4,
    seed: int = 7,
    events: int = 1000,
) -> Iterator[Running]:
    """Run a pipeline of the repository, with its first releases in force and its views filled.

    Args:
        name: of the folder in `deploy/pipelines`.
        kafka, redis_url: the session's.
        called: what this copy of the pipeline, its topics and its group are called.
        folder: for its file, artefacts and log.
        slots: processes.
        lanes: partitions.
        seed, events: what the generator is asked for, which determines the features.
    """
    file = own_copy(name, called, folder)
    pipeline = load(file)
    servers = Servers("kafka", "exactly_once", "the session's", kafka.bootstrap, redis_url)
    kafka.create_topics(topics_of(pipeline, lanes))
    artefacts = folder / "artefacts"
    artefacts.mkdir()
    key = seal_key()
    engine = Engine(file, servers, slots=slots, key=key, artefacts=artefacts, folder=folder)
    try:
        engine.start()
        load_features(servers, pipeline, import_module(f"deploy.pipelines.{name}.{name}"), seed, events)
        releases = Releases(PIPELINES / name / "models", pipeline, servers.connection, artefacts)
        releases.publish("1")
        engine.wait_until_ready()
        releases.wait_until_in_force(alive=lambda: engine.running)
        yield Running(servers, pipeline, engine, key=key, slots=slots, lanes=lanes)
    finally:
        engine.stop()
