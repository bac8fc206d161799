"""Decisions leave as records: what was decided, and everything it was decided with.

A batch has one template, filled row by row from columns of JSON texts: three times faster than a dict for each body.
`operators.wire.Decision` describes the bodies. NaN is written as null.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import orjson
from bytewax.dataflow import Stream, operator

from operators import metrics, wire
from operators.batch import Batch, Column, Headers, Item, Record
from operators.stage import stage
from operators.trace import trace_context

REVIEW = "review"
"""The outcome that a person looks at: its decisions go to the reviews too."""


class Encoder:
    """Writes the decisions of one pipeline."""

    def __init__(
        self,
        *,
        pipeline: str,
        policy_version: str,
        policy_digest: str,
        features: Sequence[str],
        now: Callable[[], float] = time.time,
    ) -> None:
        """Prepare what is the same in every decision.

        Args:
            pipeline: its name.
            policy_version: the policy's version in the pipeline file.
            policy_digest: the policy's digest.
            features: names of the columns to write into the decision.
            now: Unix seconds.
        """
        self._pipeline = pipeline
        self._policy = {"version": policy_version, "digest": policy_digest}
        self._features = tuple(features)
        self._now = now
        self._source = f"/penstock/{pipeline}".encode()

    def work(self, batch: Batch) -> Batch:
        """Write every row. The rows go on: their times are what the commit's latency is measured from."""
        decided_at = datetime.fromtimestamp(self._now(), UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        if not len(batch):
            return batch
        lanes, offsets = batch.lane.tolist(), batch.offset.tolist()
        ids = [wire.decision_id(self._pipeline, *place).encode() for place in zip(lanes, offsets, strict=True)]
        records: list[Record] = []
        for lane, offset, decision_id, value, entity, outcome, incoming in zip(
            lanes, offsets, ids, self._bodies(batch, ids, decided_at), batch.entities, batch.outcomes, batch.headers,
            strict=True,
        ):  # fmt: skip
            about = wire.origin_key(batch.topic, lane, offset)
            headers = self._headers(decision_id, about, decided_at.encode()) + _trace(incoming)
            records.append(Record("decisions", lane, entity.encode(), value, headers))
            if outcome == REVIEW:
                records.append(Record("reviews", lane, decision_id, value, headers))
        metrics.count_degraded(batch.degraded)
        return replace(batch, records=(*batch.records, *records))

    def _bodies(self, batch: Batch, ids: list[bytes], decided_at: str) -> list[bytes]:
        columns: list[list[bytes]] = []
        template = _template(self._body(batch, ids, decided_at), columns)
        return [template % row for row in zip(*columns, strict=True)]

    def _body(self, batch: Batch, ids: list[bytes], decided_at: str) -> dict[str, Any]:
        """Draw the body: a list holds the JSON texts of the rows, bytes are the JSON text of all of them."""
        event_times = np.datetime_as_string(batch.event_ms.astype("datetime64[ms]"), timezone="UTC").tolist()
        return {
            "v": orjson.dumps(wire.VERSION),
            "kind": orjson.dumps("decision"),
            "decision_id": [b'"%b"' % decision_id for decision_id in ids],
            "pipeline": orjson.dumps(self._pipeline),
            "origin": {
                "topic": orjson.dumps(batch.topic),
                "partition": _texts(batch.lane),
                "offset": _texts(batch.offset),
            },
            "revision": orjson.dumps(0),
            "event_id": _texts(batch.event_ids),
            "entity": _texts(batch.entities),
            "event_time": _texts(event_times),
            "decided_at": orjson.dumps(decided_at),
            "outcome": _texts(batch.outcomes),
            "reasons": _texts(batch.reasons),
            "scores": {
                model: {"score": _texts(batch.columns[model]), "release": _texts(releases)}
                for model, releases in batch.releases.items()
            },
            "shadows": _shadows(batch) if batch.shadows else {},
            "features": {name: _texts(batch.columns[name]) for name in self._features},
            "ages": {view: _texts(ages) for view, ages in batch.ages.items()},
            "degraded": _texts(batch.degraded),
            "policy": orjson.dumps(self._policy),
        }

    def _headers(self, decision_id: bytes, about: bytes, decided_at: bytes) -> tuple[tuple[str, bytes], ...]:
        return (
            ("content-type", b"application/json"),
            ("ce_specversion", b"1.0"),
            ("ce_type", b"penstock.decision.v1"),
            ("ce_source", self._source),
            ("ce_id", decision_id),
            ("ce_subject", about),
            ("ce_time", decided_at),
        )


@operator
def emit(step_id: str, up: Stream[Item], *, encoder: Encoder) -> Stream[Item]:
    """Write each decision, and the reviews among them once more for the people who look at them.

    In: batches with outcomes. Out: the same batches; their records, changes, progress and times are for the sink.
    Leaves: `decisions`, keyed by entity; `reviews`, keyed by decision id.
    State: none.
    """
    return stage("emit", up, encoder.work)


def _texts(column: Column) -> list[bytes]:
    """Write each value of a column as JSON."""
    if isinstance(column, np.ndarray):
        return orjson.dumps(column.tolist())[1:-1].split(b",")  # numbers, booleans and nulls have no commas
    return [orjson.dumps(value) for value in column]


def _shadows(batch: Batch) -> list[bytes]:
    """Write each row's shadow scores, those that it has: a decision does not tell what shadowed the rows beside it."""
    rows: list[dict[str, dict[str, float]]] = [{} for _ in range(len(batch))]
    for model, releases in batch.shadows.items():
        for release, scores in releases.items():
            for row in np.flatnonzero(np.isfinite(scores)).tolist():
                rows[row].setdefault(model, {})[release] = float(scores[row])
    return [orjson.dumps(row) for row in rows]


def _template(body: Any, columns: list[list[bytes]]) -> bytes:
    """Write a body with `%b` in the place of each column, and note the columns in that order."""
    if isinstance(body, dict):
        members = (
            orjson.dumps(name).replace(b"%", b"%%") + b":" + _template(child, columns) for name, child in body.items()
        )
        return b"{" + b",".join(members) + b"}"
    if isinstance(body, bytes):
        return body.replace(b"%", b"%%")
    columns.append(body)
    return b"%b"


def _trace(headers: Headers) -> tuple[tuple[str, bytes], ...]:
    """Carry the trace on."""
    return tuple((name, data) for name, data in trace_context(headers) if data is not None)
