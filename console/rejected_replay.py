"""The order in which `penstock rejected replay` does its work."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING

from console.mending import DONE, Mending, Tally, find, recollect
from console.redrive import opened, releases_of, writer_of
from console.rejections import rejections
from dataflows.replay import RejectedAgain, unhurried
from operators.batch import Record
from state.latest import Latest

if TYPE_CHECKING:
    from console.rejections import Selection
    from console.steps import Steps
    from dataflows.pipeline import Pipeline
    from dataflows.settings import Settings
    from operators.topic_ranges import TopicRanges


def replay_rejected(
    reader: TopicRanges,
    settings: Settings,
    pipeline: Pipeline,
    selection: Selection,
    named: Sequence[str],
    *,
    limit: int | None,
    dry_run: bool,
    steps: Steps,
) -> Tally:
    """Decide the selected rejections that have no later record, and write what becomes of them.

    The order is what makes it idempotent: an earlier run is fenced first, then what it has committed is read, then
    the rest is written.

    Args:
        reader: of the topics.
        settings: keys, feature store, artefacts.
        pipeline: as it is now.
        selection: which rejections.
        named: releases to score with, `model=version`.
        limit: the most that are tried.
        dry_run: write nothing, and fence nobody.
        steps: told of the progress.
    """
    topic = pipeline.topic("rejected")
    pipeline = unhurried(pipeline)
    with ExitStack() as stack:
        ready = stack.enter_context(
            opened(settings, pipeline, releases_of(reader, settings, pipeline, named), reads_views=True)
        )
        latest = stack.enter_context(closing(Latest()))
        ranges = selection.ranges(reader, topic)
        found = find(reader, topic, ranges, selection, steps)
        write: Callable[[Sequence[Record]], None] = _nothing
        if not dry_run and found.counts:
            write = stack.enter_context(writer_of(reader, settings, pipeline, (*DONE, "reviews"))).write
        recollect(reader, pipeline, found, latest, steps)
        again = RejectedAgain(pipeline, ready.stages, latest, ready.clock)
        total = sum(found.counts.values())
        steps.begin("deciding rejected events", total if limit is None else min(total, limit))
        mending = Mending(
            again, ready.prepared.vault, latest, write, topic=pipeline.topic("events"), limit=limit, steps=steps
        )
        lanes = {lane: ranges[lane] for lane in found.counts}
        return mending.mend(each for each in rejections(reader, topic, lanes) if selection.takes(each.record))


def _nothing(_: Sequence[Record]) -> None:
    """Where it is a dry run."""
