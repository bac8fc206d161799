"""A batch in pieces and together again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from operators.batch import Batch, Change, Record, join

LANE_COUNTS = st.lists(st.tuples(st.integers(0, 7), st.integers(0, 4)), max_size=5, unique_by=lambda pair: pair[0])


def a_batch(rows_of: Sequence[tuple[int, int]], *, decoded: bool = True) -> Batch:
    """A batch with so many rows of each lane, every column different in each row."""
    lanes = [lane for lane, rows in rows_of for _ in range(rows)]
    offsets = [100 * lane + row for lane, rows in rows_of for row in range(rows)]
    numbers = np.array(offsets, np.int64)
    raw = Batch(
        topic="claims.events",
        lane=np.array(lanes, np.int32),
        offset=numbers,
        append_ms=numbers + 1,
        keys=[b"key %d" % n for n in offsets],
        values=[b"value %d" % n for n in offsets],
        headers=[[("n", b"%d" % n)] for n in offsets],
        poll=7,
        progress={lane: 100 * lane + rows for lane, rows in rows_of},
        records=(Record("rejected", 0, b"earlier", b""),),
        changes=(Change(0, "dedupe", b"earlier", b""),),
    )
    if not decoded:
        return raw
    return replace(
        raw,
        event_ids=[f"E-{n}" for n in offsets],
        entities=[f"PH-{n}" for n in offsets],
        event_ms=numbers + 2,
        columns={"amount": numbers.astype(np.float64), "line": [str(n) for n in offsets]},
        ages={"holder": numbers / 2},
        releases={"severity": [f"{n}" for n in offsets]},
        shadows={"severity": {"2": numbers / 3}},
        degraded=[(str(n),) for n in offsets],
        outcomes=["approve" for _ in offsets],
        reasons=[(str(n),) for n in offsets],
        forced=[None for _ in offsets],
    )


def plain(batch: Batch) -> dict[str, Any]:
    """Everything in a batch, as values that can be compared."""

    def bare(value: Any) -> Any:
        if isinstance(value, np.ndarray):
            return value.tolist()
        return {key: bare(inner) for key, inner in value.items()} if isinstance(value, dict) else value

    return {name: bare(getattr(batch, name)) for name in Batch.__slots__}


@given(LANE_COUNTS, st.booleans())
def test_a_batch_cut_by_lane_and_joined_is_the_same_batch(rows_of: list[tuple[int, int]], decoded: bool) -> None:
    batch = a_batch(rows_of, decoded=decoded)

    assert plain(join([piece for _, piece in batch.by_lane()])) == plain(batch)


@given(LANE_COUNTS)
def test_each_piece_has_the_rows_of_one_lane_and_one_piece_has_the_rest(rows_of: list[tuple[int, int]]) -> None:
    batch = a_batch(rows_of)
    pieces = batch.by_lane()

    assert all(set(piece.lane.tolist()) <= {lane} for lane, piece in pieces)
    assert {piece.pieces for _, piece in pieces} == {len(pieces)}
    assert [len(piece.records) for _, piece in pieces] == [1] + [0] * (len(pieces) - 1)
    assert [dict(piece.progress) for _, piece in pieces[1:]] == [{}] * (len(pieces) - 1)


@given(LANE_COUNTS, st.randoms(use_true_random=False))
def test_take_picks_the_same_rows_by_mask_by_index_and_by_slice(rows_of: list[tuple[int, int]], rng: Any) -> None:
    batch = a_batch(rows_of)
    stays = np.array([rng.random() < 0.5 for _ in range(len(batch))], np.bool_)
    index = np.flatnonzero(stays)

    assert plain(batch.take(stays)) == plain(batch.take(index))
    assert batch.take(stays).event_ids == [batch.event_ids[row] for row in index]
    assert batch.take(stays).columns["line"] == [batch.columns["line"][row] for row in index]
    assert batch.take(stays).shadows["severity"]["2"].tolist() == (batch.offset[stays] / 3).tolist()
    assert plain(batch.take(slice(0, len(batch)))) == plain(batch)


def test_columns_that_a_later_stage_fills_stay_empty() -> None:
    taken = a_batch([(0, 3)], decoded=False).take(np.array([True, False, True]))

    assert (len(taken), taken.event_ids, taken.event_ms.tolist()) == (2, [], [])


def test_rows_that_leave_are_gone_and_their_records_and_progress_stay() -> None:
    batch = a_batch([(0, 2), (3, 1)])
    left = Record("duplicates", 0, b"E-1", b"{}")
    after = batch.leave(np.array([True, False, True]), [left])

    assert after.event_ids == ["E-0", "E-300"]
    assert after.records == (*batch.records, left)
    assert (after.changes, after.progress) == (batch.changes, batch.progress)


def test_a_piece_whose_rows_have_all_left_may_lack_what_the_others_got() -> None:
    (_, first), (_, second) = a_batch([(0, 2), (3, 2)]).by_lane()
    first = first.leave(np.zeros(2, np.bool_), [Record("duplicates", 0, None, b"")] * 2)
    second = replace(
        second, columns={**second.columns, "claims_1d": np.ones(2)}, changes=(Change(3, "recall", b"k", b"v"),)
    )
    whole = join([first, second])

    assert whole.event_ids == ["E-300", "E-301"]
    assert whole.columns["claims_1d"].tolist() == [1.0, 1.0]
    assert whole.progress == {0: 2, 3: 302}
    assert len(whole.records) == 3
    assert [change.step for change in whole.changes] == ["dedupe", "recall"]


def test_a_batch_without_rows_is_one_piece_with_its_progress() -> None:
    batch = a_batch([(3, 2)]).leave(np.zeros(2, np.bool_), [Record("rejected", 3, None, b"")])

    [(lane, piece)] = batch.by_lane()

    assert (lane, len(piece), piece.progress) == (3, 0, {3: 302})
