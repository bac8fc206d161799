"""Admission: a good release is accepted with figures, and each kind of bad one is refused by its name."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from river import compose, linear_model, preprocessing

from models import online
from models.admission import Accepted, Place, Refused, admit, load, try_out
from models.artefacts import ArtefactStore
from models.release import ModelRefused, RefusalReason, ReleaseRecord
from tests.models import onnx_files

PLACES = {"severity": Place("severity", ("a", "b"))}


def published(folder: Path, data: bytes, **changes: Any) -> tuple[ReleaseRecord, ArtefactStore]:
    store = ArtefactStore(str(folder))
    fields = {
        "pipeline": "claims",
        "model": "severity",
        "version": "1",
        "format": "onnx",
        "sha256": hashlib.sha256(data).hexdigest(),
        "size": max(1, len(data)),
        "uri": store.put(data, ".onnx"),
        "inputs": ("a", "b"),
    }
    return ReleaseRecord(**(fields | changes)), store


def test_admission_accepts_and_measures(tmp_path: Path) -> None:
    release, store = published(tmp_path, onnx_files.linear([1, 2]))

    answer = admit(release, PLACES, store)

    assert isinstance(answer, Accepted)
    assert answer.model.score(np.array([[1, 1]], np.float32)).tolist() == [3.0]
    assert set(answer.figures) == {"fetch_ms", "load_ms", "us_per_event_1", "us_per_event_256"}


def test_admission_accepts_river(tmp_path: Path) -> None:
    model = preprocessing.StandardScaler() | linear_model.LinearRegression()
    release, store = published(tmp_path, online.dump(model, ["a", "b"]), format="river")

    assert isinstance(admit(release, PLACES, store), Accepted)


@pytest.mark.parametrize(
    ("data", "changes", "reason"),
    [
        (onnx_files.linear([1, 2]), {"model": "fraud"}, RefusalReason.UNKNOWN_MODEL),
        (onnx_files.linear([1, 2]), {"inputs": ("b", "a")}, RefusalReason.INPUT_NAMES),
        (onnx_files.linear([1, 2]), {"sha256": "0" * 64}, RefusalReason.SHA256),
        (onnx_files.linear([1, 2]), {"uri": "gone"}, RefusalReason.FETCH_FAILED),
        (onnx_files.linear([1, 2]), {"format": "river"}, RefusalReason.BROKEN_FILE),
        (onnx_files.linear([1]), {}, RefusalReason.INPUT_SHAPE),
        (b"garbage", {}, RefusalReason.BROKEN_FILE),
        (onnx_files.linear([1, 2], bias=float("nan")), {}, RefusalReason.NOT_FINITE),
        (onnx_files.mean_of_batch(), {}, RefusalReason.ROWS_DEPEND),
    ],
)
def test_admission_refuses_by_name(tmp_path: Path, data: bytes, changes: dict[str, Any], reason: RefusalReason) -> None:
    release, store = published(tmp_path, data, **changes)

    answer = admit(release, PLACES, store)

    assert isinstance(answer, Refused)
    assert answer.reason == reason
    assert answer.detail


def test_a_release_that_reads_what_it_was_not_granted_is_refused_before_it_is_fetched(tmp_path: Path) -> None:
    release, store = published(tmp_path, onnx_files.linear([1, 2]), uri="gone")

    answer = admit(release, {"severity": Place("severity", ("a", "b"), closed=("b",))}, store)

    assert isinstance(answer, Refused)
    assert answer.reason == RefusalReason.NOT_GRANTED
    assert "b: not granted to severity" in answer.detail


def river(model: Any) -> bytes:
    return online.dump(model, ["a", "b"])


def pipeline_without_steps() -> Any:
    model = compose.Pipeline(linear_model.LinearRegression())
    model.steps.clear()
    return model


def pipeline_without_attributes() -> Any:
    model = compose.Pipeline(linear_model.LinearRegression())
    del model.__dict__["steps"]
    return model


@pytest.mark.parametrize(
    ("data", "kind", "raised"),
    [
        (river(pipeline_without_steps()), "river", "IndexError"),
        (river(pipeline_without_attributes()), "river", "AttributeError"),
        (b"[" * 200_000 + b"\n", "river", "RecursionError"),
        (onnx_files.linear([1, 2], metadata={"feature_names": "[" * 200_000}), "onnx", "RecursionError"),
    ],
    ids=["no steps", "no attributes", "deep header", "deep metadata"],
)
def test_admission_refuses_what_raises_where_nobody_foresaw_it(
    tmp_path: Path, data: bytes, kind: str, raised: str
) -> None:
    release, store = published(tmp_path, data, format=kind)

    answer = admit(release, PLACES, store)

    assert isinstance(answer, Refused)
    assert answer.reason == RefusalReason.BROKEN_FILE
    assert raised in answer.detail
    with pytest.raises(ModelRefused, match=raised):
        load(kind, data, ["a", "b"])


def test_admission_never_raises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    release, store = published(tmp_path, onnx_files.linear([1, 2]))

    def fetch(*_: object) -> bytes:
        raise MemoryError

    monkeypatch.setattr(ArtefactStore, "fetch", fetch)
    answer = admit(release, PLACES, store)

    assert isinstance(answer, Refused)
    assert "MemoryError" in answer.detail


class Slow:
    """Takes a second a row, by a clock that it moves itself."""

    def __init__(self) -> None:
        self.at = 0.0

    def score(self, rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        self.at += len(rows)
        return np.zeros(len(rows))


def test_admission_refuses_what_is_over_budget() -> None:
    slow = Slow()

    with pytest.raises(ModelRefused) as refused:
        try_out(slow, PLACES["severity"], {}, lambda: slow.at)

    assert refused.value.reason == RefusalReason.TOO_SLOW


def test_admission_refuses_what_raises() -> None:
    class Raises:
        def score(self, rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
            raise ZeroDivisionError

    with pytest.raises(ModelRefused) as refused:
        try_out(Raises(), PLACES["severity"], {})

    assert refused.value.reason == RefusalReason.TRIAL_ERROR


def test_admission_tries_rows_with_missing_values() -> None:
    class RaisesOnMissing:
        def score(self, rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
            if np.isnan(rows).any():
                raise KeyError
            return np.zeros(len(rows))

    with pytest.raises(ModelRefused, match="with missing values") as refused:
        try_out(RaisesOnMissing(), PLACES["severity"], {})

    assert refused.value.reason == RefusalReason.TRIAL_ERROR


def test_admission_refuses_what_lets_a_missing_value_reach_other_rows() -> None:
    class Spreads:
        def score(self, rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
            return np.full(len(rows), np.nan if np.isnan(rows).any() else 1.0)

    with pytest.raises(ModelRefused) as refused:
        try_out(Spreads(), PLACES["severity"], {})

    assert refused.value.reason == RefusalReason.ROWS_DEPEND
