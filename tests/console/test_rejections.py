"""Which rejections are meant, what is known of them already, and that each gets one later record."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import orjson
import pytest

from console.mending import ROWS, Mending
from console.redrive import RedriveImpossible, writer_of
from console.rejections import Rejected, Selection, SelectionWrong, moment_of, place_of, rejections, select
from console.steps import Steps
from dataflows.replay import Mended, known_of
from dataflows.settings import Settings
from operators.batch import Batch, Record
from operators.sealed import sealed_original
from operators.wire import Reason, Rejection, decision_id, origin_key, rejection
from state.latest import Known, Latest
from state.vault import Vault

PIPELINE: Any = SimpleNamespace(pipeline="claims", topic=lambda role: f"claims.{role}")
VAULT = Vault.from_base64(Vault.generate())


def rejected(offset: int, lane: int = 0, *, vault: Vault = VAULT, keep: int = 1000, **more: Any) -> Rejected:
    sealed = sealed_original(vault, origin_key("claims.events", lane, offset), b"k", b"v%d" % offset, [], keep=keep)
    given = {"reason": Reason.WRONG_TYPE, "field": "line", **more}
    record = rejection("claims", "claims.events", lane, offset, sealed=sealed, **given)
    return Rejected(Rejection.model_validate_json(record.value or b""), 1000 + offset, "decode")


@pytest.mark.parametrize("text", [decision_id("claims", 3, 12345), "claims.events-3-12345", "3:12345"])
def test_an_event_is_named_by_decision_id_origin_or_lane_and_offset(text: str) -> None:
    assert place_of(PIPELINE, text) == (3, 12345)


@pytest.mark.parametrize(
    "text, why",
    [
        ("3", "expected a decision id"),
        ("3:", "expected a decision id"),
        ("claims.rejected-3-4", "expected a decision id"),
        ("claims-0003-000000012345-C", "check character"),
        (decision_id("orders", 3, 12345), "of pipeline orders"),
        ("-3:4", "expected a decision id"),
        ("3:" + "9" * 5000, "expected a decision id"),
        ("٣:4", "expected a decision id"),
    ],
)
def test_what_names_no_event_of_the_pipeline_is_refused(text: str, why: str) -> None:
    with pytest.raises(SelectionWrong, match=why):
        place_of(PIPELINE, text)


def test_times_need_their_zone() -> None:
    assert moment_of("1970-01-01T00:00:01.5Z") == 1500
    assert moment_of("1970-01-01T01:00:00+01:00") == 0
    for text in ("yesterday", "2026-05-01", "2026-05-01T08:00:00"):
        with pytest.raises(SelectionWrong, match="with its zone"):
            moment_of(text)


def test_a_selection_takes_what_fits_all_of_it() -> None:
    chosen = select(PIPELINE, ["0:7", "0:8"], ["wrong_type"], [], None, None)

    assert chosen.takes(rejected(7).record)
    assert not chosen.takes(rejected(9).record)
    assert not chosen.takes(rejected(8, reason=Reason.EMPTY).record)
    assert Selection().takes(rejected(1).record)
    with pytest.raises(SelectionWrong, match="wrong_type"):
        select(PIPELINE, [], ["wrong"], [], None, None)
    with pytest.raises(SelectionWrong, match="--to must be later"):
        select(PIPELINE, [], [], [], "2026-05-02T00:00:00Z", "2026-05-01T00:00:00Z")


class Topic:
    """Gives records as they stand in lane 0 of the rejections."""

    def __init__(self, *values: bytes) -> None:
        self.values = values

    def read(self, *_: Any) -> Iterator[list[Any]]:
        yield [
            SimpleNamespace(value=lambda v=v: v, partition=lambda: 0, timestamp=lambda: (2, 7), headers=lambda: None)
            for v in self.values
        ]


def test_what_others_wrote_among_the_rejections_is_passed_over() -> None:
    """It can never be taken off the topic, so it must not be what a command fails of."""
    ours, elsewhere = rejected(1), rejected(2, lane=99)
    too_far = ours.record.model_copy(update={"origin": ours.record.origin.model_copy(update={"offset": 1 << 63})})
    written = [each.model_dump_json().encode() for each in (ours.record, elsewhere.record, too_far)]
    reader: Any = Topic(b"", b"[]", b'"x"', *written)
    seen: list[int] = []

    assert [each.place for each in rejections(reader, "claims.rejected", {0: (0, 6)}, seen.append)] == [(0, 1)]
    assert seen == [6]


@pytest.mark.parametrize(
    "value",
    [
        {"origin": {"partition": 99, "offset": 1}, "revision": 0, "event_id": "E"},
        {"origin": {"partition": 0, "offset": 1 << 63}, "revision": 0, "event_id": "E"},
        {"origin": {"partition": 0, "offset": 1}, "revision": "0", "event_id": "E"},
        {"origin": {"partition": 0, "offset": 1}, "revision": 0, "event_id": ["E"]},
        {"origin": 1, "revision": 0, "event_id": "E"},
        ["E"],
    ],
)
def test_what_others_wrote_among_the_decisions_tells_nothing(value: Any) -> None:
    good = {"origin": {"partition": 0, "offset": 1}, "revision": 0, "event_id": "E"}

    assert known_of("decisions", 0, orjson.dumps(value)) is None
    assert known_of("decisions", 0, orjson.dumps(good)) == Known(0, 1, 0, "E", None)
    assert known_of("decisions", 0, orjson.dumps(good), body=True) is None, "it could not be decided again"


class Bounds:
    """Two lanes with 100 rejections each; one a millisecond."""

    def bounds(self, topic: str) -> dict[int, tuple[int, int]]:
        assert topic == "claims.rejected"
        return {0: (10, 100), 1: (0, 100)}

    def since(self, _: str, moments: dict[int, int]) -> dict[int, int]:
        return {lane: min(at, 100) for lane, at in moments.items()}


@pytest.mark.parametrize(
    "selection, expected",
    [
        (Selection(), {0: (10, 100), 1: (0, 100)}),
        (Selection(lanes=frozenset({1})), {1: (0, 100)}),
        (Selection(origins=frozenset({(0, 7)})), {0: (10, 100)}),
        (Selection(since=20, before=30), {0: (20, 30), 1: (20, 30)}),
        (Selection(before=500), {0: (10, 100), 1: (0, 100)}),
    ],
)
def test_only_the_lanes_and_times_that_are_meant_are_read(selection: Selection, expected: Any) -> None:
    reader: Any = Bounds()
    assert selection.ranges(reader, "claims.rejected") == expected


def test_a_lane_that_is_not_there_is_refused() -> None:
    reader: Any = Bounds()
    with pytest.raises(SelectionWrong, match="lanes 0 to 1"):
        Selection(lanes=frozenset({2})).ranges(reader, "claims.rejected")


class Again:
    """Decides events whose offset is even; the others are rejected still."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def decide(self, batch: Batch) -> Mended:
        self.sizes.append(len(batch))
        places = list(zip(batch.lane.tolist(), batch.offset.tolist(), strict=True))
        assert places == sorted(places)
        assert batch.values == [b"v%d" % offset for _, offset in places]
        good = [(lane, offset) for lane, offset in places if offset % 2 == 0]
        return Mended(
            tuple(Record("decisions", lane, b"", orjson.dumps(offset)) for lane, offset in good),
            tuple(Known(lane, offset, 1, f"E-{lane}-{offset}", None) for lane, offset in good),
            Counter(approve=len(good)),
            Counter(wrong_type=len(places) - len(good)),
            0,
            0,
        )


