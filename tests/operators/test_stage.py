"""How batches and lane control travel through Bytewax."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import bytewax.operators as op
import numpy as np
import pytest
from bytewax.dataflow import Dataflow
from bytewax.testing import TestingSink, TestingSource, run_main

from operators import stage as stages
from operators.batch import Batch, Change, Close, Item, Open
from operators.stage import by_lane, lane_stage, stage, together


def rows(poll: int, *lanes: int) -> Batch:
    """A poll with one row for each number, of the lane of that number."""
    n = np.arange(len(lanes), dtype=np.int64)
    nothing: list[bytes | None] = [None] * len(lanes)
    lane = np.array(lanes, np.int32)
    return Batch("claims.events", lane, n, n, nothing, nothing, [[] for _ in lanes], poll=poll, pieces=1)


class Counting:
    """A memory that counts rows, begins where its entries say, and tells what it did."""

    def __init__(self, lane: int) -> None:
        self.lane, self.seen = lane, 0

    def open(self, entries: Mapping[bytes, bytes]) -> None:
        self.seen = int(entries.get(b"seen", b"0"))

    def work(self, batch: Batch) -> Batch:
        before, self.seen = self.seen, self.seen + len(batch)
        numbers = np.arange(before, self.seen, dtype=np.float64)
        change = Change(self.lane, "count", b"seen", b"%d" % self.seen)
        return replace(batch, columns={"number": numbers}, changes=(*batch.changes, change))


def run(items: list[Any], wire: Any, *, at_once: int = 1) -> list[Any]:
    """What comes out of `wire` for these items."""
    flow = Dataflow("test")
    out: list[Any] = []
    op.output("out", wire(op.input("in", flow, TestingSource(items, batch_size=at_once))), TestingSink(out))
    run_main(flow)
    return out


def counted(items: list[Item], *, at_once: int = 1) -> list[Any]:
    return run(
        items, lambda up: together("together", lane_stage("count", by_lane("by_lane", up), Counting)), at_once=at_once
    )


def open_lane(lane: int, seen: int = 0) -> Open:
    return Open(lane, {"count": {b"seen": b"%d" % seen}} if seen else {})


def reason(failure: BaseException) -> str:
    """Bytewax wraps what a step raises."""
    return f"{failure} {reason(failure.__cause__)}" if failure.__cause__ else str(failure)


def numbers(item: Any) -> list[float]:
    return list(item.columns["number"].tolist())


@pytest.mark.parametrize("at_once", [1, 10])
def test_each_lane_has_a_memory_of_its_own_that_begins_with_its_state(at_once: int) -> None:
    out = counted([open_lane(0), open_lane(1, seen=40), rows(1, 0, 0, 1), rows(2, 1, 1)], at_once=at_once)

    assert [type(item).__name__ for item in out] == ["Open", "Open", "Batch", "Batch"]
    assert [numbers(item) for item in out[2:]] == [[0.0, 1.0, 40.0], [41.0, 42.0]]
    assert [change.value for change in out[2].changes] == [b"2", b"41"]


def test_the_rows_of_a_poll_come_out_as_one_batch_whatever_the_order_of_its_lanes() -> None:
    [_, _, _, batch] = counted([open_lane(0), open_lane(1), open_lane(2), rows(1, 2, 0, 0, 1)])

    assert (batch.pieces, len(batch)) == (1, 4)
    assert sorted(batch.lane.tolist()) == [0, 0, 1, 2]


def test_a_closed_lane_forgets_and_an_opened_one_takes_the_state_that_comes_with_it() -> None:
    out = counted([open_lane(0), rows(1, 0, 0), Close(0), open_lane(0, seen=9), rows(2, 0)])

    assert numbers(out[-1]) == [9.0]


def test_rows_of_a_lane_that_is_not_open_are_an_error_and_not_a_new_memory() -> None:
    with pytest.raises(RuntimeError) as caught:
        counted([open_lane(0), rows(1, 1)])

    assert "count: rows of lane [1] came before the lane was opened" in reason(caught.value)


def test_rows_after_the_close_of_their_lane_are_an_error() -> None:
    with pytest.raises(RuntimeError) as caught:
        counted([open_lane(0), Close(0), rows(1, 0)])

    assert "before the lane was opened" in reason(caught.value)


def test_together_holds_pieces_until_all_of_a_poll_are_there() -> None:
    pieces = [(str(lane), piece) for lane, piece in rows(1, 0, 1, 2).by_lane()]
    seen: list[int] = []

    def wire(up: Any) -> Any:
        return op.inspect("look", together("together", up), lambda _step, batch: seen.append(len(batch)))

    assert run(pieces[:2], wire) == []
    assert [len(batch) for batch in run(pieces, wire)] == [3]


def test_together_does_not_mix_the_pieces_of_two_polls() -> None:
    first, second = rows(1, 0, 1).by_lane(), rows(2, 0, 1, 1).by_lane()
    mixed = [(str(lane), piece) for pair in zip(first, second, strict=True) for lane, piece in pair]

    assert [(batch.poll, len(batch)) for batch in run(mixed, lambda up: together("together", up))] == [(1, 2), (2, 3)]


def test_a_stage_works_on_batches_and_lets_lane_control_pass() -> None:
    out = run(
        [open_lane(0), rows(1, 0, 0), Close(0)],
        lambda up: stage("mark", up, lambda batch: replace(batch, outcomes=["approve"] * len(batch))),
    )

    assert [type(item).__name__ for item in out] == ["Open", "Batch", "Close"]
    assert out[1].outcomes == ["approve", "approve"]


def test_a_batch_without_rows_passes_every_stage_untouched_so_that_its_progress_arrives() -> None:
    def broken(_batch: Batch) -> Batch:
        raise AssertionError("no stage is asked about nothing")

    empty = replace(rows(1), progress={0: 5})
    [_, plain] = run([open_lane(0), empty], lambda up: stage("break", up, broken))
    [_, counted_batch] = counted([open_lane(0), empty])

    assert plain.progress == counted_batch.progress == {0: 5}
    assert counted_batch.changes == ()


class Large(Counting):
    """A memory that takes one entry at a time."""

    def opening(self, entries: Mapping[bytes, bytes]) -> Iterator[None]:
        for value in entries.values():
            self.seen += int(value)
            yield


def test_a_large_state_is_taken_in_parts_between_which_other_lanes_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages, "_OPENING_SECONDS", 0.0)
    large = Open(0, {"count": {b"a": b"20", b"b": b"1"}})
    other = [open_lane(1), rows(1, 1)]

    def wire(up: Any) -> Any:
        return together("together", lane_stage("count", by_lane("by_lane", up), Large))

    out = run([*other, large, rows(2, 1), large, large, rows(3, 0, 1), large], wire)
    opened = [item.complete for item in out if isinstance(item, Open) and item.lane == 0]
    batches = [numbers(item) for item in out if isinstance(item, Batch)]

    assert opened == [False, False, True, True]
    assert batches == [[0.0], [1.0], [21.0, 2.0]]


def test_rows_find_all_of_a_large_state_even_where_the_source_did_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages, "_OPENING_SECONDS", 0.0)
    large = Open(0, {"count": {b"a": b"20", b"b": b"1", b"c": b"4"}})
    out = run([large, rows(1, 0)], lambda up: lane_stage("count", by_lane("by_lane", up), Large))

    assert numbers(out[-1][1]) == [25.0]
