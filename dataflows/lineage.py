"""What a job reads and writes, and which column comes from which: for catalogs of data. Opens nothing.

Datasets are named as OpenLineage asks: a topic `kafka://<first broker>` and its name, a view in Redis
`redis://<host>:<port>` (of several the first) and the beginning of its keys. No address has a user or password in it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from dataflows.jobs import DECISIONS, VIEWS, Job, jobs_of, other_keys
from dataflows.pipeline import Pipeline
from dataflows.view_stages import fields_of, guarded_fields, windowed_views
from models.expressions import parse
from state.redis_address import Address

How = Literal["AGGREGATION", "GROUP_BY", "FILTER", "WINDOW", "IDENTITY"]
"""OpenLineage's words for what is done with a column; the first and the last make the value, the others choose it."""


@dataclass(frozen=True, slots=True)
class Column:
    """One field of a dataset, and the fields of the datasets read that it comes from."""

    name: str
    type: str
    origins: tuple[tuple[str, How], ...] = ()
    """Names of fields, and what is done with them."""


@dataclass(frozen=True, slots=True)
class Dataset:
    """A topic, a view in Redis or a file."""

    namespace: str
    name: str
    columns: tuple[Column, ...] = ()


@dataclass(frozen=True, slots=True)
class Work:
    """A job: something that runs, reads and writes."""

    name: str
    kind: Literal["STREAMING", "BATCH"]
    reads: tuple[Dataset, ...]
    writes: tuple[Dataset, ...]


def work_of(pipeline: Pipeline, job: Job, bootstrap: str, redis: str | None) -> Work:
    """A job of a pipeline.

    Args:
        pipeline: the pipeline file.
        job: one of its jobs.
        bootstrap: brokers; the first names the cluster.
        redis: URL of the feature store.
    """
    roles = (*job.writes, *((job.state,) if job.state else ()))
    reads = [topic_of(pipeline, role, bootstrap) for role in job.reads]
    writes = [topic_of(pipeline, role, bootstrap) for role in roles]
    if job.name == DECISIONS:
        reads += [redis_view(pipeline, name, redis) for name in pipeline.views]
    if job.name == VIEWS:
        writes += [redis_view(pipeline, name, redis) for name in windowed_views(pipeline)]
    return Work(f"{pipeline.pipeline}.{job.name}", "STREAMING", tuple(reads), tuple(writes))


def rebuild_of(pipeline: Pipeline, bootstrap: str, redis: str | None) -> Work:
    """Writing the changelogs of windowed views to Redis once more."""
    views = work_of(pipeline, jobs_of(pipeline)[VIEWS], bootstrap, redis)
    return replace(views, name=f"{pipeline.pipeline}.rebuild", kind="BATCH")


def backfill_of(pipeline: Pipeline, views: Iterable[str], history: Path, out: Path) -> Work:
    """Computing windowed views for each event of a file, into another."""
    events = Dataset("file", str(history.resolve()), tuple(_columns(pipeline, "events")))
    values = Dataset("file", str(out.resolve()), tuple(view_columns(pipeline, views)))
    return Work(f"{pipeline.pipeline}.backfill", "BATCH", (events,), (values,))


def topic_of(pipeline: Pipeline, role: str, bootstrap: str) -> Dataset:
    """One topic, with its columns where they are fields of events or features of views."""
    cluster = bootstrap.partition(",")[0].strip()
    return Dataset(f"kafka://{cluster}", pipeline.topic(role), tuple(_columns(pipeline, role)))


def redis_view(pipeline: Pipeline, name: str, redis: str | None) -> Dataset:
    """A view as it is in Redis; one of Feast has Feast's names."""
    spec = pipeline.views[name]
    stored = f"penstock:{pipeline.pipeline}:{name}"
    if spec.source is not None:
        stored = f"feast:{spec.source.feast.project or pipeline.pipeline}:{spec.source.feast.view or name}"
    features = ((f"{name}_{feature}", kind) for feature, kind in spec.kinds.items())
    columns = (Column(feature, kind, ((feature, "IDENTITY"),)) for feature, kind in features)
    return Dataset(_namespace(redis), stored, tuple(columns))


def view_columns(pipeline: Pipeline, views: Iterable[str]) -> Iterator[Column]:
    """The features of windowed views, and the fields of events that each is computed from."""
    schema = guarded_fields(pipeline)
    for view in views:
        spec = pipeline.views[view]
        for feature, windowed in spec.windows.items():
            sources: tuple[tuple[str | None, How], ...] = (
                (windowed.of, "AGGREGATION"),
                (windowed.where, "FILTER"),
                (spec.where, "FILTER"),
            )
            origins: dict[str, How] = {}
            for source, how in sources:
                if source is not None:
                    uses = parse("out", source, schema, "boolean" if how == "FILTER" else "number").uses
                    origins |= {field: how for field in uses if field not in origins}
            rest: tuple[tuple[str, How], ...] = ((spec.key, "GROUP_BY"), (pipeline.contract.event_time, "WINDOW"))
            origins |= {field: how for field, how in rest if field not in origins}
            yield Column(f"{view}_{feature}", "number", tuple(origins.items()))


def _namespace(redis: str | None) -> str:
    """Of the views in Redis; what is wrong with its address is for those to say who connect to it."""
    try:
        host, port = Address.parse(redis or "").hosts[0]
    except ValueError:
        host, port = "unknown", 6379
    return f"redis://{host}:{port}"


def _columns(pipeline: Pipeline, role: str) -> Iterator[Column]:
    keys = {f"by-{key}": key for key in other_keys(pipeline)}
    if role == "events":
        yield from (Column(name, field.type) for name, field in pipeline.contract.fields.items())
    elif role in keys:
        fields = {*fields_of(pipeline, _views_of(pipeline, keys[role])), pipeline.contract.event_time}
        schema = guarded_fields(pipeline)
        yield from (Column(name, schema[name], ((name, "IDENTITY"),)) for name in schema if name in fields)
    elif role.endswith("features"):
        key = keys.get(role.removesuffix(".features"), pipeline.contract.entity)
        yield from view_columns(pipeline, _views_of(pipeline, key))


def _views_of(pipeline: Pipeline, key: str) -> list[str]:
    return [view for view in windowed_views(pipeline) if pipeline.views[view].key == key]
