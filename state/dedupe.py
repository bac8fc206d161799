"""Which event ids a lane has seen: exact to the event, stored by the chunk.

The fold. Rows come in offset order. A row is a *first* when no entry of its id is within the window, and only firsts
make entries; a repeat changes nothing, so it does not prolong the window. The lane's clock is the latest broker time
among firsts. A first at broker time t gets the entry time max(clock, t); an entry is within the window for a row at
time t while max(clock, t) - entry time < window and it is among the last `max_entries` firsts. So what is marked
depends on the rows alone: not on how they were batched, nor on where the lane was closed and opened again. The clock
goes as far as a row says, so times that no broker can have given must be bounded before (`operators.dedupe` does); the
times that are stored are the bounded ones, and a lane that is opened again goes on with those.

Stored. Firsts go in packed chunks, one state entry each: key = 8-byte big-endian offset of its first one, value =
version byte, base time (8 bytes), then per first: offset and time as differences (4 bytes each) and 16 bytes of BLAKE2b
of the id. A chunk under `SMALL` firsts is written again with those of the next batch: at one event per batch the log
carries `SMALL * 24 / 2` bytes per event, 24 under load, and there are never more than one entry per `SMALL` events.
A chunk whose last first has left the window is deleted.

Memory: 160 bytes per first in the window; 1.5 microseconds of CPU per event in batches of 256 (measured). With the
entries on disk, the chunks' heads stay in memory, and an id is found by the rows that `state.id_chunks.index` puts
beside them; those of a deleted chunk go when its deletion is written.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from hashlib import blake2b

from state.entries import OnDisk, StateUnreadable
from state.id_chunks import SMALL, Chunk, read_offset


class SeenIds:
    """The event ids of one lane's window."""

    __slots__ = (
        "_chunks", "_clock", "_dirty", "_disk", "_firsts", "_loaded", "_max_entries", "_offset_of", "_starts",
        "_window_ms",
    )  # fmt: skip

    def __init__(self, window_ms: int, max_entries: int) -> None:
        self._window_ms = window_ms
        self._max_entries = max_entries
        self._clear(None)

    def _clear(self, disk: OnDisk | None) -> None:
        self._disk = disk
        self._offset_of: dict[bytes, int] = {}
        """Digest of an id to the offset of its latest first; empty where they are on disk."""
        self._loaded: Chunk | None = None
        """The chunk whose content was last read from disk."""
        self._chunks: list[Chunk] = []
        self._starts: list[int] = []
        """First offset of each chunk, ascending."""
        self._clock = 0
        self._firsts = 0
        """Firsts counted so far; only differences matter, so it may begin anew at each opening."""
        self._dirty: list[Chunk] = []

    def __len__(self) -> int:
        """Firsts that are kept, some of which may be beyond the window."""
        return sum(chunk.count for chunk in self._chunks)

    def restore(self, entries: Mapping[bytes, bytes]) -> None:
        """Take the stored chunks in place of what is known now; what is on disk stays there but for their heads.

        Raises:
            StateUnreadable: a chunk is of an unknown version or broken.
        """
        for _ in self.restoring(entries):
            pass

    def restoring(self, entries: Mapping[bytes, bytes]) -> Iterator[None]:
        """Do the same a chunk at a time, at most 2 ms each."""
        self._clear(entries if isinstance(entries, OnDisk) else None)
        stored = entries.scan(b"") if isinstance(entries, OnDisk) else sorted(entries.items())
        unpack = Chunk.unpack if self._disk is None else Chunk.unpack_head
        for key, value in stored:
            chunk = unpack(key, value, self._firsts)
            self._chunks.append(chunk)
            self._starts.append(chunk.start)
            self._firsts += chunk.count
            self._clock = max(self._clock, chunk.newest)
            self._offset_of.update(zip(chunk.digests, chunk.offsets, strict=True))
            yield
        if self._chunks and self._chunks[-1].count < SMALL:  # it will be written again
            self._chunks[-1], self._loaded = self._whole(self._chunks[-1]), None

    def mark(self, event_ids: Sequence[str], offsets: Sequence[int], append_ms: Sequence[int]) -> dict[int, int]:
        """Take the rows of a batch, in offset order, and say which are repeats.

        Args:
            event_ids: (n,) the producer's keys.
            offsets: (n,) ascending.
            append_ms: (n,) broker times, Unix milliseconds.

        Returns:
            Row number of each repeat to the offset of the first one.
        """
        repeats: dict[int, int] = {}
        digests = [
            blake2b(event_id.encode("utf-8", "surrogatepass"), digest_size=16).digest() for event_id in event_ids
        ]
        known = self._find(digests)
        for row, digest in enumerate(digests):
            offset, at = offsets[row], max(append_ms[row], self._clock)
            first = known.get(digest)
            if first is not None and self._holds(first, at):
                repeats[row] = first
                continue
            known[digest] = offset
            self._clock = at
            self._open_chunk(offset, at).add(digest, offset, at)
            self._firsts += 1
        return repeats

    def changes(self) -> list[tuple[bytes, bytes | None]]:
        """Give the entries that changed since the last call (None deletes), and forget what has expired."""
        out: dict[bytes, bytes | None] = {chunk.key: chunk.pack() for chunk in self._dirty}
        if self._disk is not None:
            for chunk in self._dirty:
                if chunk is not self._chunks[-1] or chunk.count >= SMALL:
                    chunk.shed()
        self._dirty = []
        gone = 0
        for chunk in self._chunks[:-1]:  # the last one carries the clock
            if self._within(chunk.newest, chunk.number + chunk.count - 1, self._clock):
                break
            gone += 1
            out[chunk.key] = None
            for digest, offset in zip(chunk.digests, chunk.offsets, strict=True):
                if self._offset_of.get(digest) == offset:  # else the id came again after its window
                    del self._offset_of[digest]
        del self._chunks[:gone], self._starts[:gone]
        return list(out.items())

    def _holds(self, offset: int, at: int) -> bool:
        place = bisect_right(self._starts, offset) - 1
        if place < 0:  # its chunk was deleted; the row on disk goes with the commit
            return False
        chunk = self._chunks[place]
        if self._within(chunk.oldest, chunk.number, at):
            return True
        if not self._within(chunk.newest, chunk.number + chunk.count - 1, at):
            return False
        chunk = self._whole(chunk)
        place = bisect_right(chunk.offsets, offset) - 1
        return self._within(chunk.times[place], chunk.number + place, at)

    def _find(self, digests: Sequence[bytes]) -> dict[bytes, int]:
        """Digest to offset of those that are known; the batch's own firsts are added to it."""
        if self._disk is None:
            return self._offset_of
        rows = zip(digests, self._disk.rows(digests), strict=True)
        return {digest: read_offset(row) for digest, row in rows if row is not None}

    def _whole(self, chunk: Chunk) -> Chunk:
        """The chunk with its content. The window ends in one chunk at a time, so one is kept."""
        if chunk.digests or self._disk is None:
            return chunk
        if self._loaded is None or self._loaded.start != chunk.start:
            value = self._disk.fetch([chunk.key])[0]
            if value is None:
                raise StateUnreadable("a dedupe chunk is missing from the lane store: delete the store's folder")
            self._loaded = Chunk.unpack(chunk.key, value, chunk.number)
        return self._loaded

    def _within(self, time: int, number: int, at: int) -> bool:
        return at - time < self._window_ms and self._firsts - number <= self._max_entries

    def _open_chunk(self, offset: int, at: int) -> Chunk:
        """The chunk that takes the next first. One that an earlier batch left large is not written again."""
        last = self._chunks[-1] if self._chunks else None
        if last is not None and last.fits(offset, at):
            if self._dirty and self._dirty[-1] is last:
                return last
            if last.count < SMALL:
                self._dirty.append(last)
                return last
        chunk = Chunk(self._firsts)
        self._chunks.append(chunk)
        self._starts.append(offset)
        self._dirty.append(chunk)
        return chunk
