"""Cases beside a pipeline file: events in, expected first records out, through the real stages and without a broker."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC
from pathlib import Path
from typing import Any

import numpy as np

from console.case_file import Case, CaseInvalid, Event, catalog_of, store_of
from console.case_reader import read_case
from dataflows.pipeline import Pipeline
from dataflows.stages import Stages, build_stages
from dataflows.views import given
from models.release import ModelRefused
from operators.batch import Batch, Headers, Record
from operators.guard import Scans
from state.vault import Vault

_FIRST_RECORDS = ("decisions", "rejected", "quarantine", "duplicates")


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a case went."""

    file: str
    name: str
    failures: tuple[str, ...]
    """What was expected and what came instead; empty when all is well."""


def run_cases(pipeline: Pipeline, file: Path, scanner: Scans) -> list[Outcome]:
    """Run every `cases/*.yaml` beside a pipeline file."""
    return [run_case(pipeline, path, file.parent, scanner) for path in sorted((file.parent / "cases").glob("*.yaml"))]


def run_case(pipeline: Pipeline, path: Path, folder: Path, scanner: Scans) -> Outcome:
    """Run one case file; whatever is wrong with it is a failure."""
    try:
        case = read_case(path)
        got = decide_case(pipeline, case, folder, scanner)
    except (CaseInvalid, ModelRefused) as error:
        failures = error.args if isinstance(error, CaseInvalid) else (str(error),)
        return Outcome(str(path), path.stem, tuple(map(str, failures)))
    different = [
        f"event {i + 1}: {difference}"
        for i, (expected, record) in enumerate(zip(case.expect, got, strict=True))
        for difference in differences(expected, record)
    ]
    return Outcome(str(path), case.name or path.stem, tuple(different))


def decide_case(pipeline: Pipeline, case: Case, folder: Path, scanner: Scans) -> list[dict[str, Any]]:
    """The first record of each event, in order.

    Raises:
        CaseInvalid: it names a view, feature or model that the pipeline does not have.
        ModelRefused: a release cannot be used.
    """
    now = case.now.timestamp() if case.now.tzinfo else case.now.replace(tzinfo=UTC).timestamp()
    pipeline = given(pipeline)
    stages = build_stages(
        pipeline,
        vault=Vault.from_base64(Vault.generate()),
        scanner=scanner,
        store=store_of(pipeline, case, now),
        catalog=catalog_of(pipeline, case, folder),
        now=lambda: now,
    )
    batch = _batch(pipeline, case, now)
    first = {int(record["origin"]["offset"]): record for record in map(_body, decide(stages, batch)) if record}
    return [first.get(offset, {"kind": "nothing"}) for offset in range(len(case.events))]


def decide(stages: Stages, batch: Batch) -> tuple[Record, ...]:
    """Put a batch of one lane through all stages; every record that leaves."""
    for _, work in stages.in_order(0):
        batch = work(batch) if len(batch) else batch
    return batch.records


def differences(expected: Any, got: Any, where: str = "") -> list[str]:
    """Where what came is not what was expected; of a map, only the expected keys count."""
    if isinstance(expected, Mapping) and isinstance(got, Mapping):
        missing = object()
        return [
            difference
            for key, value in expected.items()
            for difference in differences(value, got.get(key, missing), f"{where}.{key}" if where else str(key))
        ]
    if isinstance(expected, float | int) and isinstance(got, float | int) and not isinstance(expected, bool):
        same = math.isclose(expected, got, rel_tol=1e-6, abs_tol=1e-9)
    else:
        same = expected == got
    shown = json.dumps(got) if isinstance(got, str | int | float | list | dict | None) else "nothing"
    return [] if same else [f"{where}: expected {json.dumps(expected, default=str)}, got {shown}"]


def _batch(pipeline: Pipeline, case: Case, now: float) -> Batch:
    n = len(case.events)
    times = [event.time.timestamp() if event.time else now for event in case.events]
    return Batch(
        topic=pipeline.topic("events"),
        lane=np.zeros(n, np.int32),
        offset=np.arange(n, dtype=np.int64),
        append_ms=np.array([round(time * 1000) for time in times], np.int64),
        keys=[_key(pipeline, event) for event in case.events],
        values=[_value(event) for event in case.events],
        headers=[_headers(pipeline, event, i) for i, event in enumerate(case.events)],
        progress={0: n},
    )


def _value(event: Event) -> bytes | None:
    if event.raw is not None:
        return event.raw.encode()
    return None if event.value is None else json.dumps(event.value).encode()


def _key(pipeline: Pipeline, event: Event) -> bytes | None:
    if event.key is not None:
        return event.key.encode()
    entity = event.value
    for step in pipeline.contract.fields[pipeline.contract.entity].path(pipeline.contract.entity):
        entity = entity.get(step) if isinstance(entity, dict) else None
    return entity.encode() if isinstance(entity, str) else None


def _headers(pipeline: Pipeline, event: Event, number: int) -> Headers:
    if event.headers is not None:
        return [(name, text.encode()) for name, text in event.headers.items()]
    if pipeline.contract.format != "cloudevents":
        return []
    attributes = {
        "specversion": "1.0",
        "id": f"case-{number}",
        "source": "/cases",
        "type": f"{pipeline.pipeline}.event",
    }
    binary = [(f"ce_{name}", text.encode()) for name, text in attributes.items()]
    return [("content-type", b"application/json"), *binary]


def _body(record: Record) -> dict[str, Any] | None:
    if record.topic not in _FIRST_RECORDS or record.value is None:
        return None
    body: dict[str, Any] = json.loads(record.value)
    return body
