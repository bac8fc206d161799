"""What holds for every stage, whatever it does. A new stage needs one row in `EVERY`, and all of this holds it too."""

from __future__ import annotations

import ast
import itertools
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import bytewax.operators as op
import numpy as np
import pytest
from bytewax.dataflow import Dataflow
from bytewax.testing import TestingSink, TestingSource, run_main

from dataflows.stages import Stages
from operators.batch import Batch, Close, Item, Open, join
from operators.decide import decide
from operators.decode import decode
from operators.dedupe import dedupe
from operators.emit import emit
from operators.enrich import enrich
from operators.guard import guard
from operators.recall import recall
from operators.score import score
from operators.stage import LaneWork, by_lane, together
from tests.operators.passage import LANES, events, firsts_of, stages

Work = Callable[[Batch], Batch]


@dataclass(frozen=True)
class Row:
    """A stage: how it stands in a flow, and what it does as a plain function or with the memory of a lane."""

    name: str
    wire: Callable[[Any, Stages], Any]
    plain: Callable[[Stages], Work] | None = None
    memory: Callable[[Stages], Callable[[int], LaneWork]] | None = None
    is_last: bool = False
    """Its rows have left, and go on all the same: the sink measures latency by their times."""


EVERY = [
    Row("decode", lambda up, s: decode("decode", up, decoder=s.decoder), lambda s: s.decoder.work),
    Row("guard", lambda up, s: guard("guard", up, guard=s.guard), lambda s: s.guard.work),
    Row("dedupe", lambda up, s: dedupe("dedupe", up, build=s.dedupe), memory=lambda s: s.dedupe),
    Row("recall", lambda up, s: recall("recall", up, build=s.recall), memory=lambda s: s.recall),
    Row("enrich", lambda up, s: enrich("enrich", up, enricher=s.enricher), lambda s: s.enricher.work),
    Row("score", lambda up, s: score("score", up, scorer=s.scorer), lambda s: s.scorer.work),
    Row("decide", lambda up, s: decide("decide", up, decider=s.decider), lambda s: s.decider.work),
    Row("emit", lambda up, s: emit("emit", up, encoder=s.encoder), lambda s: s.encoder.work, is_last=True),
]
"""In the order of the flow: what a stage is given is what those above it have made of the events."""
OF_FEATURES = {"lateness", "measure", "rekey", "rekeyed", "tide", "window"}
"""Stages of other jobs, whose events have no first records: tests/dataflows/test_features.py is about them."""
every = pytest.mark.parametrize("row", EVERY, ids=[row.name for row in EVERY])
sizes = pytest.mark.parametrize("size", [1, 7, 1000], ids=["ones", "sevens", "all"])


class Instance:
    """A stage in one process, with the memory of the lanes it was given."""

    def __init__(self, row: Row) -> None:
        self._plain = row.plain(stages()) if row.plain else None
        self._build = row.memory(stages()) if row.memory else None
        self._memory: dict[int, LaneWork] = {}

    def open(self, lane: int, entries: dict[bytes, bytes]) -> None:
        if self._build is not None:
            self._memory[lane] = self._build(lane)
            self._memory[lane].open(entries)

    def work(self, batch: Batch) -> Batch:
        if self._plain is not None:
            return self._plain(batch)
        return join([self._memory[lane].work(piece) if len(piece) else piece for lane, piece in batch.by_lane()])


@cache
def given(name: str) -> Batch:
    """What the stage of this name is given: all events, as the stages before it have left them."""
    batch = events()
    for row in itertools.takewhile(lambda row: row.name != name, EVERY):
        batch = run(row, [batch])[0]
    return replace(batch, records=(), changes=())


def run(row: Row, batches: Iterable[Batch]) -> list[Batch]:
    instance = Instance(row)
    for lane in LANES:
        instance.open(lane, {})
    return [instance.work(batch) for batch in batches]


def run_in_bytewax(row: Row, batches: Iterable[Batch]) -> list[Batch]:
    """The same, as a flow of this one stage."""
    opened: list[Item] = [Open(lane, {}) for lane in LANES]
    closed: list[Item] = [Close(lane) for lane in LANES]
    out: list[Item] = []
    flow = Dataflow("one")
    items = op.input("items", flow, TestingSource([*opened, *batches, *closed]))
    if row.memory is None:
        done = row.wire(items, stages())
    else:
        done = together("together", row.wire(by_lane("by_lane", items), stages()))
    op.output("out", done, TestingSink(out))
    run_main(flow)
    assert [item for item in out if not isinstance(item, Batch)] == [*opened, *closed], (
        "lane control passes every stage"
    )
    return [item for item in out if isinstance(item, Batch)]


def cut(batch: Batch, size: int) -> list[Batch]:
    """Polls of at most `size` rows, each with what it has read of its lanes."""
    starts = range(0, len(batch), size)
    parts = [batch.take(slice(start, start + size)) for start in starts]
    return [
        replace(
            part,
            poll=number,
            progress={lane: last + 1 for lane, last in zip(part.lane.tolist(), part.offset.tolist(), strict=True)},
        )
        for number, part in enumerate(parts, 1)
    ]


