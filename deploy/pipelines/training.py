"""What the pipelines' training scripts share: inputs computed as the pipeline computes them, files, and figures.

Derived features come from the pipeline file itself, by the same expressions that run in production, so training and
serving cannot differ.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from onnx import helper
from skl2onnx import convert_sklearn
from skl2onnx.common.data_types import FloatTensorType
from threadpoolctl import threadpool_limits

from dataflows.pipeline import Pipeline
from models.expressions import Expressions

Rows = npt.NDArray[np.float32]
Values = npt.NDArray[np.float64]


class Learner(Protocol):
    """An estimator in the manner of scikit-learn."""

    def fit(self, rows: Rows, truth: Values) -> Any:
        """Learn from rows (n, f) and their truth (n,)."""


def rows_for(pipeline: Pipeline, model: str, columns: Mapping[str, Any], n: int) -> Rows:
    """The inputs of a model as it gets them in production.

    Args:
        pipeline: the pipeline.
        model: one of its models.
        columns: all columns before derived features, as in a batch: numbers (n,), texts as lists.
        n: rows.

    Returns:
        (n, f) float32, NaN for missing.
    """
    derived = Expressions.compile(pipeline.features, pipeline.columns, "number").numbers(columns, n)
    every = {**columns, **derived}
    return np.column_stack([np.asarray(every[name], np.float64) for name in pipeline.models[model].inputs]).astype(
        np.float32
    )


def fit(learner: Learner, rows: Rows, truth: Values) -> Any:
    """Fit with one thread, so that sums are added in the same order everywhere."""
    with threadpool_limits(1):
        return learner.fit(rows, truth)


def to_onnx(model: Any, inputs: Sequence[str], name: str) -> bytes:
    """Write a scikit-learn model as ONNX with its inputs' names in the file; the same model gives the same bytes."""
    options = {id(model): {"zipmap": False}} if hasattr(model, "predict_proba") else None
    converted = convert_sklearn(
        model,
        name=name,
        initial_types=[("inputs", FloatTensorType([None, len(inputs)]))],
        target_opset={"": 18, "ai.onnx.ml": 3},
        options=options,
    )
    helper.set_model_props(converted, {"feature_names": json.dumps(list(inputs))})
    return bytes(converted.SerializeToString(deterministic=True))


def write(path: Path, data: bytes) -> None:
    """Write a release file and say how large it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    print(f"{path.name}: {len(data) / 1000:.0f} kB")


def errors(truth: Values, predicted: Values) -> tuple[float, float]:
    """Root mean squared and mean absolute error."""
    return float(np.sqrt(np.mean((predicted - truth) ** 2))), float(np.mean(np.abs(predicted - truth)))
