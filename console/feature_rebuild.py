"""`penstock features rebuild`: write everything that the changelogs of windowed views hold to Redis once more."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from console.feature_options import AsJson, PipelineFile, RedisUrl, writing
from console.run import give_up, load_or_exit, refuse_password

if TYPE_CHECKING:
    from collections.abc import Mapping

    from console.steps import Steps
    from operators.topic_ranges import TopicRanges
    from state.feature_writer import FeatureWriter
    from state.view_windows import ViewWindows

CONFIG = typer.Option("--client-config", envvar="PENSTOCK_CLIENT_CONFIG", help="librdkafka properties, name=value.")


def rebuild(  # noqa: PLR0917 -- typer makes options of them
    context: typer.Context,
    pipeline: PipelineFile,
    redis: RedisUrl,
    bootstrap: Annotated[str, typer.Option(envvar="PENSTOCK_BOOTSTRAP", show_envvar=True, help="Kafka brokers.")],
    client_config: Annotated[Path | None, CONFIG] = None,
    as_json: AsJson = False,
) -> None:
    """Write all values of views with windows to Redis, from the beginning of their changelogs to where they end now.

    It may run beside the job `views`, and any number of times: only what is newer than what is there is taken. Nothing
    is deleted: what is no longer in a changelog has decayed, counts as nothing, and expires.

    The exit code is 2 where the pipeline, Kafka or Redis cannot be used.
    """
    from console.lineage import recorded
    from console.steps import Steps
    from dataflows.lineage import rebuild_of
    from dataflows.settings import Settings, SettingsInvalid
    from dataflows.view_writing import changelogs_of
    from operators.topic_ranges import TopicRanges, TopicUnreadable

    refuse_password(context, redis)
    spec = load_or_exit(pipeline)
    views = changelogs_of(spec)
    if not views:
        give_up(f"no view of {spec.pipeline} has windows, so there is nothing to rebuild")
    try:
        settings = Settings(file=pipeline, bootstrap=bootstrap, client_config=client_config)
        began = time.monotonic()
        told: dict[str, Mapping[str, Any]] = {}
        with (
            recorded(lambda: rebuild_of(spec, bootstrap, redis)) as run,
            writing(spec, redis) as writer,
            TopicRanges(settings.connection()) as reader,
            Steps() as steps,
        ):
            run.rows = lambda: sum(counts["records"] for counts in list(told.values()))
            for topic, of in views.items():
                told[topic] = _rebuild(reader, writer, topic, of, steps)
    except (SettingsInvalid, TopicUnreadable) as wrong:
        give_up(str(wrong))
    seconds = round(time.monotonic() - began, 3)
    if as_json:
        print(json.dumps({"changelogs": told, "seconds": seconds}))
        return
    for topic, counts in told.items():
        print(f"{topic}: {counts['records']} records read, {counts['newer']} values written in {seconds:g} s")


def _rebuild(
    reader: TopicRanges, writer: FeatureWriter, topic: str, views: list[ViewWindows], steps: Steps
) -> Mapping[str, Any]:
    from operators.changelogs import rows_of
    from state.view_writer import ViewWriter

    bounds = reader.bounds(topic)
    steps.begin(f"writing {topic}", sum(end - start for start, end in bounds.values()))
    into = ViewWriter(writer, views, len(bounds))
    into.begin(list(bounds), anew=True)
    at = {lane: start for lane, (start, _) in bounds.items()}
    counts = {"records": 0, "newer": 0}
    for messages in reader.read(topic, bounds):
        by_lane = rows_of(messages)
        newer, _, lost = into.write(by_lane)
        if lost:
            give_up(f"Redis loses what it is given (lanes {lost} of {topic}); is it being emptied or failing over?")
        counts["records"] += len(messages)
        counts["newer"] += newer
        for lane, rows in by_lane.items():
            steps.advance(rows[-1].offset + 1 - at[lane])
            at[lane] = rows[-1].offset + 1
    return counts
