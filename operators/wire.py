"""The records of an origin: how a decision, a rejection, a quarantine record and a duplicate mark look on their topics.

The models describe the records for readers, tests and `json_schemas`; the functions below them write the bytes, without
the models, because they run for every event. A test holds both together. `operators.emit` writes the decisions.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from enum import StrEnum
from typing import Annotated, Any, Literal, TypeAlias

import orjson
from pydantic import BaseModel, ConfigDict, Field

from operators.batch import Record

VERSION = 1
_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_DECISION_ID = re.compile(r"(?P<pipeline>.+)-(?P<lane>[0-9]{4,10})-(?P<offset>[0-9]{12,19})-[0-9A-Z]")


class Reason(StrEnum):
    """Why an event was rejected. `deploy/pipelines/CONTRACT.md` says when each one is given."""

    TOMBSTONE = "tombstone"
    EMPTY = "empty"
    TOO_LARGE = "too_large"
    MISSING_HEADER = "missing_header"
    BAD_HEADER = "bad_header"
    UNSUPPORTED_CONTENT_TYPE = "unsupported_content_type"
    INVALID_UTF8 = "invalid_utf8"
    INVALID_JSON = "invalid_json"
    TOO_DEEP = "too_deep"
    DUPLICATE_KEY = "duplicate_key"
    NUMBER_OUT_OF_RANGE = "number_out_of_range"
    NUL_CHARACTER = "nul_character"
    NOT_AN_OBJECT = "not_an_object"
    MISSING_ATTRIBUTE = "missing_attribute"
    BAD_ATTRIBUTE = "bad_attribute"
    MISSING_FIELD = "missing_field"
    UNKNOWN_FIELD = "unknown_field"
    WRONG_TYPE = "wrong_type"
    CONSTRAINT = "constraint"
    UNDECODABLE = "undecodable"


class _Wire(BaseModel):
    """What is on a topic. Readers ignore what they do not know, so later versions may add members."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Origin(_Wire):
    """Where the event was read."""

    topic: str
    partition: Annotated[int, Field(ge=0)]
    offset: Annotated[int, Field(ge=0)]


class Supersedes(_Wire):
    """The record whose place a later one takes. Both are about one origin, so they have one decision id."""

    kind: Literal["decision", "rejection", "quarantine", "duplicate"]
    revision: Annotated[int, Field(ge=0)]


class _First(_Wire):
    v: Literal[1] = 1
    pipeline: str
    origin: Origin
    revision: Annotated[int, Field(ge=0)] = 0
    """0 in the first record of an origin. Later ones count on: (decision id, revision) is unique."""
    supersedes: Supersedes | None = None
    """None in a first record, and only there."""


class Score(_Wire):
    """What a model said."""

    score: float | None
    """None when neither release nor fallback gave a number."""
    release: str | None
    """None when the fallback gave the score."""


class PolicyRef(_Wire):
    """The policy that decided."""

    version: str
    digest: str


class Decision(_First):
    """What was decided about an event, and everything it was decided with."""

    kind: Literal["decision"] = "decision"
    decision_id: str
    event_id: str
    entity: str
    event_time: str
    """RFC 3339, UTC: the contract's own event time."""
    decided_at: str
    """RFC 3339, UTC."""
    outcome: str
    reasons: tuple[str, ...]
    scores: Mapping[str, Score]
    shadows: Mapping[str, Mapping[str, float | None]]
    features: Mapping[str, float | bool | str | None]
    ages: Mapping[str, float | None]
    """Feature view to seconds since its value's event time; None where there was no value."""
    degraded: tuple[str, ...]
    policy: PolicyRef


class Rejection(_First):
    """An event that breaks the contract."""

    kind: Literal["rejection"] = "rejection"
    reason: Reason
    field: str | None
    """The contract's field that was at fault, where one was."""
    sealed: str
    """The original, for `operators.sealed.open_original`."""


class FindingRef(_Wire):
    """Where personal data was found, never what it was."""

    field: str
    type: str
    start: int
    end: int
    score: float


class Quarantine(_First):
    """An event held back because of personal data."""

    kind: Literal["quarantine"] = "quarantine"
    findings: tuple[FindingRef, ...]
    sealed: str
    """The original, for `operators.sealed.open_original`."""


