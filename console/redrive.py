"""What deciding again needs open: the stages of a pipeline as in a slot, with the releases of the registry's log."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from console.cluster import MOCK
from console.rejections import SelectionWrong
from console.run import give_up
from dataflows.places import places_of
from dataflows.replay import NamedReleases, PolicyUnfit, StoppedClock
from dataflows.settings import Settings, SettingsInvalid
from dataflows.stages import Stages, build_stages
from dataflows.views import view_of
from dataflows.wiring import Prepared, open_store, prepare
from models.artefacts import ArtefactStore
from models.catalog import Catalog, ReleaseUnavailable
from models.history import Entry, Release
from operators.batch import Batch
from operators.kafka_source import to_batch
from operators.lane_state import Message
from operators.revision_writer import RevisionsRefused, RevisionWriter
from operators.topic_ranges import TopicRanges, TopicUnreadable
from state.features import FeatureStore
from state.views import Lack

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from dataflows.pipeline import Pipeline

CLOCKS_MS = 60_000
"""Clocks of machines differ by less."""


class RedriveImpossible(Exception):
    """The command cannot do what it was asked to; the message says why."""


def releases_of(reader: TopicRanges, settings: Settings, pipeline: Pipeline, named: Sequence[str]) -> NamedReleases:
    """Read the registry's log to its end.

    Args:
        reader: of the topics.
        settings: where artefacts are.
        pipeline: whose releases they are.
        named: `model=version` of each model that shall be scored by this release alone.

    Raises:
        RedriveImpossible: a named release is not in the registry.
        operators.topic_ranges.TopicUnreadable: the log cannot be read.
    """
    delay = round(pipeline.activation_delay.total_seconds() * 1000)
    catalog = Catalog(pipeline.pipeline, places_of(pipeline), ArtefactStore(settings.artefacts), delay_ms=delay)
    if pipeline.models:
        topic = pipeline.topic("registry")
        for messages in reader.read(topic, reader.bounds(topic)):
            catalog.follow(Entry(each.offset(), each.timestamp()[1], each.value()) for each in messages)
    return NamedReleases(catalog, dict(_named(catalog, text) for text in named))


def _named(catalog: Catalog, text: str) -> tuple[str, Release]:
    model, equals, version = text.partition("=")
    if not equals or model not in catalog.places:
        known = ", ".join(catalog.places) or "no models"
        raise RedriveImpossible(f"--release takes MODEL=VERSION, and the pipeline has {known}")
    release = catalog.history.releases.get((model, version))
    if release is None:
        versions = ", ".join(known for of, known in catalog.history.releases if of == model)
        raise RedriveImpossible(f"the registry has no release {version} of {model}; it has {versions or 'none'}")
    return model, release


@dataclass(frozen=True, slots=True)
class Opened:
    """A pipeline that is ready to decide."""

    stages: Stages
    prepared: Prepared
    clock: StoppedClock


@contextmanager
def opened(settings: Settings, pipeline: Pipeline, releases: NamedReleases, *, reads_views: bool) -> Iterator[Opened]:
    """Build the stages; they decide at the moment at which the clock was last stopped.

    Raises:
        RedriveImpossible: views shall be read, and the feature store does not answer.
        SettingsInvalid: there is no sealing key, or it is not one.
    """
    clock, prepared = StoppedClock(), prepare(settings, pipeline)
    store = open_store(settings, pipeline)
    try:
        if reads_views and pipeline.views:
            _ask(store, pipeline)
        yield Opened(
            build_stages(
                pipeline, vault=prepared.vault, scanner=prepared.scanner, store=store, catalog=releases, now=clock
            ),
            prepared,
            clock,
        )
    finally:
        store.close()


def _ask(store: FeatureStore, pipeline: Pipeline) -> None:
    """A slot decides without Redis, since its events cannot wait. These can."""
    view = view_of(pipeline, next(iter(pipeline.views)))
    if store.read({view: ["-"]})[view].kept[0] is Lack.UNAVAILABLE:
        raise RedriveImpossible("the feature store does not answer; is --redis (or PENSTOCK_REDIS) right?")


def writer_of(reader: TopicRanges, settings: Settings, pipeline: Pipeline, roles: Sequence[str]) -> RevisionWriter:
    """What writes the revisions of a pipeline to the topics of these roles.

    Raises:
        RedriveImpossible: the cluster is librdkafka's mock, whose transactions do nothing.
    """
    if reader.cluster().startswith(MOCK):
        raise RedriveImpossible(
            f"{settings.bootstrap} is librdkafka's mock cluster, which has no transactions: an event could be decided "
            "twice; use a real broker"
        )
    return RevisionWriter(settings.connection(), pipeline.pipeline, {role: pipeline.topic(role) for role in roles})


def batch_of(messages: Sequence[Message]) -> Batch:
    """Make one batch of consumed events, lane by lane and in offset order."""
    return to_batch(sorted(messages, key=lambda each: (each.partition(), each.offset())), 0)


def settings_of(file: Path, **given: Any) -> Settings:
    """The settings of a command: what was given, and what the environment says.

    Raises:
        SettingsInvalid: an option or variable cannot be used.
    """
    options = {f"PENSTOCK_{name.upper()}": str(value) for name, value in given.items() if value not in (None, "")}
    return Settings.from_environment({**os.environ, **options, "PENSTOCK_FILE": str(file)})


@contextmanager
def explained() -> Iterator[None]:
    """Say in one line why a command cannot go on, and exit with 2."""
    known = (
        PolicyUnfit, RedriveImpossible, ReleaseUnavailable, RevisionsRefused, SelectionWrong, SettingsInvalid,
        TopicUnreadable,
    )  # fmt: skip
    try:
        yield
    except known as wrong:
        give_up(str(wrong))
