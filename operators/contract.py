"""The contract of a pipeline: what an event must look like to come in.

`ContractSpec` is the `contract:` part of the pipeline file. It is published as a JSON Schema (`published_schema`) and
enforced by `operators.decode`. What JSON Schema cannot say (duplicate names, lone surrogates, sizes …) is in
`deploy/pipelines/CONTRACT.md`.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, StrictFloat, StrictInt, TypeAdapter, model_validator
from pydantic_core import SchemaError

MAX_INTEGER = 2**53 - 1
"""The largest integer that every JSON reader and a float64 column keep exactly (RFC 8259, section 6)."""
MAX_ID_LENGTH = 256
"""Characters of an event id or entity when the contract gives no `max_length`: both become keys."""

EnumValue: TypeAlias = Annotated[str, Field(min_length=1, max_length=MAX_ID_LENGTH)]
FieldType: TypeAlias = Literal["string", "integer", "number", "boolean", "date", "datetime"]

DATE_PATTERN = "^[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])$"
DATETIME_PATTERN = (
    "^[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])[Tt]([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]"
    "([.][0-9]{1,9})?([Zz]|[+-]([01][0-9]|2[0-3]):[0-5][0-9])$"
)

_NAME = "^[A-Za-z_][A-Za-z0-9_]{0,62}$"
_POINTER = re.compile(r"(/([^~/]|~[01])+)+")
# What ECMA-262 (JSON Schema), RE2, Rust and Python read alike: no escaped letters or digits, no groups but ( and (?:,
# no classes in classes, no set operators.
_PORTABLE = re.compile(
    r"(?:[^\\(\[{]|\\[^A-Za-z0-9]|\((?!\?)|\(\?:|\{(?!,)|\[\^?(?:[^\\\[\]&~-]|\\[^A-Za-z0-9]|&(?!&)|~(?!~)|-(?!-))+\])*"
)
_CONSTRAINTS: Mapping[str, frozenset[str]] = {
    "string": frozenset({"enum", "pattern", "min_length", "max_length"}),
    "integer": frozenset({"ge", "le"}),
    "number": frozenset({"ge", "le"}),
    "boolean": frozenset(),
    "date": frozenset(),
    "datetime": frozenset(),
}


class FieldSpec(BaseModel):
    """One field of an event."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    type: FieldType
    required: bool = True
    nullable: bool = False
    """Whether the field may be `null`, which means missing."""
    enum: Annotated[tuple[EnumValue, ...], Field(min_length=1, max_length=1000)] | None = None
    """The only values of a string; no other constraint goes with it."""
    pattern: Annotated[str, Field(max_length=1000)] | None = None
    """A regular expression that must be found in the string, in the subset that all engines read alike."""
    min_length: Annotated[int, Field(ge=0)] | None = None
    """In characters (Unicode code points), like `max_length`."""
    max_length: Annotated[int, Field(ge=0)] | None = None
    ge: StrictInt | StrictFloat | None = None
    le: StrictInt | StrictFloat | None = None
    source: Annotated[str, Field(max_length=500)] | None = Field(default=None, alias="from")
    """JSON Pointer (RFC 6901) to where the value is; by default the member of the field's name. Object members only."""

    @model_validator(mode="after")
    def _fits_its_type(self) -> FieldSpec:
        given = {
            name
            for name in ("enum", "pattern", "min_length", "max_length", "ge", "le")
            if getattr(self, name) is not None
        }
        if extra := sorted(given - _CONSTRAINTS[self.type]):
            allowed = ", ".join(sorted(_CONSTRAINTS[self.type])) or "no constraint"
            raise ValueError(f"{', '.join(extra)} cannot be used with type {self.type}, which takes {allowed}")
        if self.enum is not None and len(given) > 1:
            raise ValueError(f"enum goes alone: leave out {', '.join(sorted(given - {'enum'}))}")
        _refuse_crossed("min_length", self.min_length, "max_length", self.max_length)
        _refuse_crossed("ge", self.ge, "le", self.le)
        if self.pattern is not None:
            _refuse_pattern(self.pattern)
        if self.source is not None and not _POINTER.fullmatch(self.source):
            raise ValueError(f"from must be a JSON Pointer to an object member, such as /claim/id, not {self.source!r}")
        return self

    def path(self, name: str) -> tuple[str, ...]:
        """The names of the members that lead to the value of the field called `name`."""
        if self.source is None:
            return (name,)
        return tuple(part.replace("~1", "/").replace("~0", "~") for part in self.source[1:].split("/"))


