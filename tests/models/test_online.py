"""River releases: predictions, versions, and pickles that try to run something."""

from __future__ import annotations

import json
import os
import pickle
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from river import anomaly, base, forest, linear_model, naive_bayes, preprocessing, stats, tree

from models import online
from models.online import OnlineModel
from models.release import ModelRefused, RefusalReason

INPUTS = ["a", "b"]


def taught(model: Any, *, n: int = 300) -> Any:
    rng = random.Random(1)
    for _ in range(n):
        x = {"a": rng.gauss(0, 1), "b": rng.gauss(0, 1)}
        if isinstance(model, anomaly.HalfSpaceTrees):
            model.learn_one(x)
        else:
            truth = x["a"] - 2 * x["b"]
            model.learn_one(x, truth > 0 if kind(model) == "classifier" else truth)
    return model


def kind(model: Any) -> str:
    last = list(model.steps.values())[-1] if hasattr(model, "steps") else model
    return "classifier" if isinstance(last, base.Classifier) else "regressor"


MODELS = [
    lambda: preprocessing.StandardScaler() | linear_model.LinearRegression(),
    lambda: preprocessing.StandardScaler() | linear_model.LogisticRegression(),
    lambda: tree.HoeffdingTreeClassifier(grace_period=50),
    lambda: tree.HoeffdingTreeRegressor(grace_period=50),
    lambda: forest.ARFClassifier(n_models=2, seed=1),
    naive_bayes.GaussianNB,
]


@pytest.mark.parametrize("build", MODELS)
def test_online_gives_what_river_gives(build: Any) -> None:
    model = taught(build())
    rows = np.array([[0.5, -1.0], [-0.25, 2.0]], np.float32)
    expected = [
        model.predict_proba_one(x)[True] if kind(model) == "classifier" else model.predict_one(x)
        for x in ({"a": 0.5, "b": -1.0}, {"a": -0.25, "b": 2.0})
    ]

    loaded = OnlineModel.load(online.dump(model, INPUTS), INPUTS)

    assert loaded.score(rows).tolist() == pytest.approx(expected)
    assert loaded.score(rows).dtype == np.float64


def test_online_scores_anomaly_detectors() -> None:
    model = taught(anomaly.HalfSpaceTrees(seed=1, n_trees=3, height=3))

    assert np.isfinite(OnlineModel.load(online.dump(model, INPUTS), INPUTS).score(np.zeros((2, 2), np.float32))).all()


def test_online_leaves_a_missing_input_out() -> None:
    model = taught(preprocessing.StandardScaler() | linear_model.LinearRegression())
    loaded = OnlineModel.load(online.dump(model, INPUTS), INPUTS)

    scores = loaded.score(np.array([[0.5, np.nan], [0.5, 1.0]], np.float32))

    assert scores.tolist() == pytest.approx([model.predict_one({"a": 0.5}), model.predict_one({"a": 0.5, "b": 1.0})])


def test_online_gives_nan_for_a_classifier_that_knows_nothing() -> None:
    loaded = OnlineModel.load(online.dump(naive_bayes.GaussianNB(), INPUTS), INPUTS)

    assert np.isnan(loaded.score(np.zeros((1, 2), np.float32))).all()


def refusal(data: bytes, inputs: list[str] = INPUTS) -> ModelRefused:
    with pytest.raises(ModelRefused) as refused:
        OnlineModel.load(data, inputs)
    return refused.value


def around(pickled: bytes, **header: object) -> bytes:
    """A River artefact with any pickle in it."""
    first = {"format": online.MAGIC, "v": 1, "river": online.RIVER, "inputs": INPUTS, **header}
    return json.dumps(first).encode() + b"\n" + pickled


def test_online_refuses_a_pickle_that_makes_rust_panic() -> None:
    state = stats.EWMean()._ewmean.__getstate__()
    good = pickle.dumps(stats.EWMean(), protocol=3)  # without frames, whose lengths would be wrong
    empty = good.replace(b"C" + bytes([len(state)]) + state, b"C\x00")
    assert empty != good

    refused = refusal(around(empty))

    assert refused.reason == RefusalReason.BROKEN_FILE
    assert "PanicException" in refused.detail


def test_online_turns_a_panic_into_an_exception() -> None:
    class PanicException(BaseException):  # as that of Rust
        pass

    def panic(row: dict[str, float]) -> float:
        raise PanicException

    with pytest.raises(RuntimeError, match="PanicException"):
        OnlineModel(panic, INPUTS).score(np.zeros((1, 2), np.float32))


class _Bomb:
    """Runs a function of its choice when it is unpickled."""

    def __init__(self, call: Any, *args: Any) -> None:
        self.call = (call, args)

    def __reduce__(self) -> Any:
        return self.call


def test_online_refuses_a_pickle_bomb_before_it_goes_off(tmp_path: Path) -> None:
    mark = tmp_path / "went_off"
    bomb = pickle.dumps(_Bomb(os.system, f"touch {mark}"))

    found = refusal(around(bomb))

    assert found.reason == RefusalReason.FORBIDDEN_CODE
    assert "system" in found.detail
    assert not mark.exists()


@pytest.mark.parametrize(
    "pickled",
    [
        pickle.dumps(_Bomb(eval, "1")),
        pickle.dumps(_Bomb(getattr, "a", "upper")),
        pickle.dumps(_Bomb(__import__, "os")),
        pickle.dumps(Path("x")),
        b"\x80\x04criver.datasets.base\nFileDataset\n.",
        b"\x80\x04criver.stream\niter_csv\n.",
        b"\x80\x04criver.utils.math\nsoftmax\n.",  # a function
        b"\x80\x04criver.compose.pipeline\npd.DataFrame\n.",  # through a module that was imported there
        b"\x80\x04criver.compose.pipeline\ncollections\n.",  # a module
        b"\x80\x04criver.base.typing\nnp.ndarray\n.",
    ],
)
def test_online_refuses_what_is_not_a_river_estimator_class(pickled: bytes) -> None:
    assert refusal(around(pickled)).reason == RefusalReason.FORBIDDEN_CODE


def test_online_refuses_to_change_a_class_of_river() -> None:
    module = linear_model.LinearRegression.__module__
    patch = b"\x80\x04c" + module.encode() + b"\nLinearRegression\nN}\x8c\x08evil_one\x8c\x01xs\x86b."

    assert refusal(around(patch)).reason == RefusalReason.FORBIDDEN_CODE
    assert not hasattr(linear_model.LinearRegression, "evil_one")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", RefusalReason.BROKEN_FILE),
        (b"\x80\x05.", RefusalReason.BROKEN_FILE),
        (b'{"format": "other", "v": 1}\n', RefusalReason.BROKEN_FILE),
        (around(b""), RefusalReason.BROKEN_FILE),
        (around(b"\x80\x05"), RefusalReason.BROKEN_FILE),
        (around(pickle.dumps([1, 2])), RefusalReason.BROKEN_FILE),
        (online.dump(preprocessing.StandardScaler(), INPUTS), RefusalReason.OUTPUT),
        (around(b"", river="0.21.0"), RefusalReason.LIBRARY_VERSION),
        (around(b"", inputs=["b", "a"]), RefusalReason.INPUT_NAMES),
    ],
)
def test_online_refuses_with_a_reason(data: bytes, reason: RefusalReason) -> None:
    assert refusal(data).reason == reason
