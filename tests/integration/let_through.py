"""The events that a pipeline's contract and guard let through, as a table: what its views may be computed from."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pandas as pd

from dataflows.feature_stages import build_event_stages
from dataflows.pipeline import Pipeline
from dataflows.wiring import scanner_of
from operators.kafka_source import to_batch
from state.vault import Vault
from tests.dataflows import shop


def let_through(pipeline: Pipeline, records: Iterable[Any]) -> pd.DataFrame:
    """By the real stages, without ids that were there before in their lane."""
    vault = Vault.from_base64(Vault.generate())
    stages = build_event_stages(pipeline, vault=vault, scanner=scanner_of(pipeline.guard), lanes=lambda: 1)
    parts = []
    rows = sorted(records, key=lambda record: (record.partition(), record.offset()))
    for start in range(0, len(rows), 1000):
        batch = stages.guard.work(stages.decoder.work(to_batch(rows[start : start + 1000], 1)))
        columns = {name: list(column) for name, column in batch.columns.items()}
        place = {"lane": batch.lane, "offset": batch.offset, "append": batch.append_ms}
        parts.append(pd.DataFrame({**columns, **place, "id": batch.event_ids, "ms": batch.event_ms}))
    frame = pd.concat(parts, ignore_index=True).drop_duplicates(["lane", "id"])
    return shop.with_lateness(frame, pipeline)
