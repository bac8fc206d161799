"""Admission: the checks that a slot makes before it accepts a release, in the runtime that would use it.

In this order: the model is one of the pipeline's, its inputs are those of the pipeline and granted to it, the artefact
has the promised bytes, it loads (names, dtypes and shapes: `onnx.py`, `online.py`), it scores trial rows, finite where
no value is missing, a row's score does not depend on the rows beside it (batches grow and shrink by themselves), and a
call keeps the model's budget.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from models.artefacts import ArtefactStore
from models.release import ModelRefused, RefusalReason, ReleaseRecord

CALL_ROWS: Final = 1024
"""Rows of one call at most; a model's budget is for one call."""
_TRIAL_ROWS: Final = 256


class ScoringModel(Protocol):
    """A loaded release."""

    def score(self, rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        """Score rows (n, f) float32 with NaN for missing; (n,) float64."""


@dataclass(frozen=True, slots=True)
class Place:
    """A model as the pipeline declares it: the place that releases fill."""

    name: str
    inputs: tuple[str, ...]
    """Names of the columns, in the model's order."""
    budget_ms: float = 100.0
    """Wall time that one call may take."""
    closed: tuple[str, ...] = ()
    """Inputs that the model was not granted: they read as missing, and a release that takes them is refused."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """The release may be used."""

    model: ScoringModel
    figures: Mapping[str, float]
    """`fetch_ms`, `load_ms`, and `us_per_event_<n>`: wall time per row in a call of n rows."""


@dataclass(frozen=True, slots=True)
class Refused:
    """The release may not be used."""

    reason: RefusalReason
    detail: str
    figures: Mapping[str, float] = field(default_factory=dict)


Answer: TypeAlias = Accepted | Refused


def admit(
    release: ReleaseRecord,
    places: Mapping[str, Place],
    store: ArtefactStore,
    now: Callable[[], float] = time.perf_counter,
) -> Answer:
    """Fetch a release and put it to the tests.

    Args:
        release: what the registry says.
        places: the pipeline's models by name.
        store: where artefacts are.
        now: clock in seconds.

    Returns:
        The loaded model, or why it is refused. Never raises: what nobody foresaw is a broken file.
    """
    figures: dict[str, float] = {}
    try:
        place = _place(release, places)
        started = now()
        data = store.fetch(release.uri, release.size, release.sha256)
        fetched = now()
        figures["fetch_ms"] = (fetched - started) * 1e3
        model = load(release.format, data, place.inputs)
        figures["load_ms"] = (now() - fetched) * 1e3
        try_out(model, place, figures, now)
    except ModelRefused as refusal:
        return Refused(refusal.reason, refusal.detail, _rounded(figures))
    except Exception as error:  # a release must not end the thread that admits them, nor the flow
        return Refused(RefusalReason.BROKEN_FILE, _unforeseen(error), _rounded(figures))
    return Accepted(model, _rounded(figures))


def import_runtimes() -> None:
    """Import ONNX Runtime and River, three seconds, which the first release would otherwise pay in each slot.

    They are not imported with this module, because not every pipeline has models.
    """
    import models.online  # noqa: PLC0415 -- not at import, as said above
    import models.onnx  # noqa: F401, PLC0415 -- the same


def load(kind: str, data: bytes, inputs: Sequence[str]) -> ScoringModel:
    """Open an artefact.

    Raises:
        ModelRefused: it cannot be used for these inputs.
    """
    try:
        if kind == "onnx":
            from models.onnx import OnnxModel  # noqa: PLC0415 -- see `import_runtimes`

            return OnnxModel.load(data, inputs)
        if kind == "river":
            from models.online import OnlineModel  # noqa: PLC0415 -- see `import_runtimes`

            return OnlineModel.load(data, inputs)
    except ModelRefused:
        raise
    except Exception as error:  # a file can be made to raise anything
        raise ModelRefused(RefusalReason.BROKEN_FILE, _unforeseen(error)) from error
    raise ModelRefused(RefusalReason.FORMAT, f"format {kind[:40]} is not known; there are onnx and river")


def try_out(
    model: ScoringModel, place: Place, figures: dict[str, float], now: Callable[[], float] = time.perf_counter
) -> None:
    """Score trial rows: zeros, ones and seeded random rows of several sizes, then some of them with missing values.

    What is missing may make its row's score NaN (the fallback answers then), but must not make the release raise.

    Args:
        model: the loaded release.
        place: whose inputs and budget it must meet.
        figures: gets `us_per_event_<n>` for n of 1 and 256.
        now: clock in seconds.

    Raises:
        ModelRefused: it fails, gives what is no finite number, mixes rows, or is too slow.
    """
    f = len(place.inputs)
    rng = np.random.default_rng(0)
    # Small numbers only: an honest model with an exponential in it overflows far from what it was trained on.
    rows = np.vstack([np.zeros((1, f)), np.ones((1, f)), rng.random((_TRIAL_ROWS - 2, f))]).astype(np.float32)
    # The first calls of a size are slow in ONNX Runtime (it plans its memory): they warm up and are not timed.
    together = _trial(model, rows)
    alone = np.array([_trial(model, rows[at : at + 1])[0] for at in range(8)])
    if not np.isfinite(together).all():
        detail = f"{int((~np.isfinite(together)).sum())} of {len(rows)} trial rows have no finite score"
        raise ModelRefused(RefusalReason.NOT_FINITE, detail)
    _check_alike(together[:8], alone)
    holed = rows[:8].copy()
    holed[2, :] = holed[3, ::2] = np.nan
    alone[2:4] = [_trial(model, holed[at : at + 1])[0] for at in (2, 3)]
    _check_alike(_trial(model, holed), alone)
    for n in (1, _TRIAL_ROWS):
        took = min(_timed(model, rows[:n], now) for _ in range(3))
        figures[f"us_per_event_{n}"] = took / n * 1e6
    whole_call_ms = figures[f"us_per_event_{_TRIAL_ROWS}"] * CALL_ROWS / 1e3
    if whole_call_ms > place.budget_ms:
        detail = f"a call of {CALL_ROWS} rows takes about {whole_call_ms:.1f} ms, the budget is {place.budget_ms:g} ms"
        raise ModelRefused(RefusalReason.TOO_SLOW, detail)


def _place(release: ReleaseRecord, places: Mapping[str, Place]) -> Place:
    place = places.get(release.model)
    if place is None:
        known = ", ".join(sorted(places)) or "none"
        raise ModelRefused(RefusalReason.UNKNOWN_MODEL, f"the pipeline has no model {release.model}; it has {known}")
    if release.inputs != place.inputs:
        detail = f"the release takes {', '.join(release.inputs)}; the pipeline gives {', '.join(place.inputs)}"
        raise ModelRefused(RefusalReason.INPUT_NAMES, detail[:900])
    check_grants(place)
    return place


def check_grants(place: Place) -> None:
    """Refuse every release of a place that reads what its model may not.

    Raises:
        ModelRefused: an input was not granted.
    """
    if place.closed:
        detail = (
            f"{', '.join(place.closed)}: not granted to {place.name}; have the owner of the view add {place.name} to "
            "its grants in the pipeline file, or take it from the model's inputs"
        )
        raise ModelRefused(RefusalReason.NOT_GRANTED, detail[:900])


def _check_alike(together: npt.NDArray[np.float64], alone: npt.NDArray[np.float64]) -> None:
    if not np.allclose(together, alone, rtol=1e-4, atol=1e-6, equal_nan=True):
        detail = "a row's score changes with the rows beside it; a model must score each row by itself"
        raise ModelRefused(RefusalReason.ROWS_DEPEND, detail)


def _trial(model: ScoringModel, rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    try:
        scores = model.score(rows)
    except Exception as error:  # whatever the release raises is the release's fault
        missing = "with missing values " if np.isnan(rows).any() else ""
        first = (str(error).strip().splitlines() or [""])[0][:300]
        detail = f"scoring {len(rows)} trial rows {missing}fails: {type(error).__name__}: {first}"
        raise ModelRefused(RefusalReason.TRIAL_ERROR, detail) from error
    if scores.shape != (len(rows),):
        raise ModelRefused(RefusalReason.OUTPUT, f"{len(rows)} rows give scores of shape {scores.shape}")
    return scores


def _unforeseen(error: Exception) -> str:
    return f"opening the release fails with {type(error).__name__}; is it a whole and unchanged export?"


def _timed(model: ScoringModel, rows: npt.NDArray[np.float32], now: Callable[[], float]) -> float:
    started = now()
    _trial(model, rows)
    return now() - started


def _rounded(figures: Mapping[str, float]) -> dict[str, float]:
    return {name: round(value, 2) for name, value in figures.items()}
