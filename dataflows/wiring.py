"""The only place that opens anything: clients, threads, stages with their models, from settings and a pipeline file."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from confluent_kafka.admin import AdminClient

from dataflows.feature_stages import build_event_stages, build_rekeyed_stages
from dataflows.features import over_events, over_rekeyed
from dataflows.jobs import DECISIONS, FEATURES, VIEWS, Job, JobUnknown, job_of
from dataflows.pipeline import GuardSpec, Pipeline, load
from dataflows.places import places_of
from dataflows.running import OnLanes, Opener, Running
from dataflows.settings import Settings, SettingsInvalid, open_vault
from dataflows.stages import Stages, build_stages
from models.admission import import_runtimes
from models.artefacts import ArtefactStore
from models.catalog import Catalog
from operators import dedupe
from operators.guard import Scans
from operators.held import Limits
from operators.kafka_sink import LaneSink
from operators.kafka_source import LaneSource
from operators.lanes import Lanes
from operators.membership import Membership
from operators.registry_follower import RegistryFollower, RegistryTopics
from operators.state_home import Keep
from operators.tide_gauge import TideGauge
from state import id_chunks
from state.features import FeatureStore
from state.vault import Vault


@dataclass(frozen=True, slots=True)
class Prepared:
    """What takes long to make, opens nothing, and is shared by all slots that a template forks."""

    scanner: Scans | None
    vault: Vault


@dataclass(frozen=True, slots=True)
class Ports:
    """Everything that a running slot has open."""

    source: LaneSource
    sink: LaneSink
    stages: Stages
    lanes: Lanes
    registry: RegistryFollower


def opener(settings: Settings, pipeline: Pipeline) -> Opener:
    """Make what all slots of the job share, import only what it uses, and give what opens it in one slot.

    Safe before a fork: no client, socket, thread, ONNX session or Polars expression.

    Raises:
        JobUnknown: the pipeline has no such job.
        SettingsInvalid: the job needs a key to seal with, and there is none, or it is not one.
    """
    job = job_of(pipeline, settings.job, settings.group)
    if job.name == DECISIONS:
        return _decisions(settings, pipeline)
    if job.name == FEATURES:
        return _features(settings, pipeline)
    if job.key is not None:
        return partial(_rekeyed, pipeline, job.key)
    if job.name == VIEWS:
        return _views(settings, pipeline, job)
    raise JobUnknown(f"this build cannot run the job '{job.name}'")


def _decisions(settings: Settings, pipeline: Pipeline) -> Opener:
    from dataflows import decisions  # noqa: PLC0415 -- it is made of the ports that are opened here

    prepared = prepare(settings, pipeline)

    def opens(slot: Settings, stopping: Callable[[], bool]) -> Running:
        ports = open_ports(slot, pipeline, prepared, stopping=stopping, join=True)
        return OnLanes(decisions.build(ports), ports.lanes, "deciding", ports.registry)

    return opens


def _features(settings: Settings, pipeline: Pipeline) -> Opener:
    scanner, vault = scanner_of(pipeline.guard), open_vault(settings)

    def opens(slot: Settings, stopping: Callable[[], bool]) -> Running:
        who = membership_of(slot, pipeline)
        lanes = _lanes(slot, pipeline, who, tells_ends=True)
        stages = build_event_stages(pipeline, vault=vault, scanner=scanner, lanes=lambda: lanes.count)
        interval = pipeline.delivery.tide_interval.total_seconds()
        gauge = TideGauge(AdminClient(_connection(slot)), who.events, interval=interval)
        source = LaneSource(lanes, tides=gauge, stopping=stopping)
        return OnLanes(over_events(source, stages, LaneSink(lanes)), lanes, "computing views in")

    return opens


def _rekeyed(pipeline: Pipeline, key: str, slot: Settings, stopping: Callable[[], bool]) -> Running:
    lanes = _lanes(slot, pipeline, membership_of(slot, pipeline))
    stages = build_rekeyed_stages(pipeline, key, lanes=lambda: lanes.count)
    flow = over_rekeyed(LaneSource(lanes, stopping=stopping), stages, LaneSink(lanes))
    return OnLanes(flow, lanes, "computing views in")


def _views(settings: Settings, pipeline: Pipeline, job: Job) -> Opener:
    from dataflows.view_writing import WritingViews, changelogs_of  # noqa: PLC0415 -- only this job writes to Redis
    from operators.changelogs import Changelogs  # noqa: PLC0415
    from state.feature_writer import FeatureWriter  # noqa: PLC0415

    if settings.redis is None:
        raise SettingsInvalid("the job 'views' writes to Redis, and none is named: set PENSTOCK_REDIS")
    url = settings.redis.get_secret_value()

    def opens(slot: Settings, stopping: Callable[[], bool]) -> Running:
        topics = [pipeline.topic(role) for role in job.reads]
        changelogs = Changelogs(_connection(slot), member_of(slot, pipeline), topics, pipeline.topic("events"))
        return WritingViews(
            changelogs, changelogs_of(pipeline), lambda: FeatureWriter.connect(url, pipeline.pipeline), stopping
        )

    return opens


def prepare(settings: Settings, pipeline: Pipeline) -> Prepared:
    """Make what all slots share, and import only what this pipeline uses.

    Safe before a fork: no client, socket, thread, ONNX session or Polars expression.

    Raises:
        SettingsInvalid: there is no key to seal with, or it is not one.
    """
    if pipeline.models:
        import_runtimes()
    return Prepared(scanner_of(pipeline.guard), open_vault(settings))


def scanner_of(guard: GuardSpec) -> Scans | None:
    """What finds personal data, warmed up; None where nothing is scanned."""
    if guard.headers == "allow" and "scan" not in (guard.default, guard.key, *guard.fields.values()):
        return None  # dropped headers keep trace context, which is scanned
    from models.pii import Scanner  # noqa: PLC0415 -- Presidio takes two seconds to import

    scanner = Scanner(guard.recognisers, guard.phone_regions, guard.threshold)
    scanner.warm()
    return scanner


def open_ports(
    settings: Settings,
    pipeline: Pipeline,
    prepared: Prepared,
    *,
    stopping: Callable[[], bool] = lambda: False,
    join: bool = False,
) -> Ports:
    """Open everything that one slot needs to decide.

    Args:
        settings: of the slot.
        pipeline: the pipeline file.
        prepared: what all slots share.
        stopping: whether to end.
        join: whether to join the group at once and not only when the source is built. The brokers then answer while
            the stages are made, which takes 0.15 s of those that a killed slot is away.
    """
    connection, membership = _connection(settings), membership_of(settings, pipeline)
    lanes = _lanes(settings, pipeline, membership)
    catalog = Catalog(
        pipeline.pipeline,
        places_of(pipeline),
        ArtefactStore(settings.artefacts),
        delay_ms=round(pipeline.activation_delay.total_seconds() * 1000),
    )
    registry = RegistryFollower(
        catalog,
        slot=membership.name,
        connection=connection,
        owns_lane_zero=lambda: 0 in lanes.owned(),
        topics=RegistryTopics(pipeline.topic("registry"), pipeline.topic("admissions")),
        group=membership.group,
    )
    registry.start()
    if join:
        lanes.start()
    stages = build_stages(
        pipeline,
        vault=prepared.vault,
        scanner=prepared.scanner,
        store=open_store(settings, pipeline),
        catalog=catalog,
    )
    source = LaneSource(lanes, gate=registry.covers, stopping=stopping)
    return Ports(source, LaneSink(lanes), stages, lanes, registry)


def membership_of(settings: Settings, pipeline: Pipeline) -> Membership:
    """Say who a slot is in the group of its job.

    Raises:
        JobUnknown: the pipeline has no such job, or the job has no lanes.
    """
    if job_of(pipeline, settings.job, settings.group).state is None:
        raise JobUnknown(f"job '{settings.job}' has no lanes")
    return member_of(settings, pipeline)


def member_of(settings: Settings, pipeline: Pipeline) -> Membership:
    """The same for any job: one without lanes is named by the first topic that it reads, and has no state."""
    job = job_of(pipeline, settings.job, settings.group)
    return Membership(
        group=job.group,
        slot=settings.slot,
        events=pipeline.topic(job.reads[0]),
        state=pipeline.topic(job.state) if job.state else "",
        topics={role: pipeline.topic(role) for role in job.writes},
        session_seconds=settings.session_timeout,
        home=f"{socket.gethostname()}:{os.getppid()}",  # the same in each life of a slot: its parent is the template
    )


def _lanes(settings: Settings, pipeline: Pipeline, membership: Membership, *, tells_ends: bool = False) -> Lanes:
    delivery = pipeline.delivery
    return Lanes(
        _connection(settings),
        membership,
        guarantee=settings.guarantee,
        limits=Limits(
            interval=delivery.min_commit_interval.total_seconds(),
            rows=delivery.max_held_rows,
            bytes=delivery.max_held_bytes,
        ),
        keep=_lane_stores(settings, membership),
        tells_ends=tells_ends,
    )


def _lane_stores(settings: Settings, who: Membership) -> Keep | None:
    """How lane state is kept on disk, in a folder of this slot alone: another one may run here, too."""
    if settings.lane_store is None:
        return None
    from operators.lane_stores import LaneStores  # noqa: PLC0415 -- RocksDB only where it is asked for

    folder = settings.lane_store / who.name
    return partial(LaneStores, folder=folder, indexes={dedupe.STEP: id_chunks.index})


def _connection(settings: Settings) -> dict[str, Any]:
    """Properties of every client: a broker that leaves a request unanswered for as long as a session is given up.

    One that hangs keeps its connections open. With the client's own minute a reader waited 62 s for a broker from which
    others had taken over within 5. A client of transactions wants a tenth of a second less than their time-out.
    """
    patience = {"socket.timeout.ms": int(min(settings.session_timeout, 60.0) * 1000) - 100}
    return patience | settings.connection()


def open_store(settings: Settings, pipeline: Pipeline) -> FeatureStore:
    """Prepare the connection to the feature views; the first read makes it."""
    enrich = pipeline.enrich
    return FeatureStore.connect(
        settings.redis.get_secret_value() if settings.redis else None,
        pipeline.pipeline,
        timeout=enrich.timeout.total_seconds(),
        failures=enrich.breaker.failures,
        reset=enrich.breaker.reset.total_seconds(),
        entries=enrich.cache.entries,
        max_age=enrich.cache.max_age.total_seconds(),
    )


def open_from_environment() -> Ports:
    """Open one slot from `PENSTOCK_…`, for `python -m bytewax.run`; SIGTERM drains it.

    Raises:
        SettingsInvalid: a variable is missing or cannot be used.
        PipelineInvalid: the pipeline file has mistakes.
    """
    os.environ.setdefault("POLARS_MAX_THREADS", "1")
    settings = Settings.from_environment()
    pipeline = load(settings.file)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    return open_ports(settings, pipeline, prepare(settings, pipeline), stopping=stop.is_set)
