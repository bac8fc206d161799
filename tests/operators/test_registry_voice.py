"""The voice of a slot: what was lost on the way is said again until it has come back, and nothing else is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from models.acceptance import Acceptances
from models.history import Entry, History
from models.release import ActivationRecord, AdmissionRecord, HeartbeatRecord, ReleaseRecord, read_answer, read_registry
from operators.admitter import Answered
from operators.registry_voice import RegistryTopics, Voice

Told = Callable[[None, "Wire"], None]
TOPICS = RegistryTopics("registry", "admissions")


class Wire:
    """A producer whose records arrive, or are lost."""

    def __init__(self, heard: Acceptances) -> None:
        self.heard, self.lost = heard, False
        self.sent: list[tuple[str, bytes | None]] = []
        self.arrived = 0

    def produce(
        self,
        topic: str,
        value: bytes | None,
        key: bytes,
        *,
        partition: int,
        on_delivery: Told | None = None,
    ) -> None:
        assert partition == 0
        self.sent.append((topic, value))
        if self.lost:
            return
        if topic == TOPICS.admissions:
            self.heard.add(key, value, 1_000)
            self.arrived += 1
        if on_delivery is not None:
            on_delivery(None, self)

    def poll(self, timeout: float) -> int:
        return 0

    def offset(self) -> int:
        """As a message: of the record that arrived last."""
        return self.arrived - 1


class Scene:
    def __init__(self, *, owns: bool = False) -> None:
        self.at = 0.0
        self.heard = Acceptances("claims")
        self.wire = Wire(self.heard)
        self.voice = Voice("g-0", self.heard, TOPICS, lambda: owns, lambda: self.at)
        self.voice.begin(self.wire)  # type: ignore[arg-type]
        self.history = History("claims", 0)

    def publish(self, version: str) -> int:
        record = ReleaseRecord(
            pipeline="claims",
            model="m",
            version=version,
            format="onnx",
            sha256="0" * 64,
            size=1,
            uri="u",
            inputs=("a",),
        )
        return self.append(record)

    def append(self, record: ReleaseRecord | ActivationRecord) -> int:
        of = self.history.next_offset
        self.history = self.history.then([Entry(of, 0, record.to_bytes())])
        return of

    def speak(self, *answers: Answered, after: float = 2.0) -> list[Any]:
        """Speak once, a while later; give what was sent but heartbeats."""
        self.at += after
        self.wire.sent.clear()
        self.voice.speak(self.history, answers, self.wire.arrived)
        read = [(read_registry if topic == "registry" else read_answer)(value) for topic, value in self.wire.sent]
        return [record for record in read if not isinstance(record, HeartbeatRecord)]


@pytest.fixture
def scene() -> Scene:
    return Scene()


def offsets(records: list[Any]) -> list[int]:
    assert all(isinstance(record, AdmissionRecord) for record in records)
    return [record.of for record in records]


def test_voice_repeats_an_answer_that_did_not_come_back(scene: Scene) -> None:
    of = scene.publish("1")
    scene.wire.lost = True
    assert offsets(scene.speak(Answered(of, None))) == [of]
    assert offsets(scene.speak(after=0.5)) == []
    assert offsets(scene.speak(after=1.5)) == [of]
    scene.voice.begin(scene.wire)  # type: ignore[arg-type]  # new clients after an error
    scene.wire.lost = False

    assert offsets(scene.speak(after=0.0)) == [of]
    assert scene.heard.answers(of)["g-0"].accepted
    assert scene.speak() == []


def test_voice_repeats_where_the_topic_shows_another_answer_of_an_earlier_life(scene: Scene) -> None:
    of = scene.publish("1")
    refused = AdmissionRecord(pipeline="claims", of=of, slot="g-0", accepted=False)
    scene.heard.add(refused.key(), refused.to_bytes(), 0)
    scene.wire.lost = True
    scene.speak(Answered(of, None))
    scene.wire.lost = False

    assert offsets(scene.speak()) == [of]
    assert scene.heard.answers(of)["g-0"].accepted


def test_voice_forgets_answers_once_a_change_waits_no_more() -> None:
    scene = Scene()
    ofs = [scene.publish(str(n)) for n in range(3)]
    scene.speak(*(Answered(of, None) for of in ofs))
    scene.wire.lost = True
    scene.append(ActivationRecord(pipeline="claims", of=ofs[2]))

    assert scene.speak() == []
    assert all(not scene.heard.answers(of) for of in ofs)


def test_voice_activates_what_all_accept_and_repeats_it_until_it_is_in_the_log() -> None:
    scene = Scene(owns=True)
    of = scene.publish("1")
    scene.speak(Answered(of, None))

    def activations(records: list[Any]) -> list[int]:
        return [record.of for record in records if isinstance(record, ActivationRecord)]

    assert activations(scene.speak(after=0.25)) == [of], "once its own heartbeat has come back"
    assert activations(scene.speak(after=0.25)) == []
    assert activations(scene.speak(after=5.0)) == [of]
    scene.append(ActivationRecord(pipeline="claims", of=of))
    assert scene.speak(after=10.0) == []
