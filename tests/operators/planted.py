"""Looks for planted strings in records, byte by byte: for any test that must show that nothing leaked."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

from operators.batch import Batch, Record


def leaks(records: Iterable[Record], planted: Iterable[str]) -> list[tuple[str, str]]:
    """Each planted string that stands in the clear in a record, with the record's topic.

    Keys, header names and values and values are searched as they are and, where a value is JSON, with its escapes
    resolved. Sealed originals are not opened.
    """
    wanted = [(text, text.encode("utf-8", "surrogatepass")) for text in planted]
    return [
        (text, record.topic)
        for record in records
        for text, data in wanted
        if any(data in part for part in _parts(record))
    ]


def batch_leaks(batch: Batch, planted: Iterable[str]) -> list[str]:
    """Each planted string that stands anywhere in what a batch still carries, its records included."""
    return [text for text in planted if text in "\n".join(_strings(_carried(batch)))] + [
        text for text, _ in leaks(batch.records, planted)
    ]


def _parts(record: Record) -> Iterator[bytes]:
    yield record.key or b""
    for name, data in record.headers:
        yield name.encode()
        yield data
    yield record.value or b""
    try:
        parsed = json.loads(record.value or b"null")
    except ValueError:
        return
    for text in _strings(parsed):
        yield text.encode("utf-8", "surrogatepass")


def _carried(batch: Batch) -> list[Any]:
    return [
        batch.keys,
        batch.values,
        batch.headers,
        batch.event_ids,
        batch.entities,
        [list(column) for column in batch.columns.values()],
        batch.degraded,
        [(change.key, change.value) for change in batch.changes],
    ]


def _strings(thing: Any) -> Iterator[str]:
    if isinstance(thing, str):
        yield thing
    elif isinstance(thing, bytes):
        yield thing.decode("utf-8", "replace")
    elif isinstance(thing, dict):
        for key, value in thing.items():
            yield from _strings(key)
            yield from _strings(value)
    elif isinstance(thing, (list, tuple)):
        for each in thing:
            yield from _strings(each)
