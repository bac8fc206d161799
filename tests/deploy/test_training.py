"""The committed releases are what the training scripts make, and they are admitted by the pipelines that use them."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from dataflows.pipeline import load
from deploy.pipelines.claims import train as claims
from deploy.pipelines.payments import train as payments
from deploy.pipelines.training import errors, rows_for
from models.admission import Accepted, Place, admit
from models.admission import load as load_model
from models.artefacts import ArtefactStore
from models.release import ReleaseRecord

PIPELINES = {"claims": load(claims.HERE / "pipeline.yaml"), "payments": load(payments.HERE / "pipeline.yaml")}
FILES = [
    ("claims", "severity", "severity-1.onnx"),
    ("claims", "severity", "severity-2.onnx"),
    ("claims", "severity_online", "severity_online-1.river"),
    ("payments", "fraud", "fraud-1.onnx"),
    ("payments", "fraud", "fraud-2.onnx"),
    ("payments", "fraud", "shadows/fraud-river-1.river"),
]


def folder(pipeline: str) -> Path:
    return (claims if pipeline == "claims" else payments).MODELS


@cache
def built(pipeline: str) -> dict[str, bytes]:
    if pipeline == "claims":
        return claims.build(claims.read(), PIPELINES["claims"])
    return payments.build(PIPELINES["payments"])


@pytest.mark.parametrize(("pipeline", "model", "file"), FILES)
def test_training_makes_the_committed_releases(pipeline: str, model: str, file: str) -> None:
    inputs = PIPELINES[pipeline].models[model].inputs
    kind = "onnx" if file.endswith(".onnx") else "river"
    rows = (np.random.default_rng(1).random((500, len(inputs))) * 10.0 ** np.arange(500)[:, None].clip(0, 5)).astype(
        "f4"
    )

    committed = load_model(kind, (folder(pipeline) / file).read_bytes(), inputs).score(rows)
    made = load_model(kind, built(pipeline)[file], inputs).score(rows)

    np.testing.assert_allclose(made, committed, rtol=1e-5)


@pytest.mark.parametrize(("pipeline", "model", "file"), FILES)
def test_training_makes_releases_that_are_admitted(pipeline: str, model: str, file: str) -> None:
    spec, data = PIPELINES[pipeline].models[model], (folder(pipeline) / file).read_bytes()
    record = ReleaseRecord(
        pipeline=pipeline,
        model=model,
        version="1",
        format="onnx" if file.endswith(".onnx") else "river",
        sha256=hashlib.sha256(data).hexdigest(),
        size=len(data),
        uri=file,
        inputs=spec.inputs,
    )
    place = Place(model, spec.inputs, spec.budget.total_seconds() * 1e3)

    answer = admit(record, {model: place}, ArtefactStore(str(folder(pipeline))))

    assert isinstance(answer, Accepted), answer
    assert len(data) < 300_000


def test_training_takes_only_claims_that_were_closed_and_none_that_is_replayed() -> None:
    data = claims.read()

    for first in (data.training // 2, data.training):
        known = claims.known(data, first)
        assert known.max() < first
        assert (data.closed[known] < data.reported[first]).all()


def test_training_makes_releases_that_beat_a_constant_on_later_claims() -> None:
    data, pipeline = claims.read(), PIPELINES["claims"]
    later = slice(data.training, None)
    truth = data.paid[later]
    constant = np.full(len(truth), data.paid[claims.known(data, data.training)].mean())

    error = {}
    for file, model in (("severity-1.onnx", "severity"), ("severity-2.onnx", "severity")):
        loaded = load_model("onnx", (claims.MODELS / file).read_bytes(), pipeline.models[model].inputs)
        error[file] = errors(truth, loaded.score(claims.rows(data, pipeline, model)[later]))[0]

    assert error["severity-2.onnx"] < error["severity-1.onnx"] < errors(truth, constant)[0]


def test_training_computes_inputs_as_the_pipeline_does() -> None:
    columns = {
        "line": ["Home", "Auto"],
        "policy_limit": np.array([200_000.0, 0.0]),
        "deductible": np.array([20_000.0, 500.0]),
        "accident_date": np.array([14_000.0, 14_000.0]),
        "report_date": np.array([14_010.0, 14_000.0]),
        "holder_claims_3y": np.array([1.0, 0.0]),
        "holder_paid_3y": np.array([5.0, 0.0]),
        "holder_tenure_days": np.array([100.0, 1.0]),
    }

    rows = rows_for(PIPELINES["claims"], "severity", columns, 2)

    assert rows.tolist() == [
        [1.0, 200_000.0, 20_000.0, pytest.approx(0.1), 10.0, 1.0, 5.0, 100.0],
        [0.0, 0.0, 500.0, 1.0, 0.0, 0.0, 0.0, 1.0],
    ]
