"""Releases on a real broker: published, admitted by every slot, activated, in force at the same instant everywhere."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from console.kafka_server import KafkaServer
from console.mock_kafka import MockKafka
from console.topics import Topic
from models.admission import Place
from models.artefacts import ArtefactStore
from models.catalog import Catalog
from models.release import (
    ActivationRecord,
    AdmissionRecord,
    HeartbeatRecord,
    PromotionRecord,
    RefusalReason,
    ReleaseRecord,
    read_answer,
    read_registry,
)
from operators import registry_follower
from operators.registry_follower import RegistryFollower, RegistryTopics
from tests.models import onnx_files

DELAY_MS = 400
PLACE = Place("severity", ("a", "b"))


class World:
    """A registry of its own on the session's broker, an artefact store, and the slots that follow it."""

    def __init__(
        self, kafka: KafkaServer, folder: Path, unique: Callable[[str], str], until: Callable[..., None]
    ) -> None:
        self.kafka, self.until = kafka, until
        self.topics = RegistryTopics(unique("registry"), unique("admissions"))
        self.pipeline = "claims"
        self.store = ArtefactStore(str(folder))
        self.connection = {"bootstrap.servers": kafka.bootstrap}
        self.slots: list[RegistryFollower] = []
        kafka.create_topics(
            {
                self.topics.registry: Topic(1, {"retention.ms": "-1"}),
                self.topics.admissions: Topic(1, {"cleanup.policy": "compact"}),
            }
        )

    def slot(self, number: int, *, owns: bool = False, store: ArtefactStore | None = None) -> RegistryFollower:
        catalog = Catalog(self.pipeline, [PLACE], store or self.store, delay_ms=DELAY_MS)
        follower = RegistryFollower(
            catalog, slot=f"g-{number}", connection=self.connection, owns_lane_zero=lambda: owns, topics=self.topics
        )
        follower.start()
        self.slots.append(follower)
        return follower

    def append(self, *records: Any, topic: str | None = None) -> list[int]:
        """Append records; give their offsets."""
        offsets: list[int] = []
        producer = Producer(self.connection)
        for record in records:
            key = record.key() if hasattr(record, "key") else None
            producer.produce(
                topic or self.topics.registry, record.to_bytes(), key, partition=0,
                on_delivery=lambda error, message: offsets.append(message.offset()),
            )  # fmt: skip
        assert producer.flush(10) == 0
        return offsets

    def release(self, version: str, data: bytes, **changes: Any) -> ReleaseRecord:
        fields = {
            "pipeline": self.pipeline,
            "model": "severity",
            "version": version,
            "format": "onnx",
            "sha256": hashlib.sha256(data).hexdigest(),
            "size": len(data),
            "uri": self.store.put(data, ".onnx"),
            "inputs": ("a", "b"),
        }
        return ReleaseRecord(**(fields | changes))

    def read(self, topic: str) -> list[Any]:
        """Every record of a topic now, as the pair of append time and record."""
        consumer = Consumer({**self.connection, "group.id": "reader", "auto.offset.reset": "earliest"})
        at = TopicPartition(topic, 0)
        _, end = consumer.get_watermark_offsets(at, timeout=10)
        consumer.assign([TopicPartition(topic, 0, 0)])
        found: list[Any] = []
        while len(found) < end:
            found += consumer.consume(end - len(found), 1)
        consumer.close()
        read = read_registry if topic == self.topics.registry else read_answer
        return [(message.timestamp()[1], read(message.value())) for message in found]

    def answers(self, of: int) -> dict[str, AdmissionRecord]:
        records = [record for _, record in self.read(self.topics.admissions)]
        return {record.slot: record for record in records if isinstance(record, AdmissionRecord) and record.of == of}


@pytest.fixture
def mock_world(tmp_path: Path, unique: Callable[[str], str], until: Callable[..., None]) -> Iterator[World]:
    """On librdkafka's mock cluster, which has no transactions and takes the producer's time for the broker's."""
    with MockKafka(tmp_path / "mock") as kafka:
        world = World(kafka, tmp_path / "store", unique, until)
        yield world
        for follower in world.slots:
            follower.stop()


@pytest.fixture
def world(
    kafka: KafkaServer, tmp_path: Path, unique: Callable[[str], str], until: Callable[..., None]
) -> Iterator[World]:
    world = World(kafka, tmp_path / "store", unique, until)
    yield world
    for follower in world.slots:
        follower.stop()


def champion(follower: RegistryFollower, at_ms: int = 10**15) -> str | None:
    found = follower.catalog.in_force("severity", at_ms).champion
    return None if found is None else found.version


