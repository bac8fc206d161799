"""Views that Feast keeps: what `feast materialize` (0.67) wrote to Redis, read without importing Feast.

All views of one entity share a hash. Its key is the entity key, serialised, and then the project's name:

    version 3: number of join keys | 2, length, name of each | type, length, value of each
    version 2: 2, name of each join key | type, length, value of each

in little-endian uint32, join keys by name, types as in `feast.types.ValueType`. The hash's fields are `_ts:<view>`, a
protobuf Timestamp, and for each feature the four little-endian bytes of murmur3 of `<view>:<feature>`, a protobuf
`feast.types.Value`. Feast's own specification still has the format before these; its code writes this.

Feast's time-to-live is nowhere in Redis and nothing there enforces it: the row's time is compared with `max_age`.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, TypeAlias

import mmh3
import numpy as np
import numpy.typing as npt
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

from state.views import Command, Lack, Row, Values

KEY_TYPES: Final = {"bytes": 1, "string": 2, "int32": 3, "int64": 4, "unix_timestamp": 8}
"""Types of a join key that Feast can serialise, and their numbers."""
_INTEGERS: Final = {"int32": "<i", "int64": "<q", "unix_timestamp": "<q"}
_NO_TIME: Final = -(2**63)
"""NaT: how Feast writes a timestamp that is not there."""


@dataclass(frozen=True)
class FeastView:
    """A feature view of a Feast project whose entity has one join key."""

    name: str
    """In the pipeline."""
    features: tuple[tuple[str, str], ...]
    """(name in Feast, `number` or `string`)."""
    project: str
    feature_view: str
    """Its name in Feast; with `_v<N>` where Feast is told to keep versions of views apart."""
    join_key: str
    key_type: str = "string"
    """One of `KEY_TYPES`."""
    key_version: int = 3
    """`entity_key_serialization_version` of the project: 2 or 3."""

    @cached_property
    def fields(self) -> tuple[bytes, ...]:
        """The hash's fields: the time, then the features in their order."""
        hashed = (mmh3.hash(f"{self.feature_view}:{feature}", signed=False) for feature, _ in self.features)
        return (f"_ts:{self.feature_view}".encode(), *(struct.pack("<I", number) for number in hashed))

    @cached_property
    def _head(self) -> bytes:
        """What the keys of all entities begin with."""
        name = self.join_key.encode()
        count, length = (struct.pack("<I", 1), struct.pack("<I", len(name))) if self.key_version > 2 else (b"", b"")
        return count + struct.pack("<I", KEY_TYPES["string"]) + length + name

    def redis_key(self, key: str) -> bytes:
        """Where the values of an entity are.

        A key that is no number of the join key's type is looked for as the text it is, which Feast has not written.
        """
        kind, value = self.key_type, _integer(_INTEGERS.get(self.key_type), key)
        if value is None:
            kind, value = ("bytes" if kind == "bytes" else "string"), key.encode("utf-8", "surrogatepass")
        return self._head + struct.pack("<II", KEY_TYPES[kind], len(value)) + value + self.project.encode()

    def requests(self, pipeline: str, keys: Sequence[str]) -> list[Command]:
        """What reads the values of each entity: the same, whatever pipeline asks."""
        return [self.request(self.redis_key(key)) for key in keys]

    def request(self, redis_key: bytes) -> Command:
        """What reads this view's part of a hash."""
        return (b"HMGET", redis_key, *self.fields)

    def aside(self, pipeline: str) -> None:
        """Nothing."""

    def kept(self, keys: Sequence[str], replies: Sequence[Any], aside: Any) -> list[Row | Lack]:
        """The rows, read once for as long as they are cached."""
        nothing = (None,) * len(self.fields)
        return [reply if isinstance(reply, Lack) else self.row(reply or nothing) for reply in replies]

    def values(self, kept: Sequence[Any], rows: npt.NDArray[np.intp], at_ms: npt.NDArray[np.int64]) -> Values:
        """What rows have, whatever their event time."""
        return Values.of_rows(self.features, kept, rows)

    def pack(self, time_ms: int, values: Sequence[float | str | None]) -> list[bytes | None]:
        """What Feast would have written into `fields`, as doubles and strings: for a Redis whose content is made up."""
        time = _TIMESTAMP(seconds=time_ms // 1000, nanos=time_ms % 1000 * 1_000_000)
        packed = (
            _VALUE() if value is None else _VALUE(double_val=value) if kind == "number" else _VALUE(string_val=value)
            for (_, kind), value in zip(self.features, values, strict=True)
        )
        return [message.SerializeToString() for message in (time, *packed)]

    def row(self, stored: Sequence[bytes | None]) -> Row | Lack:
        """Read the values of `fields`.

        A row of another view's time only is missing. One that lacks a feature was written before the view had it, and
        is as unreadable as one with a value that its column cannot hold (a list, a map, text for a number).
        """
        time, *values = stored
        if time is None:
            return Lack.MISSING
        try:
            at = _TIMESTAMP.FromString(time)
            row: list[float | str | None] = [at.seconds + at.nanos / 1e9]
            for (_, kind), value in zip(self.features, values, strict=True):
                row.append(_read(value, kind))
        except (DecodeError, ValueError):
            return Lack.UNREADABLE
        return tuple(row)


def _integer(form: str | None, key: str) -> bytes | None:
    """A whole number as Feast serialises it; None where the key is none, or too large."""
    try:
        number = int(key)
        return struct.pack(form, number) if form is not None and str(number) == key else None
    except (ValueError, struct.error):
        return None


def _read(stored: bytes | None, kind: str) -> float | str | None:
    """One value, as a number or a string; NaN or None where it is null.

    Raises:
        ValueError: there is none, or the column cannot hold it.
        DecodeError: it is no value of Feast.
    """
    if stored is None:
        raise ValueError("the row lacks the feature")
    value = _VALUE.FromString(stored)
    held = value.WhichOneof("val")
    if not stored or held == "null_val":
        return math.nan if kind == "number" else None
    read = _READERS[kind].get(held)
    if read is None:
        raise ValueError(f"a {kind} cannot hold it")
    return read(getattr(value, held))


def _finite(value: float | str) -> float:
    number = float(value)
    return number if math.isfinite(number) else math.nan


def _time(seconds: int) -> float:
    return math.nan if seconds == _NO_TIME else float(seconds)


_Reader: TypeAlias = "Callable[[Any], float | str]"
_READERS: Final[Mapping[str, Mapping[str, _Reader]]] = {
    "number": {
        **dict.fromkeys(("int32_val", "int64_val", "double_val", "float_val", "decimal_val", "bool_val"), _finite),
        "unix_timestamp_val": _time,
    },
    "string": {
        **dict.fromkeys(("string_val", "json_val", "uuid_val", "time_uuid_val", "decimal_val"), str),
        "bytes_val": bytes.decode,
    },
}
"""What a column can hold, by the name that Feast gives to the kind of value."""


def _messages() -> tuple[Any, Any]:
    """`google.protobuf.Timestamp` and as much of `feast.types.Value` as a column can hold.

    In a pool of their own: a process that imports Feast has these names already.
    """
    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="feast_values.proto", package="penstock", syntax="proto3")
    time, value = file.message_type.add(name="Timestamp"), file.message_type.add(name="Value")
    time.field.add(name="seconds", number=1, type=kinds.TYPE_INT64, label=kinds.LABEL_OPTIONAL)
    time.field.add(name="nanos", number=2, type=kinds.TYPE_INT32, label=kinds.LABEL_OPTIONAL)
    value.oneof_decl.add(name="val")
    for name, (number, kind) in {
        "bytes_val": (1, kinds.TYPE_BYTES),
        "string_val": (2, kinds.TYPE_STRING),
        "int32_val": (3, kinds.TYPE_INT32),
        "int64_val": (4, kinds.TYPE_INT64),
        "double_val": (5, kinds.TYPE_DOUBLE),
        "float_val": (6, kinds.TYPE_FLOAT),
        "bool_val": (7, kinds.TYPE_BOOL),
        "unix_timestamp_val": (8, kinds.TYPE_INT64),
        "null_val": (19, kinds.TYPE_INT32),
        "json_val": (32, kinds.TYPE_STRING),
        "uuid_val": (36, kinds.TYPE_STRING),
        "time_uuid_val": (37, kinds.TYPE_STRING),
        "decimal_val": (44, kinds.TYPE_STRING),
    }.items():
        value.field.add(name=name, number=number, type=kind, label=kinds.LABEL_OPTIONAL, oneof_index=0)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    found = (pool.FindMessageTypeByName(f"penstock.{name}") for name in ("Timestamp", "Value"))
    timestamp, feast_value = (message_factory.GetMessageClass(each) for each in found)
    return timestamp, feast_value


_TIMESTAMP, _VALUE = _messages()
