"""What `SeenIds` marks depends on the rows alone, whatever the batches and wherever it is closed and opened again."""

import itertools
import shutil
from hashlib import blake2b

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from state.dedupe import SeenIds
from state.entries import StateUnreadable
from state.id_chunks import LARGE, SMALL, index
from tests.state.on_disk import Disk

WINDOW = 1_000
ROWS = st.lists(st.tuples(st.sampled_from("abcdefgh"), st.integers(-300, 900)), max_size=60)
CUTS = st.lists(st.integers(1, 9), max_size=60)


def model(rows, max_entries):
    """The fold as the docstring of `state.dedupe` states it: [(id, offset, broker time)] to {offset: first offset}."""
    firsts, clock, marks = [], 0, {}
    for event_id, offset, append_ms in rows:
        at = max(clock, append_ms)
        kept = [first for first in firsts[-max_entries:] if first[0] == event_id and at - first[2] < WINDOW]
        if kept:
            marks[offset] = kept[-1][1]
        else:
            firsts.append((event_id, offset, at))
            clock = at
    return marks


def drive(rows, cuts, max_entries, reopen):
    """Feed the rows in batches as `cuts` says; before each batch, `reopen` says whether to crash and restore."""
    seen, stored, marks = SeenIds(WINDOW, max_entries), {}, {}
    cuts, reopen, rows = itertools.chain(cuts, itertools.repeat(3)), itertools.cycle(reopen or [False]), iter(rows)
    while batch := list(itertools.islice(rows, next(cuts))):
        if next(reopen):
            seen.mark(["lost"], [10**9], [10**12])  # work that never was committed
            seen = SeenIds(WINDOW, max_entries)
            seen.restore(stored)
        ids, offsets, times = zip(*batch, strict=True)
        marks |= {offsets[row]: first for row, first in seen.mark(ids, offsets, times).items()}
        for key, value in seen.changes():
            if value is None:
                del stored[key]
            else:
                stored[key] = value
    return marks, stored, seen


