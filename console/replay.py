"""`penstock replay`: what would the decisions of a range be with another policy or other releases?"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from console.models import Bootstrap, ClientConfig, PipelineFile
from console.rejected import Artefacts, AsJson, Lanes, NamedReleases, SealKeyFile
from console.run import load_or_exit

if TYPE_CHECKING:
    from console.comparison import Comparison
    from console.steps import Steps
    from dataflows.pipeline import Pipeline
    from dataflows.settings import Settings
    from operators.batch import Record

Edge = "a time, 2026-05-01T08:00:00Z, or LANE:OFFSET"


def replay(  # noqa: PLR0917 -- typer makes options of them
    pipeline: PipelineFile,
    bootstrap: Bootstrap,
    since: Annotated[str, typer.Option("--from", help=f"The first event: {Edge}.")],
    until: Annotated[str, typer.Option("--to", help=f"The first event that is not meant: {Edge}.")],
    lane: Lanes = None,
    policy: Annotated[
        Path | None, typer.Option(help="Another pipeline file, whose policy decides; a changed copy of the first.")
    ] = None,
    release: NamedReleases = None,
    write: Annotated[
        bool, typer.Option("--write", help="Write each decision that says something else now as its next revision.")
    ] = False,
    named: Annotated[int, typer.Option("--list", min=0, help="Name so many of the changed decisions.")] = 20,
    seal_key_file: SealKeyFile = None,
    artefacts: Artefacts = "artefacts",
    as_json: AsJson = False,
    client_config: ClientConfig = None,
) -> None:
    """Decide the events of a range again from what their decisions logged, and compare.

    Recalled windows, views, ages and degradations are those of the decision. Derived features, models, fallbacks and
    the policy give their answers again, each model with the release that was in force for the event, or the one named.
    """
    from console.redrive import explained, settings_of
    from console.steps import Steps

    spec = load_or_exit(pipeline)
    other = load_or_exit(policy) if policy is not None else None
    given = {"seal_key_file": seal_key_file, "artefacts": artefacts, "client_config": client_config}
    with explained(), Steps() as steps:
        settings = settings_of(pipeline, bootstrap=bootstrap, **given)
        ends = (since, until, lane or [])
        found = _compare(settings, spec, other, ends, release or [], named=named, writes=write, steps=steps)
    if as_json:
        print(json.dumps({"pipeline": spec.pipeline, "written": write, **found.as_json()}))
    else:
        _print(found, written=write)


def _compare(
    settings: Settings,
    pipeline: Pipeline,
    other: Pipeline | None,
    ends: tuple[str, str, Sequence[int]],
    named_releases: Sequence[str],
    *,
    named: int,
    writes: bool,
    steps: Steps,
) -> Comparison:
    """Open what is needed and compare. Who writes fences other writers first, and only then reads what there is."""
    from console.comparison import Comparison, compare, range_of, recollect
    from console.redrive import opened, releases_of, writer_of
    from dataflows.replay import DecidedAgain, unhurried, with_policy
    from operators.topic_ranges import TopicRanges
    from state.latest import Latest

    pipeline = unhurried(pipeline if other is None else with_policy(pipeline, other))
    with ExitStack() as stack:
        reader = stack.enter_context(TopicRanges(settings.connection()))
        ranges = range_of(reader, pipeline, *ends)
        releases = releases_of(reader, settings, pipeline, named_releases)
        ready = stack.enter_context(opened(settings, pipeline, releases, reads_views=False))
        latest = stack.enter_context(closing(Latest()))
        write: Callable[[Sequence[Record]], None] = _nothing
        if writes:
            write = stack.enter_context(writer_of(reader, settings, pipeline, ("decisions", "reviews"))).write
        recollect(reader, pipeline, ranges, latest, steps)
        found = Comparison(named)
        again = DecidedAgain(pipeline, ready.stages, ready.clock)
        compare(reader, pipeline, ranges, latest, again=again, found=found, write=write, steps=steps)
        return found


def _nothing(_: Sequence[Record]) -> None:
    """Where it only compares."""


def _print(found: Comparison, *, written: bool) -> None:
    from console.tables import print_table

    pairs = found.as_json()["outcomes"]
    cells = [(pair["before"], pair["after"], pair["count"], f"{pair['share']:.2%}") for pair in pairs]
    print_table(["before", "after", "count", "share"], cells)
    print(f"{found.events} events, {found.compared} decided again, {found.undecided} without a decision")
    for name, n in sorted(found.lacking.items()):
        print(f"{n} decisions could not be made again: they did not log {name}")
    for model, score in sorted(found.scores.items()):
        print(f"{model}: {score['differ']} scores differ, by {score['greatest']:g} at most")
    print(f"{found.changed} changed, {found.changed - found.kept_out} of them {'' if written else 'not '}written")
    for each in found.listed:
        before, after = each["before"], each["after"]
        print(
            f"{each['decision_id']} {before['outcome']} {','.join(before['reasons'])} -> "
            f"{after['outcome']} {','.join(after['reasons'])}"
        )
