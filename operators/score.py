"""Score: derived features, then every release in force gives its number, with a declared answer where none comes.

A row's score comes, in this order, from the champion in force for the row's append time, from the model's fallback
expression, or it is missing (NaN: unknown to the rules). Where the champion did not give it, the row says why:
`model:<name>:no_release`, `:not_finite`, `:error` or `:over_budget`.

The budget is for one call of at most 1,024 rows. A call that is over it has already cost its time, so its scores are
used; three such calls in a row rest the release for five seconds, in which the fallback answers and the lane catches
up. Shadows are scored after the champions, keep to the same rule, and never change or delay a decision: a shadow that
fails, or that is in force and not loaded, has no score, which is counted.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
from bytewax.dataflow import Stream, operator

from models.admission import CALL_ROWS, Place, ScoringModel
from models.history import Part, Release
from operators import metrics
from operators.batch import Batch, Column, Item
from operators.stage import stage

Floats: TypeAlias = npt.NDArray[np.float64]
Mask: TypeAlias = npt.NDArray[np.bool_]
Numbers: TypeAlias = Callable[[Mapping[str, Any], int], Mapping[str, Floats]]
"""Columns and the number of rows to new columns (n,), NaN where unknown: `Expressions.numbers`."""

LATE_CALLS: Final = 3
REST_SECONDS: Final = 5.0


class Releases(Protocol):
    """What scoring asks of the catalog."""

    def parts(self, model: str, append_ms: npt.NDArray[np.int64]) -> list[Part]:
        """Group rows by what is in force for each."""

    def model(self, release: Release) -> ScoringModel:
        """The model of a release, loaded now where that has not happened yet."""

    def loaded(self, release: Release) -> ScoringModel | None:
        """The model of a release where it is loaded already; otherwise None, and at once."""


class Scorer:
    """Scores batches. Never raises for what is in an event; only a champion that cannot be loaded stops it."""

    def __init__(
        self,
        places: Sequence[Place],
        catalog: Releases,
        *,
        derived: Numbers | None = None,
        fallbacks: Mapping[str, Numbers] | None = None,
        now: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Prepare to score.

        Args:
            places: the pipeline's models in the order in which they are scored; a later one may take the score of an
                earlier one as an input.
            catalog: what is in force, and the loaded models.
            derived: the pipeline's derived features.
            fallbacks: model to an expression of its name, evaluated only for batches that need it.
            now: clock in seconds.
        """
        self._places = tuple(places)
        self._catalog = catalog
        self._derived = derived
        self._fallbacks = dict(fallbacks or {})
        self._now = now
        self._pace: dict[int, _Pace] = {}

    def work(self, batch: Batch) -> Batch:
        """Add derived features, scores, the releases that gave them and the shadows' scores to a batch."""
        n = len(batch)
        columns: dict[str, Column] = dict(batch.columns)
        if self._derived is not None:
            columns |= self._derived(columns, n)
        releases: dict[str, list[str | None]] = {}
        shadows: dict[str, dict[str, Floats]] = {}
        degraded = _Degraded(batch.degraded, n)
        for place in self._places:
            scored = self._score(place, columns, batch.append_ms)
            scores = self._fall_back(scored, place.name, columns, degraded)
            columns[place.name] = scores
            releases[place.name] = scored.release
            if scored.shadows:
                shadows[place.name] = scored.shadows
        return replace(batch, columns=columns, releases=releases, shadows=shadows, degraded=degraded.rows)

    def _score(self, place: Place, columns: Mapping[str, Column], append_ms: npt.NDArray[np.int64]) -> _Scored:
        """One call per release in force; usually one release for the whole batch."""
        n = len(append_ms)
        scored = _Scored(np.full(n, np.nan), [None] * n, {}, [])
        rows: npt.NDArray[np.float32] | None = None
        for part in self._catalog.parts(place.name, append_ms):
            at, in_force = part.rows, part.in_force
            if in_force.releases() and rows is None:
                rows = _rows(columns, place, n)
            if in_force.champion is None:
                scored.failed.append(("no_release", _indices(at, n)))
            else:
                assert rows is not None  # noqa: S101 -- for the type checker: there is a release
                self._score_champion(place, in_force.champion, rows, at, scored)
            for shadow in in_force.shadows:
                assert rows is not None  # noqa: S101
                column = scored.shadows.setdefault(shadow.version, np.full(n, np.nan))
                # Only what is there: a shadow is never fetched while events wait.
                model = self._catalog.loaded(shadow)
                if model is not None:
                    column[at], _ = self._call(place, shadow, model, rows[at])
                else:
                    metrics.count_shadow_missing(place.name, shadow.version, len(column[at]))
        return scored

    def _score_champion(
        self,
        place: Place,
        champion: Release,
        rows: npt.NDArray[np.float32],
        at: slice | npt.NDArray[np.int64],
        scored: _Scored,
    ) -> None:
        scores, failed = self._call(place, champion, self._catalog.model(champion), rows[at])
        scored.scores[at] = scores
        finite = np.isfinite(scores)
        if finite.all():
            if isinstance(at, slice):
                scored.release[at] = [champion.version] * len(scores)
                return
            good = at
        else:
            where = _indices(at, len(rows))
            good = where[finite]
            # Row by row: why a row has no score does not depend on its neighbours.
            for why, those in (*failed, ("not_finite", ~finite & ~_any(failed, len(scores)))):
                if those.any():
                    scored.failed.append((why, where[those]))
        for row in good.tolist():
            scored.release[row] = champion.version

    def _call(
        self, place: Place, release: Release, model: ScoringModel, rows: npt.NDArray[np.float32]
    ) -> tuple[Floats, list[tuple[str, Mask]]]:
        """Score rows with one release, in calls of at most 1,024.

        Returns:
            Scores (n,) float64, NaN where none came; and which rows (n,) bool were not scored at all, by why.
        """
        scores = np.full(len(rows), np.nan)
        pace = self._pace.setdefault(release.offset, _Pace())
        began = self._now()
        if pace.resting_until > began:
            return scores, [("over_budget", np.ones(len(rows), np.bool_))]
        raised = np.zeros(len(rows), np.bool_)
        for start in range(0, len(rows), CALL_ROWS):
            called, part = self._now(), slice(start, start + CALL_ROWS)
            _score_into(scores[part], raised[part], model, rows[part])
            pace.took(self._now() - called, place.budget_ms / 1e3, self._now())
        metrics.count_scored(place.name, release.version, len(rows), self._now() - began)
        return scores, [("error", raised)]

    def _fall_back(self, scored: _Scored, model: str, columns: Mapping[str, Column], degraded: _Degraded) -> Floats:
        """Fill the rows that no release scored."""
        if not scored.failed:
            return scored.scores
        fallback = self._fallbacks.get(model)
        n = len(scored.scores)
        instead = fallback(columns, n)[model] if fallback is not None else np.full(n, np.nan)
        for why, where in scored.failed:
            scored.scores[where] = instead[where]
            degraded.add(f"model:{model}:{why}", where)
            metrics.count_fallback(model, why, len(where))
        return scored.scores