class Duplicate(_First):
    """An event whose event id was seen before."""

    kind: Literal["duplicate"] = "duplicate"
    event_id: str
    first: str
    """Decision id of the first event with this event id."""


FirstRecord: TypeAlias = Annotated[Decision | Rejection | Quarantine | Duplicate, Field(discriminator="kind")]


def json_schemas() -> dict[str, dict[str, Any]]:
    """Give the JSON Schema of each kind of first record."""
    models: tuple[type[BaseModel], ...] = (Decision, Rejection, Quarantine, Duplicate)
    return {model.model_fields["kind"].default: model.model_json_schema() for model in models}


def origin_key(topic: str, partition: int, offset: int) -> bytes:
    """Name an origin; the key of rejections and quarantine records, and what their seals are about."""
    return b"%b-%d-%d" % (topic.encode(), partition, offset)


def decision_id(pipeline: str, lane: int, offset: int) -> str:
    """Name the decision about an origin, readable, sortable, with a check character: `claims-0003-000000012345-B`."""
    named = f"{pipeline}-{lane:04d}-{offset:012d}"
    return f"{named}-{_CROCKFORD[zlib.crc32(named.encode()) % 32]}"


def parse_decision_id(text: str) -> tuple[str, int, int]:
    """Read pipeline, lane and offset back; raises ValueError."""
    match = _DECISION_ID.fullmatch(text)
    if match is None:
        raise ValueError("could not read a decision id: expected the form claims-0003-000000012345-B")
    pipeline, lane, offset = match["pipeline"], int(match["lane"]), int(match["offset"])
    if decision_id(pipeline, lane, offset) != text:
        raise ValueError("could not read a decision id: its check character is wrong; is there a typing mistake in it?")
    return pipeline, lane, offset


def rejection(
    pipeline: str, topic: str, lane: int, offset: int, *, reason: Reason, field: str | None, sealed: str
) -> Record:
    """Write the rejection of an event."""
    body = _first("rejection", pipeline, topic, lane, offset) | {
        "reason": reason.value,
        "field": field,
        "sealed": sealed,
    }
    headers = (
        ("__connect.errors.topic", topic.encode()),
        ("__connect.errors.partition", b"%d" % lane),
        ("__connect.errors.offset", b"%d" % offset),
        ("__connect.errors.exception.class.name", reason.value.encode()),
        ("__connect.errors.stage", b"decode"),
    )
    return Record("rejected", lane, origin_key(topic, lane, offset), orjson.dumps(body), headers)


def quarantine(
    pipeline: str, topic: str, lane: int, offset: int, *, findings: Sequence[Mapping[str, Any]], sealed: str
) -> Record:
    """Write the quarantine record of an event; each finding has `field`, `type`, `start`, `end`, `score`."""
    body = _first("quarantine", pipeline, topic, lane, offset) | {"findings": list(findings), "sealed": sealed}
    return Record("quarantine", lane, origin_key(topic, lane, offset), orjson.dumps(body))


def duplicate(pipeline: str, topic: str, lane: int, offset: int, *, event_id: str, entity: str, first: str) -> Record:
    """Write the duplicate mark of an event; `first` is the decision id of the one it repeats."""
    body = _first("duplicate", pipeline, topic, lane, offset) | {"event_id": event_id, "first": first}
    return Record("duplicates", lane, entity.encode(), orjson.dumps(body))


def revised(record: Record, revision: int, supersedes: str) -> Record:
    """Turn a first record into a later one of its origin.

    Args:
        record: as a stage wrote it.
        revision: from 1.
        supersedes: kind of the record with the revision before.
    """
    body = orjson.loads(record.value or b"")
    body |= {"revision": revision, "supersedes": {"kind": supersedes, "revision": revision - 1}}
    # CloudEvents: source and id together name one event, and each revision is one.
    headers = tuple((name, data + b".%d" % revision if name == "ce_id" else data) for name, data in record.headers)
    return replace(record, value=orjson.dumps(body), headers=headers)


def _first(kind: str, pipeline: str, topic: str, lane: int, offset: int) -> dict[str, Any]:
    return {
        "v": VERSION,
        "kind": kind,
        "pipeline": pipeline,
        "origin": {"topic": topic, "partition": lane, "offset": offset},
        "revision": 0,
    }
