"""Tides: what the gauge reads of the lanes, and what the table writes of it."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any, cast

import numpy as np
import pytest
from confluent_kafka import KafkaError, KafkaException

from operators import tide_gauge
from operators.batch import Batch, Record
from operators.held import Held
from operators.kafka_source import LaneSource
from operators.tide import TideTable
from operators.tide_gauge import TideGauge
from state.entries import StateUnreadable
from state.tide import KEY, STEP, pack_tide, read_tide
from tests.operators.test_rekey import events


class Broker:
    """Answers when it is told to."""

    def __init__(self) -> None:
        self.asked: list[dict[int, Future[Any]]] = []

    def list_offsets(self, wanted: Any, **_: Any) -> dict[Any, Future[Any]]:
        answers = {partition: Future[Any]() for partition in wanted}
        self.asked.append({partition.partition: answer for partition, answer in answers.items()})
        return answers

    def answers(self, **ends: int | None) -> None:
        for lane, answer in self.asked[-1].items():
            end = ends[f"lane{lane}"]
            if end is None:
                answer.set_exception(KafkaException(KafkaError(KafkaError._TRANSPORT)))
            else:
                answer.set_result(type("Answer", (), {"offset": end}))


class Clock:
    """Seconds, for people and for machines."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seconds = 1000.0
        monkeypatch.setattr(tide_gauge.time, "monotonic", lambda: self.seconds)

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def gauge_of(broker: Broker, clock: Clock) -> TideGauge:
    return TideGauge(cast(Any, broker), "p.events", interval=0.25, now=clock)


def test_a_lane_read_to_its_end_moves_on_with_the_clock_and_by_the_moment_of_asking(clock: Clock) -> None:
    broker = Broker()
    gauge = gauge_of(broker, clock)
    assert gauge.moved({0: 5, 1: 9}) == {}
    clock.seconds += 3.0
    broker.answers(lane0=5, lane1=10)

    assert gauge.moved({0: 5, 1: 9}) == {0: 1_000_000}, "when it was asked, not when it answered"
    clock.seconds += 0.3
    assert gauge.moved({0: 5, 1: 10}) == {1: 1_000_000}, "now it has been read to there"
    broker.answers(lane0=5, lane1=10)
    clock.seconds += 0.3
    assert gauge.moved({0: 5, 1: 10}) == {0: 1_003_000, 1: 1_003_000}


def test_a_lane_that_lags_has_the_append_time_of_its_last_event(clock: Clock) -> None:
    broker = Broker()
    gauge = gauge_of(broker, clock)
    gauge.moved({0: 5})
    broker.answers(lane0=500)
    gauge.read(np.array([0, 0, 1], np.int32), np.array([700, 800, 9_999_999_999], np.int64))

    assert gauge.moved({0: 7, 1: 1}) == {0: 800, 1: 1_000_000}, "a producer's time may be in the future"


def test_while_the_broker_does_not_answer_tides_stand_and_nothing_is_asked_twice(clock: Clock) -> None:
    broker = Broker()
    gauge = gauge_of(broker, clock)
    for _ in range(20):
        assert gauge.moved({0: 5}) == {}
        clock.seconds += 1.0
    assert len(broker.asked) == 1
    broker.answers(lane0=None)

    assert gauge.moved({0: 5}) == {}
    assert len(broker.asked) == 2, "asked again"
    broker.answers(lane0=5)
    assert gauge.moved({0: 5}) == {0: 1_020_000}


def test_tides_are_told_once_in_an_interval_and_never_go_back(clock: Clock) -> None:
    broker = Broker()
    gauge = gauge_of(broker, clock)
    gauge.read(np.array([0], np.int32), np.array([900], np.int64))
    assert gauge.moved({0: 1}) == {0: 900}
    gauge.read(np.array([0], np.int32), np.array([800], np.int64))
    clock.seconds += 0.3
    assert gauge.moved({0: 2}) == {}, "nothing has moved"
    gauge.read(np.array([0], np.int32), np.array([950], np.int64))
    assert gauge.moved({0: 3}) == {0: 950}
    gauge.read(np.array([0], np.int32), np.array([960], np.int64))
    assert gauge.moved({0: 4}) == {}, "told a moment ago"


def batch(**tides: dict[int, int]) -> Batch:
    told = {int(lane.removeprefix("lane")): of for lane, of in tides.items()}
    return events(tides=told)


