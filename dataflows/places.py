"""The models of a pipeline as places for releases, with what a release there may read."""

from __future__ import annotations

from dataflows.pipeline import Pipeline
from models.admission import Place
from models.expressions import parse


def places_of(pipeline: Pipeline) -> list[Place]:
    """The models that releases may fill, in the order in which they are scored."""
    return [place_of(pipeline, model) for model in pipeline.models]


def place_of(pipeline: Pipeline, model: str) -> Place:
    """One model. Raises `KeyError`."""
    spec = pipeline.models[model]
    return Place(model, spec.inputs, spec.budget.total_seconds() * 1000, _closed(pipeline, model))


def _closed(pipeline: Pipeline, model: str) -> tuple[str, ...]:
    """The inputs of a model that it was not granted.

    A derived feature is closed with what it is derived from, or it would be a way around. Scores of other models are
    open: they are what those were granted the feature for. Fallbacks and rules belong to the pipeline and read all.
    """
    closed = {
        f"{view}_{feature}"
        for view, spec in pipeline.views.items()
        for feature, models in spec.grants.items()
        if model not in models
    }
    if not closed:
        return ()
    for name, source in pipeline.features.items():
        if closed & parse(name, source, pipeline.columns, "number").uses.keys():
            closed.add(name)
    return tuple(column for column in pipeline.models[model].inputs if column in closed)