def test_releases_swap_at_the_same_instant_in_every_slot(world: World) -> None:
    first, second = world.slot(0, owns=True), world.slot(1)
    world.until(lambda: first.ready and second.ready, "two slots at the end of an empty registry")
    for version, weights in (("1", [1, 2]), ("2", [10, 20])):
        world.append(world.release(version, onnx_files.linear(weights)))
        world.until(lambda v=version: champion(first) == v == champion(second), f"release {version} in force in both")
    late = world.slot(2)
    world.until(lambda: late.ready, "a slot that starts later")

    activations = [at for at, record in world.read(world.topics.registry) if isinstance(record, ActivationRecord)]

    starts = tuple(at + DELAY_MS for at in activations)
    for follower in world.slots:
        assert follower.catalog.history.timelines["severity"].starts == starts
        assert [champion(follower, at) for at in (starts[0] - 1, starts[0], starts[1] - 1, starts[1])] == [
            None,
            "1",
            "1",
            "2",
        ]
    parts = late.catalog.parts("severity", np.array([starts[1] - 1, starts[1]], np.int64))
    scores = [late.catalog.model(part.in_force.champion).score(np.ones((1, 2), np.float32)).tolist() for part in parts]
    assert scores == [[3.0], [30.0]]


def test_releases_wait_for_every_live_slot(world: World) -> None:
    owner = world.slot(0, owns=True)
    world.until(lambda: owner.ready, "the owner")
    other = HeartbeatRecord(pipeline=world.pipeline, slot="g-9", next_offset=0)
    world.append(other, topic=world.topics.admissions)
    (of,) = world.append(world.release("1", onnx_files.linear([1, 2])))
    world.until(lambda: "g-0" in world.answers(of), "the owner's answer")
    seen = owner.seen_at
    world.until(lambda: owner.seen_at > seen + 1, "another second of following")
    assert champion(owner) is None

    world.append(
        AdmissionRecord(pipeline=world.pipeline, of=of, slot="g-9", accepted=True), topic=world.topics.admissions
    )

    world.until(lambda: champion(owner) == "1", "the release in force")


def test_releases_that_one_slot_refuses_are_not_activated(world: World, tmp_path: Path) -> None:
    empty = ArtefactStore(str(tmp_path / "empty"))
    owner, other = world.slot(0, owns=True), world.slot(1, store=empty)
    world.until(lambda: owner.ready and other.ready, "both slots")
    (of,) = world.append(world.release("1", onnx_files.linear([1, 2])))
    world.until(lambda: len(world.answers(of)) == 2, "both answers")
    seen = owner.seen_at
    world.until(lambda: owner.seen_at > seen + 1, "another second of following")

    answers = world.answers(of)

    assert answers["g-0"].accepted
    assert answers["g-0"].figures["us_per_event_256"] > 0
    assert (answers["g-1"].accepted, answers["g-1"].reason) == (False, RefusalReason.FETCH_FAILED)
    assert champion(owner) is None
    assert other.ready


def test_releases_are_refused_by_name(world: World) -> None:
    slot = world.slot(0, owns=True)
    good = onnx_files.linear([1, 2])
    bad = {
        RefusalReason.SHA256: world.release("a", good, sha256="0" * 64),
        RefusalReason.UNKNOWN_MODEL: world.release("b", good, model="nobody"),
        RefusalReason.INPUT_NAMES: world.release("c", good, inputs=("a", "c")),
        RefusalReason.INPUT_SHAPE: world.release("d", onnx_files.linear([1])),
        RefusalReason.BROKEN_FILE: world.release("e", b"garbage"),
        RefusalReason.NOT_FINITE: world.release("f", onnx_files.linear([1, 2], bias=float("nan"))),
    }
    offsets = world.append(*bad.values())
    (accepted,) = world.append(world.release("good", good))
    world.until(lambda: champion(slot) == "good", "the good release in force")

    assert {reason: world.answers(of)["g-0"].reason for reason, of in zip(bad, offsets, strict=True)} == {
        r: r for r in bad
    }
    assert world.answers(accepted)["g-0"].accepted
    registry = [record for _, record in world.read(world.topics.registry)]
    assert [record.of for record in registry if isinstance(record, ActivationRecord)] == [accepted]