def told(table: TideTable, **tides: dict[int, int]) -> dict[int, int]:
    """Lane to the tide that is written."""
    changes = table.work(batch(**tides)).changes
    assert {(change.step, change.key) for change in changes} <= {(STEP, KEY)}
    return {change.lane: read_tide(change.value or b"") for change in changes}


def test_a_lane_has_the_least_tide_of_its_sources_once_it_has_heard_of_all() -> None:
    table = TideTable(lambda: 3)
    assert told(table, lane0={0: 50, 1: 20}) == {}
    assert told(table, lane0={2: 30}, lane1={0: 50, 1: 60, 2: 70}) == {0: 20, 1: 50}
    assert told(table, lane0={2: 90}) == {}, "the least is where it was"
    assert told(table, lane0={1: 40}) == {0: 40}


def test_a_lane_that_is_opened_again_has_heard_nothing_yet() -> None:
    table = TideTable(lambda: 2)
    assert told(table, lane0={0: 5, 1: 6}) == {0: 5}
    table.forget(0)
    assert told(table, lane0={0: 7}) == {}
    assert told(table, lane0={1: 6}) == {0: 6}


def test_rows_end_here_and_what_they_changed_is_kept() -> None:
    out = TideTable(lambda: 1).work(batch(lane2={2: 5}))

    assert len(out) == 0
    assert out.records == events().records


def test_what_speaks_for_several_lanes_is_not_written_without_one_of_them() -> None:
    held = Held(records=[Record("by-x", 0, None, b"", others=(1, 2)), Record("by-x", 3, b"k", b"")])

    assert [record.lane for record in held.without([2]).records] == [3]
    assert len(held.without([4]).records) == 2


@pytest.mark.parametrize("stored", [b"", pack_tide(5)[:-1], b"\x02" + pack_tide(5)[1:]])
def test_a_tide_of_another_version_is_not_read(stored: bytes) -> None:
    assert read_tide(pack_tide(-5)) == -5
    with pytest.raises(StateUnreadable, match="reads version 1"):
        read_tide(stored)


class Idle:
    """Lanes of which nothing comes, but for the rows that are given."""

    def __init__(self, *polls: list[Any]) -> None:
        self.polls, self.in_flight, self.transactions = list(polls), 0, self

    def start(self) -> None: ...
    def tick(self) -> None: ...
    def settle(self, seconds: float) -> None: ...
    def opening(self) -> dict[int, float]:
        return {}

    def full(self) -> bool:
        return False

    def poll(self, most: int, seconds: float) -> tuple[list[Any], list[Any]]:
        return [], self.polls.pop(0) if self.polls else []

    def positions(self) -> dict[int, tuple[int, int]]:
        return {0: (5, 6), 1: (8, 8)}


class Moving:
    """A gauge whose lanes move when it is told so."""

    def __init__(self, *moves: dict[int, int]) -> None:
        self.moves, self.rows, self.reached = list(moves), 0, dict[int, int]()

    def read(self, lanes: Any, append_ms: Any) -> None:
        self.rows += len(lanes)

    def moved(self, reached: dict[int, int]) -> dict[int, int]:
        self.reached = dict(reached)
        return self.moves.pop(0)


class Row:
    """A consumed record of lane 1."""

    topic, partition, offset = (lambda _: "p.events"), (lambda _: 1), (lambda _: 7)
    timestamp, key, value, headers = (lambda _: (1, 700)), (lambda _: b"k"), (lambda _: b"v"), (lambda _: None)


def test_a_lane_that_has_nothing_to_read_tells_its_tide_all_the_same_and_only_when_it_moved() -> None:
    lanes, gauge = Idle([], [], [Row()], [Row()]), Moving({0: 50, 1: 60}, {}, {0: 70}, {})
    poller = LaneSource(cast(Any, lanes), tides=cast(Any, gauge)).build("events", 0, 1)

    def poll() -> list[Any]:
        lanes.in_flight = 0
        return list(poller.next_batch())

    [tick] = poll()
    assert (len(tick), tick.progress, tick.tides) == (0, {0: 5, 1: 8}, {0: {0: 50}, 1: {1: 60}})
    assert gauge.reached == {0: 6, 1: 8}, "an end that is known counts as reached"
    assert lanes.in_flight == tick.poll, "one batch in flight, be it without rows"
    assert poll() == []
    [batch] = poll()
    assert (len(batch), batch.progress, batch.tides) == (1, {0: 5, 1: 8}, {0: {0: 70}})
    [batch] = poll()
    assert (len(batch), batch.progress, batch.tides, gauge.rows) == (1, {1: 8}, {}, 2)
