"""From the pipeline file to the stages that compute windowed views, as plain objects. Opens nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from dataflows.jobs import BY, other_keys
from dataflows.pipeline import Pipeline
from dataflows.stages import dedupe_of, guard_of
from dataflows.view_stages import ahead_of, fields_of, guarded_fields, measurer_of, view_windows, windowed_views
from operators.decode import Decoder
from operators.dedupe import Dedupe
from operators.guard import Guard, Scans
from operators.lateness import LaneLateness
from operators.measure import Measurer
from operators.rekey import Exchange, Rekeyer
from operators.rekeyed import RekeyedReader
from operators.tide import TideTable
from operators.window import LaneView
from state.vault import Vault


@dataclass(frozen=True, slots=True)
class ViewStages:
    """The views of one key."""

    measurer: Measurer
    windows: Mapping[str, Callable[[int], LaneView]]
    """View to what makes a lane's memory of it."""
    tides: TideTable


@dataclass(frozen=True, slots=True)
class EventStages:
    """The stages of the job `features`, in the order in which an event meets them."""

    decoder: Decoder
    guard: Guard
    dedupe: Callable[[int], Dedupe]
    lateness: Callable[[int], LaneLateness]
    views: ViewStages
    rekeyer: Rekeyer


@dataclass(frozen=True, slots=True)
class RekeyedStages:
    """The stages of a job `by-<key>`."""

    reader: RekeyedReader
    views: ViewStages


def build_event_stages(
    pipeline: Pipeline, *, vault: Vault, scanner: Scans | None, lanes: Callable[[], int]
) -> EventStages:
    """Build the stages of the job `features`. Starts Polars' threads, so after the fork.

    Args:
        pipeline: the pipeline file.
        vault: tokens are made with it, as in decisions.
        scanner: finds personal data; None where the pipeline scans nothing.
        lanes: how many there are; asked once they are known.

    Raises:
        ExpressionRefused: an expression cannot be used.
        ValueError: a stage cannot be had as the file asks.
    """
    keys = other_keys(pipeline)
    exchanges = [Exchange(BY + key, key, tuple(fields_of(pipeline, _views_by(pipeline, key)))) for key in keys]
    return EventStages(
        decoder=Decoder(pipeline.contract, pipeline=pipeline.pipeline, vault=vault),
        guard=guard_of(pipeline, scanner, vault),
        dedupe=dedupe_of(pipeline),
        lateness=partial(LaneLateness, ahead_ms=ahead_of(pipeline)),
        views=_view_stages(pipeline, _views_by(pipeline, pipeline.contract.entity), sources=lambda: 1),
        rekeyer=Rekeyer(exchanges, lanes),
    )


def build_rekeyed_stages(pipeline: Pipeline, key: str, *, lanes: Callable[[], int]) -> RekeyedStages:
    """Build the stages of the job `by-<key>`; for `lanes` and what it raises, see above."""
    views, types = _views_by(pipeline, key), guarded_fields(pipeline)
    fields = {field: types[field] for field in fields_of(pipeline, views)}
    return RekeyedStages(RekeyedReader(fields), _view_stages(pipeline, views, sources=lanes))


def _views_by(pipeline: Pipeline, key: str) -> list[str]:
    return [view for view in windowed_views(pipeline) if pipeline.views[view].key == key]


def _view_stages(pipeline: Pipeline, views: Sequence[str], *, sources: Callable[[], int]) -> ViewStages:
    specs = {view: view_windows(view, pipeline.views[view]) for view in views}
    windows = {view: partial(LaneView, spec=spec) for view, spec in specs.items()}
    return ViewStages(measurer_of(pipeline, views), windows, TideTable(sources))
