"""Firsts that are stored together. `state.dedupe` says what a first is, and how a chunk is laid out."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from state.entries import StateUnreadable

VERSION = 1
SMALL = 32
LARGE = 4096
"""Firsts per chunk at most: 98 KB, well below the 1 MB that a Kafka record may have."""

_HEAD = struct.Struct("<BQ")
_FIRST = struct.Struct("<II16s")
_KEY = struct.Struct(">Q")
_SPAN = 2**32
"""Offsets and milliseconds (49 days) that one chunk can span."""


class Chunk:
    """Firsts in offset order. Its lists, equally long, are empty where the content was left on disk."""

    __slots__ = ("count", "digests", "newest", "number", "offsets", "oldest", "start", "times")

    def __init__(self, number: int) -> None:
        """Begin after `number` firsts."""
        self.number = number
        self.count = 0
        self.start = self.oldest = self.newest = 0
        """Offset of the first one; times of the first and of the last."""
        self.offsets: list[int] = []
        self.times: list[int] = []
        self.digests: list[bytes] = []

    @property
    def key(self) -> bytes:
        """Key of its entry."""
        return _KEY.pack(self.start)

    def add(self, digest: bytes, offset: int, at: int) -> None:
        """Append a first."""
        if not self.count:
            self.start, self.oldest = offset, at
        self.count += 1
        self.newest = at
        self.offsets.append(offset)
        self.times.append(at)
        self.digests.append(digest)

    def fits(self, offset: int, at: int) -> bool:
        """Whether one more can be added."""
        return self.count < LARGE and offset - self.start < _SPAN and at - self.oldest < _SPAN

    def pack(self) -> bytes:
        """Write it."""
        firsts = (
            _FIRST.pack(offset - self.start, at - self.oldest, digest)
            for offset, at, digest in zip(self.offsets, self.times, self.digests, strict=True)
        )
        return _HEAD.pack(VERSION, self.oldest) + b"".join(firsts)

    def shed(self) -> None:
        """Leave the content on disk; what remains takes 200 bytes."""
        self.offsets, self.times, self.digests = _NONE, _NONE, _NO_DIGESTS

    @classmethod
    def unpack(cls, key: bytes, value: bytes, number: int) -> Chunk:
        """Read a chunk that comes after `number` firsts.

        Raises:
            StateUnreadable: it is of an unknown version or broken.
        """
        chunk = cls(number)
        base_offset, base_time = _read_head(key, value)
        for offset, at, digest in _FIRST.iter_unpack(value[_HEAD.size :]):
            chunk.add(digest, base_offset + offset, base_time + at)
        return chunk

    @classmethod
    def unpack_head(cls, key: bytes, value: bytes, number: int) -> Chunk:
        """Read all but the content. Raises as `unpack` does."""
        chunk = cls(number)
        chunk.start, chunk.oldest = _read_head(key, value)
        chunk.count = (len(value) - _HEAD.size) // _FIRST.size
        chunk.newest = chunk.oldest + int(_FIRST.unpack_from(value, len(value) - _FIRST.size)[1])
        chunk.shed()
        return chunk


_NONE: list[int] = []
_NO_DIGESTS: list[bytes] = []


def index(key: bytes, value: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Give digest and offset of each first of a stored chunk: the `Index` by which an id is found on disk.

    Raises:
        StateUnreadable: the chunk is of an unknown version or broken.
    """
    base, _ = _read_head(key, value)
    for offset, _, digest in _FIRST.iter_unpack(value[_HEAD.size :]):
        yield digest, _KEY.pack(base + offset)


def read_offset(row: bytes) -> int:
    """Read the offset in a row of the index."""
    return int(_KEY.unpack(row)[0])


def _read_head(key: bytes, value: bytes) -> tuple[int, int]:
    """First offset and time of a chunk."""
    if value[:1] != bytes([VERSION]):
        raise StateUnreadable(
            f"could not restore a dedupe chunk of version {value[:1].hex() or 'none'}: this build reads version "
            f"{VERSION}; run the build that wrote it, or delete the step's entries from the state topic"
        )
    content = len(value) - _HEAD.size
    if len(key) != _KEY.size or content < 0 or content % _FIRST.size:
        raise StateUnreadable("could not restore a dedupe chunk: its length is wrong")
    if not content:
        raise StateUnreadable("could not restore a dedupe chunk: it is empty")
    return int(_KEY.unpack(key)[0]), int(_HEAD.unpack_from(value)[1])
