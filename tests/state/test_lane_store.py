"""A lane store is always a fold of the committed log, whatever ends its process and when."""

import os
import random
import shutil
import signal
import subprocess
import sys
import threading
from collections import ChainMap
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from state.entries import LaneStoreFailed
from state.lane_stamp import Stamp
from state.lane_store import LaneStore, Shared

WANTED = Stamp("p.state", "id-1", "g", lane=0, at=1_000_000.0)
CHILD = Path(__file__).with_name("lane_store_child.py")
_shared = Shared()
MANY = [b"recall\0e%05d" % i for i in range(10_000)]


def first_byte(name, value):
    """An index as dedupe has one: rows that name their entry."""
    return [(value[i : i + 1], name) for i in range(len(value))]


def open_store(path, wanted=WANTED, end=10**9, max_age=100.0):
    return LaneStore(path, _shared, wanted, end=end, max_age=max_age, indexes={"ids": first_byte})


class Log:
    """A state partition: records and, between transactions, offsets that hold none."""

    def __init__(self):
        self.records = []

    def append(self, changes):
        """Commit; gives the offset after the last record. A marker follows."""
        self.records += [*changes, None]
        return len(self.records) - 1

    def after(self, offset):
        return [record for record in self.records[offset:] if record is not None]

    def fold(self):
        entries = {}
        for key, value in self.after(0):
            entries[key] = value
        return {key: value for key, value in entries.items() if value is not None}


def restore(path, log, **how):
    store = open_store(path, end=len(log.records), **how)
    read = log.after(store.following)
    for cut in range(0, len(read), 3):
        store.take(read[cut : cut + 3], store.following)
    store.take((), len(log.records))
    store.opened()
    return store, len(read)


def stored(store):
    return dict(store.scan(b""))


def rows(store):
    """What is on disk of the index of `ids`."""
    return {key[5:]: value for key, value in store._db.items(from_key=b"r") if key.startswith(b"rids\0")}


KEYS = [b"ids\0a", b"ids\0b", b"ids\0c", b"recall\0ea", b"recall\0eb", b"lane\0prefix"]
CHANGES = st.lists(st.tuples(st.sampled_from(KEYS), st.none() | st.binary(min_size=1, max_size=3)), max_size=5)
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["commit", "commit", "crash before", "crash between", "another owner", "reopen"]), CHANGES
    ),
    max_size=20,
)


@settings(max_examples=60, deadline=None)
@given(steps=STEPS)
def test_it_equals_a_dict_through_commits_crashes_and_other_owners(tmp_path_factory, steps):
    path, log = tmp_path_factory.mktemp("lane") / "lane-0", Log()
    store, _ = restore(path, log)
    for what, changes in steps:
        if what == "another owner":
            store.close()
            log.append(changes)
        elif what != "reopen":
            before = log.fold()
            for key, value in changes:
                store.hold(key, value)
            view = ChainMap(dict(changes), before)
            assert store.fetch(KEYS) == [view.get(key) for key in KEYS]
            if what != "crash before":
                end = log.append(changes)
                if what == "commit":
                    store.write(changes, end, at=WANTED.at)
        if what != "commit":
            store.close()
            store, _ = restore(path, log)
        assert stored(store) == log.fold()
        assert dict(zip(KEYS, store.fetch(KEYS), strict=True)) == {key: log.fold().get(key) for key in KEYS}
        live = {
            row: name
            for key, value in log.fold().items()
            if key[:4] == b"ids\0"
            for row, name in first_byte(key[4:], value)
        }
        assert live.keys() <= rows(store).keys()
    store.close()
    shutil.rmtree(path)


def test_only_the_tail_is_read_after_a_restart(tmp_path):
    log = Log()
    store, _ = restore(tmp_path / "lane-0", log)
    for i in range(10):
        changes = [(b"recall\0e%d" % i, b"v")]
        store.write(changes, log.append(changes), at=WANTED.at)
    log.append([(b"recall\0enew", b"v")])  # committed, and the process ended before it was written
    store.close()

    _, read = restore(tmp_path / "lane-0", log)

    assert read == 1


def test_a_row_goes_with_its_entry_unless_a_later_entry_has_taken_it_over(tmp_path):
    store = open_store(tmp_path / "lane-0")
    store.write([(b"ids\0a", b"xy"), (b"ids\0b", b"yz")], 2, at=WANTED.at)
    store.write([(b"ids\0a", None)], 3, at=WANTED.at)
    kept = rows(store)
    store.write([(b"ids\0c", b"z"), (b"ids\0b", None)], 5, at=WANTED.at)

    assert kept == {b"y": b"b", b"z": b"b"}
    assert rows(store) == {b"z": b"c"}


REFUSED = {
    "its topic id is id-1, not id-2": {"topic_id": "id-2"},
    "its group is g, not h": {"group": "h"},
    "its topic is p.state, not q.state": {"topic": "q.state"},
    "its version is 1, not 2": {"version": 2},
    "its lane is 0, not 4": {"lane": 4},
    "it is 100 s old, and deletions are kept for 100 s": {"at": WANTED.at + 100},
    "it is dated 61 s ahead of this machine's clock": {"at": WANTED.at - 61},
}