@dataclass(slots=True)
class _Scored:
    """One model's part of a batch of n rows."""

    scores: Floats
    release: list[str | None]
    shadows: dict[str, Floats]
    failed: list[tuple[str, npt.NDArray[np.int64]]]
    """Why, and which rows have no score for it."""


@dataclass(slots=True)
class _Pace:
    """Whether a release keeps its budget."""

    late: int = 0
    resting_until: float = -np.inf

    def took(self, seconds: float, budget: float, at: float) -> None:
        self.late = self.late + 1 if seconds > budget else 0
        if self.late >= LATE_CALLS:
            self.late, self.resting_until = 0, at + REST_SECONDS


class _Degraded:
    """The batch's `degraded` column, copied when the first row changes."""

    def __init__(self, rows: list[tuple[str, ...]], n: int) -> None:
        self.rows: list[tuple[str, ...]] = rows if len(rows) == n else [()] * n
        self._given = rows

    def add(self, what: str, where: npt.NDArray[np.int64]) -> None:
        if self.rows is self._given:
            self.rows = list(self.rows)
        for row in where.tolist():
            self.rows[row] = (*self.rows[row], what)


def _score_into(scores: Floats, raised: Mask, model: ScoringModel, rows: npt.NDArray[np.float32]) -> None:
    """Score rows; where that fails, ever smaller parts, until the rows that fail stand alone: NaN and `raised`.

    So neither an event's score nor why it has none depends on the events that were polled with it.
    """
    try:
        scores[:] = model.score(rows)
    except Exception:  # whatever a release raises, the event gets the fallback
        if len(rows) == 1:
            raised[0] = True
            return
        half = len(rows) // 2
        _score_into(scores[:half], raised[:half], model, rows[:half])
        _score_into(scores[half:], raised[half:], model, rows[half:])


def _any(failed: Sequence[tuple[str, Mask]], n: int) -> Mask:
    """The rows (n,) that failed for any reason."""
    return np.logical_or.reduce([those for _, those in failed]) if failed else np.zeros(n, np.bool_)


def _rows(columns: Mapping[str, Column], place: Place, n: int) -> npt.NDArray[np.float32]:
    """The inputs as (n, f) float32; NaN for what is missing, not granted, not a number, or too large for float32."""
    rows = np.empty((n, len(place.inputs)), np.float32)
    with np.errstate(over="ignore"):
        for at, name in enumerate(place.inputs):
            column = None if name in place.closed else columns.get(name)
            if isinstance(column, np.ndarray):
                rows[:, at] = column
            else:
                rows[:, at] = np.nan if column is None else [np.nan if x is None else x for x in column]
    rows[np.isinf(rows)] = np.nan
    return rows


def _indices(at: slice | npt.NDArray[np.int64], n: int) -> npt.NDArray[np.int64]:
    return np.arange(n)[at]


@operator
def score(step_id: str, up: Stream[Item], *, scorer: Scorer) -> Stream[Item]:
    """Give every event its scores, one call per release in force and batch.

    In: batches with all features but the derived ones. Out: the same rows with derived features, scores (column = name
    of the model, (n,) float64, NaN for unknown), `releases`, `shadows` and `degraded`.
    Rejects: nothing; what a release does not score, the model's fallback does, and the row says so.
    State: none.
    Delivery: what is in force depends on the registry log and each row's append time alone, so it is the same in
    every slot and after every restart.
    """
    return stage("score", up, scorer.work)