class ContractSpec(BaseModel):
    """What an event must look like to come in."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Annotated[int, Field(ge=1)] = 1
    format: Literal["cloudevents", "json"] = "cloudevents"
    """`cloudevents` 1.0, structured and binary mode; or `json`: the value is the event, headers are free."""
    event_id: str
    """The field with the producer's own id, by which duplicates are found."""
    entity: str
    """The field that names who or what the event is about; the key of the input topic."""
    event_time: str
    """The datetime field that windows go by."""
    max_bytes: Annotated[int, Field(ge=2, le=700_000)] = 65_536
    """Size of the value. The bound keeps the sealed originals under Kafka's default message size."""
    max_depth: Annotated[int, Field(ge=1, le=64)] = 8
    """Objects and arrays within each other, the outermost one included (with `cloudevents`, the envelope)."""
    unknown_fields: Literal["reject", "drop"] = "reject"
    fields: Annotated[dict[Annotated[str, Field(pattern=_NAME)], FieldSpec], Field(min_length=1, max_length=500)]

    @model_validator(mode="after")
    def _names_its_fields(self) -> ContractSpec:
        for role, wanted in (("event_id", "string"), ("entity", "string"), ("event_time", "datetime")):
            name = getattr(self, role)
            spec = self.fields.get(name)
            if spec is None:
                raise ValueError(f"{role} names no field: {name!r}; fields are {', '.join(self.fields)}")
            if spec.type != wanted or not spec.required or spec.nullable:
                raise ValueError(f"{role} must be a required {wanted} that is not nullable, and {name!r} is not")
        paths = sorted(spec.path(name) for name, spec in self.fields.items())
        for before, after in itertools.pairwise(paths):
            if after[: len(before)] == before:
                raise ValueError(
                    f"two fields are read from the same place, or one within the other: /{'/'.join(after)}"
                )
        return self

    def lengths(self, name: str) -> tuple[int, int | None]:
        """Fewest and most characters of a string field; an event id and an entity are never empty or unbounded."""
        spec = self.fields[name]
        low, high = spec.min_length or 0, spec.max_length
        if name in (self.event_id, self.entity):
            return max(low, 1), MAX_ID_LENGTH if high is None else high
        return low, high

    def integer_range(self, name: str) -> tuple[int, int]:
        """Lowest and highest value of an integer field."""
        spec = self.fields[name]
        low = -MAX_INTEGER if spec.ge is None else max(math.ceil(spec.ge), -MAX_INTEGER)
        high = MAX_INTEGER if spec.le is None else min(math.floor(spec.le), MAX_INTEGER)
        return low, high


def published_schema(contract: ContractSpec) -> dict[str, Any]:
    """Describe the payload (with `cloudevents`, the `data`) as a JSON Schema 2020-12, for producers."""
    root = _object_schema(contract)
    for name, spec in contract.fields.items():
        *parents, last = spec.path(name)
        place = root
        for parent in parents:
            if spec.required and parent not in place["required"]:
                place["required"].append(parent)
            place = place["properties"].setdefault(parent, _object_schema(contract))
        place["properties"][last] = _field_schema(contract, name)
        if spec.required:
            place["required"].append(last)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$comment": "strings, numbers and objects are read by the stricter rules of deploy/pipelines/CONTRACT.md",
        **root,
    }


def _object_schema(contract: ContractSpec) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {},
        "required": [],
        "additionalProperties": contract.unknown_fields == "drop",
    }


def _field_schema(contract: ContractSpec, name: str) -> dict[str, Any]:
    spec = contract.fields[name]
    schema: dict[str, Any] = {"type": "string" if spec.type in ("date", "datetime") else spec.type}
    if spec.type == "string":
        low, high = contract.lengths(name)
        limits = {"pattern": spec.pattern, "minLength": low or None, "maxLength": high}
        schema |= {"enum": list(spec.enum)} if spec.enum else _given(limits)
    elif spec.type == "date":
        schema |= {"format": "date", "pattern": DATE_PATTERN}
    elif spec.type == "datetime":
        schema |= {"format": "date-time", "pattern": DATETIME_PATTERN}
    elif spec.type == "integer":
        schema["minimum"], schema["maximum"] = contract.integer_range(name)
    elif spec.type == "number":
        schema |= _given({"minimum": spec.ge, "maximum": spec.le})
    return {"anyOf": [schema, {"type": "null"}]} if spec.nullable else schema


def _given(limits: Mapping[str, Any]) -> dict[str, Any]:
    return {word: limit for word, limit in limits.items() if limit is not None}


def _refuse_crossed(low_name: str, low: float | None, high_name: str, high: float | None) -> None:
    if any(limit is not None and not -1e300 <= limit <= 1e300 for limit in (low, high)):  # nor NaN
        raise ValueError(f"{low_name} and {high_name} must be numbers between -1e300 and 1e300")
    if low is not None and high is not None and low > high:
        raise ValueError(f"{low_name} {low} is above {high_name} {high}: nothing could pass")


def _refuse_pattern(pattern: str) -> None:
    read = _PORTABLE.match(pattern)
    if read is None or read.end() != len(pattern):
        place = pattern[read.end() if read else 0 :][:3]
        raise ValueError(
            f"pattern uses {place!r}, which regular expression engines read differently; "
            "write a character class such as [0-9] or [A-Za-z0-9_], and (?:…) for groups"
        )
    try:
        # Pydantic's engine (Rust) is the one that enforces it, in linear time: no look-around, no back-references.
        TypeAdapter(Annotated[str, Field(pattern=pattern)])
    except SchemaError as error:
        raise ValueError(f"pattern is not a regular expression of linear time: {error}") from None