@pytest.mark.parametrize("why, differs", REFUSED.items())
def test_a_store_that_does_not_fit_is_thrown_away_and_says_why(tmp_path, caplog, why, differs):
    store = open_store(tmp_path / "lane-0")
    store.write([(b"recall\0ea", b"v")], 1, at=WANTED.at)
    store.close()

    store = open_store(tmp_path / "lane-0", replace(WANTED, **differs))

    assert (store.following, stored(store)) == (0, {})
    assert why in caplog.text


def test_a_store_beyond_the_end_of_the_partition_is_thrown_away(tmp_path, caplog):
    store = open_store(tmp_path / "lane-0")
    store.write([(b"recall\0ea", b"v")], 7, at=WANTED.at)
    store.close()

    assert open_store(tmp_path / "lane-0", end=6).following == 0
    assert "it goes to offset 7, and the state partition ends at 6" in caplog.text


def test_its_date_stays_while_it_is_being_filled(tmp_path):
    store = open_store(tmp_path / "lane-0")
    store.take([(b"recall\0ea", b"v")], 1)
    store.close()
    store = open_store(tmp_path / "lane-0", replace(WANTED, at=WANTED.at + 60))
    store.take([(b"recall\0eb", b"v")], 2)
    store.close()

    assert open_store(tmp_path / "lane-0", replace(WANTED, at=WANTED.at + 101)).following == 0


def test_damaged_files_are_thrown_away(tmp_path, caplog):
    store = open_store(tmp_path / "lane-0")
    store.write([(b"recall\0ea", b"v")], 1, at=WANTED.at)
    store.close()
    for manifest in (tmp_path / "lane-0").glob("MANIFEST*"):
        manifest.write_bytes(b"nonsense")

    assert open_store(tmp_path / "lane-0").following == 0
    assert "thrown away" in caplog.text


@pytest.mark.parametrize("read", [stored, lambda store: store.fetch(MANY)])
def test_damage_that_is_only_found_by_reading_ends_this_life_and_not_the_next(tmp_path, read):
    """RocksDB's iterator ends at a damaged block as if that were all: ids would be forgotten without a word."""
    path, some = tmp_path / "lane-0", random.Random(7)
    store = open_store(path)
    store.write([(key, some.randbytes(100)) for key in MANY], len(MANY), at=WANTED.at)
    store._db.flush()
    store.close()
    for table in path.glob("*.sst"):
        with table.open("r+b") as file:
            file.seek(table.stat().st_size // 3)
            file.write(b"\xff" * 2000)

    with pytest.raises(LaneStoreFailed, match="is damaged"):
        read(open_store(path))
    assert open_store(path).following == 0


def test_a_store_that_is_open_elsewhere_is_left_alone(tmp_path):
    store = open_store(tmp_path / "lane-0")

    with pytest.raises(LaneStoreFailed, match="another process has the lane store"):
        open_store(tmp_path / "lane-0")
    store.close()


def test_what_was_changed_again_while_it_was_committed_stays_held(tmp_path):
    store = open_store(tmp_path / "lane-0")
    for value in (b"xy", b"yz"):
        store.hold(b"ids\0a", value)
        store.hold(b"ids\0b", None)
    store.hold(b"ids\0b", b"y")
    store.write([(b"ids\0a", b"xy"), (b"ids\0b", None)], 2, at=WANTED.at)

    assert store.fetch([b"ids\0a", b"ids\0b"]) == [b"yz", b"y"]
    assert store.rows("ids", [b"x", b"y", b"z"]) == [b"a", b"b", b"a"]


def test_reads_see_each_write_while_another_thread_writes(tmp_path):
    store = open_store(tmp_path / "lane-0")
    ended = threading.Event()
    queue = []

    def write():
        following = 0
        while not (ended.is_set() and not queue):
            if queue:
                following += 1
                store.write([queue.pop(0)], following, at=WANTED.at)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for i in range(3000):
            entry = (b"recall\0e%d" % (i % 7), b"%d" % i)
            store.hold(*entry)
            queue.append(entry)
            assert store.fetch([entry[0]]) == [entry[1]]
    finally:
        ended.set()
        writer.join()
    assert not store._held
    store.close()


POINTS = ["before the commit", "between", "before the disk", "after the disk", "after", "while restoring", "disk full"]


@pytest.mark.parametrize("point", POINTS)
def test_sigkill_at_each_point_leaves_a_fold_of_what_was_committed(tmp_path, point):
    """A real process with a real store; a file stands for the state partition, and its last full line is committed."""
    for life in range(1 if point == "disk full" else 3):
        child = subprocess.run(
            [sys.executable, CHILD, tmp_path, point, str(life)],
            check=False,
            capture_output=True,
            text=True,
            timeout=60,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        )

        assert child.returncode == -signal.SIGKILL, child.stderr
        log = Log()
        for line in (tmp_path / "log").read_bytes().split(b"\n")[:-1]:
            pairs = [pair.split(b":") for pair in line.split(b" ")]
            log.append([(bytes.fromhex(k.decode()), bytes.fromhex(v.decode()) or None) for k, v in pairs])
        found = open_store(tmp_path / "lane-0", end=len(log.records))
        upto = Log()
        upto.records = log.records[: found.following]
        assert found.following <= len(log.records)
        assert stored(found) == upto.fold(), f"not a fold up to offset {found.following}"
        found.close()
        store, _ = restore(tmp_path / "lane-0", log)
        assert stored(store) == log.fold()
        store.close()
