"""Read what `operators.rekey` wrote: events by another key, with the tides of the source between them."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import orjson
from bytewax.dataflow import Stream, operator

from operators import metrics
from operators.batch import Batch, Column, Item
from operators.rekey import VERSION
from operators.stage import stage

log = logging.getLogger(__name__)

_NUMBERS = frozenset({"number", "integer", "date", "datetime"})
_TYPES = {
    "string": frozenset({str, type(None)}),
    "boolean": frozenset({bool, type(None)}),
    **dict.fromkeys(_NUMBERS, frozenset({int, float, type(None)})),
}
"""Contract type to what JSON gives of it."""
_INT32, _INT64 = 2**31, 2**63


class RekeyedReader:
    """Reads the records of one `by-<key>` topic."""

    def __init__(self, fields: Mapping[str, str]) -> None:
        """Make columns of `fields`: contract field to its type; one that a record lacks is missing there."""
        self._fields = dict(fields)
        self._types = {name: _TYPES[kind] for name, kind in fields.items()}

    def work(self, batch: Batch) -> Batch:
        """Give the rows that are events; tides go to `tides`. What cannot be read leaves, counted."""
        bodies: list[dict[Any, Any] | None] = [
            _tides(value) if key is None else self._event(value)
            for key, value in zip(batch.keys, batch.values, strict=True)
        ]
        events = [row for row, body in enumerate(bodies) if body is not None and batch.keys[row] is not None]
        if broken := bodies.count(None):
            log.error("%d records of %s cannot be read: did something else write to it?", broken, batch.topic)
            metrics.count_rejected("undecodable", broken)
        tides: dict[int, dict[int, int]] = {}
        for lane, key, body in zip(batch.lane.tolist(), batch.keys, bodies, strict=True):
            if key is None and body is not None:
                tides.setdefault(lane, {}).update(body)
        return self._decoded(batch.take(np.array(events, np.int64)), [bodies[row] for row in events], tides)

    def _event(self, value: bytes | None) -> dict[str, Any] | None:
        """The object of an event; None where it is none, or a field has what the contract's type cannot be."""
        try:
            body = orjson.loads(value or b"")
            lane, offset = body["from"]
            numbers, fields = (body["at"], body["behind"], lane, offset), body["with"]
            fits = all(type(fields.get(name)) in types for name, types in self._types.items())
        except (ValueError, TypeError, KeyError, AttributeError):
            return None
        whole = all(map(_is_whole, numbers)) and 0 <= lane < _INT32
        return body if body.get("v") == VERSION and fits and whole else None

    def _decoded(self, batch: Batch, bodies: Sequence[Any], tides: Mapping[int, Mapping[int, int]]) -> Batch:
        return replace(
            batch,
            event_ms=np.array([body["at"] for body in bodies], np.int64),
            behind_ms=np.array([body["behind"] for body in bodies], np.int64),
            source_lane=np.array([body["from"][0] for body in bodies], np.int32),
            source_offset=np.array([body["from"][1] for body in bodies], np.int64),
            columns={name: _column([b["with"].get(name) for b in bodies], kind) for name, kind in self._fields.items()},
            degraded=[()] * len(bodies),
            forced=[None] * len(bodies),
            tides=tides,
        )


@operator
def rekeyed(step_id: str, up: Stream[Item], *, reader: RekeyedReader) -> Stream[Item]:
    """Read re-keyed events.

    In: batches as polled. Out: the rows that are events, with columns, `behind_ms` and their place in the source; the
    tides of the source in `tides`.
    Leaves: what something else wrote to the topic, counted.
    State: none.
    """
    return stage("rekeyed", up, reader.work)


def _tides(value: bytes | None) -> dict[int, int] | None:
    """Lane to tide; None where it is something else."""
    try:
        body = orjson.loads(value or b"")
        tides = {int(lane): tide for lane, tide in body["tides"].items()}
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
    return tides if body.get("v") == VERSION and tides and all(map(_is_whole, tides.values())) else None


def _is_whole(number: Any) -> bool:
    return type(number) is int and -_INT64 <= number < _INT64


def _column(values: list[Any], kind: str) -> Column:
    return np.array(values, np.float64) if kind in _NUMBERS else values
