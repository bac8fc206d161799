"""A lane's state on disk: a cache of its state partition that knows how far it goes.

The store is the fold of the partition's committed records before offset `following`. Every write puts entries and
that offset into one RocksDB write, so after a crash it is such a fold again, of an earlier offset perhaps; who opens it
reads the partition from there. It never has what is not committed: the lane's owner writes after the Kafka commit
only. What is changed and not yet written is *held* in memory, and read from there.

What makes a store worthless is checked at opening, and it is then thrown away and filled anew: another format, group or
topic (by id: a topic that was made again has other records at the same offsets), an offset beyond the partition's end,
and age. A deletion's record may leave the partition `delete.retention.ms` after it was written; a store that has not
equalled the partition for longer might miss it, and the deleted key would live again. Damage may be found later, by
reading. RocksDB's iterator does not tell it from the end, so a scan must come to the stamp, which sorts after entries.

Layout: `m` is the stamp (JSON); `e`, step, zero byte, name an entry as in the state topic; `r`, step, zero byte, key a
row of the step's index. Losing power loses the last writes, not their order: the log is not synced.
"""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, NoReturn

from rocksdict import BlockBasedOptions, Cache, Options, Rdict, WriteBatch, WriteBufferManager

from state.entries import Entry, Index, LaneStoreFailed, OnDisk
from state.lane_stamp import Stamp

log = logging.getLogger(__name__)

CACHE_BYTES, BUFFER_BYTES = 64 * 1024 * 1024, 32 * 1024 * 1024
"""Of all stores of a process together: blocks that were read, and what is not yet in a table."""
_STAMP, _ENTRY, _ROW = b"m", b"e", b"r"
_PAGE = 64
_NOT_HELD: Any = object()


class Shared:
    """What the stores of one process share: memory for reading and for writing, bounded for all of them together."""

    def __init__(self) -> None:
        self._cache = Cache(CACHE_BYTES)
        self._buffers = WriteBufferManager(BUFFER_BYTES, False)

    def options(self) -> Options:
        """The settings of one store."""
        table = BlockBasedOptions()
        table.set_bloom_filter(10, False)  # an id that is new costs 0.6 µs instead of a read
        table.set_block_cache(self._cache)
        table.set_cache_index_and_filter_blocks(True)
        options = Options(raw_mode=True)
        options.create_if_missing(True)
        options.set_block_based_table_factory(table)
        options.set_write_buffer_manager(self._buffers)
        options.set_write_buffer_size(8 * 1024 * 1024)
        options.set_max_open_files(64)
        options.set_keep_log_file_num(1)
        return options


