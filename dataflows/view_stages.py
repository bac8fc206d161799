"""From the windows that a pipeline file declares to what computes them. What opens something is handed in."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta

from dataflows.pipeline import WITHHELD, Pipeline
from dataflows.view_spec import ViewSpec, WindowedSpec
from models.expressions import parse
from operators.measure import Measure, Measurer
from state.lateness import most_ahead
from state.view_windows import ViewWindows
from state.window_spec import Feature
from state.windowed_view import WindowedView


def windowed_views(pipeline: Pipeline) -> list[str]:
    """The views that are computed from the events, in the order of the file."""
    return [name for name, spec in pipeline.views.items() if spec.windows]


def view_windows(name: str, spec: ViewSpec) -> ViewWindows:
    """The windows of one view.

    Raises:
        ValueError: a window does not fit its panes, or a value may become too large.
    """
    return ViewWindows(
        name=name,
        key=spec.key,
        features=tuple(
            Feature(feature, windowed.function, _ms(windowed.window), _name(windowed), windowed.kind)
            for feature, windowed in spec.windows.items()
        ),
        pane_ms=_ms(spec.pane),
        lateness_ms=_ms(spec.allowed_lateness),
        include_late=spec.on_late == "include",
        where=spec.where,
    )


def windowed_view(pipeline: Pipeline, name: str) -> WindowedView:
    """One view as it is read. An entity's lane was chosen before the guard; other keys are sent on after it."""
    spec, contract = pipeline.views[name], pipeline.contract
    tokens = spec.key == contract.entity and pipeline.guard.action(spec.key) == "tokenise"
    return WindowedView(view_windows(name, spec), any_lane=tokens)


def ahead_of(pipeline: Pipeline) -> int:
    """How far ahead of the broker's time an event may be dated to enter views, in milliseconds: one bound for all."""
    return most_ahead(_ms(pipeline.views[name].allowed_lateness) for name in windowed_views(pipeline))


def measurer_of(pipeline: Pipeline, views: Iterable[str]) -> Measurer:
    """What measures events for these views. Starts Polars' threads.

    Raises:
        ExpressionRefused: an expression cannot be used.
    """
    specs = [(name, pipeline.views[name]) for name in views]
    return Measurer([(view_windows(name, spec), measures_of(spec)) for name, spec in specs], guarded_fields(pipeline))


def measures_of(spec: ViewSpec) -> list[Measure]:
    """What the features of a view take from an event, each once."""
    return list(dict.fromkeys(measure for w in spec.windows.values() if (measure := _measure(w)) is not None))


def fields_of(pipeline: Pipeline, views: Iterable[str]) -> list[str]:
    """The contract fields that views are computed from, their keys among them."""
    fields: dict[str, None] = {}
    for spec in (pipeline.views[name] for name in views):
        fields[spec.key] = None
        sources = [spec.where, *(source for w in spec.windows.values() for source in (w.of, w.where))]
        for source in sources:
            if source is not None:
                fields |= dict.fromkeys(parse("out", source, guarded_fields(pipeline), "number").uses)
    return list(fields)


def guarded_fields(pipeline: Pipeline) -> dict[str, str]:
    """The contract fields that the guard leaves, and their types."""
    fields = pipeline.contract.fields.items()
    return {name: field.type for name, field in fields if pipeline.guard.action(name) not in WITHHELD}


def _measure(windowed: WindowedSpec) -> Measure | None:
    if windowed.of is None and windowed.where is None:
        return None
    return Measure(windowed.of, windowed.where)


def _name(windowed: WindowedSpec) -> str | None:
    measure = _measure(windowed)
    return None if measure is None else measure.name


def _ms(span: timedelta) -> int:
    return span // timedelta(milliseconds=1)
