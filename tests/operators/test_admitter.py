"""The admitter: no release ends its thread, and a shadow never keeps a slot from deciding."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from models.admission import Answer, Place, Refused
from models.artefacts import ArtefactStore
from models.catalog import Catalog
from models.history import Entry, Release
from models.release import ActivationRecord, RefusalReason, ReleaseRecord, ReleaseRole
from operators.admitter import Admitter, Answered
from tests.models import onnx_files


class Desk:
    """A catalog, the log behind it and an admitter at work."""

    def __init__(self, folder: Path) -> None:
        self.store = ArtefactStore(str(folder))
        self.catalog = Catalog("claims", [Place("severity", ("a", "b"))], self.store, delay_ms=0)
        self.at = 0.0
        self.admitter = Admitter(self.catalog, now=lambda: self.at)
        self.answers: dict[int, Answered] = {}
        self.offset = 0

    def publish(
        self, version: str, data: bytes, *, stored: bool = True, active: bool = False, role: ReleaseRole = "champion"
    ) -> Release:
        record = ReleaseRecord(
            pipeline="claims", model="severity", version=version, role=role, format="onnx", size=len(data),
            sha256=hashlib.sha256(data).hexdigest(), inputs=("a", "b"),
            uri=self.store.put(data, ".onnx") if stored else "gone",
        )  # fmt: skip
        of = self.append(record)
        if active:
            self.append(ActivationRecord(pipeline="claims", of=of))
        return self.catalog.history.releases["severity", version]

    def append(self, record: ReleaseRecord | ActivationRecord) -> int:
        self.catalog.follow([Entry(self.offset, 0, record.to_bytes())])
        self.offset += 1
        return self.offset - 1

    def want(self) -> None:
        self.admitter.want(self.catalog.needed(1), self.catalog.history.pending(), self.catalog.optional(1))

    def heard(self, of: int) -> bool:
        self.answers |= {answered.of: answered for answered in self.admitter.take()}
        return of in self.answers


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    desk = Desk(tmp_path / "store")
    yield desk
    desk.admitter.stop()


def test_admitter_goes_on_after_a_release_that_raises_anything(
    desk: Desk, until: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = onnx_files.linear([1, 2], metadata={"feature_names": "[" * 200_000})
    bad, wild = desk.publish("bad", deep), desk.publish("wild", onnx_files.linear([1, 1]))
    good = desk.publish("good", onnx_files.linear([1, 2]))
    admit = Catalog.admit

    def admit_or_raise(catalog: Catalog, release: Release) -> Answer:
        if release.version == "wild":
            raise LookupError("not foreseen by anybody")
        return admit(catalog, release)

    monkeypatch.setattr(Catalog, "admit", admit_or_raise)
    desk.want()
    desk.admitter.start()

    until(lambda: desk.heard(good.offset), "the answer to the good release")
    assert desk.answers[good.offset].accepted
    for release, raised in ((bad, "RecursionError"), (wild, "LookupError")):
        answer = desk.answers[release.offset].answer
        assert isinstance(answer, Refused)
        assert answer.reason == RefusalReason.BROKEN_FILE
        assert raised in answer.detail


def test_admitter_needs_the_champion_and_only_mentions_a_shadow(desk: Desk, until: Callable[..., None]) -> None:
    champion = desk.publish("1", onnx_files.linear([1, 2]), active=True)
    desk.publish("2", onnx_files.linear([3, 4]), active=True, role="shadow", stored=False)
    desk.want()
    assert desk.admitter.missing() == "release 1 of severity is in force: it is being loaded"
    desk.admitter.start()

    until(lambda: "fetch_failed" in (desk.admitter.missing_shadows() or ""), "the shadow tried")

    assert desk.catalog.has(champion)
    assert desk.admitter.missing() is None
    assert "shadow: release 2 of severity" in (desk.admitter.missing_shadows() or "")


def test_admitter_tries_a_shadow_again(desk: Desk, until: Callable[..., None]) -> None:
    data = onnx_files.linear([3, 4])
    shadow = desk.publish("2", data, active=True, role="shadow")
    (Path(desk.store.root) / shadow.record.uri).unlink()
    desk.want()
    desk.admitter.start()
    until(lambda: "fetch_failed" in (desk.admitter.missing_shadows() or ""), "the shadow tried in vain")

    desk.store.put(data, ".onnx")
    desk.at += 60

    until(lambda: desk.admitter.missing_shadows() is None, "the shadow loaded")
    assert desk.catalog.has(shadow)


def test_admitter_tries_what_it_refused_once_it_is_in_force(desk: Desk, until: Callable[..., None]) -> None:
    """The others may activate what this slot refused: then it must load it, or say why it cannot."""
    release = desk.publish("1", onnx_files.linear([1, 2]))
    path = Path(desk.store.root) / release.record.uri
    data = path.read_bytes()
    path.write_bytes(b"changed")
    desk.want()
    desk.admitter.start()
    until(lambda: desk.heard(release.offset), "the refusal")
    assert not desk.answers[release.offset].accepted

    desk.append(ActivationRecord(pipeline="claims", of=release.offset))
    desk.want()
    until(lambda: "sha256" in (desk.admitter.missing() or ""), "the reason in words")
    path.write_bytes(data)
    desk.at += 60

    until(lambda: desk.admitter.missing() is None, "the release loaded")