class LaneStore:
    """One lane's store. A `LaneEntries` and a `Fetched`.

    `hold`, `take` and the reads are called by the flow's thread, `write` by the committing thread.
    """

    def __init__(self, path: Path, shared: Shared, wanted: Stamp, *, end: int, max_age: float,
                 indexes: Mapping[str, Index]) -> None:  # fmt: skip
        """Open the store in folder `path`, or start it anew where it does not fit.

        Args:
            path: of this lane alone.
            shared: memory of this process's stores.
            wanted: what it must be a fold of; `at` is the time now.
            end: the state partition's end.
            max_age: seconds for which the topic keeps deletions.
            indexes: step to its index; a step without one has no rows.

        Raises:
            LaneStoreFailed: the folder cannot be written, or another process has the store open.
        """
        self._path, self._shared, self._indexes = path, shared, indexes
        self._indexed = tuple(step.encode() + b"\0" for step in indexes)
        self._held: dict[bytes, bytes | None] = {}
        self._lock = threading.Lock()
        self._db: Any = None
        self._discarded = path.with_name(path.name + ".discarded")
        shutil.rmtree(self._discarded, ignore_errors=True)
        self._began = wanted.at
        self._stamp = replace(wanted, following=0)
        existed = (path / "CURRENT").exists()
        why = self._open()
        if why is None and existed:
            why = self._adopt(wanted, end, max_age)
        if why is not None:
            log.warning("the lane store %s is thrown away and filled from its topic: %s", path, why)
            self.close()
            path.rename(self._discarded)  # at once: what is deleted file by file could be opened by half
            shutil.rmtree(self._discarded, ignore_errors=True)
            if (why := self._open()) is not None:
                raise LaneStoreFailed(f"could not make the lane store {path}: {why}")

    @property
    def following(self) -> int:
        """Offset of the first state record that is not in it."""
        return self._stamp.following

    def take(self, records: Sequence[Entry], following: int) -> None:
        """Fold in records read from the state partition. Its date stays: it does not equal the partition yet."""
        self._write(records, replace(self._stamp, following=following))

    def opened(self) -> Mapping[str, Mapping[bytes, bytes]]:
        """It now equals the partition as it was when it was opened; give step to its entries."""
        self._write((), replace(self._stamp, at=self._began))
        return _Steps(self)

    def hold(self, key: bytes, value: bytes | None) -> None:
        """Read this entry so from now on, until it is written."""
        with self._lock:
            self._held[_ENTRY + key] = value
            if value is not None:
                self._held.update(self._rows_of(key, value))

    def write(self, records: Sequence[Entry], following: int | None, at: float) -> None:
        """Write what a Kafka commit has made durable. Never before that commit has succeeded.

        Args:
            records: all state records of this lane in the commit.
            following: offset after the last of them; None where it is not known, and they are read again.
            at: Unix seconds before the commit, when this process certainly had the lane.

        Raises:
            LaneStoreFailed: it could not be written.
        """
        stamp = self._stamp if following is None else replace(self._stamp, following=following, at=at)
        self._write(records, stamp)
        with self._lock:
            for key, value in records:
                self._release(_ENTRY + key, value)
                if value is not None:
                    for row, content in self._rows_of(key, value):
                        self._release(row, content)

    def fetch(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The entries' values, held ones first."""
        return self._fetch([_ENTRY + key for key in keys])

    def rows(self, step: str, keys: Sequence[bytes]) -> list[bytes | None]:
        """What the step's index has under these keys."""
        prefix = _ROW + step.encode() + b"\0"
        return self._fetch([prefix + key for key in keys])

    def scan(self, start: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Entries from key `start` on, as of the last write. No iterator stays: it would keep the files open.

        Raises:
            LaneStoreFailed: the files are damaged; they are thrown away.
        """
        place = _ENTRY + start
        while page := list(islice(self._db.items(from_key=place), _PAGE)):
            for key, value in page:
                if key[:1] != _ENTRY:
                    return
                yield key[1:], value
            place = page[-1][0] + b"\0"
        if self._stored([_STAMP]) != [None]:
            self._give_up("its entries cannot be read to their end")

    def close(self) -> None:
        """Let go of it. What is held is not written: it may not be committed."""
        if self._db is not None:
            self._db.close()
        self._db = None

    def _open(self) -> str | None:
        """Open what is there, or make it; why that cannot be done, or None."""
        try:
            self._path.mkdir(parents=True, exist_ok=True)
            self._db = Rdict(str(self._path), options=self._shared.options())
        except OSError as failure:
            raise LaneStoreFailed(f"could not use the lane store {self._path}: {failure.strerror}") from None
        except Exception as failure:  # the library has no type of its own
            if "lock" in str(failure).lower():
                raise LaneStoreFailed(f"another process has the lane store {self._path} open: {failure}") from None
            return str(failure)
        return None

    def _adopt(self, wanted: Stamp, end: int, max_age: float) -> str | None:
        """Go on from what is stored; why it cannot be used, or None."""
        try:
            stamp = self._db.get(_STAMP)
        except Exception as failure:  # the library has no type of its own
            return str(failure)
        try:
            found = Stamp(**json.loads(stamp or b"{}"))
        except (TypeError, ValueError):
            return "it was not finished or is of another format"
        if (why := found.refuses(wanted, end, max_age)) is None:
            self._stamp = found
        return why

    def _write(self, records: Sequence[Entry], stamp: Stamp) -> None:
        """Write entries, their rows and the stamp: all of it or nothing, whenever the process ends."""
        changes: dict[bytes, bytes | None] = {}
        for key, value in records:
            if value is None:
                self._drop_rows(key, changes)
            else:
                changes.update(self._rows_of(key, value))
            changes[_ENTRY + key] = value
        batch = WriteBatch(raw_mode=True)
        for place, content in changes.items():
            if content is None:
                batch.delete(place)
            else:
                batch.put(place, content)
        batch.put(_STAMP, json.dumps({name: getattr(stamp, name) for name in Stamp.__slots__}).encode())
        try:
            self._db.write(batch)
        except Exception as failure:
            raise LaneStoreFailed(
                f"could not write the lane store {self._path}: {failure}. Nothing that was decided is lost; make room "
                "there, or run without --lane-store"
            ) from failure
        self._stamp = stamp

    def _drop_rows(self, key: bytes, changes: dict[bytes, bytes | None]) -> None:
        """Delete the rows of an entry that goes, but for those that a later entry has taken over."""
        if not key.startswith(self._indexed):
            return
        place = _ENTRY + key
        old = changes[place] if place in changes else self._stored([place])[0]
        rows = self._rows_of(key, old) if old is not None else ()
        stored = self._stored([row for row, _ in rows])
        for (row, content), found in zip(rows, stored, strict=True):
            if changes.get(row, found) == content:
                changes[row] = None

    def _rows_of(self, key: bytes, value: bytes) -> Iterable[tuple[bytes, bytes]]:
        if not key.startswith(self._indexed):
            return ()
        step, _, name = key.partition(b"\0")
        prefix = _ROW + step + b"\0"
        return [(prefix + row, content) for row, content in self._indexes[step.decode()](name, value)]

    def _release(self, key: bytes, written: bytes | None) -> None:
        if key in self._held and self._held[key] == written:
            del self._held[key]

    def _fetch(self, keys: list[bytes]) -> list[bytes | None]:
        """Held first and then the disk: what is released between the two has been written."""
        held = [self._held.get(key, _NOT_HELD) for key in keys]
        missing = [key for key, value in zip(keys, held, strict=True) if value is _NOT_HELD]
        stored = iter(self._stored(missing))
        return [next(stored) if value is _NOT_HELD else value for value in held]

    def _stored(self, places: list[bytes]) -> list[bytes | None]:
        try:
            return self._db.get(places) if places else []
        except Exception as failure:  # the library has no type of its own
            self._give_up(str(failure), failure)

    def _give_up(self, why: str, cause: BaseException | None = None) -> NoReturn:
        """Throw away what cannot be read, or the slot's next life would open it and meet the same."""
        with contextlib.suppress(OSError):
            self._path.rename(self._discarded)
        raise LaneStoreFailed(
            f"the lane store {self._path} is damaged ({why}). It is thrown away, and filled from its topic in this "
            "slot's next life; nothing that was decided is lost"
        ) from cause


class _Steps(Mapping[str, OnDisk]):
    """Step to its entries; each step that is asked for has some."""

    def __init__(self, store: LaneStore) -> None:
        self._store = store

    def __getitem__(self, step: str) -> OnDisk:
        return OnDisk(self._store, step)

    def __iter__(self) -> Iterator[str]:
        start = b""
        while (found := next(iter(self._store.scan(start)), None)) is not None:
            step = found[0].partition(b"\0")[0]
            yield step.decode(errors="replace")
            start = step + b"\1"

    def __len__(self) -> int:
        return sum(1 for _ in self)
