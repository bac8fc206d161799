"""`penstock features parity`: are the views that are served what the raw events say?"""

from __future__ import annotations

import json
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from pydantic import TypeAdapter, ValidationError

from console.feature_options import AsJson, PipelineFile, RedisUrl, opened
from console.feature_rebuild import CONFIG
from console.run import give_up, load_or_exit, refuse_password

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dataflows.parity import Compared, Parity
    from dataflows.pipeline import Pipeline
    from dataflows.settings import Settings


def parity(  # noqa: PLR0917 -- typer makes options of them
    context: typer.Context,
    pipeline: PipelineFile,
    redis: RedisUrl,
    bootstrap: Annotated[str, typer.Option(envvar="PENSTOCK_BOOTSTRAP", show_envvar=True, help="Kafka brokers.")],
    share: Annotated[float, typer.Option(min=1e-6, max=1.0, help="Of the keys, by their hash.")] = 0.01,
    every: Annotated[str | None, typer.Option(help="Go on, and compare so often, such as 5m.")] = None,
    metrics_port: Annotated[
        int | None, typer.Option(min=1, max=65_535, help="With --every: serve /metrics here, on localhost.")
    ] = None,
    seal_key_file: Annotated[
        Path | None, typer.Option(envvar="PENSTOCK_SEAL_KEY_FILE", help="Needed where a field is tokenised.")
    ] = None,
    client_config: Annotated[Path | None, CONFIG] = None,
    as_json: AsJson = False,
) -> None:
    """Recompute the windows of a slice of the keys from the events' topic, and compare what is in Redis.

    It reads as far back as the windows and the ids of repeats go, joins no group, and disturbs no job. Once, or again
    and again with --every, until it is stopped.

    The exit code is 1 where a value was wrong, or where keys of a view were seen and none of them could be compared; 2
    where the pipeline, Kafka or Redis cannot be used.
    """
    from console.parity_metrics import serve, show
    from console.raw_events import RawEvents
    from console.redrive import settings_of
    from console.steps import Steps
    from dataflows.parity import NotServed
    from dataflows.settings import SettingsInvalid
    from dataflows.view_stages import windowed_views
    from operators.topic_ranges import TopicRanges, TopicUnreadable
    from state.features import FeatureStore

    refuse_password(context, redis)
    spec = load_or_exit(pipeline)
    if not windowed_views(spec):
        give_up(f"no view of {spec.pipeline} has windows, so there is nothing to compare")
    pause = _seconds(every)
    if metrics_port is not None and pause is None:
        give_up("--metrics-port needs --every: a single run ends before anybody could ask")
    if metrics_port is not None:
        try:
            serve(metrics_port)
        except OSError as error:
            give_up(f"could not serve metrics on port {metrics_port}: {error.strerror}; choose another --metrics-port")
    given = {"bootstrap": bootstrap, "seal_key_file": seal_key_file, "client_config": client_config}
    wrong = False
    try:
        settings = settings_of(pipeline, **given)
        with (
            opened(FeatureStore, spec, redis) as store,
            TopicRanges(settings.connection()) as reader,
            Steps() as steps,
        ):
            recount = _parity_of(settings, spec, share)
            events = RawEvents(reader, spec.topic("events"), back_ms=recount.needs_ms, steps=steps)
            catch_up = partial(events.read, recount.take, recount.begin)
            while True:
                catch_up()
                found = recount.compare(store, catch_up)
                show(found)
                _print(found, as_json=as_json)
                wrong |= any(each.wrong for each in found)
                if pause is None:
                    wrong |= any(each.blind for each in found)
                    break
                time.sleep(pause)
    except KeyboardInterrupt:
        pass
    except (NotServed, SettingsInvalid, TopicUnreadable) as failure:
        give_up(str(failure))
    if wrong:
        raise typer.Exit(1)


def _parity_of(settings: Settings, pipeline: Pipeline, share: float) -> Parity:
    """What recomputes; with the sealing key where tokens are made with it, otherwise nothing is sealed for keeps."""
    from dataflows.parity import Parity
    from dataflows.settings import open_vault
    from dataflows.wiring import scanner_of
    from state.vault import Vault

    tokens = "tokenise" in (pipeline.guard.default, *pipeline.guard.fields.values())
    vault = open_vault(settings) if tokens else Vault.from_base64(Vault.generate())
    return Parity(pipeline, vault=vault, scanner=scanner_of(pipeline.guard), share=share)


def _seconds(text: str | None) -> float | None:
    from dataflows.section import Duration

    if text is None:
        return None
    try:
        return float(TypeAdapter(Duration).validate_python(text).total_seconds())
    except ValidationError:
        give_up("--every takes a duration such as 30s or 5m")


def _print(found: Sequence[Compared], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps([_as_json(each) for each in found]), flush=True)
        return
    for each in found:
        share = "all keys" if each.share >= 1 else f"{each.share:.3%} of the keys"
        print(f"view {each.view}, {share}: {each.keys} seen, {each.compared} compared, {each.wrong} wrong", flush=True)
        if each.blind:
            why = (
                "Redis has no tide of this view, or an old one (do its jobs run, views among them?), or the events' "
                "topic begins later than its longest window"
            )
            print(f"  nothing could be compared: {why}", flush=True)
        for one in each.named:
            print(f"  {one}", flush=True)


def _as_json(each: Compared) -> dict[str, object]:
    names = ("view", "share", "keys", "compared", "wrong", "ratio", "named")
    return {**{name: getattr(each, name) for name in names}, "features": dict(each.features)}
