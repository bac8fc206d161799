"""Score: who scores which row, what is said when nobody does, and that batches do not matter."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from models.admission import Place, ScoringModel
from models.catalog import ReleaseUnavailable
from models.history import Entry, History, Part, Release
from models.release import ActivationRecord, ReleaseRecord
from operators import metrics
from operators.batch import Batch
from operators.score import LATE_CALLS, REST_SECONDS, Scorer

PLACE = Place("risk", ("a", "b"), budget_ms=100.0)


class Weighted:
    """`weight * (a + b)`; raises where a is -1, gives infinity where a is -2."""

    def __init__(self, weight: float) -> None:
        self.weight = weight
        self.calls: list[int] = []

    def score(self, rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        self.calls.append(len(rows))
        if (rows[:, 0] == -1).any():
            raise ValueError("a value that must not be seen: -1")
        scores = self.weight * rows.sum(axis=1, dtype=np.float64)
        scores[rows[:, 0] == -2] = np.inf
        return scores


class Shelf:
    """A history with models that are simply there."""

    def __init__(self, releases: Sequence[tuple[str, str, int, ScoringModel]]) -> None:
        """Take version, role, time in force and model of each release."""
        entries, self.models = [], {}
        for at, (version, role, ms, model) in enumerate(releases):
            record = ReleaseRecord(
                pipeline="p", model="risk", version=version, role=role, format="onnx", sha256="0" * 64, size=1, uri="u",
                inputs=("a", "b"),
            )  # fmt: skip
            entries.append(Entry(2 * at, 0, record.to_bytes()))
            entries.append(Entry(2 * at + 1, ms, ActivationRecord(pipeline="p", of=2 * at).to_bytes()))
            self.models[version] = model
        self.history = History("p", 0).then(entries)

    def parts(self, model: str, append_ms: npt.NDArray[np.int64]) -> list[Part]:
        return self.history.parts(model, append_ms)

    def model(self, release: Release) -> ScoringModel:
        return self.models[release.version]

    def loaded(self, release: Release) -> ScoringModel | None:
        return self.models.get(release.version)


def batch(a: Sequence[float], b: Sequence[Any] | None = None, at: Sequence[int] | None = None) -> Batch:
    n = len(a)
    return Batch(
        topic="t",
        lane=np.zeros(n, np.int32),
        offset=np.arange(n, dtype=np.int64),
        append_ms=np.array(at if at is not None else [1_000] * n, np.int64),
        keys=[None] * n,
        values=[None] * n,
        headers=[[] for _ in range(n)],
        columns={"a": np.array(a, np.float64), "b": b if isinstance(b, np.ndarray) else list(b or np.zeros(n))},
        degraded=[("view:x:stale",)] * n,
    )


def fallback(columns: Mapping[str, Any], n: int) -> dict[str, npt.NDArray[np.float64]]:
    return {"risk": -np.asarray(columns["a"])}


def test_score_gives_every_row_the_champions_number() -> None:
    scored = Scorer([PLACE], Shelf([("1", "champion", 0, Weighted(2))])).work(batch([1, 2], [True, None]))

    assert scored.columns["risk"][0] == 4.0
    assert np.isnan(scored.columns["risk"][1])
    assert scored.releases == {"risk": ["1", None]}
    assert scored.degraded == [("view:x:stale",), ("view:x:stale", "model:risk:not_finite")]
    assert scored.shadows == {}


def test_a_release_in_force_reads_nothing_that_it_was_not_granted_and_its_fallback_does() -> None:
    """A grant that is taken back while a release is in force; shadows of the model read no more than its champion."""
    seen = Seeing()
    place = Place("risk", ("a", "b"), closed=("b",))
    shelf = Shelf([("1", "champion", 0, seen), ("2", "shadow", 0, seen)])

    scored = Scorer([place], shelf, fallbacks={"risk": lambda columns, n: {"risk": columns["b"]}}).work(
        batch([1, 2], np.array([7.0, 8.0]))
    )

    assert len(seen.rows) == 2
    for rows in seen.rows:
        np.testing.assert_equal(rows, np.array([[1, np.nan], [2, np.nan]], np.float32))
    assert np.asarray(scored.columns["risk"]).tolist() == [7.0, 8.0]
    np.testing.assert_equal(scored.columns["b"], [7.0, 8.0])


class Seeing:
    """Keeps what it is given, and scores nothing."""

    def __init__(self) -> None:
        self.rows: list[npt.NDArray[np.float32]] = []

    def score(self, rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        self.rows.append(rows.copy())
        return np.full(len(rows), np.nan)


def test_score_gives_each_row_the_release_of_its_append_time() -> None:
    shelf = Shelf([("1", "champion", 500, Weighted(1)), ("2", "champion", 2_000, Weighted(10))])

    scored = Scorer([PLACE], shelf, fallbacks={"risk": fallback}).work(
        batch([1, 2, 3, 4], at=[1_999, 2_000, 499, 2_001])
    )

    assert np.asarray(scored.columns["risk"]).tolist() == [1.0, 20.0, -3.0, 40.0]
    assert scored.releases["risk"] == ["1", "2", None, "2"]
    assert [row[1:] for row in scored.degraded] == [(), (), ("model:risk:no_release",), ()]


def test_score_keeps_shadows_beside_and_lets_them_fail_alone() -> None:
    shelf = Shelf(
        [("1", "champion", 0, Weighted(1)), ("2", "shadow", 1_000, Weighted(5)), ("3", "shadow", 0, Raising())]
    )

    scored = Scorer([PLACE], shelf).work(batch([1, 2], at=[999, 1_000]))

    assert np.asarray(scored.columns["risk"]).tolist() == [1.0, 2.0]
    assert scored.releases["risk"] == ["1", "1"]
    np.testing.assert_equal(scored.shadows["risk"]["2"], [np.nan, 10.0])
    np.testing.assert_equal(scored.shadows["risk"]["3"], [np.nan, np.nan])
    assert scored.degraded == [("view:x:stale",)] * 2


class Raising:
    def score(self, rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        raise RuntimeError


def test_score_falls_back_row_by_row() -> None:
    scored = Scorer([PLACE], Shelf([("1", "champion", 0, Weighted(1))]), fallbacks={"risk": fallback}).work(
        batch([5, -1, 6, -2, 7])
    )

    assert np.asarray(scored.columns["risk"]).tolist() == [5.0, 1.0, 6.0, 2.0, 7.0]
    assert scored.releases["risk"] == ["1", None, "1", None, "1"]
    why = ["model:risk:error" if a == -1 else "model:risk:not_finite" if a == -2 else None for a in (5, -1, 6, -2, 7)]
    assert [row[1:] for row in scored.degraded] == [() if each is None else (each,) for each in why]


def test_score_without_any_release_or_fallback_is_unknown() -> None:
    scored = Scorer([PLACE], Shelf([])).work(batch([1]))

    assert np.isnan(scored.columns["risk"]).all()
    assert scored.releases["risk"] == [None]
    assert scored.degraded == [("view:x:stale", "model:risk:no_release")]


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_score_does_not_depend_on_how_events_are_batched(size: int) -> None:
    shelf = Shelf(
        [("1", "champion", 0, Weighted(1)), ("2", "champion", 2_000, Weighted(3)), ("3", "shadow", 0, Weighted(7))]
    )
    whole = batch([1, -1, 3, -2, 5, 6, -1], at=[1_000, 1_999, 2_000, 2_500, 100, 3_000, 2_000])
    scorer = Scorer([PLACE], shelf, fallbacks={"risk": fallback})

    together = scorer.work(whole)
    parts = [scorer.work(whole.take(slice(start, start + size))) for start in range(0, 7, size)]

    np.testing.assert_equal(np.concatenate([part.columns["risk"] for part in parts]), together.columns["risk"])
    assert [release for part in parts for release in part.releases["risk"]] == together.releases["risk"]
    np.testing.assert_equal(
        np.concatenate([part.shadows["risk"]["3"] for part in parts]), together.shadows["risk"]["3"]
    )
    assert [row for part in parts for row in part.degraded] == together.degraded


def test_score_computes_derived_features_first_and_chains_models() -> None:
    def derived(columns: Mapping[str, Any], n: int) -> dict[str, npt.NDArray[np.float64]]:
        return {"b": np.asarray(columns["a"]) * 10}

    class SameCatalog(Shelf):
        def parts(self, model: str, append_ms: npt.NDArray[np.int64]) -> list[Part]:
            return super().parts("risk", append_ms)

    second = Place("second", ("risk", "missing"))
    scored = Scorer([PLACE, second], SameCatalog([("1", "champion", 0, Weighted(2))]), derived=derived).work(batch([1]))

    assert scored.columns["risk"][0] == 22.0
    assert np.isnan(scored.columns["second"][0])
    assert scored.degraded[0][1:] == ("model:second:not_finite",)


def test_score_treats_a_number_too_large_for_float32_as_missing() -> None:
    class CountsMissing:
        def score(self, rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
            return np.isnan(rows).sum(axis=1).astype(np.float64)

    scored = Scorer([PLACE], Shelf([("1", "champion", 0, CountsMissing())])).work(
        batch([1e300, -1e300, 1.0], [1.0, None, True])
    )

    assert np.asarray(scored.columns["risk"]).tolist() == [1.0, 2.0, 0.0]


class Late(Weighted):
    def __init__(self, clock: list[float], takes: float) -> None:
        super().__init__(1.0)
        self.clock, self.takes = clock, takes

    def score(self, rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        self.clock[0] += self.takes
        return super().score(rows)


def clocked(clock: list[float]) -> Callable[[], float]:
    return lambda: clock[0]


def test_score_rests_a_release_that_is_over_budget_again_and_again() -> None:
    clock = [0.0]
    scorer = Scorer(
        [PLACE], Shelf([("1", "champion", 0, Late(clock, 0.2))]), fallbacks={"risk": fallback}, now=clocked(clock)
    )

    late = [scorer.work(batch([3])) for _ in range(LATE_CALLS)]
    resting = scorer.work(batch([3]))
    clock[0] += REST_SECONDS
    again = scorer.work(batch([3]))

    assert [part.columns["risk"][0] for part in (*late, resting, again)] == [3.0, 3.0, 3.0, -3.0, 3.0]
    assert resting.releases["risk"] == [None]
    assert resting.degraded[0][1:] == ("model:risk:over_budget",)
    assert again.degraded[0][1:] == ()


def test_score_makes_calls_of_bounded_size() -> None:
    model = Weighted(1)

    scored = Scorer([PLACE], Shelf([("1", "champion", 0, model)])).work(batch([1.0] * 2_500))

    assert model.calls == [1024, 1024, 452]
    assert np.asarray(scored.columns["risk"]).tolist() == [1.0] * 2_500


def test_score_decides_nothing_with_something_else_when_a_release_cannot_be_loaded() -> None:
    class Gone(Shelf):
        def model(self, release: Release) -> ScoringModel:
            raise ReleaseUnavailable("gone")

    with pytest.raises(ReleaseUnavailable):
        Scorer([PLACE], Gone([("1", "champion", 0, Weighted(1))]), fallbacks={"risk": fallback}).work(batch([1]))


def test_score_decides_without_a_shadow_that_is_not_loaded() -> None:
    class Half(Shelf):
        def model(self, release: Release) -> ScoringModel:
            if release.version == "2":
                raise ReleaseUnavailable("gone")
            return super().model(release)

        def loaded(self, release: Release) -> ScoringModel | None:
            return None if release.version == "2" else super().loaded(release)

    shelf = Half([("1", "champion", 0, Weighted(1)), ("2", "shadow", 0, Weighted(2)), ("3", "shadow", 0, Weighted(3))])
    before = missing_shadow_rows()

    scored = Scorer([PLACE], shelf).work(batch([1, 2]))

    assert np.asarray(scored.columns["risk"]).tolist() == [1.0, 2.0]
    assert scored.degraded == [("view:x:stale",)] * 2
    np.testing.assert_equal(scored.shadows["risk"], {"2": [np.nan, np.nan], "3": [3.0, 6.0]})
    assert missing_shadow_rows() == before + 2


def missing_shadow_rows() -> float:
    labels = {"model": "risk", "release": "2"}
    return metrics.SLOT.get_sample_value("penstock_shadow_missing_events_total", labels) or 0.0
