"""Train the claims pipeline's releases on the first claims by report date; the replay uses the later ones.

    python -m deploy.pipelines.claims.train

* `severity-1.onnx`: a forest, on what was known half-way through the training claims.
* `severity-2.onnx`: the same on what was known at the end of them: the release that the demo publishes half-way.
* `severity_online-1.river`: a scaler and a linear model, taught one claim after the other as they closed.

"Known" means closed: nobody has the outcome of an open claim. The truth is `TotalPayment`. `ClaimLiability` is the
label in disguise and is not read at all. A policyholder's history is that of the claims closed before the report.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np
import numpy.typing as npt
from river import linear_model, optim, preprocessing
from river.base import Estimator
from sklearn.ensemble import RandomForestRegressor

from dataflows.pipeline import Pipeline, load
from deploy.pipelines.claims import claims
from deploy.pipelines.training import Rows, Values, errors, fit, rows_for, to_onnx, write
from models.online import OnlineModel, dump
from models.onnx import OnnxModel

HERE = Path(__file__).parent
MODELS = HERE / "models"
_EPOCH = date(1970, 1, 1)


@dataclass(frozen=True, slots=True)
class Data:
    """All claims in the order of their report."""

    claims: Sequence[claims.Claim]
    training: int
    """The first so many are for training."""
    paid: Values
    """(n,) the truth."""
    closed: npt.NDArray[np.int64]
    """(n,) days since 1970."""
    reported: npt.NDArray[np.int64]


def read() -> Data:
    """Read the file."""
    every = claims.read()
    return Data(
        every,
        len(claims.split(every)[0]),
        np.array([claim.paid for claim in every]),
        np.array([(claim.closed_on - _EPOCH).days for claim in every]),
        np.array([(claim.report_date - _EPOCH).days for claim in every]),
    )


def rows(data: Data, pipeline: Pipeline, model: str) -> Rows:
    """(n, f) the inputs of a model for every claim, as they were known at its report."""
    histories = claims.histories(data.claims)
    columns = {
        "line": [claim.line for claim in data.claims],
        "claim_type": [claim.claim_type for claim in data.claims],
        "policy_limit": np.array([claim.policy_limit for claim in data.claims]),
        "deductible": np.array([claim.deductible for claim in data.claims]),
        "accident_date": np.array([float((claim.accident_date - _EPOCH).days) for claim in data.claims]),
        "report_date": data.reported.astype(np.float64),
        "holder_claims_3y": np.array([history.claims_3y for history in histories]),
        "holder_paid_3y": np.array([history.paid_3y for history in histories]),
        "holder_tenure_days": np.array([history.tenure_days for history in histories]),
    }
    return rows_for(pipeline, model, columns, len(data.claims))


def known(data: Data, first: int) -> npt.NDArray[np.int64]:
    """Of the first claims, those that were closed when the next one was reported."""
    return np.flatnonzero(data.closed[:first] < data.reported[first])


def train_severity(data: Data, inputs: Rows, first: int) -> RandomForestRegressor:
    """A small forest on what was known after the first claims. Its answers are means of payments, so never negative."""
    usable = known(data, first)
    learner = RandomForestRegressor(40, max_leaf_nodes=64, min_samples_leaf=5, max_features=0.6, random_state=0)
    return fit(learner, inputs[usable], data.paid[usable])


def train_online(data: Data, inputs: Rows, names: Sequence[str]) -> Estimator:
    """A linear model, one claim after the other as they closed.

    With a squared error one rare, large claim throws the weights so far that the next ones never bring them back; with
    Huber's, an error counts in full only up to 20,000.
    """
    learner = linear_model.LinearRegression(optimizer=optim.SGD(0.005), loss=optim.losses.Huber(20_000.0))
    model = preprocessing.StandardScaler() | learner
    usable = known(data, data.training)
    for at in usable[np.argsort(data.closed[usable], kind="stable")].tolist():
        model.learn_one(dict(zip(names, inputs[at].tolist(), strict=True)), data.paid[at])
    return model


def build(data: Data, pipeline: Pipeline) -> dict[str, bytes]:
    """Train everything; file name to content."""
    severity, online = pipeline.models["severity"].inputs, pipeline.models["severity_online"].inputs
    inputs = rows(data, pipeline, "severity")
    taught = train_online(data, rows(data, pipeline, "severity_online"), online)
    return {
        "severity-1.onnx": to_onnx(train_severity(data, inputs, data.training // 2), severity, "severity"),
        "severity-2.onnx": to_onnx(train_severity(data, inputs, data.training), severity, "severity"),
        "severity_online-1.river": dump(taught, online),
    }


def report(data: Data, pipeline: Pipeline, files: dict[str, bytes]) -> None:
    """Print each release's error on the claims that are replayed, beside that of a constant."""
    later = slice(data.training, None)
    truth = data.paid[later]
    mean = math.fsum(data.paid[known(data, data.training)]) / len(known(data, data.training))
    print(f"{len(truth)} later claims, none of them trained on   RMSE     MAE")
    figures = {"a constant, the mean of what was known": np.full(len(truth), mean)}
    for name, content in files.items():
        model = name.rpartition("-")[0]
        inputs = pipeline.models[model].inputs
        loaded = (OnnxModel if name.endswith(".onnx") else OnlineModel).load(content, inputs)
        figures[name] = loaded.score(rows(data, pipeline, model)[later])
    for name, predicted in figures.items():
        rmse, mae = errors(truth, predicted)
        print(f"{name:42} {rmse:9.0f} {mae:7.0f}")


def main() -> None:
    """Train, write and report."""
    pipeline, data = load(HERE / "pipeline.yaml"), read()
    files = build(data, pipeline)
    for name, content in files.items():
        write(MODELS / name, content)
    report(data, pipeline, files)


if __name__ == "__main__":
    main()
