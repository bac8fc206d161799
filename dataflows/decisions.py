"""The story: events in, decisions out. Each line is a stage with a file of its own in `operators/`."""

from __future__ import annotations

import bytewax.operators as op
from bytewax.dataflow import Dataflow
from bytewax.inputs import Source
from bytewax.outputs import Sink

from dataflows.stages import Stages
from dataflows.wiring import Ports, open_from_environment
from operators.batch import Item
from operators.decide import decide
from operators.decode import decode
from operators.dedupe import dedupe
from operators.emit import emit
from operators.enrich import enrich
from operators.guard import guard
from operators.recall import recall
from operators.score import score
from operators.stage import by_lane, together


def wire(source: Source[Item], stages: Stages, sink: Sink[Item]) -> Dataflow:
    """Wire the stages. Opens nothing: tests call this with a list for a source and a list for a sink."""
    flow = Dataflow("decisions")
    events = op.input("events", flow, source)
    decoded = decode("decode", events, decoder=stages.decoder)
    guarded = guard("guard", decoded, guard=stages.guard)
    lanes = by_lane("by_lane", guarded)
    fresh = dedupe("dedupe", lanes, build=stages.dedupe)
    recalled = recall("recall", fresh, build=stages.recall)
    batches = together("together", recalled)
    enriched = enrich("enrich", batches, enricher=stages.enricher)
    scored = score("score", enriched, scorer=stages.scorer)
    decided = decide("decide", scored, decider=stages.decider)
    emitted = emit("emit", decided, encoder=stages.encoder)
    op.output("records", emitted, sink)
    return flow


def build(ports: Ports) -> Dataflow:
    """Wire the stages to Kafka."""
    return wire(ports.source, ports.stages, ports.sink)


def flow() -> Dataflow:
    """Build one slot's flow from `PENSTOCK_…`: `python -m bytewax.run "dataflows.decisions:flow()"`."""
    return build(open_from_environment())