class Desk:
    def __init__(self) -> None:
        self.latest, self.again, self.written = Latest(), Again(), Counter[tuple[int, int]]()
        self.dies_at = -1

    def mend(self, found: list[Rejected], limit: int | None = None, vault: Vault = VAULT) -> Any:
        again: Any = self.again
        steps = Steps(terminal=False)
        mending = Mending(again, vault, self.latest, self.write, topic="claims.events", limit=limit, steps=steps)
        return mending.mend(iter(found))

    def write(self, records: Any) -> None:
        if len(self.written) == self.dies_at:
            raise KeyboardInterrupt
        self.written.update((record.lane, orjson.loads(record.value)) for record in records)

    def restarted(self) -> None:
        """Another run, which knows only what the topics say."""
        self.latest.close()
        self.latest, self.dies_at = Latest(), -1
        self.latest.take(Known(lane, offset, 1, "E", None) for lane, offset in self.written)


@pytest.fixture
def desk() -> Iterator[Desk]:
    one = Desk()
    with closing(one.latest):
        yield one


def test_each_is_decided_once_however_often_it_is_run(desk: Desk) -> None:
    rows = [rejected(offset, lane) for lane in (1, 0) for offset in range(9)]
    first = desk.mend(rows)
    desk.restarted()
    second = desk.mend(rows)

    assert (first.selected, first.already, first.decided["approve"]) == (18, 0, 10)
    assert first.rejected == {"wrong_type": 8}
    assert (second.already, second.decided.total(), second.rejected["wrong_type"]) == (10, 0, 8)
    assert desk.written == dict.fromkeys([(lane, offset) for lane in (0, 1) for offset in range(0, 9, 2)], 1)


