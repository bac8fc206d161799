"""Small ONNX files, made by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper

FLOAT = TensorProto.FLOAT


def linear(
    weights: Sequence[float],
    *,
    bias: float = 0.0,
    rows: int | str = "n",
    dtype: int = FLOAT,
    metadata: Mapping[str, str] | None = None,
) -> bytes:
    """(n, f) → (n, 1): a weighted sum."""
    kind = helper.tensor_dtype_to_np_dtype(dtype)
    return _model(
        [helper.make_node("MatMul", ["x", "w"], ["sum"]), helper.make_node("Add", ["sum", "b"], ["y"])],
        [helper.make_tensor_value_info("x", dtype, [rows, len(weights)])],
        [helper.make_tensor_value_info("y", dtype, [rows, 1])],
        {"w": np.array(weights, kind)[:, None], "b": np.array([bias], kind)},
        metadata,
    )


def one_operator(operator: str, f: int, out: Sequence[int | str], **attributes: object) -> bytes:
    """(n, f) → whatever the operator gives."""
    return _model(
        [helper.make_node(operator, ["x"], ["y"], **attributes)],
        [helper.make_tensor_value_info("x", FLOAT, ["n", f])],
        [helper.make_tensor_value_info("y", FLOAT, list(out))],
        {},
        None,
    )


def named(names: Sequence[str], *, dtype: int = FLOAT, rest: Sequence[int] = ()) -> bytes:
    """One tensor for each input → first minus second."""
    return _model(
        [helper.make_node("Sub", list(names[:2]), ["y"])],
        [helper.make_tensor_value_info(name, dtype, ["n", *rest]) for name in names],
        [helper.make_tensor_value_info("y", dtype, ["n", *rest])],
        {},
        None,
    )


def cast(names: Sequence[str], dtype: int) -> bytes:
    """One tensor of `dtype` for each input → the first as a float, plus a half."""
    return _model(
        [helper.make_node("Cast", [names[0]], ["f"], to=FLOAT), helper.make_node("Add", ["f", "h"], ["y"])],
        [helper.make_tensor_value_info(name, dtype, ["n"]) for name in names],
        [helper.make_tensor_value_info("y", FLOAT, ["n"])],
        {"h": np.array([0.5], np.float32)},
        None,
    )


def two_outputs(metadata: Mapping[str, str] | None = None) -> bytes:
    """(n, 2) → `low` and `high`, each (n, 1)."""
    return _model(
        [helper.make_node("MatMul", ["x", "l"], ["low"]), helper.make_node("MatMul", ["x", "h"], ["high"])],
        [helper.make_tensor_value_info("x", FLOAT, ["n", 2])],
        [helper.make_tensor_value_info(name, FLOAT, ["n", 1]) for name in ("low", "high")],
        {"l": np.array([[1], [0]], np.float32), "h": np.array([[0], [1]], np.float32)},
        metadata,
    )


def mean_of_batch() -> bytes:
    """(n, 2) → each row minus the mean of the batch: its rows depend on each other."""
    return _model(
        [
            helper.make_node("ReduceMean", ["x", "axes"], ["mean"], keepdims=1),
            helper.make_node("Sub", ["x", "mean"], ["centred"]),
            helper.make_node("MatMul", ["centred", "w"], ["y"]),
        ],
        [helper.make_tensor_value_info("x", FLOAT, ["n", 2])],
        [helper.make_tensor_value_info("y", FLOAT, ["n", 1])],
        {"axes": np.array([0], np.int64), "w": np.array([[1], [1]], np.float32)},
        None,
    )


def _model(
    nodes: list[object],
    inputs: list[object],
    outputs: list[object],
    constants: Mapping[str, np.ndarray],
    metadata: Mapping[str, str] | None,
) -> bytes:
    tensors = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "test", inputs, outputs, tensors)
    model: ModelProto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    if metadata:
        helper.set_model_props(model, dict(metadata))
    return model.SerializeToString()
