"""Artefacts: only the promised bytes, in time, and from inside the store."""

from __future__ import annotations

import hashlib
import io
import os
from pathlib import Path

import pytest

from models.artefacts import ArtefactStore
from models.release import MAX_ARTEFACT_BYTES, ModelRefused, RefusalReason

DATA = b"a model"
SHA = hashlib.sha256(DATA).hexdigest()


def refusal(store: ArtefactStore, uri: str, size: int = len(DATA), sha256: str = SHA) -> RefusalReason:
    with pytest.raises(ModelRefused) as refused:
        store.fetch(uri, size, sha256)
    return refused.value.reason


def test_artefacts_are_stored_once_under_their_content(tmp_path: Path) -> None:
    store = ArtefactStore(str(tmp_path / "store"))

    name = store.put(DATA, ".onnx")
    again = store.put(DATA, ".onnx")

    assert name == again == f"{SHA}.onnx"
    assert store.fetch(name, len(DATA), SHA) == DATA
    assert os.listdir(tmp_path / "store") == [name]


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_artefacts_are_found_by_path_and_by_url(tmp_path: Path, scheme: str) -> None:
    (tmp_path / "m.onnx").write_bytes(DATA)

    assert ArtefactStore(f"{scheme}{tmp_path}").fetch("m.onnx", len(DATA), SHA) == DATA
    assert ArtefactStore("/nowhere").fetch(f"file://{tmp_path}/m.onnx", len(DATA), SHA) == DATA


def test_artefacts_live_in_any_fsspec_store() -> None:
    store = ArtefactStore("memory://models")

    assert store.fetch(store.put(DATA, ".river"), len(DATA), SHA) == DATA


def test_artefacts_that_are_not_what_was_promised_are_refused(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(DATA)
    store = ArtefactStore(str(tmp_path))

    assert refusal(store, "m.onnx", sha256="0" * 64) == RefusalReason.SHA256
    assert refusal(store, "m.onnx", size=len(DATA) - 1) == RefusalReason.SHA256
    assert refusal(store, "m.onnx", size=len(DATA) + 1) == RefusalReason.SHA256
    assert refusal(store, "m.onnx", size=MAX_ARTEFACT_BYTES + 1) == RefusalReason.TOO_LARGE
    assert refusal(store, "gone.onnx") == RefusalReason.FETCH_FAILED
    assert refusal(store, "nosuchscheme://x") == RefusalReason.FETCH_FAILED


@pytest.mark.parametrize("uri", ["../m.onnx", "/etc/passwd", "a/../../m.onnx", "simplecache::file:///etc/passwd"])
def test_artefacts_outside_the_store_are_refused(tmp_path: Path, uri: str) -> None:
    (tmp_path / "m.onnx").write_bytes(DATA)
    (tmp_path / "store").mkdir()

    assert refusal(ArtefactStore(str(tmp_path / "store")), uri) == RefusalReason.FETCH_FAILED


def test_artefacts_without_an_end_are_not_read_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    class Endless(io.RawIOBase):
        given = 0

        def read(self, n: int = -1) -> bytes:
            self.given += n
            return b"x" * n

    endless = Endless()
    monkeypatch.setattr("fsspec.open", lambda *_: endless)

    assert refusal(ArtefactStore("/store"), "m.onnx", size=5_000_000) == RefusalReason.SHA256
    assert endless.given == 5_000_001


def test_artefacts_that_hang_are_given_up(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)  # opening it waits for a writer that never comes
    store = ArtefactStore(str(tmp_path), timeout=0.05)

    reasons = [refusal(store, "pipe") for _ in range(6)]

    assert set(reasons) == {RefusalReason.FETCH_TIMEOUT}
    assert len(store._hung) == 4
    os.close(os.open(pipe, os.O_RDWR | os.O_NONBLOCK))