def drive_on_disk(path, rows, cuts, max_entries, what):
    """The same with the entries on disk: before each batch nothing, a commit, or that and a crash."""
    disk, marks = Disk(path, "dedupe", {"dedupe": index}), {}
    seen = SeenIds(WINDOW, max_entries)
    seen.restore(disk.entries)
    cuts, what, rows = itertools.chain(cuts, itertools.repeat(3)), itertools.cycle(what or ["commit"]), iter(rows)
    while batch := list(itertools.islice(rows, next(cuts))):
        if (now := next(what)) != "hold":
            disk.commit()
        if now == "crash":
            seen.mark(["lost"], [10**9], [10**12])
            disk.hold(seen.changes())
            disk.crash()
            seen = SeenIds(WINDOW, max_entries)
            seen.restore(disk.entries)
        ids, offsets, times = zip(*batch, strict=True)
        marks |= {offsets[row]: first for row, first in seen.mark(ids, offsets, times).items()}
        disk.hold(seen.changes())
    disk.commit()
    return marks, disk


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(st.tuples(st.sampled_from("abcdefgh"), st.integers(-300, 900)), max_size=150),
    cuts=st.lists(st.integers(1, 50), max_size=60),
    what=st.lists(st.sampled_from(["hold", "commit", "crash"]), max_size=9),
    max_entries=st.integers(1, 60),
)
def test_on_disk_it_marks_the_same_and_keeps_rows_of_living_chunks_only(
    tmp_path_factory, rows, cuts, what, max_entries
):
    path = tmp_path_factory.mktemp("lane")
    clock = itertools.accumulate((step // 3 for _, step in rows), initial=10_000)
    rows = [(event_id, 5 + 3 * i, at) for i, ((event_id, _), at) in enumerate(zip(rows, clock, strict=False))]

    marks, disk = drive_on_disk(path / "lane-0", rows, cuts, max_entries, what)

    assert marks == model(rows, max_entries)
    named = {digest for key, value in disk.entries.scan(b"") for digest, _ in index(key, value)}
    assert {key[8:] for key, _ in disk.store._db.items(from_key=b"r") if key.startswith(b"rdedupe\0")} == named
    disk.store.close()
    shutil.rmtree(path)


def test_on_disk_only_heads_and_a_small_last_chunk_stay_in_memory(tmp_path):
    disk = Disk(tmp_path / "lane-0", "dedupe", {"dedupe": index})
    seen = SeenIds(10**9, 10**9)
    seen.restore(disk.entries)
    for i in range(50):
        seen.mark([f"{i}-{j}" for j in range(SMALL + 1)], range(i * 100, i * 100 + SMALL + 1), [i] * (SMALL + 1))
        disk.hold(seen.changes())
    disk.commit()

    assert len(seen) == 50 * (SMALL + 1)
    assert sum(len(chunk.digests) for chunk in seen._chunks) == 0
    assert not seen._offset_of
    assert not disk.store._held


def test_on_disk_an_id_of_a_chunk_whose_deletion_is_not_written_yet_is_new(tmp_path):
    disk = Disk(tmp_path / "lane-0", "dedupe", {"dedupe": index})
    seen = SeenIds(WINDOW, 10**9)
    seen.restore(disk.entries)
    for first, at in ((0, 0), (100, 2 * WINDOW)):
        seen.mark([f"{first + i}" for i in range(SMALL + 1)], range(first, first + SMALL + 1), [at] * (SMALL + 1))
        disk.hold(seen.changes())
        if not at:
            disk.commit()

    assert len(disk.entries.rows([blake2b(b"7", digest_size=16).digest()])) == 1
    assert seen.mark(["7", "107"], [200, 201], [2 * WINDOW] * 2) == {1: 107}


@given(rows=ROWS, cuts=CUTS, reopen=st.lists(st.booleans(), max_size=9), max_entries=st.integers(1, 12))
def test_marks_follow_the_written_fold_whatever_the_batching_and_the_crashes(rows, cuts, reopen, max_entries):
    clock = itertools.accumulate((step for _, step in rows), initial=10_000)
    rows = [(event_id, 5 + 3 * i, at) for i, ((event_id, _), at) in enumerate(zip(rows, clock, strict=False))]

    marks, _, _ = drive(rows, cuts, max_entries, reopen)

    assert marks == model(rows, max_entries)


def test_a_chunk_is_deleted_when_its_last_id_has_left_the_window():
    rows = [(str(i), i, i * 100) for i in range(500)]

    _, stored, seen = drive(rows, [], 10_000, [])

    assert len(stored) <= 2
    assert len(seen) <= SMALL + 10 + 3


def test_a_repeat_does_not_prolong_the_window():
    seen = SeenIds(WINDOW, 10)

    assert seen.mark(["a", "a", "a"], [1, 2, 3], [0, 900, 1000]) == {1: 1}


def test_an_id_that_came_again_after_its_window_outlives_its_first_chunk():
    seen = SeenIds(WINDOW, 10_000)
    filler = [str(i) for i in range(SMALL)]
    seen.mark(["a", *filler], range(SMALL + 1), [0] * (SMALL + 1))
    first_chunk = seen.changes()[0][0]
    seen.mark(["a"], [100], [WINDOW])

    assert (first_chunk, None) in seen.changes()
    assert seen.mark(["a"], [101], [WINDOW + 1]) == {0: 100}


def test_one_entry_for_many_events_under_load_and_at_low_rate():
    ids = [str(i) for i in range(2 * LARGE)]
    seen = SeenIds(10**9, 10**6)
    seen.mark(ids, range(len(ids)), [1] * len(ids))
    loaded = seen.changes()
    single = set()
    for i in range(10 * SMALL):
        seen.mark([f"later-{i}"], [10**6 + i], [2])
        single |= {key for key, _ in seen.changes()}

    assert len(loaded) == 2
    assert max(len(value) for _, value in loaded) < 100_000
    assert len(single) == 10


@pytest.mark.parametrize("value", [b"", b"\x02" + bytes(32), b"\x01", b"\x01" + bytes(8), b"\x01" + bytes(20)])
def test_an_unknown_or_broken_entry_is_refused_by_name(value):
    with pytest.raises(StateUnreadable, match="could not restore a dedupe chunk"):
        SeenIds(WINDOW, 10).restore({bytes(8): value})
