"""How far a windowed view in Redis goes: for each lane of its changelog, the tide and the record it stands for.

A hash at `penstock:<pipeline>:<view>`, which is no value's name, whatever its key: field `lanes`, how many there are;
for each lane a field with its number, 24 bytes: the version of the last changelog record whose values are in Redis
(`state/versions.py`), and the tide, Unix milliseconds, 8 bytes big-endian. It is written after the values that it
speaks for, never backwards, and read before them, so what a reader finds is at least as new as the tide says. (In a
cluster values and tides are on different nodes, which are asked at the same time: there a value may be older than its
tide by the time of one round trip.)

It lies beside the values and is lost with them: a writer that finds it older than what it has written knows that Redis
has lost something (a restart from an old snapshot, a failover, a flush), and reads its lane again from there. As long
as it has not, the older tide says the truth about what is left.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from state.murmur2 import lanes_of
from state.versions import OLDER, SIZE, parts, version

_LANES = b"lanes"
_TIDE = struct.Struct(">q")
_FIELD = SIZE + _TIDE.size

MOVE = f"""{OLDER}
local old = redis.call('HGET', KEYS[1], ARGV[1]) or ''
if ARGV[4] ~= '' and older(old, ARGV[4]) then return string.sub(old, 1, {SIZE}) end
if older(old, ARGV[3]) then redis.call('HSET', KEYS[1], ARGV[1], ARGV[3], 'lanes', ARGV[2]) end
return false
"""
"""ARGV: lane, number of lanes, its new field, and the version that is known to be there or ''.

Moves the lane on, never back. Gives the version that is there where that is older than it should be, else nothing.
"""


@dataclass(frozen=True, slots=True)
class Mark:
    """How far one lane goes."""

    append_ms: int
    """Greatest append time of the records so far, Unix milliseconds."""
    offset: int
    """Of the last record."""
    tide_ms: int

    @property
    def version(self) -> bytes:
        """As values carry it."""
        return version(self.append_ms, self.offset)

    def pack(self) -> bytes:
        """Write the lane's field."""
        return self.version + _TIDE.pack(self.tide_ms)

    @classmethod
    def read(cls, stored: bytes) -> Mark | None:
        """Read a lane's field; None where it is none."""
        if len(stored) != _FIELD:
            return None
        return cls(*parts(stored), *_TIDE.unpack_from(stored, SIZE))


def tides_key(pipeline: str, view: str) -> bytes:
    """Where the tides of a view are: what the names of its values begin with, without the colon before their key."""
    return f"penstock:{pipeline}:{view}".encode()


@dataclass(frozen=True, slots=True)
class Tides:
    """The tides of a view as they were read."""

    seconds: npt.NDArray[np.float64]
    """(lanes,) Unix seconds; NaN for a lane that has none yet."""

    @classmethod
    def read(cls, answer: Any) -> Tides | None:
        """Read the answer to HGETALL; None where there are none."""
        fields: Mapping[bytes, bytes] = answer if isinstance(answer, dict) else _pairs(answer)
        try:
            lanes = int(fields[_LANES])
        except (KeyError, ValueError):
            return None
        seconds = np.full(lanes, np.nan)
        for name, value in fields.items():
            if len(value) == _FIELD and name.isdigit() and int(name) < lanes:
                seconds[int(name)] = _TIDE.unpack_from(value, SIZE)[0] / 1000
        return cls(seconds)

    def of(self, keys: Sequence[str]) -> npt.NDArray[np.float64]:
        """(n,) the tide of each key's lane, Unix seconds."""
        return self.seconds[lanes_of([key.encode("utf-8", "surrogatepass") for key in keys], len(self.seconds))]

    def least(self) -> float:
        """The tide of the lane that is furthest behind, Unix seconds; NaN where one has none yet."""
        return float(self.seconds.min())


def marks(answer: Mapping[bytes, bytes]) -> dict[int, Mark]:
    """Lane to how far it goes, from the answer to HGETALL."""
    found = {int(name): Mark.read(value) for name, value in answer.items() if name.isdigit()}
    return {lane: mark for lane, mark in found.items() if mark is not None}


def _pairs(answer: Any) -> dict[bytes, bytes]:
    return dict(zip(answer[::2], answer[1::2], strict=True)) if isinstance(answer, list) else {}
