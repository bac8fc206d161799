"""`penstock rejected`: what broke the contract, why, and deciding it again once the contract is mended."""

from __future__ import annotations

import base64
import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from console.models import Bootstrap, ClientConfig, PipelineFile
from console.run import give_up, load_or_exit, refuse_password

if TYPE_CHECKING:
    from console.mending import Tally
    from console.rejections import Rejected
    from dataflows.pipeline import Pipeline
    from operators.sealed import Original

Reasons = Annotated[
    list[str] | None, typer.Option("--reason", help="Only this reason, such as missing_field. May be given again.")
]
Lanes = Annotated[list[int] | None, typer.Option("--lane", help="Only this lane. May be given again.")]
Since = Annotated[str | None, typer.Option("--from", help="Rejected at this time or later: 2026-05-01T08:00:00Z.")]
Before = Annotated[str | None, typer.Option("--to", help="Rejected before this time.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
SealKeyFile = Annotated[
    Path | None,
    typer.Option(envvar="PENSTOCK_SEAL_KEY_FILE", show_envvar=True, help="The key of `run`; or PENSTOCK_SEAL_KEY."),
]
Artefacts = Annotated[
    str, typer.Option(envvar="PENSTOCK_ARTEFACTS", show_envvar=True, help="Folder or fsspec URL of the releases.")
]
Redis = Annotated[
    str | None,
    typer.Option(
        envvar="PENSTOCK_REDIS",
        show_envvar=True,
        help="URL of the feature store. One with a password: only by PENSTOCK_REDIS.",
    ),
]
NamedReleases = Annotated[
    list[str] | None,
    typer.Option("--release", help="MODEL=VERSION: score this model with this release. May be given again."),
]


def list_rejected(  # noqa: PLR0917 -- typer makes options of them
    pipeline: PipelineFile,
    bootstrap: Bootstrap,
    reason: Reasons = None,
    lane: Lanes = None,
    since: Since = None,
    before: Before = None,
    limit: Annotated[int, typer.Option(min=0, help="So many are named one by one; all are counted.")] = 20,
    as_json: AsJson = False,
    client_config: ClientConfig = None,
) -> None:
    """Count rejected events by reason and lane, and name the first of them."""
    from console.rejections import in_words, rejections, select
    from console.steps import Steps

    spec = load_or_exit(pipeline)
    counts: Counter[tuple[str, int]] = Counter()
    times: dict[tuple[str, int], tuple[int, int]] = {}
    rows: list[dict[str, Any]] = []
    with _reading(pipeline, bootstrap, client_config) as reader, Steps() as steps:
        selection = select(spec, [], reason or [], lane or [], since, before)
        topic = spec.topic("rejected")
        ranges = selection.ranges(reader, topic)
        steps.begin("reading rejections", sum(stop - start for start, stop in ranges.values()))
        for each in rejections(reader, topic, ranges, steps.advance):
            if selection.takes(each.record):
                group = each.record.reason.value, each.place[0]
                counts[group] += 1
                first, _ = times.get(group, (each.at_ms, 0))
                times[group] = first, each.at_ms
                if len(rows) < limit:
                    rows.append(_row(spec, each))
    groups = [
        {"reason": why, "lane": of, "count": n, "first": in_words(first), "last": in_words(last)}
        for (why, of), n in sorted(counts.items())
        for first, last in [times[why, of]]
    ]
    if as_json:
        print(json.dumps({"pipeline": spec.pipeline, "count": counts.total(), "by": groups, "rejected": rows}))
        return
    _print_rows(["reason", "lane", "count", "first", "last"], groups)
    if rows:
        print()
        _print_rows(["decision_id", "reason", "field", "at"], rows)
    if counts.total() > len(rows):
        print(f"{counts.total() - len(rows)} more; --limit names more of them")


def show(  # noqa: PLR0917 -- typer makes options of them
    origin: Annotated[str, typer.Argument(help="Decision id, TOPIC-LANE-OFFSET or LANE:OFFSET of the event.")],
    pipeline: PipelineFile,
    bootstrap: Bootstrap,
    reveal: Annotated[
        bool, typer.Option("--reveal", help="Open the original, which may hold personal data, with the sealing key.")
    ] = False,
    seal_key_file: SealKeyFile = None,
    as_json: AsJson = False,
    client_config: ClientConfig = None,
) -> None:
    """Show why one event was rejected. The exit code is 1 where it was not."""
    from console.redrive import settings_of
    from console.rejections import Selection, place_of, rejections
    from dataflows.settings import SettingsInvalid, open_vault
    from operators.sealed import open_original
    from state.vault import SealBroken

    spec = load_or_exit(pipeline)
    with _reading(pipeline, bootstrap, client_config) as reader:
        selection = Selection(origins=frozenset({place_of(spec, origin)}))
        topic = spec.topic("rejected")
        found = rejections(reader, topic, selection.ranges(reader, topic))
        rejected = next((each for each in found if selection.takes(each.record)), None)
    if rejected is None:
        print(f"no rejection of {origin} is on {topic}", file=sys.stderr)
        raise typer.Exit(1)
    shown = _row(spec, rejected) | {"stage": rejected.stage}
    if reveal:
        try:
            vault = open_vault(settings_of(pipeline, bootstrap=bootstrap, seal_key_file=seal_key_file))
            shown["original"] = _revealed(open_original(vault, rejected.record))
        except (SettingsInvalid, SealBroken) as wrong:
            give_up(str(wrong))
    if as_json:
        print(json.dumps(shown))
        return
    for name, value in shown.items():
        if name != "original":
            print(f"{name}: {'' if value is None else value}")
    if reveal:
        print(json.dumps(shown["original"], indent=2, ensure_ascii=False))


def replay(  # noqa: PLR0917 -- typer makes options of them
    context: typer.Context,
    pipeline: PipelineFile,
    bootstrap: Bootstrap,
    origins: Annotated[
        list[str] | None, typer.Argument(help="Only these events: decision ids, TOPIC-LANE-OFFSET or LANE:OFFSET.")
    ] = None,
    reason: Reasons = None,
    lane: Lanes = None,
    since: Since = None,
    before: Before = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Try so many at most.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Decide, count, and write nothing.")] = False,
    release: NamedReleases = None,
    redis: Redis = None,
    seal_key_file: SealKeyFile = None,
    artefacts: Artefacts = "artefacts",
    as_json: AsJson = False,
    client_config: ClientConfig = None,
) -> None:
    """Decide rejected events by the contract, releases and policy of now, and write each decision as revision 1.

    Without a selection all of them are meant. What was decided by an earlier run is left alone, so the command can be
    ended and run again at any time. What still breaks the contract stays rejected and is counted.
    """
    from console.redrive import settings_of
    from console.rejected_replay import replay_rejected
    from console.rejections import select
    from console.steps import Steps
    from dataflows.settings import SettingsInvalid

    refuse_password(context, redis)
    spec = load_or_exit(pipeline)
    given = {
        "bootstrap": bootstrap,
        "redis": redis,
        "seal_key_file": seal_key_file,
        "artefacts": artefacts,
        "client_config": client_config,
    }
    with _reading(pipeline, bootstrap, client_config) as reader, Steps() as steps:
        try:
            settings = settings_of(pipeline, **given)
        except SettingsInvalid as wrong:
            give_up(str(wrong))
        selection = select(spec, origins or [], reason or [], lane or [], since, before)
        tally = replay_rejected(
            reader, settings, spec, selection, release or [], limit=limit, dry_run=dry_run, steps=steps
        )
    if as_json:
        print(json.dumps({"pipeline": spec.pipeline, "written": not dry_run, **tally.as_json()}))
    else:
        _print_tally(tally, dry_run=dry_run)


@contextmanager
def _reading(file: Path, bootstrap: str, client_config: Path | None) -> Iterator[Any]:
    """A reader of topics; what cannot be done is said in a line, and the exit code is 2."""
    from console.redrive import explained
    from dataflows.settings import Settings, SettingsInvalid
    from operators.topic_ranges import TopicRanges

    try:
        connection = Settings(file=file, bootstrap=bootstrap, client_config=client_config).connection()
    except SettingsInvalid as invalid:
        give_up(str(invalid))
    with explained(), TopicRanges(connection) as reader:
        yield reader


def _row(pipeline: Pipeline, each: Rejected) -> dict[str, Any]:
    from console.rejections import in_words
    from operators.wire import decision_id

    return {
        "origin": each.origin,
        "decision_id": decision_id(pipeline.pipeline, *each.place),
        "reason": each.record.reason.value,
        "field": each.record.field,
        "at": in_words(each.at_ms),
    }


def _revealed(original: Original) -> dict[str, Any]:
    return {
        "key": _readable(original.key),
        "value": _readable(original.value),
        "headers": [[name, _readable(data)] for name, data in original.headers],
        "whole": original.whole,
        "size": original.size,
        "sha256": original.sha256,
    }


def _readable(data: bytes | None) -> Any:
    """Text as it is; other bytes in base64."""
    try:
        return None if data is None else data.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(data or b"").decode()}


def _print_tally(tally: Tally, *, dry_run: bool) -> None:
    wrote = "would be written" if dry_run else "written"
    print(f"{tally.selected} rejections selected, {tally.already} of them decided before")
    print(f"{tally.decided.total()} decisions {wrote}{_listed(tally.decided)}")
    print(f"{tally.rejected.total()} rejected still{_listed(tally.rejected)}")
    for n, what in ((tally.quarantined, "quarantined"), (tally.duplicates, "duplicates of events that were decided")):
        if n:
            print(f"{n} {what}, {wrote}")
    if tally.unopened:
        print(f"{tally.unopened.total()} could not be opened{_listed(tally.unopened)}")


def _listed(counts: Counter[str]) -> str:
    return f": {', '.join(f'{n} {name}' for name, n in sorted(counts.items()))}" if counts else ""


def _print_rows(columns: list[str], rows: Iterable[dict[str, Any]]) -> None:
    from console.tables import print_table

    headings = [column.replace("_", " ") for column in columns]
    print_table(headings, (["" if row[column] is None else row[column] for column in columns] for row in rows))
