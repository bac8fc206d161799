"""Train the payments pipeline's releases on an earlier part of the stream: other seeds than any that is replayed.

    python -m deploy.pipelines.payments.train

* `fraud-1.onnx`: a scaler and a logistic regression on few payments.
* `fraud-2.onnx`: the same on many.
* `shadows/fraud-river-1.river`: the same, taught one payment after the other; to be published as a shadow of `fraud`.

The generator knows each payment's true probability, so the best AUC there can be is printed beside the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from river import linear_model, optim, preprocessing
from river.base import Estimator
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline as Steps
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from dataflows.pipeline import Pipeline, load
from deploy.pipelines.payments.history import Table, table
from deploy.pipelines.payments.payments import auc
from deploy.pipelines.training import Rows, Values, fit, to_onnx, write
from models.online import OnlineModel, dump
from models.onnx import OnnxModel

HERE = Path(__file__).parent
MODELS = HERE / "models"
TRAINING_SEED, TEST_SEED = 7_001, 7_002
FEW, MANY, TEST = 4_000, 40_000, 20_000
"""Payments."""


def train_fraud(rows: Rows, fraud: Values) -> Steps:
    """A logistic regression on inputs that the pipeline has put on the scales on which risks multiply."""
    steps: Steps = fit(make_pipeline(StandardScaler(), LogisticRegression()), rows, fraud)
    return steps


def train_online(found: Table, inputs: Sequence[str]) -> Estimator:
    """The same, one payment after the other."""
    model = preprocessing.StandardScaler() | linear_model.LogisticRegression(optimizer=optim.SGD(0.01))
    for row, fraud in zip(found.rows.tolist(), found.fraud.tolist(), strict=True):
        model.learn_one(dict(zip(inputs, row, strict=True)), bool(fraud))
    return model


def build(pipeline: Pipeline) -> dict[str, bytes]:
    """Train everything; file name to content. Before the planted drift: nobody trains on what comes later."""
    found, inputs = table(pipeline, TRAINING_SEED, MANY, drift=False), pipeline.models["fraud"].inputs
    few, many = (train_fraud(found.rows[:first], found.fraud[:first]) for first in (FEW, MANY))
    return {
        "fraud-1.onnx": to_onnx(few, inputs, "fraud"),
        "fraud-2.onnx": to_onnx(many, inputs, "fraud"),
        "shadows/fraud-river-1.river": dump(train_online(found, inputs), inputs),
    }


def report(pipeline: Pipeline, files: dict[str, bytes]) -> None:
    """Print each release's AUC on payments of another seed, beside the best there can be."""
    found, inputs = table(pipeline, TEST_SEED, TEST, drift=False), pipeline.models["fraud"].inputs
    print(f"{TEST} other payments, {int(found.fraud.sum())} of them fraud    AUC")
    figures = {"the true probability: the best there can be": found.p}
    for name, content in files.items():
        loaded = (OnnxModel if name.endswith(".onnx") else OnlineModel).load(content, inputs)
        figures[name] = loaded.score(found.rows)
    for name, scores in figures.items():
        print(f"{name:45} {auc(scores, found.fraud):.4f}")


def main() -> None:
    """Train, write and report."""
    pipeline = load(HERE / "pipeline.yaml")
    files = build(pipeline)
    for name, content in files.items():
        write(MODELS / name, content)
    report(pipeline, files)


if __name__ == "__main__":
    main()
