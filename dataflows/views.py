"""The feature views of a pipeline, each of its kind."""

from __future__ import annotations

from typing import TYPE_CHECKING

from state.views import LoadedView

if TYPE_CHECKING:
    from dataflows.pipeline import Pipeline
    from dataflows.view_spec import FeastSpec
    from state.feast import FeastView
    from state.windowed_view import WindowedView


def view_of(pipeline: Pipeline, name: str) -> LoadedView | FeastView | WindowedView:
    """One feature view as it is in Redis. Raises `KeyError`."""
    spec = pipeline.views[name]
    if spec.source is not None:
        return _feast(pipeline, name, spec.source.feast)
    if spec.windows:
        from dataflows.view_stages import windowed_view  # noqa: PLC0415 -- sketches only where a view needs them

        return windowed_view(pipeline, name)
    return LoadedView.of(name, spec.kinds)


def given(pipeline: Pipeline) -> Pipeline:
    """The pipeline with windowed views as loaded ones: for a case, which says what they are and not how they came."""
    views = {
        name: spec.model_copy(update={"features": spec.kinds, "windows": {}}) if spec.windows else spec
        for name, spec in pipeline.views.items()
    }
    return pipeline.model_copy(update={"views": views})


def _feast(pipeline: Pipeline, name: str, feast: FeastSpec) -> FeastView:
    from state.feast import FeastView  # noqa: PLC0415 -- Protocol Buffers only where a view needs them

    spec = pipeline.views[name]
    integer = pipeline.contract.fields[spec.key].type == "integer"
    return FeastView(
        name,
        tuple(spec.features.items()),
        project=feast.project or pipeline.pipeline,
        feature_view=feast.view or name,
        join_key=feast.join_key or spec.key,
        key_type=feast.key_type or ("int64" if integer else "string"),
        key_version=feast.key_version,
    )
