"""`penstock features get` and `list`: what Redis has, how old it is, and where it came from."""

from __future__ import annotations

import json
import math
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from console.feature_options import AWAY, AsJson, PipelineFile, RedisUrl, declared, looked_up, opened, writing
from console.run import give_up, load_or_exit, refuse_password
from console.tables import printable

if TYPE_CHECKING:
    from dataflows.pipeline import Pipeline
    from state.feature_writer import FeatureWriter
    from state.views import Values, View


def get(  # noqa: PLR0917 -- typer makes options of them
    context: typer.Context,
    view: Annotated[str, typer.Argument(help="Name of the view.")],
    key: Annotated[str, typer.Argument(help="Key of the value.")],
    pipeline: PipelineFile,
    redis: RedisUrl,
    as_json: AsJson = False,
) -> None:
    """Print one value with its age and where it came from; windows as they are now.

    `event_time` is the moment that the value speaks for: of a view with windows, its lane's tide.

    A key of a view with windows that has had no event has the values of no event, such as 0 for a count.

    The exit code is 1 where there is none, or none that this version of the view can read.
    """
    import numpy as np

    from state.features import FeatureStore
    from state.views import Lack

    refuse_password(context, redis)
    spec = load_or_exit(pipeline)
    shown = declared(spec, view)
    key = looked_up(spec, shown.name, key)
    now = time.time()
    with opened(FeatureStore, spec, redis) as store:
        found = store.read({shown: [key]})[shown]
        stored = store.stored(shown, key)
    values = shown.values(found.kept, found.rows, np.array([round(now * 1000)], np.int64))
    if (lack := values.lacks.get(0)) is not None:
        if lack is Lack.UNAVAILABLE:
            give_up(AWAY)
        _print({"view": shown.name, "lack": lack.value}, as_json=as_json)
        raise typer.Exit(1)
    age, most = now - float(values.as_of[0]), spec.views[shown.name].max_age
    told = {
        "view": shown.name,
        "event_time": _moment(float(values.as_of[0])),
        "age_seconds": round(age, 3),
        "stale": most is not None and age > most.total_seconds(),
        **_features(shown, values),
        **_lineage(spec, shown, stored),
    }
    _print(told, as_json=as_json)


def list_views(
    context: typer.Context,
    pipeline: PipelineFile,
    redis: RedisUrl,
    count: Annotated[bool, typer.Option(help="Count the values of each view, which reads all names in Redis.")] = False,
    as_json: AsJson = False,
) -> None:
    """List the pipeline's views: kind, key, features, maximum age, owner, and how far Redis has those with windows."""
    refuse_password(context, redis)
    spec = load_or_exit(pipeline)
    with writing(spec, redis) as writer:
        views = [_described(spec, name, writer, count=count) for name in spec.views]
    if as_json:
        print(json.dumps(views))
        return
    from console.tables import print_table

    columns = [name.replace("_", " ") for name in (views[0] if views else {"view": ""})]
    print_table(columns, ([_text(cell) for cell in each.values()] for each in views))


def _described(pipeline: Pipeline, name: str, writer: FeatureWriter, *, count: bool) -> dict[str, Any]:
    spec = pipeline.views[name]
    told: dict[str, Any] = {
        "view": name,
        "kind": "feast" if spec.source is not None else "windows" if spec.windows else "loaded",
        "key": spec.key,
        "features": list(spec.kinds),
        "max_age_seconds": None if spec.max_age is None else spec.max_age.total_seconds(),
        "owner": spec.owner,
    }
    tides = [mark.tide_ms / 1000 for mark in writer.marks(name).values()] if spec.windows else []
    told["lanes"] = len(tides) if spec.windows else None
    told["oldest_tide"] = _moment(min(tides)) if tides else None
    told["age_seconds"] = round(time.time() - min(tides), 3) if tides else None
    if count:
        told["values"] = None if spec.source is not None else writer.count(name)
    return told


def _features(view: View, values: Values) -> dict[str, Any]:
    numbers, strings = iter(values.numbers[:, 0].tolist()), iter(values.strings)
    return {name: _number(next(numbers)) if kind == "number" else next(strings)[0] for name, kind in view.features}


def _lineage(pipeline: Pipeline, view: View, stored: bytes | None) -> dict[str, Any]:
    """Where a windowed value came from: its record in the changelog, and the events of its latest change."""
    from dataflows.view_writing import changelog_of
    from state.packed import origins_of
    from state.versions import SIZE, parts
    from state.windowed_view import WindowedView

    if not isinstance(view, WindowedView) or stored is None:
        return {}
    append_ms, offset = parts(stored)
    changelog = {"topic": changelog_of(pipeline, view.name), "append_time": _moment(append_ms / 1000), "offset": offset}
    told: dict[str, Any] = {"changelog": changelog}
    if len(stored) > SIZE:
        of = origins_of(stored[SIZE:])
        told["source"] = {"topic": pipeline.topic("events"), "lane": of.lane, "first": of.first, "last": of.last}
    return told | {"view_digest": view.windows.digest.hex()}


def _print(told: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(told))
        return
    for name, value in told.items():
        print(f"{name:<20} {_text(value)}")


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_text(each)}" for name, each in value.items())
    if isinstance(value, list):
        return ", ".join(value)
    if isinstance(value, str):
        return printable(value)
    return "-" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value
