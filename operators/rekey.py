"""Send what views of another key need to that key's lanes, through a topic: the exchange between processes.

A record of `by-<key>` has the key and a JSON object: `v`, `at` (event time, Unix ms), `from` (lane and offset in the
source), `behind` (ms behind its lane of the source, decided there, so that the order in which lanes come together
changes nothing) and `with` (contract fields by name). Its partition is the one that a producer would choose for the
key, so all events of a key meet in one lane. Between them, without a key, are the tides: `tides` has lane of the source
to Unix ms, in every partition. `operators.rekeyed` reads both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import bytewax.operators as op
import numpy as np
import orjson
from bytewax.dataflow import Stream, operator

from operators.batch import Batch, Column, Item, Record
from operators.view_keys import keys_of
from state.murmur2 import lanes_of

VERSION = 1


@dataclass(frozen=True, slots=True)
class Exchange:
    """One topic for events of another key."""

    role: str
    """Of the topic."""
    key: str
    """Column of the key."""
    fields: tuple[str, ...]
    """Columns that the views of this key are computed from."""


class Rekeyer:
    """Writes re-keyed records and tides, and nothing else: what other stages wrote is another job's to write."""

    def __init__(self, exchanges: Sequence[Exchange], lanes: Callable[[], int]) -> None:
        """Write to `exchanges`, each of which has `lanes()` partitions; asked when there is something to write."""
        self._exchanges, self._lanes = tuple(exchanges), lanes

    def work(self, batch: Batch) -> Batch:
        """Write every row once for each key that it has, then the tides of the batch."""
        rows = [record for exchange in self._exchanges if len(batch) for record in self._rekeyed(batch, exchange)]
        return replace(batch, records=(*rows, *self._tides(batch)))

    def _rekeyed(self, batch: Batch, exchange: Exchange) -> list[Record]:
        keys = keys_of(batch.columns[exchange.key])
        has = np.array([key is not None for key in keys], np.bool_)
        rows = batch if has.all() else batch.take(has)
        if not len(rows):
            return []
        names = [key.encode() for key in keys if key is not None]
        partitions = lanes_of(names, self._lanes()).tolist()
        columns = [_texts(column) for column in (rows.event_ms, rows.lane, rows.offset, rows.behind_ms)]
        columns += [_texts(rows.columns[field]) for field in exchange.fields]
        template = _template(exchange.fields)
        return [
            Record(exchange.role, lane, name, template % texts, partition=partition)
            for lane, name, partition, texts in zip(
                rows.lane.tolist(), names, partitions, zip(*columns, strict=True), strict=True
            )
        ]

    def _tides(self, batch: Batch) -> Iterator[Record]:
        """One record for all lanes in each partition; one for each lane would be as many as lanes times lanes."""
        if not batch.tides or not self._exchanges:
            return
        tides = {str(lane): tide for of in batch.tides.values() for lane, tide in of.items()}
        body = orjson.dumps({"v": VERSION, "tides": tides})
        first, *others = batch.tides
        for exchange in self._exchanges:
            for partition in range(self._lanes()):
                yield Record(exchange.role, first, None, body, partition=partition, others=tuple(others))


@operator
def rekey(step_id: str, up: Stream[Item], *, rekeyer: Rekeyer) -> Stream[Item]:
    """Write what other keys need.

    In: batches with `behind_ms`, also without rows. Out: the same batches, without the records that came with them.
    Leaves: a record of role `by-<key>` for each row and key that it has, and the tides in every partition of these.
    State: none.
    """

    def on_items(items: list[Item]) -> list[Item]:
        return [rekeyer.work(item) if isinstance(item, Batch) else item for item in items]

    return op.flat_map_batch("rekey", up, on_items)


def _template(fields: Sequence[str]) -> bytes:
    """A record's JSON with `%b` in the places of its columns."""
    members = b",".join(orjson.dumps(field) + b":%b" for field in fields)
    return b'{"v":%d,"at":%%b,"from":[%%b,%%b],"behind":%%b,"with":{' % VERSION + members + b"}}"


def _texts(column: Column) -> list[bytes]:
    """Each value as JSON; NaN is null."""
    if isinstance(column, np.ndarray):
        return orjson.dumps(column.tolist())[1:-1].split(b",")  # numbers and nulls have no commas
    return [orjson.dumps(value) for value in column]
