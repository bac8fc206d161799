"""Bytes become events, or rejections with a reason and the sealed original.

`deploy/pipelines/CONTRACT.md` is the list of rules; the tests hold this code to an oracle written from it.
"""

from __future__ import annotations

import logging
import traceback
from collections import Counter as Tally
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from bytewax.dataflow import Stream, operator

from operators import cloudevents, metrics, strict_json, wire
from operators.batch import UNREADABLE, Batch, Item, Record
from operators.contract import ContractSpec
from operators.payload import Fault, Payloads
from operators.sealed import sealed_original
from operators.stage import stage
from operators.wire import Reason
from state.vault import Vault

logger = logging.getLogger(__name__)


class Decoder:
    """Decodes the events of one pipeline."""

    def __init__(self, contract: ContractSpec, *, pipeline: str, vault: Vault) -> None:
        self._contract = contract
        self._payloads = Payloads(contract)
        self._pipeline = pipeline
        self._vault = vault

    def work(self, batch: Batch) -> Batch:
        """Decode each row or reject it."""
        rows = list(range(len(batch)))
        faults: dict[int, Fault] = {}
        try:
            return _counted(self._decode(batch, rows, faults), faults)
        except Exception as error:
            # A defect here, which one event has met: find it by decoding each row alone, and let the others pass.
            # Neither message nor traceback is logged, for they may quote the event.
            where = traceback.extract_tb(error.__traceback__)[-1]
            logger.error(
                "could not decode a batch of %d events (%s at %s:%s); decoding them one by one, please report it",
                len(rows),
                type(error).__name__,
                where.filename,
                where.lineno,
            )
        faults = {row: (Reason.UNDECODABLE, None) for row in rows if self._breaks(batch, row)}
        return _counted(self._decode(batch, [row for row in rows if row not in faults], faults), faults)

    def _breaks(self, batch: Batch, row: int) -> bool:
        try:
            self._decode(batch, [row], {})
        except Exception:  # logged with the batch
            return True
        return False

    def _decode(self, batch: Batch, rows: Sequence[int], faults: dict[int, Fault]) -> Batch:
        rows, payloads = self._read(batch, rows, faults)
        good, found = self._payloads.check(payloads)
        rows = _settle(rows, found, faults)
        columns, event_ms, found = self._payloads.columns(good)
        if found:
            good = [payload for i, payload in enumerate(good) if i not in found]
            rows = _settle(rows, found, faults)
            columns, event_ms, _ = self._payloads.columns(good)
        kept = batch
        if faults:
            stays = np.zeros(len(batch), np.bool_)
            stays[rows] = True
            kept = batch.leave(stays, [self._reject(batch, row, *faults[row]) for row in sorted(faults)])
        return replace(
            kept,
            event_ids=list(columns[self._contract.event_id]),
            entities=list(columns[self._contract.entity]),
            event_ms=event_ms,
            columns=columns,
            degraded=[()] * len(rows),
            forced=[None] * len(rows),
        )

    def _read(self, batch: Batch, rows: Sequence[int], faults: dict[int, Fault]) -> tuple[list[int], list[Any]]:
        """Give the rows that can go on, with the payload of each or the `Reason` why it has none."""
        texts: list[bytes] = []
        kept: list[int] = []
        structured: list[bool] = []
        for row in rows:
            value = batch.values[row]
            mode = self._mode(value, batch, row)
            if type(mode) is Reason:
                faults[row] = (mode, None)
            elif value is not None:
                kept.append(row)
                texts.append(value)
                structured.append(mode is True)
        trees = strict_json.read(texts, self._contract.max_depth)
        whole = [
            i for i, (tree, has) in enumerate(zip(trees, structured, strict=True)) if has and type(tree) is not Reason
        ]
        for i, data in zip(whole, cloudevents.data_of([trees[i] for i in whole]), strict=True):
            trees[i] = data
        return kept, trees

    def _mode(self, value: bytes | None, batch: Batch, row: int) -> bool | Reason:
        """Tell whether the value is an envelope, or why it is not read at all."""
        if batch.headers[row] is UNREADABLE:
            return Reason.BAD_HEADER
        if value is None:
            return Reason.TOMBSTONE
        if not value:
            return Reason.EMPTY
        if len(value) > self._contract.max_bytes:
            return Reason.TOO_LARGE
        return self._contract.format == "cloudevents" and cloudevents.is_structured(batch.headers[row])

    def _reject(self, batch: Batch, row: int, reason: Reason, field: str | None) -> Record:
        lane, offset = int(batch.lane[row]), int(batch.offset[row])
        about = wire.origin_key(batch.topic, lane, offset)
        sealed = sealed_original(self._vault, about, batch.keys[row], batch.values[row], batch.headers[row])
        return wire.rejection(self._pipeline, batch.topic, lane, offset, reason=reason, field=field, sealed=sealed)


def _counted(decoded: Batch, faults: dict[int, Fault]) -> Batch:
    for reason, n in Tally(reason for reason, _ in faults.values()).items():
        metrics.count_rejected(reason.value, n)
    return decoded


def _settle(rows: Sequence[int], found: dict[int, Fault], faults: dict[int, Fault]) -> list[int]:
    """Move what was found, by place in `rows`, to `faults`, by row; give the rows that are left."""
    faults.update({rows[i]: fault for i, fault in found.items()})
    return [row for i, row in enumerate(rows) if i not in found]


@operator
def decode(step_id: str, up: Stream[Item], *, decoder: Decoder) -> Stream[Item]:
    """Read events by the contract.

    In: batches as polled. Out: the good rows with event ids, entities, event times and columns.
    Leaves: `rejected`, with a `Reason` and the sealed original.
    State: none. Never raises for what is in an event.
    """
    return stage("decode", up, decoder.work)
