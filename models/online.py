"""Online releases: River models, one prediction per row (3 µs for a linear pipeline).

A River artefact is one line of JSON (what it is, River's version, the inputs) and then a pickle. Unpickling runs what
the pickle says, so only classes of River's estimator packages and a few constructors of the standard library can be
named by it; everything else is refused before it is called. This stops files that would run code. It does not make a
file from a stranger trustworthy: who may write to the registry topic decides that.

River's pickles are not stable between versions, so a release is refused by another minor version than the one it was
made with.
"""

from __future__ import annotations

import io
import json
import pickle
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import river.compose
import river.linear_model
import river.preprocessing
from river import base
from river.__version__ import __version__ as RIVER  # noqa: N812

from models.release import ModelRefused, RefusalReason

MAGIC: Final = "penstock-river"
_INTERRUPTS: Final = (KeyboardInterrupt, SystemExit, GeneratorExit)
_MAX_HEADER_BYTES: Final = 512 * 1024

_STANDARD: Final = {
    ("builtins", "object"),
    ("builtins", "float"),
    ("builtins", "int"),
    ("builtins", "bool"),
    ("builtins", "str"),
    ("builtins", "complex"),
    ("builtins", "list"),
    ("builtins", "dict"),
    ("builtins", "tuple"),
    ("builtins", "set"),
    ("builtins", "frozenset"),
    ("collections", "Counter"),
    ("collections", "OrderedDict"),
    ("collections", "defaultdict"),
    ("collections", "deque"),
    ("functools", "partial"),
    ("random", "Random"),
    ("statistics", "NormalDist"),
}
# Plain functions of two of River's own classes, which their pickles name.
_FUNCTIONS: Final = {
    ("river.naive_bayes.gaussian", "GaussianNB._make_gaussian"),
    ("river.tree.splitter.ebst_splitter", "EBSTNode._update_estimator_univariate"),
    ("river.tree.splitter.ebst_splitter", "EBSTNode._update_estimator_multivariate"),
}
# Estimators and what they are made of. Left out: datasets and stream (files, sockets), api, checks, evaluate, dummy.
_RIVER: Final = frozenset(
    {
        "_river_rust",
        "anomaly",
        "bayes",
        "compose",
        "drift",
        "ensemble",
        "facto",
        "feature_extraction",
        "feature_selection",
        "forest",
        "imblearn",
        "linear_model",
        "metrics",
        "misc",
        "model_selection",
        "multiclass",
        "naive_bayes",
        "neighbors",
        "optim",
        "preprocessing",
        "proba",
        "rules",
        "stats",
        "time_series",
        "tree",
        "utils",
    }
)


