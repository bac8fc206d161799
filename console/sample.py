"""What a sample of events says about their contract: fields, types, and which name the event, its entity and time."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

from models.sql_tree import usable_name
from operators.contract import DATE_PATTERN, DATETIME_PATTERN

MAX_EVENTS = 5000
MAX_LINE = 700_000
"""Bytes; the contract takes no larger events."""
_ID = re.compile(r"(^|_)(id|key|uuid|number|no)$", re.IGNORECASE)


class SampleUnusable(Exception):
    """The sample does not say enough. The message says what is missing."""


@dataclass(slots=True)
class Seen:
    """One field as the sample shows it."""

    name: str
    """Usable in SQL."""
    path: tuple[str, ...]
    """Where it is in the event."""
    values: list[Any] = field(default_factory=list)
    """Those that are there and not null."""
    nulls: int = 0
    type: str = "string"

    def is_in_all(self, n: int) -> bool:
        """Whether every event has a value."""
        return len(self.values) == n


@dataclass(frozen=True, slots=True)
class Sample:
    """Events and their fields."""

    events: list[dict[str, Any]]
    """The payloads."""
    is_cloudevents: bool
    fields: dict[str, Seen]
    left_out: list[str]
    """Paths of lists and of what has several types."""
    event_id: str
    entity: str
    event_time: str


def read_sample(path: Path) -> Sample:
    """Read JSON lines and see what they have in common.

    Raises:
        SampleUnusable: no readable events, or none of the fields can be the event's id or time.
    """
    events = list(_events(path))
    if not events:
        raise SampleUnusable(f"{path} has no events; expected one JSON object a line")
    is_cloudevents = all("specversion" in event and isinstance(event.get("data"), dict) for event in events)
    payloads = [event["data"] for event in events] if is_cloudevents else events
    fields, left_out = _fields(payloads)
    n = len(payloads)
    event_id = _event_id(fields, n)
    return Sample(
        payloads, is_cloudevents, fields, left_out, event_id, _entity(fields, n, event_id), _event_time(fields, n)
    )


def _events(path: Path) -> Iterator[dict[str, Any]]:
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise SampleUnusable(f"could not read the sample {path}: {error.strerror}") from None
    for number, line in enumerate(lines[:MAX_EVENTS], 1):
        if not line.strip():
            continue
        try:
            event = json.loads(line) if len(line) <= MAX_LINE else None
        except (ValueError, RecursionError):
            event = None
        if isinstance(event, list) or (event is None and number == 1 and _is_array(lines)):
            raise SampleUnusable(f"{path}:{number}: one array; write one object a line (`jq -c '.[]' {path}`)")
        if not isinstance(event, dict):
            raise SampleUnusable(
                f"{path}:{number}: not a JSON object of at most {MAX_LINE} bytes; expected one event a line"
            )
        yield event


def _is_array(lines: list[bytes]) -> bool:
    """Whether all lines together are a JSON array, as of a file that was written with indentation."""
    if not lines[0].lstrip().startswith(b"["):
        return False
    try:
        return isinstance(json.loads(b"\n".join(lines)), list)
    except (ValueError, RecursionError):
        return False


def _fields(payloads: Sequence[dict[str, Any]]) -> tuple[dict[str, Seen], list[str]]:
    by_path: dict[tuple[str, ...], list[Any]] = {}
    for payload in payloads:
        for path, value in _leaves(payload, ()):
            by_path.setdefault(path, []).append(value)
    fields: dict[str, Seen] = {}
    left_out: list[str] = []
    for path, values in by_path.items():
        present = [value for value in values if value is not None]
        kind = _type(present)
        inner = any(other[: len(path)] == path and other != path for other in by_path)
        if kind is None or inner or not all(path):
            left_out.append("/" + "/".join(path))
            continue
        name = _name(path, fields)
        fields[name] = Seen(name, path, present, len(values) - len(present), kind)
    return fields, left_out


def _leaves(value: dict[str, Any], path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    for key, inner in value.items():
        if isinstance(inner, dict) and len(path) < 6:
            yield from _leaves(inner, (*path, key))
        else:
            yield (*path, key), inner


def _name(path: tuple[str, ...], taken: dict[str, Seen]) -> str:
    name = re.sub(r"\W", "_", "_".join(path), flags=re.ASCII)[:50]
    if not re.match(r"[A-Za-z_]", name):
        name = f"f_{name}"
    if not usable_name(name):
        name = f"{name}_value"
    number = 2
    while name in taken:
        name, number = f"{name}_{number}", number + 1
    return name


def _type(values: Sequence[Any]) -> str | None:
    """The contract type that all values have, if any."""
    kinds = {type(value) for value in values}
    if kinds == {bool}:
        return "boolean"
    if kinds == {int}:
        return "integer"
    if kinds in ({float}, {int, float}):
        return "number"
    if kinds != {str}:
        return None
    if all(re.fullmatch(DATETIME_PATTERN.strip("^$"), value) for value in values):
        return "datetime"
    return (
        "date"
        if all(re.fullmatch(DATE_PATTERN.strip("^$"), value) and _is_date(value) for value in values)
        else "string"
    )


def _is_date(text: str) -> bool:
    try:
        date.fromisoformat(text)
    except ValueError:
        return False
    return True


def _event_id(fields: dict[str, Seen], n: int) -> str:
    unique = [f.name for f in fields.values() if f.type == "string" and f.is_in_all(n) and len(set(f.values)) == n]
    named = [name for name in unique if _ID.search(name)]
    if not unique:
        raise SampleUnusable(
            "no text field is in every event and different in each, so none can be the event id; add one"
        )
    return (named or unique)[0]


def _entity(fields: dict[str, Seen], n: int, event_id: str) -> str:
    """The text field that names the most events together; the event's own id where nothing else can."""
    others = [f for f in fields.values() if f.type == "string" and f.is_in_all(n) and f.name != event_id]
    named = [f for f in others if _ID.search(f.name)]
    chosen = max(named, key=lambda f: len(set(f.values)) if len(set(f.values)) < n else 0, default=None)
    return chosen.name if chosen else event_id


def _event_time(fields: dict[str, Seen], n: int) -> str:
    times = [f.name for f in fields.values() if f.type == "datetime" and f.is_in_all(n)]
    if not times:
        raise SampleUnusable(
            "no field is a date and time with a zone (such as 2026-01-31T12:00:00Z) in every event, so none can be the "
            "event time; add one"
        )
    return times[0]
