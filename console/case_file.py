"""What a case file says: events, what is in Redis, which releases are in force, and what should come out."""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, model_validator

from dataflows.pipeline import Pipeline
from dataflows.views import view_of
from models.admission import ScoringModel
from models.history import InForce, Part, Release
from models.release import ReleaseRecord
from state.cache import AgingCache
from state.features import FeatureStore
from state.link import Asks, MemoryLink, NoLink
from state.views import Request
from state.windowed_view import WindowedView

MAX_EVENTS = 1000


class CaseInvalid(Exception):
    """A case file cannot be used. Each of its arguments says one reason."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Event(_Part):
    """One record of the events topic."""

    value: Any = None
    """The event as an object; for a CloudEvents contract, the headers of binary mode are added."""
    raw: str | None = None
    """The value's very text, for events that are not well-formed."""
    key: str | None = None
    headers: dict[str, str] | None = None
    time: datetime | None = None
    """When the broker appended it; the case's `now` by default."""


class Model(_Part):
    """What a model answers in a case: a number for every event, or a release's own."""

    score: float | None = None
    release: str | None = None
    """File of a release, relative to the pipeline file."""

    @model_validator(mode="after")
    def _one_of_two(self) -> Model:
        if (self.score is None) == (self.release is None):
            raise ValueError("give either score or release")
        return self


class Case(_Part):
    """Events and the first records that they should get."""

    name: str = ""
    now: datetime = datetime(2026, 1, 15, 12, tzinfo=UTC)
    """When the events are decided."""
    redis: Literal["up", "down"] = "up"
    features: dict[str, dict[str, dict[str, float | str | None]]] = {}
    """View to key to features; `time` among them would not be a feature: values are as of `now`."""
    models: dict[str, Model] = {}
    """Model to what it answers; a model that is not named has no release in force."""
    events: list[Event] = Field(min_length=1, max_length=MAX_EVENTS)
    expect: list[dict[str, Any]]
    """One part of a first record for each event: what is named must be so, the rest may be anything."""


def store_of(pipeline: Pipeline, case: Case, now: float) -> FeatureStore:
    """A feature store that holds what a case says. Raises `CaseInvalid`."""
    answers: dict[Request, Any] = {}
    for name, by_key in case.features.items():
        if name not in pipeline.views:
            raise CaseInvalid(
                f"features: the pipeline has no view '{name}'; expected one of {', '.join(pipeline.views)}"
            )
        view = view_of(pipeline, name)
        assert not isinstance(view, WindowedView)  # noqa: S101 -- a case's pipeline has none: `dataflows.views.given`
        for key, values in by_key.items():
            unknown = values.keys() - dict(view.features).keys()
            if unknown:
                raise CaseInvalid(f"features: the view '{name}' has no feature '{min(unknown)}'")
            for feature, kind in view.features:
                value = values.get(feature)
                if value is not None and isinstance(value, str) != (kind == "string"):
                    raise CaseInvalid(f"features: {name}.{feature} is a {kind}, and the case gives it another type")
            [request] = view.requests(pipeline.pipeline, [key])
            answers[request] = view.pack(round(now * 1000), [values.get(each) for each, _ in view.features])
    link: Asks = NoLink() if case.redis == "down" else MemoryLink(answers)
    return FeatureStore(link, pipeline.pipeline, cache=AgingCache(1000, 60.0), now=lambda: now)


@dataclass(frozen=True, slots=True)
class _Constant:
    """A model that gives every event the same score."""

    value: float

    def score(self, rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        return np.full(len(rows), self.value)


def catalog_of(pipeline: Pipeline, case: Case, folder: Path) -> CaseCatalog:
    """The releases that a case puts in force. Raises `CaseInvalid` and `ModelRefused`."""
    return CaseCatalog(_releases(pipeline, case, folder))


def _releases(pipeline: Pipeline, case: Case, folder: Path) -> dict[str, tuple[Release, ScoringModel]]:
    releases: dict[str, tuple[Release, ScoringModel]] = {}
    for number, (name, given) in zip(itertools.count(), case.models.items()):
        if name not in pipeline.models:
            raise CaseInvalid(
                f"models: the pipeline has no model '{name}'; expected one of {', '.join(pipeline.models)}"
            )
        inputs = pipeline.models[name].inputs
        if given.release is None:
            data, model = b"constant", _Constant(given.score if given.score is not None else math.nan)
            version, kind = "case", "onnx"
        else:
            data, kind = _artefact(folder / given.release)
            version, model = Path(given.release).stem, _loaded(data, kind, inputs)
        record = ReleaseRecord.model_validate(
            {
                "pipeline": pipeline.pipeline, "model": name, "version": version, "format": kind, "size": len(data),
                "sha256": hashlib.sha256(data).hexdigest(), "uri": given.release or "case", "inputs": inputs,
            }
        )  # fmt: skip
        releases[name] = (Release(number, record), model)
    return releases


def _artefact(path: Path) -> tuple[bytes, str]:
    try:
        return path.read_bytes(), "onnx" if path.suffix == ".onnx" else "river"
    except OSError as error:
        raise CaseInvalid(f"models: could not read the release {path}: {error.strerror}") from None


def _loaded(data: bytes, kind: str, inputs: Sequence[str]) -> Any:
    if kind == "onnx":
        from models.onnx import OnnxModel

        return OnnxModel.load(data, inputs)
    from models.online import OnlineModel

    return OnlineModel.load(data, inputs)


@dataclass(frozen=True, slots=True)
class CaseCatalog:
    """What a case says is in force."""

    releases: Mapping[str, tuple[Release, ScoringModel]]

    def parts(self, model: str, append_ms: npt.NDArray[np.int64]) -> list[Part]:
        """One part: what is in force does not change within a case."""
        found = self.releases.get(model)
        return [Part(slice(0, len(append_ms)), InForce(found[0] if found else None))]

    def model(self, release: Release) -> ScoringModel:
        """The model of a release."""
        return self.releases[release.model][1]

    def loaded(self, release: Release) -> ScoringModel:
        """The model of a release: all are loaded."""
        return self.model(release)
