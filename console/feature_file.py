"""Read a file of feature values: CSV or JSON lines, plain or gzip, row by row, with every mistake as a line number.

A row has the view's key, its features by name, and an event time in RFC 3339 (a date is its midnight; without a zone it
is UTC). An empty cell or null is a missing value. Messages name line and column, never what stood there.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import math
import re
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO, TypeAlias, TypeGuard

FORMATS = (".csv", ".csv.gz", ".jsonl", ".jsonl.gz", ".ndjson", ".ndjson.gz")
MAX_KEY = 1024
AHEAD_MS = 86_400_000
"""A later event time than in so long is a mistake: values replace only those that are no later."""
_WHOLE = re.compile(r"[+-]?[0-9]{1,18}")


class FileUnusable(Exception):
    """A file as a whole cannot be loaded."""


@dataclass(frozen=True, slots=True)
class Refused:
    """A row that was not taken."""

    line: int
    """From 1."""
    column: str | None
    what: str

    def __str__(self) -> str:
        where = f"{self.column}: " if self.column else ""
        return f"line {self.line}: {where}{self.what}"


@dataclass(frozen=True, slots=True)
class Value:
    """A row that can be written."""

    key: str
    time_ms: int
    features: tuple[float | str | None, ...]


@dataclass(frozen=True, slots=True)
class Columns:
    """Where in a row everything is."""

    key: str
    time: str
    features: tuple[tuple[str, str], ...]
    """(name, `number` or `string`)."""
    whole_key: bool = False
    """Whether keys are whole numbers, which are looked up as their digits."""

    @property
    def names(self) -> tuple[str, ...]:
        """All of them."""
        return (self.key, self.time, *(name for name, _ in self.features))


Seen: TypeAlias = Callable[[int], None]


def read_rows(path: Path, columns: Columns, seen: Seen = lambda _position: None) -> Iterator[Value | Refused]:
    """Read the rows of a file; `seen` hears how many bytes of it have been read.

    Raises:
        FileUnusable: its name has no known ending, it cannot be opened, or it lacks a column.
    """
    for line, row in read_lines(path, columns.names, seen):
        yield row if isinstance(row, Refused) else _value(line, row, columns)


def read_lines(path: Path, names: Sequence[str], seen: Seen) -> Iterator[tuple[int, Mapping[str, Any] | Refused]]:
    """Read the lines of a file, each with its number; CSV must have the columns `names`, and all its cells are text.

    Raises:
        FileUnusable: its name has no known ending, it cannot be opened, or it lacks a column.
    """
    name = path.name.lower()
    if not name.endswith(FORMATS):
        raise FileUnusable(f"could not tell the format of {path}; expected a name that ends with {', '.join(FORMATS)}")
    try:
        with path.open("rb") as raw:
            binary: Any = gzip.GzipFile(fileobj=raw) if name.endswith(".gz") else raw
            text = io.TextIOWrapper(binary, "utf-8-sig", errors="surrogateescape", newline="")
            for line, row in _csv_rows(text, names) if ".csv" in name else _json_rows(text):
                seen(raw.tell())
                yield line, row
    except (OSError, EOFError, zlib.error) as error:
        raise FileUnusable(f"could not read {path}: {getattr(error, 'strerror', None) or error}") from None


def _csv_rows(text: TextIO, names: Sequence[str]) -> Iterator[tuple[int, Mapping[str, Any] | Refused]]:
    reader = csv.DictReader(text, strict=True)
    try:
        header = reader.fieldnames or ()
    except csv.Error:
        header = ()
    if twice := [name for name, n in Counter(header).items() if n > 1]:
        raise FileUnusable(f"the header has {', '.join(twice)} more than once")
    if lacking := [name for name in names if name not in header]:
        raise FileUnusable(f"the header lacks {', '.join(lacking)}; expected the columns {', '.join(names)}")
    while True:
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            line = reader.line_num + 1  # where the row begins: the count has not gone on
            yield line, Refused(line, None, _not_csv(str(error)))
            continue
        if None in row or None in row.values():
            yield reader.line_num, Refused(reader.line_num, None, "has another number of columns than the header")
        else:
            yield reader.line_num, {name: cell or None for name, cell in row.items()}


def _not_csv(why: str) -> str:
    if "end of data" in why:
        return "opens a quote that is never closed; it and all that comes after it were left out"
    if "field limit" in why:
        return f"has a cell of more than {csv.field_size_limit()} characters"
    return "is not CSV; expected balanced quotes"


def _json_rows(text: TextIO) -> Iterator[tuple[int, Mapping[str, Any] | Refused]]:
    for line, content in enumerate(text, start=1):
        if not content.strip():
            continue
        try:
            row = json.loads(content, object_pairs_hook=_each_once)
        except (ValueError, RecursionError):
            row = None
        yield line, row if isinstance(row, dict) else Refused(line, None, "is not a JSON object with each name once")


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError
    return found


def read_row(row: Mapping[str, Any], columns: Columns) -> Value | Refused:
    """Read a row that stands alone."""
    return _value(0, row, columns)


def _value(line: int, row: Mapping[str, Any], columns: Columns) -> Value | Refused:
    key = row.get(columns.key)
    if type(key) is int:
        key = str(key)
    if columns.whole_key and (key := whole(key)) is None:
        return Refused(line, columns.key, "expected a whole number of at most 18 digits")
    if not _is_text(key) or not 0 < len(key) <= MAX_KEY:
        return Refused(line, columns.key, f"expected a key of 1 to {MAX_KEY} characters")
    time_ms = _milliseconds(row.get(columns.time))
    if isinstance(time_ms, str):
        return Refused(line, columns.time, time_ms)
    features: list[float | str | None] = []
    for name, kind in columns.features:
        if name not in row:
            return Refused(line, name, "is missing; expected a value, or null")
        cell = row[name]
        if cell is None or (kind == "string" and _is_text(cell)):
            features.append(cell)
        elif kind == "number" and (number := number_of(cell)) is not None:
            features.append(number)
        else:
            return Refused(line, name, f"expected a {'finite number' if kind == 'number' else 'text in UTF-8'}")
    return Value(key, time_ms, tuple(features))


def whole(key: Any) -> str | None:
    """A whole number as it is looked up: its digits, without a zero before them."""
    return str(int(key)) if isinstance(key, str) and _WHOLE.fullmatch(key) else None


def _is_text(cell: Any) -> TypeGuard[str]:
    """Whether it is a string without what UTF-8 cannot write."""
    try:
        return isinstance(cell, str) and bool(cell.encode() or True)
    except UnicodeEncodeError:
        return False


def number_of(cell: Any) -> float | None:
    """A finite number, also from text; None where it is none."""
    if isinstance(cell, bool) or not isinstance(cell, (int, float, str)) or (isinstance(cell, str) and "_" in cell):
        return None
    try:
        number = float(cell)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _milliseconds(cell: Any) -> int | str:
    """Unix milliseconds, or what is wrong."""
    try:
        moment = datetime.fromisoformat(cell)
        time_ms = round((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC).timestamp() * 1000)
    except (TypeError, ValueError, OverflowError):
        return "expected a time such as 2026-01-31T12:00:00Z"
    if time_ms > time.time() * 1000 + AHEAD_MS:
        return "is more than a day ahead, and would keep every value until then out"
    return time_ms


def in_batches(rows: Iterator[Value | Refused], size: int) -> Iterator[tuple[Sequence[Value], Sequence[Refused]]]:
    """Gather rows by at most `size`, apart from those that were refused."""
    values: list[Value] = []
    refused: list[Refused] = []
    for row in rows:
        if isinstance(row, Value):
            values.append(row)
        else:
            refused.append(row)
        if len(values) + len(refused) >= size:
            yield values, refused
            values, refused = [], []
    if values or refused:
        yield values, refused