def test_a_run_that_ends_in_the_middle_is_taken_up_by_the_next(desk: Desk) -> None:
    rows = [rejected(offset) for offset in range(3 * ROWS)]
    desk.dies_at = ROWS // 2
    with pytest.raises(KeyboardInterrupt):
        desk.mend(rows)
    assert len(desk.written) == ROWS // 2
    desk.restarted()
    found = desk.mend(rows)

    assert found.already == ROWS // 2
    assert desk.written == dict.fromkeys([(0, offset) for offset in range(0, 3 * ROWS, 2)], 1)


def test_a_rejection_that_was_written_twice_is_decided_once(desk: Desk) -> None:
    found = desk.mend([rejected(2), rejected(2)])

    assert desk.again.sizes == [1]
    assert found.selected == 2


def test_batches_are_bounded_and_the_limit_counts_what_is_tried(desk: Desk) -> None:
    desk.latest.take([Known(0, 0, 1, "E", None), Known(0, 1, 0, None, None)])
    found = desk.mend([rejected(offset) for offset in range(2 * ROWS)], limit=ROWS + 5)

    assert desk.again.sizes == [ROWS, 5]
    assert found.already == 1, "a first record of another kind is no later one"
    assert found.selected == ROWS + 6


def test_what_cannot_be_opened_whole_is_counted(desk: Desk) -> None:
    other = Vault.from_base64(Vault.generate())
    elsewhere = rejected(8)
    moved = elsewhere.record.origin.model_copy(update={"topic": "claims.old"})
    elsewhere = replace(elsewhere, record=elsewhere.record.model_copy(update={"origin": moved}))
    found = desk.mend([rejected(2), rejected(4, vault=other), rejected(6, keep=2), elsewhere])

    assert found.unopened == {"other_key": 1, "cut": 1, "other_topic": 1}
    assert found.decided.total() == 1


def test_progress_is_lines_where_nobody_watches(capsys: pytest.CaptureFixture[str]) -> None:
    clock = iter([0.0, 0.0, 1.0, 6.0, 6.0, 7.0, 8.0])
    with Steps(terminal=False, now=lambda: next(clock)) as steps:
        steps.begin("reading", 30)
        steps.advance(10)
        steps.advance(10)

    assert capsys.readouterr().err == "reading: 0 of 30\nreading: 20 of 30\n"


def test_progress_is_a_bar_on_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with Steps(terminal=True) as steps:
        steps.begin("reading", 30)
        steps.advance(10)
        steps.begin("deciding", 3)
    out, err = capsys.readouterr()
    assert out == ""
    assert "deciding" in err


def test_no_revision_is_written_where_transactions_do_nothing(tmp_path: Path) -> None:
    settings = Settings(file=tmp_path / "p.yaml", bootstrap="mock:9092")
    reader: Any = SimpleNamespace(cluster=lambda: "mockCluster5f2")
    with pytest.raises(RedriveImpossible, match="has no transactions"):
        writer_of(reader, settings, PIPELINE, ["decisions"])