class OnlineModel:
    """A loaded River model, asked and never taught."""

    def __init__(self, predict: Callable[[dict[str, float]], float], inputs: Sequence[str]) -> None:
        """Take a function of one row; `load` is the way in."""
        self._predict = predict
        self._inputs = tuple(inputs)

    @classmethod
    def load(cls, data: bytes, inputs: Sequence[str]) -> OnlineModel:
        """Open a River artefact and check that it takes `inputs`.

        Raises:
            ModelRefused: broken, made by another River, for other inputs, naming what is not allowed, or not a model
                that gives a number.
        """
        header, pickled = read_header(data)
        _check_header(header, inputs)
        model = _unpickle(pickled)
        if not isinstance(model, base.Estimator):
            detail = f"the pickle holds a {type(model).__name__}, not a River estimator"
            raise ModelRefused(RefusalReason.BROKEN_FILE, detail)
        return cls(_predictor(model), inputs)

    def score(self, rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        """Score rows, one after the other.

        Args:
            rows: (n, f) float32, NaN for missing. A missing input is left out of the row that River sees: a scaler
                and a linear model then treat it as zero, a tree as unknown.

        Returns:
            (n,) float64; NaN where a classifier knows no class yet.

        Raises:
            Exception: whatever the model raises.
        """
        scores = np.empty(len(rows), np.float64)
        names, predict, complete = self._inputs, self._predict, not np.isnan(rows).any()
        try:
            for at, row in enumerate(rows.tolist()):
                given = zip(names, row, strict=True)
                # NaN is the one number that is not equal to itself.
                scores[at] = predict(dict(given) if complete else {name: x for name, x in given if x == x})  # noqa: PLR0124
        except (Exception, *_INTERRUPTS):
            raise
        except BaseException as error:  # a panic in River's Rust
            raise RuntimeError(f"the model panics: {type(error).__name__}") from error
        return scores


def dump(model: base.Estimator, inputs: Sequence[str]) -> bytes:
    """Write a River model as an artefact: for training scripts and the learner."""
    header = {"format": MAGIC, "v": 1, "river": RIVER, "inputs": list(inputs)}
    return json.dumps(header).encode() + b"\n" + pickle.dumps(model, protocol=5)


def read_header(data: bytes) -> tuple[Mapping[str, Any], bytes]:
    """Take a River artefact apart: its first line, and the pickle, which is not opened.

    Raises:
        ModelRefused: it is not a River artefact.
    """
    end = data.find(b"\n", 0, _MAX_HEADER_BYTES)
    try:
        header = json.loads(data[:end]) if end > 0 else None
    except ValueError:
        header = None
    if not isinstance(header, dict) or header.get("format") != MAGIC or header.get("v") != 1:
        detail = f"the file does not begin with the line of a {MAGIC} artefact; write it with models.online.dump"
        raise ModelRefused(RefusalReason.BROKEN_FILE, detail)
    return header, data[end + 1 :]


def _check_header(header: Mapping[str, Any], inputs: Sequence[str]) -> None:
    made_with, here = str(header.get("river")), RIVER
    if made_with.split(".")[:2] != here.split(".")[:2]:
        detail = f"made with River {made_with[:40]}, this is {here}; train it again with {here}"
        raise ModelRefused(RefusalReason.LIBRARY_VERSION, detail)
    if header.get("inputs") != list(inputs):
        detail = f"made for inputs {str(header.get('inputs'))[:300]}, declared are {', '.join(inputs)}"
        raise ModelRefused(RefusalReason.INPUT_NAMES, detail)


class _Unpickler(pickle._Unpickler):  # noqa: SLF001 -- see below
    """Finds classes of River's estimators and a few of the standard library, and nothing else.

    Python's own unpickler, not the one in C, since only it can be told to leave classes as they are: a pickle may
    also set attributes on a class that it found, and so change every model of the process.
    """

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _STANDARD or (module, name) in _FUNCTIONS:
            return super().find_class(module, name)
        package = module.split(".")
        if package[0] == "river" and len(package) > 1 and package[1] in _RIVER and "." not in name:
            found = super().find_class(module, name)
            # A class that a River module merely imported, such as Popen, is not River's.
            if isinstance(found, type) and found.__module__.partition(".")[0] == "river":
                return found
        detail = f"the pickle names {module[:80]}.{name[:80]}, which a River release may not use"
        raise ModelRefused(RefusalReason.FORBIDDEN_CODE, detail)


_BUILD: Final[Any] = pickle._Unpickler.dispatch[pickle.BUILD[0]]  # noqa: SLF001


def _build_instance(unpickler: Any) -> None:
    if isinstance(unpickler.stack[-2], type):
        raise ModelRefused(RefusalReason.FORBIDDEN_CODE, "the pickle sets attributes on a class")
    _BUILD(unpickler)


_Unpickler.dispatch = {**pickle._Unpickler.dispatch, pickle.BUILD[0]: _build_instance}  # noqa: SLF001


def _unpickle(pickled: bytes) -> Any:
    try:
        return _Unpickler(io.BytesIO(pickled)).load()
    except (ModelRefused, *_INTERRUPTS):
        raise
    except BaseException as error:  # a broken pickle raises anything, and a panic in River's Rust is no Exception
        detail = f"the pickle cannot be read: {type(error).__name__}"
        raise ModelRefused(RefusalReason.BROKEN_FILE, detail) from error


def _predictor(model: Any) -> Callable[[dict[str, float]], float]:
    """The function that gives one number for one row: probability, prediction or anomaly score.

    A pipeline has every method and knows only by its last step which of them means something.
    """
    last = list(model.steps.values())[-1] if isinstance(model, river.compose.Pipeline) else model
    while isinstance(last, base.Wrapper):
        last = last._wrapped_model  # noqa: SLF001 -- River's protocol for wrappers
    if isinstance(last, base.Classifier):
        proba = model.predict_proba_one
        return lambda row: _probability(proba(row))
    if isinstance(last, base.Regressor):
        return model.predict_one  # type: ignore[no-any-return]
    if hasattr(last, "score_one"):
        return model.score_one  # type: ignore[no-any-return]
    detail = f"{type(last).__name__} is neither a classifier, a regressor nor an anomaly detector"
    raise ModelRefused(RefusalReason.OUTPUT, detail)


def _probability(by_class: Mapping[Any, float]) -> float:
    """Probability of the class True or 1; NaN when no class was learned yet."""
    return by_class.get(True, 0.0) if by_class else float("nan")
