"""ONNX releases: one call of ONNX Runtime per batch.

A model takes either one tensor (n, f) with the inputs in the declared order, or one tensor (n,) or (n, 1) for each
input, by name. It gives one number a row: a regression (n,) or (n, 1), or the probabilities of two classes (n, 2), of
which the second is the score. Where a file has several such outputs, its metadata entry `score_output` names the one
that is meant; where it has an entry `feature_names` (a JSON list, or names with commas), these must be the declared
inputs in their order.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from models.release import ModelRefused, RefusalReason

Rows = npt.NDArray[np.float32]
Device = Literal["cpu", "cuda"]

_FLOATS: Final = {"tensor(float)": np.float32, "tensor(double)": np.float64}
_NUMBERS: Final = {**_FLOATS, "tensor(int64)": np.int64, "tensor(int32)": np.int32, "tensor(bool)": np.bool_}
# Numbers below it fit, in a type that has no NaN.
_LIMITS: Final = {np.int64: 2.0**63, np.int32: 2.0**31, np.bool_: np.inf}
_PROVIDERS: Final = {"cpu": ["CPUExecutionProvider"], "cuda": ["CUDAExecutionProvider", "CPUExecutionProvider"]}


class OnnxModel:
    """A loaded ONNX model. `score` may be called from several threads at once."""

    def __init__(self, session: ort.InferenceSession, feeds: Sequence[tuple[str, Any, tuple[int, ...]]]) -> None:
        """Take a session whose inputs were checked; `load` is the way in.

        Args:
            session: the model.
            feeds: for each input tensor its name, dtype and shape after the row axis: `(f,)` for one tensor with all
                inputs, `()` or `(1,)` for a tensor of one input.
        """
        self._session = session
        self._feeds = tuple(feeds)
        self._whole = len(self._feeds) == 1 and self._feeds[0][2] not in ((), (1,))
        self._limits = tuple((at, _LIMITS[dtype]) for at, (_, dtype, _) in enumerate(self._feeds) if dtype in _LIMITS)
        self._output = ""
        self._column: int | None = None

    @classmethod
    def load(cls, data: bytes, inputs: Sequence[str], device: Device = "cpu") -> OnnxModel:
        """Open an ONNX file and check that it takes `inputs` and gives one score a row.

        Args:
            data: the file.
            inputs: names of the columns that the pipeline hands over, in this order.
            device: `cuda` needs an ONNX Runtime with CUDA.

        Raises:
            ModelRefused: the file is broken, or what it takes or gives is something else.
        """
        session = _open(data, device)
        _check_feature_names(session.get_modelmeta().custom_metadata_map.get("feature_names"), inputs)
        model = cls(session, _feeds(session.get_inputs(), inputs))
        model._choose_output(len(inputs))
        return model

    def score(self, rows: Rows) -> npt.NDArray[np.float64]:
        """Score rows.

        Args:
            rows: (n, f) float32, NaN for missing.

        Returns:
            (n,) float64; NaN for a row that has no value, or one out of range, where the model wants an integer or a
            boolean: these types cannot say that a value is missing.

        Raises:
            Exception: whatever ONNX Runtime raises.
        """
        unfit = self._unfit(rows)
        if unfit is not None:
            rows = np.where(unfit[:, None], np.float32(0), rows)
        scores = self._run([self._output], rows)[0]
        if self._column is not None:
            scores = scores[:, self._column]
        found = np.array(scores, np.float64).reshape(len(rows))
        if unfit is not None:
            found[unfit] = np.nan
        return found

    def _unfit(self, rows: Rows) -> npt.NDArray[np.bool_] | None:
        """The rows (n,) with a value that its tensor cannot hold; None when there are none."""
        if not self._limits:
            return None
        unfit = np.zeros(len(rows), np.bool_)
        for at, limit in self._limits:
            unfit |= ~(np.abs(rows[:, at]) < limit)  # also where it is NaN
        return unfit if unfit.any() else None

    def _run(self, outputs: list[str], rows: Rows) -> list[Any]:
        if self._whole:
            name, dtype, _ = self._feeds[0]
            feed = {name: np.ascontiguousarray(rows, dtype)}
        else:
            feed = {
                name: np.ascontiguousarray(rows[:, at], dtype).reshape(len(rows), *rest)
                for at, (name, dtype, rest) in enumerate(self._feeds)
            }
        return list(self._session.run(outputs, feed))

    def _choose_output(self, f: int) -> None:
        """Find the output that has one score a row, by running the model on 1 and on 3 rows of zeros."""
        offered = [output.name for output in self._session.get_outputs() if output.type in _FLOATS]
        named = self._session.get_modelmeta().custom_metadata_map.get("score_output")
        if named is not None:
            offered = [name for name in offered if name == named]
        try:
            results = {n: self._run(offered, np.zeros((n, f), np.float32)) if offered else [] for n in (1, 3)}
        except Exception as error:
            detail = f"the model fails on 1 or 3 rows of zeros: {_first_line(error)}"
            raise ModelRefused(RefusalReason.TRIAL_ERROR, detail) from error
        fitting: list[tuple[str, int | None]] = []
        for name, one, three in zip(offered, results[1], results[3], strict=True):
            if one.shape in ((1,), (1, 1)) and three.shape in ((3,), (3, 1)):
                fitting.append((name, None))
            elif one.shape == (1, 2) and three.shape == (3, 2) and np.allclose(three.sum(axis=1), 1, atol=1e-3):
                fitting.append((name, 1))
        if len(fitting) != 1:
            raise ModelRefused(RefusalReason.OUTPUT, _about_outputs(self._session.get_outputs(), fitting))
        self._output, self._column = fitting[0]


def _open(data: bytes, device: Device) -> ort.InferenceSession:
    missing = set(_PROVIDERS[device]) - set(ort.get_available_providers())
    if missing:
        detail = f"this ONNX Runtime has no {', '.join(sorted(missing))}; install onnxruntime-gpu or use device cpu"
        raise ModelRefused(RefusalReason.DEVICE, detail)
    options = ort.SessionOptions()
    # One process decides with one thread; parallelism is the number of slots.
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        return ort.InferenceSession(data, options, providers=_PROVIDERS[device])
    except Exception as error:
        detail = f"ONNX Runtime {ort.__version__} cannot open the file: {_first_line(error)}"
        raise ModelRefused(RefusalReason.BROKEN_FILE, detail) from error


def _check_feature_names(text: str | None, inputs: Sequence[str]) -> None:
    if text is None:
        return
    try:
        names = json.loads(text) if text.lstrip().startswith("[") else [name.strip() for name in text.split(",")]
    except ValueError:
        names = None
    if names != list(inputs):
        detail = f"the file's metadata has feature_names {text[:300]}, declared are {', '.join(inputs)}"
        raise ModelRefused(RefusalReason.INPUT_NAMES, detail)


def _feeds(tensors: Sequence[Any], inputs: Sequence[str]) -> list[tuple[str, Any, tuple[int, ...]]]:
    """Check the input tensors against the declared inputs; give name, dtype and shape after the row axis, in order."""
    for tensor in tensors:
        if not tensor.shape or isinstance(tensor.shape[0], int):
            detail = f"input {tensor.name} has shape {tensor.shape}; the first axis is the rows and must be free"
            raise ModelRefused(RefusalReason.INPUT_SHAPE, detail)
    if len(tensors) == 1 and (len(inputs) != 1 or tensors[0].name != inputs[0]):
        return [_whole_feed(tensors[0], inputs)]
    by_name = {tensor.name: tensor for tensor in tensors}
    if set(by_name) != set(inputs):
        extra, missing = sorted(set(by_name) - set(inputs)), sorted(set(inputs) - set(by_name))
        detail = f"the model's inputs are not the declared ones; only in the model: {extra}, only declared: {missing}"
        raise ModelRefused(RefusalReason.INPUT_NAMES, detail)
    return [_single_feed(by_name[name]) for name in inputs]


def _whole_feed(tensor: Any, inputs: Sequence[str]) -> tuple[str, Any, tuple[int, ...]]:
    if tensor.type not in _FLOATS:
        detail = f"input {tensor.name} is {tensor.type}; one tensor for all inputs must be float or double"
        raise ModelRefused(RefusalReason.INPUT_TYPE, detail)
    width = tensor.shape[1] if len(tensor.shape) == 2 else None
    if width is None or (isinstance(width, int) and width != len(inputs)):
        detail = (
            f"input {tensor.name} has shape {tensor.shape}; {len(inputs)} inputs are declared, so (n, {len(inputs)})"
        )
        raise ModelRefused(RefusalReason.INPUT_SHAPE, detail)
    # A width of one is a tensor of one input in disguise: both are fed the same way.
    return tensor.name, _FLOATS[tensor.type], (len(inputs),)


def _single_feed(tensor: Any) -> tuple[str, Any, tuple[int, ...]]:
    if tensor.type not in _NUMBERS:
        detail = f"input {tensor.name} is {tensor.type}; columns are numbers: float, double, int64, int32 or bool"
        raise ModelRefused(RefusalReason.INPUT_TYPE, detail)
    rest = tuple(tensor.shape[1:])
    if rest not in ((), (1,)):
        detail = f"input {tensor.name} has shape {tensor.shape}; one input of a row is one number: (n,) or (n, 1)"
        raise ModelRefused(RefusalReason.INPUT_SHAPE, detail)
    return tensor.name, _NUMBERS[tensor.type], rest


def _about_outputs(outputs: Sequence[Any], fitting: Sequence[tuple[str, int | None]]) -> str:
    if fitting:
        names = ", ".join(name for name, _ in fitting)
        return f"outputs {names} could all be the score; name one in the file's metadata entry score_output"
    shown = ", ".join(f"{output.name} {output.type} {output.shape}" for output in outputs)
    hint = "; export the classifier without ZipMap (skl2onnx: options={'zipmap': False})" if "map(" in shown else ""
    return (
        f"no output is one score a row: floats (n,), (n, 1), or two probabilities (n, 2); there is {shown[:400]}{hint}"
    )


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