def rows_of(batches: Iterable[Batch]) -> dict[tuple[int, int], dict[str, Any]]:
    """Every row that stays, by lane and offset, with all that is known of it."""
    found = {}
    for batch in batches:
        listed = {
            **{
                name: getattr(batch, name)
                for name in ("append_ms", "keys", "values", "headers", "event_ids", "entities")
            },
            **{name: getattr(batch, name) for name in ("event_ms", "degraded", "outcomes", "reasons", "forced")},
            **{("column", name): column for name, column in batch.columns.items()},
            **{("age", name): column for name, column in batch.ages.items()},
            **{("release", name): column for name, column in batch.releases.items()},
            **{("shadow", m, r): column for m, shadows in batch.shadows.items() for r, column in shadows.items()},
        }
        for at, origin in enumerate(zip(batch.lane.tolist(), batch.offset.tolist(), strict=True)):
            assert origin not in found, "a row stays once"
            found[origin] = {name: repr(column[at]) for name, column in listed.items() if len(column)}
    return found


def result(batches: Sequence[Batch]) -> tuple[Any, Any]:
    """Rows and first records, in an order of their own: what must not depend on how they were put together."""
    rows = {
        origin: {k: v for k, v in row.items() if v != "np.float64(nan)"} for origin, row in rows_of(batches).items()
    }
    records = [record for batch in batches for record in batch.records]
    return rows, sorted(firsts_of(records), key=lambda first: first[:3])


def test_every_stage_has_a_row() -> None:
    """Each file of `operators` that defines a stage of decisions; `stage.py` has what puts them together."""
    found = {
        node.name
        for path in Path("operators").glob("*.py")
        if path.name != "stage.py"
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.FunctionDef) and any("operator" in ast.unparse(each) for each in node.decorator_list)
    }

    assert found == {row.name for row in EVERY} | OF_FEATURES


def test_the_events_meet_all_that_stages_do() -> None:
    """Or the tests below would say little."""
    left = {row.name: {first[0] for first in result(run(row, [given(row.name)]))[1]} for row in EVERY}

    assert left == {
        **{row.name: set() for row in EVERY},
        "decode": {"rejected"},
        "guard": {"quarantine"},
        "dedupe": {"duplicates"},
        "emit": {"decisions"},
    }
    assert Counter(given("emit").outcomes).keys() == {"approve", "review", "flag"}
    assert set(given("emit").releases["severity"]) == {"1", "2"}


@every
@sizes
def test_nothing_is_lost(row: Row, size: int) -> None:
    batches = cut(given(row.name), size)
    for before, after in zip(batches, run(row, batches), strict=True):
        left = [first[1:3] for first in firsts_of(after.records)]
        stayed = list(zip(after.lane.tolist(), after.offset.tolist(), strict=True))

        came = sorted(zip(before.lane.tolist(), before.offset.tolist(), strict=True))
        assert sorted([*stayed, *left]) == (sorted(came * 2) if row.is_last else came)
        assert after.progress == before.progress
        assert (after.poll, after.pieces) == (before.poll, 1)


@every
def test_what_had_left_before_stays_left(row: Row) -> None:
    [first, *_] = run(EVERY[0], [events()])
    before = replace(given(row.name), records=first.records, changes=())

    [after] = run(row, [before])

    assert after.records[: len(first.records)] == first.records


@every
@sizes
def test_batch_size_does_not_matter(row: Row, size: int) -> None:
    assert result(run(row, cut(given(row.name), size))) == result(run(row, [given(row.name)]))


@every
@sizes
def test_the_stage_does_the_same_in_bytewax(row: Row, size: int) -> None:
    batches = cut(given(row.name), size)

    assert result(run_in_bytewax(row, batches)) == result(run(row, [given(row.name)]))


@every
def test_slot_count_does_not_matter(row: Row) -> None:
    """The same lanes in one instance, or in two that know nothing of each other."""
    whole = given(row.name)
    parts = [run(row, [whole.take(np.isin(whole.lane, lanes))])[0] for lanes in ([0, 2], [1])]

    assert result(parts) == result(run(row, [whole]))


@every
def test_a_lane_that_moves_goes_on_as_if_it_had_not(row: Row) -> None:
    """At each of its events, from one instance to the next, which gets what the first one has said to remember."""
    whole = given(row.name)
    remembered: dict[int, dict[bytes, bytes]] = defaultdict(dict)
    done = []
    for batch in cut(whole, 1):
        lane = int(batch.lane[0])
        instance = Instance(row)
        instance.open(lane, dict(remembered[lane]))
        done.append(instance.work(batch))
        for change in done[-1].changes:
            assert (change.lane, change.step) == (lane, row.name)
            if change.value is None:
                remembered[lane].pop(change.key, None)
            else:
                remembered[lane][change.key] = change.value

    assert result(done) == result(run(row, [whole]))


@every
@sizes
def test_order_within_a_lane_is_kept(row: Row, size: int) -> None:
    done = run_in_bytewax(row, cut(given(row.name), size))
    stayed: dict[Any, list[int]] = defaultdict(list)
    left: dict[Any, list[int]] = defaultdict(list)
    for batch in done:
        for lane, offset in zip(batch.lane.tolist(), batch.offset.tolist(), strict=True):
            stayed[lane].append(offset)
        for topic, lane, offset, _ in firsts_of(batch.records):
            left[topic, lane].append(offset)

    assert stayed or left
    for offsets in (*stayed.values(), *left.values()):
        assert offsets == sorted(offsets)


@every
def test_rows_of_a_lane_stay_together(row: Row) -> None:
    """The next `by_lane` relies on it."""
    [after] = run(row, [given(row.name)])

    assert [lane for lane, _ in itertools.groupby(after.lane.tolist())] == sorted(set(after.lane.tolist()))
