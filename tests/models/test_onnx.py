"""ONNX releases: what loads, what is refused and with which reason."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto

from models.onnx import OnnxModel
from models.release import ModelRefused, RefusalReason
from tests.models import onnx_files

ROWS = np.array([[1, 10], [2, 20], [3, 30]], np.float32)


@pytest.mark.parametrize(
    "data",
    [
        onnx_files.linear([1, 2]),
        onnx_files.linear([1, 2], dtype=TensorProto.DOUBLE),
        onnx_files.linear([1, 2], metadata={"feature_names": '["a", "b"]'}),
        onnx_files.linear([1, 2], metadata={"feature_names": "a, b"}),
    ],
)
def test_onnx_scores_one_tensor_of_all_inputs(data: bytes) -> None:
    scores = OnnxModel.load(data, ["a", "b"]).score(ROWS)

    assert scores.dtype == np.float64
    assert scores.tolist() == [21.0, 42.0, 63.0]


@pytest.mark.parametrize("dtype", [TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.INT64])
@pytest.mark.parametrize("rest", [(), (1,)])
def test_onnx_feeds_inputs_by_name_whatever_their_order(dtype: int, rest: tuple[int, ...]) -> None:
    if dtype == TensorProto.INT64:
        with pytest.raises(ModelRefused) as refused:
            OnnxModel.load(onnx_files.named(["b", "a"], dtype=dtype, rest=rest), ["a", "b"])
        assert refused.value.reason == RefusalReason.OUTPUT
        return
    model = OnnxModel.load(onnx_files.named(["b", "a"], dtype=dtype, rest=rest), ["a", "b"])

    assert model.score(ROWS).tolist() == [9.0, 18.0, 27.0]


@pytest.mark.parametrize("dtype", [TensorProto.INT64, TensorProto.INT32, TensorProto.BOOL])
def test_onnx_gives_no_score_for_a_value_that_its_type_cannot_hold(dtype: int) -> None:
    model = OnnxModel.load(onnx_files.cast(["a", "b"], dtype), ["a", "b"])
    rows = np.array([[1, 0], [np.nan, 0], [1, np.nan], [0, 1]], np.float32)

    np.testing.assert_equal(model.score(rows), [1.5, np.nan, np.nan, 0.5])
    np.testing.assert_equal(model.score(rows[:1]), [1.5])


@pytest.mark.parametrize(("dtype", "value"), [(TensorProto.INT64, 1e19), (TensorProto.INT32, -3e9)])
def test_onnx_gives_no_score_for_a_number_out_of_range(dtype: int, value: float) -> None:
    model = OnnxModel.load(onnx_files.cast(["a"], dtype), ["a"])

    np.testing.assert_equal(model.score(np.array([[value], [2]], np.float32)), [np.nan, 2.5])


def test_onnx_takes_one_input_by_any_name() -> None:
    assert OnnxModel.load(onnx_files.linear([2]), ["a"]).score(ROWS[:, :1]).tolist() == [2.0, 4.0, 6.0]
    assert OnnxModel.load(onnx_files.linear([2]), ["x"]).score(ROWS[:, :1]).tolist() == [2.0, 4.0, 6.0]


def test_onnx_takes_the_second_of_two_probabilities() -> None:
    model = OnnxModel.load(onnx_files.one_operator("Softmax", 2, ["n", 2], axis=1), ["a", "b"])

    assert model.score(np.array([[0.0, 0.0], [0.0, 100.0]], np.float32)) == pytest.approx([0.5, 1.0])


def test_onnx_takes_the_named_one_of_several_outputs() -> None:
    model = OnnxModel.load(onnx_files.two_outputs({"score_output": "high"}), ["a", "b"])

    assert model.score(ROWS).tolist() == [10.0, 20.0, 30.0]


@pytest.mark.parametrize(
    ("data", "reason", "words"),
    [
        (b"", RefusalReason.BROKEN_FILE, "cannot open"),
        (b"not a model", RefusalReason.BROKEN_FILE, "cannot open"),
        (onnx_files.linear([1, 2])[:60], RefusalReason.BROKEN_FILE, "cannot open"),
        (onnx_files.linear([1, 2, 3]), RefusalReason.INPUT_SHAPE, "2 inputs are declared"),
        (onnx_files.linear([1, 2], rows=1), RefusalReason.INPUT_SHAPE, "must be free"),
        (onnx_files.named(["b", "c"]), RefusalReason.INPUT_NAMES, "only in the model: ['c'], only declared: ['a']"),
        (onnx_files.named(["a", "b"], rest=(2,)), RefusalReason.INPUT_SHAPE, "one number"),
        (onnx_files.named(["a", "b"], dtype=TensorProto.FLOAT16), RefusalReason.INPUT_TYPE, "float16"),
        (onnx_files.linear([1, 2], dtype=TensorProto.FLOAT16), RefusalReason.INPUT_TYPE, "float16"),
        (onnx_files.linear([1, 2], metadata={"feature_names": '["b", "a"]'}), RefusalReason.INPUT_NAMES, "metadata"),
        (onnx_files.linear([1, 2], metadata={"feature_names": "[1"}), RefusalReason.INPUT_NAMES, "metadata"),
        (onnx_files.two_outputs(), RefusalReason.OUTPUT, "score_output"),
        (onnx_files.two_outputs({"score_output": "medium"}), RefusalReason.OUTPUT, "no output"),
        (onnx_files.one_operator("Transpose", 2, [2, "n"]), RefusalReason.OUTPUT, "no output"),
        (onnx_files.one_operator("Relu", 2, ["n", 2]), RefusalReason.OUTPUT, "no output"),
    ],
)
def test_onnx_refuses_with_a_reason_in_plain_words(data: bytes, reason: RefusalReason, words: str) -> None:
    with pytest.raises(ModelRefused) as refused:
        OnnxModel.load(data, ["a", "b"])

    assert refused.value.reason == reason
    assert words in refused.value.detail


def test_onnx_refuses_a_device_that_is_not_here() -> None:
    with pytest.raises(ModelRefused) as refused:
        OnnxModel.load(onnx_files.linear([1, 2]), ["a", "b"], device="cuda")

    assert refused.value.reason == RefusalReason.DEVICE
