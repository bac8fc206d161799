"""What a slot's lane stores are given, and when: after a commit, with the offset of its last state record."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from confluent_kafka import KafkaError, KafkaException

from operators.batch import Batch, Change
from operators.held import Held
from operators.lane_stores import LaneStores
from operators.prefix import prefix
from operators.record_producer import Places, RecordProducer, state_key
from operators.transaction import CommitFailed, Transactions

PREFIX = state_key("lane", b"prefix")


def given(answer: Any) -> Future[Any]:
    future: Future[Any] = Future()
    if isinstance(answer, Exception):
        future.set_exception(answer)
    else:
        future.set_result(answer)
    return future


class Admin:
    """What a broker says of the state topic."""

    def __init__(self) -> None:
        self.topic_id = "id-1"
        self.settings: Any = {"delete.retention.ms": SimpleNamespace(value="100000")}

    def describe_topics(self, topics: Any, request_timeout: float) -> Any:
        return {"t.state": given(SimpleNamespace(topic_id=self.topic_id))}

    def describe_configs(self, resources: Any, request_timeout: float) -> Any:
        return {resource: given(self.settings) for resource in resources}


class Broker:
    """A `Delivery` that notes what the stores know while it commits, and fails as it is told."""

    def __init__(self, places: Places) -> None:
        self._places, self.looks, self.fails = places, list[Any](), False
        self.look: Callable[[], Any] = lambda: None

    def begin(self) -> None: ...

    def serve(self) -> None: ...

    def pending(self) -> bool:
        return False

    def write(self, held: Held) -> None:
        self.looks.append(self.look())
        if self.fails:
            raise KafkaException(KafkaError(KafkaError._FENCED))
        assert self._places.ends is not None
        for lane in held.progress:
            self._places.ends[lane] = 10 * held.progress[lane]


@pytest.fixture
def places() -> Places:
    return Places("t", "t.events", "t.state", {}, ends={})


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def stores(tmp_path: Path, places: Places) -> Iterator[LaneStores]:
    admin: Any = Admin()
    made = LaneStores(places, admin, folder=tmp_path, indexes={}, now=Clock())
    yield made
    made.close([0, 1])


def batch(lane: int, following: int, key: bytes, value: bytes | None) -> Batch:
    empty = np.empty(0, np.int64)
    return Batch(
        "t.events", empty.astype(np.int32), empty, empty, [], [], [], event_ms=empty,
        progress={lane: following}, changes=(Change(lane, "recall", key, value),),
    )  # fmt: skip


def test_a_store_is_written_after_the_commit_and_not_for_one_that_fails(stores: LaneStores, places: Places) -> None:
    entries = stores.open({0: 100, 1: 100})
    opened = entries[0].opened()
    broker = Broker(places)
    broker.look = lambda: dict(opened["recall"].scan(b""))  # type: ignore[attr-defined]
    transactions = Transactions(broker, home=stores)
    transactions.start()
    transactions.wait_until_fenced()

    transactions.add(batch(0, 1, b"ea", b"v"))
    transactions.flush()
    after_one = broker.look()
    broker.fails = True
    transactions.add(batch(0, 2, b"eb", b"w"))
    with pytest.raises(CommitFailed):
        transactions.flush()

    assert broker.looks == [{}, {b"ea": b"v"}], "nothing is on disk before its commit"
    assert after_one == broker.look() == {b"ea": b"v"}
    assert opened["recall"][b"eb"] == b"w", "the step sees its own work all the same"
    assert opened["lane"][b"prefix"] == prefix("t", 1)
    assert entries[0].following == 10
    assert entries[1].following == 0
    transactions.close()


def test_a_lane_is_reopened_after_what_it_has(stores: LaneStores, places: Places) -> None:
    stores.open({0: 100})[0].opened()
    held = Held()
    held.add(batch(0, 3, b"ea", b"v"))
    assert places.ends is not None
    places.ends[0] = 42
    stores.write(held, at=1000.0)

    assert stores.open({0: 100})[0].following == 42
    assert places.ends == {}


def test_a_store_that_moved_away_is_deleted_once_it_is_too_old_to_be_used(tmp_path: Path, stores: LaneStores) -> None:
    """The topic keeps deletions for 100 s, so a store is worth something for 90."""
    for lane, age in ((0, 91), (1, 91), (7, 91), (8, 89)):
        (tmp_path / f"lane-{lane}").mkdir()
        os.utime(tmp_path / f"lane-{lane}", times=(Clock.now - age, Clock.now - age))
    (tmp_path / "lane-9").touch()

    stores.open({0: 100})

    assert sorted(path.name for path in tmp_path.iterdir()) == ["lane-0", "lane-8", "lane-9"]


def test_nothing_is_trusted_where_the_topic_is_another_or_will_not_say_how_long_it_keeps_deletions(
    tmp_path: Path, places: Places, caplog: pytest.LogCaptureFixture
) -> None:
    def following(admin: Any) -> int:
        stores = LaneStores(places, admin, folder=tmp_path, indexes={}, now=Clock())
        found = stores.open({0: 100})[0].following
        held = Held()
        held.add(batch(0, 3, b"ea", b"v"))
        assert places.ends is not None
        places.ends[0] = 42
        stores.write(held, at=1000.0)
        stores.close([0])
        return found

    admin = Admin()
    again, other, silent = Admin(), Admin(), Admin()
    other.topic_id = silent.topic_id = "id-2"
    silent.settings = KafkaException(KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED))

    assert [following(asked) for asked in (admin, again, other, silent)] == [0, 42, 0, 0]
    assert "its topic id is id-1, not id-2" in caplog.text
    assert "could not read delete.retention.ms of t.state" in caplog.text


def test_rocksdb_is_not_loaded_where_nobody_asks_for_it() -> None:
    """The template imports this, too, and forks."""
    code = "import dataflows.wiring, sys; print('rocksdict' in sys.modules)"
    told = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)

    assert told.stdout == "False\n"


def test_the_end_of_a_lane_is_what_the_broker_gave_its_last_state_record(places: Places) -> None:
    reports: list[tuple[bytes | None, Callable[..., None] | None]] = []

    class Client:
        def produce(self, topic: str, value: Any, key: bytes, lane: int, on_delivery: Any = None) -> None:
            reports.append((key, on_delivery))

    client: Any = Client()
    held = Held()
    held.add(batch(1, 7, b"ea", b"v"))
    RecordProducer(client, places).lane_state(held)
    (_, none), (last, report) = reports
    sent = SimpleNamespace(partition=lambda: 1, offset=lambda: 1234)

    assert none is None
    assert last == PREFIX
    assert report is not None
    report(KafkaError(KafkaError._MSG_TIMED_OUT), sent)
    assert places.ends == {}
    report(None, sent)
    assert places.ends == {1: 1235}
