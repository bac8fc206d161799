"""What all systems decide with: the feature view in Redis, and the two models, published and in force."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from confluent_kafka import Producer
from stand import PIPELINE, Stand, read_all

from console.embedded import Topic
from dataflows import pipeline as pipeline_file
from deploy.pipelines.claims import claims
from models.artefacts import ArtefactStore
from models.release import ActivationRecord, Format, ReleaseRecord
from state.feature_writer import FeatureWriter
from state.views import LoadedView

MODELS = PIPELINE.parent / "models"
VERSION = "1"
_FILES: tuple[tuple[str, str, Format], ...] = (
    ("severity", "severity-1.onnx", "onnx"),
    ("severity_online", "severity_online-1.river", "river"),
)


@dataclass(frozen=True, slots=True)
class Release:
    """One model file, as the loops by hand are given it."""

    file: str
    format: str
    version: str


def fill_views(stand: Stand) -> None:
    """Write what an offline job would have left in Redis."""
    spec = pipeline_file.load(PIPELINE)
    view = LoadedView("holder", tuple(spec.views["holder"].features.items()))
    writer = FeatureWriter.connect(stand.redis.url, spec.pipeline)
    rows = claims.view_rows(0, 0)
    writer.load(
        view, ((row.key, int(row.as_of * 1000), [row.values[name] for name, _ in view.features]) for row in rows)
    )
    writer.close()


def publish(stand: Stand, artefacts: Path) -> dict[str, Release]:
    """Put both models into the artefact store and on the registry; model to its file."""
    broker_time = {"message.timestamp.type": "LogAppendTime"}
    log = {"cleanup.policy": "delete", "retention.ms": "-1", **broker_time}
    compacted = {"cleanup.policy": "compact", **broker_time}
    topics = {"penstock.registry": Topic(1, log), "penstock.admissions": Topic(1, compacted)}
    stand.kafka.create_topics(topics)
    spec, store, found = pipeline_file.load(PIPELINE), ArtefactStore(str(artefacts)), {}
    producer = Producer({"bootstrap.servers": stand.kafka.bootstrap, "log_level": 0})
    for name, file, kind in _FILES:
        path = MODELS / file
        data = path.read_bytes()
        record = ReleaseRecord(
            pipeline=spec.pipeline,
            model=name,
            version=VERSION,
            format=kind,
            sha256=hashlib.sha256(data).hexdigest(),
            size=len(data),
            uri=store.put(data, path.suffix),
            inputs=spec.models[name].inputs,
        )
        producer.produce("penstock.registry", record.to_bytes())
        found[name] = Release(str(path), kind, VERSION)
    producer.flush(30)
    return found


def wait_until_in_force(stand: Stand, seconds: float = 60.0) -> None:
    """Wait until the engine has activated both releases and the activation delay is over.

    Raises:
        TimeoutError: it has not.
    """
    deadline = time.monotonic() + seconds
    while len(set(_activated(stand))) < len(_FILES):
        if time.monotonic() > deadline:
            raise TimeoutError(f"the engine has not activated both releases within {seconds:.0f} s; its log says why")
        time.sleep(0.5)
    time.sleep(pipeline_file.load(PIPELINE).activation_delay.total_seconds() + 0.5)


def _activated(stand: Stand) -> Iterator[int]:
    for value in read_all(stand.kafka.bootstrap, "penstock.registry", lanes=1):
        if b'"kind":"activation"' in value:
            yield ActivationRecord.model_validate_json(value).of