def test_releases_change_roles_by_promotion(world: World) -> None:
    slot = world.slot(0, owns=True)
    world.append(
        world.release("1", onnx_files.linear([1, 2])), world.release("2", onnx_files.linear([3, 4]), role="shadow")
    )
    world.until(lambda: champion(slot) == "1", "the champion")
    world.until(lambda: [r.version for r in slot.catalog.in_force("severity", 10**15).shadows] == ["2"], "the shadow")

    world.append(PromotionRecord(pipeline=world.pipeline, model="severity", version="2", role="champion"))
    world.until(lambda: champion(slot) == "2", "the shadow promoted")
    world.append(PromotionRecord(pipeline=world.pipeline, model="severity", version="2", role="retired"))

    world.until(lambda: champion(slot) is None, "the champion retired")


def test_releases_in_force_that_cannot_be_loaded_make_a_slot_unready(world: World, tmp_path: Path) -> None:
    world.slot(0, owns=True)
    world.append(world.release("1", onnx_files.linear([1, 2])))
    world.until(lambda: champion(world.slots[0]) == "1", "the release in force")
    store = ArtefactStore(str(tmp_path / "later"))

    cut_off = world.slot(1, store=store)
    world.until(lambda: "fetch_failed" in (cut_off.trouble or ""), "the trouble in words")
    assert not cut_off.ready
    assert not cut_off.covers(time.monotonic())
    store.put(onnx_files.linear([1, 2]), ".onnx")

    world.until(lambda: cut_off.ready and cut_off.covers(time.monotonic()), "ready when the artefact is there")


def test_shadows_that_cannot_be_loaded_leave_a_slot_ready(world: World, tmp_path: Path) -> None:
    world.slot(0, owns=True)
    world.append(
        world.release("1", onnx_files.linear([1, 2])), world.release("2", onnx_files.linear([3, 4]), role="shadow")
    )
    world.until(lambda: len(world.slots[0].catalog.in_force("severity", 10**15).releases()) == 2, "both in force")
    half = ArtefactStore(str(tmp_path / "half"))
    half.put(onnx_files.linear([1, 2]), ".onnx")

    slot = world.slot(1, store=half)
    world.until(lambda: "fetch_failed" in (slot.notice or ""), "the shadow's failure in words")

    assert "release 2 of severity" in (slot.notice or "")
    world.until(lambda: slot.ready and slot.covers(time.monotonic()), "ready without the shadow")


def test_releases_are_known_again_after_the_broker_was_away(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Consumer] = []

    def consumer(*args: Any, **kwargs: Any) -> Consumer:
        made.append(Consumer(*args, **kwargs))
        return made[-1]

    monkeypatch.setattr(registry_follower, "Consumer", consumer)
    slot = world.slot(0, owns=True)
    world.until(lambda: slot.ready, "the slot")
    world.kafka.stop()
    try:
        world.until(lambda: not slot.covers(time.monotonic()), "nothing covered while the broker is away")
        world.until(lambda: "cannot be read" in (slot.trouble or ""), "trouble in words")
    finally:
        world.kafka.start()
    world.append(world.release("1", onnx_files.linear([1, 2])))

    world.until(lambda: champion(slot) == "1" and slot.ready, "the release in force", timeout=40)
    assert len(made) == 1, "an outage must not make a client for each attempt"


def test_releases_no_longer_wait_for_a_slot_that_left(world: World) -> None:
    owner, leaver = world.slot(0, owns=True), world.slot(1)
    world.until(lambda: owner.ready and leaver.ready, "both slots")
    leaver.stop()
    began = time.monotonic()
    world.append(world.release("1", onnx_files.linear([1, 2])))

    world.until(lambda: champion(owner) == "1", "the release in force")
    assert time.monotonic() - began < 8, "it must not wait for the heartbeat to grow old"


def test_releases_skip_what_they_do_not_know(world: World) -> None:
    class Future:
        def to_bytes(self) -> bytes:
            return json.dumps({"kind": "policy", "pipeline": "claims", "v": 7}).encode()

    slot = world.slot(0, owns=True)
    world.append(Future(), world.release("1", onnx_files.linear([1, 2])))

    world.until(lambda: champion(slot) == "1", "the release in force")
    assert slot.catalog.history.ignored == 1


def test_releases_work_on_the_mock_cluster(mock_world: World) -> None:
    first, second = mock_world.slot(0, owns=True), mock_world.slot(1)
    mock_world.until(lambda: first.ready and second.ready, "two slots")
    mock_world.append(mock_world.release("1", onnx_files.linear([1, 2])))

    mock_world.until(lambda: champion(first) == "1" == champion(second), "the release in force in both")
    assert first.catalog.history.timelines == second.catalog.history.timelines
