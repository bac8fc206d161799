"""The story of features: events in, windows per key out, as lane state that anybody can read at any moment.

`over_events` is the job `features`, `over_rekeyed` the jobs `by-<key>`. What both remember is what they publish: the
state topics are the changelogs of the views.
"""

from __future__ import annotations

import bytewax.operators as op
from bytewax.dataflow import Dataflow
from bytewax.inputs import Source
from bytewax.operators import KeyedStream
from bytewax.outputs import Sink

from dataflows.feature_stages import EventStages, RekeyedStages, ViewStages
from operators.batch import Item
from operators.decode import decode
from operators.dedupe import dedupe
from operators.guard import guard
from operators.lateness import lateness
from operators.measure import measure
from operators.rekey import rekey
from operators.rekeyed import rekeyed
from operators.stage import by_lane, together
from operators.tide import tide
from operators.window import step_of, window


def over_events(source: Source[Item], stages: EventStages, sink: Sink[Item]) -> Dataflow:
    """Wire the job `features`. Opens nothing, as `dataflows.decisions.wire`."""
    flow = Dataflow("features")
    events = op.input("events", flow, source)
    decoded = decode("decode", events, decoder=stages.decoder)
    guarded = guard("guard", decoded, guard=stages.guard)
    measured = measure("measure", guarded, measurer=stages.views.measurer)
    lanes = by_lane("by_lane", measured)
    fresh = dedupe("dedupe", lanes, build=stages.dedupe)
    timed = lateness("lateness", fresh, build=stages.lateness)
    kept = _windows(timed, stages.views)
    batches = together("together", kept)
    sent = rekey("rekey", batches, rekeyer=stages.rekeyer)
    told = tide("tide", sent, table=stages.views.tides)
    op.output("records", told, sink)
    return flow


def over_rekeyed(source: Source[Item], stages: RekeyedStages, sink: Sink[Item]) -> Dataflow:
    """Wire a job `by-<key>`."""
    flow = Dataflow("by_key")
    records = op.input("rekeyed_events", flow, source)
    read = rekeyed("rekeyed", records, reader=stages.reader)
    measured = measure("measure", read, measurer=stages.views.measurer)
    lanes = by_lane("by_lane", measured)
    kept = _windows(lanes, stages.views)
    batches = together("together", kept)
    told = tide("tide", batches, table=stages.views.tides)
    op.output("records", told, sink)
    return flow


def _windows(up: KeyedStream[Item], views: ViewStages) -> KeyedStream[Item]:
    """One step after the other for each view, since a lane is in one process anyway."""
    for view, build in views.windows.items():
        up = window(step_of(view), up, view=view, build=build)
    return up
