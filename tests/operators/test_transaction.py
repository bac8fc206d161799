"""What is held, and what a transaction does when the client says no. The real broker is in tests/integration."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from confluent_kafka import KafkaError, KafkaException

from operators.at_least_once import AtLeastOnce
from operators.batch import Batch, Change, Record
from operators.exactly_once import ExactlyOnce
from operators.held import Held, Limits
from operators.membership import Guarantee
from operators.prefix import KEY, STEP, prefix
from operators.record_producer import Places, RecordProducer, state_key
from operators.transaction import CommitFailed, Transactions


def batch(lane: int, upto: int, *, value: bytes = b"v", key: bytes = b"k") -> Batch:
    """One row of a lane: one record, one change of its state."""
    return Batch(
        "claims.events",
        np.array([lane], np.int32),
        np.array([upto - 1], np.int64),
        np.array([1], np.int64),
        [None],
        [None],
        [[]],
        event_ms=np.array([1], np.int64),
        progress={lane: upto},
        records=(Record("decisions", lane, b"r", value),),
        changes=(Change(lane, "dedupe", key, value),),
    )


class FakeKafka:
    """Producer and consumer of a slot, which note what they are asked and fail as they are told."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Any]] = []
        self.failures: dict[str, deque[KafkaError]] = {}
        self.hold: Callable[[], bool] = lambda: False

    def fail(self, call: str, *errors: KafkaError) -> None:
        self.failures[call] = deque(errors)

    def made(self, *names: str) -> list[Any]:
        return [what for name, what in self.calls if name in names]

    def names(self) -> list[str]:
        return [name for name, _ in self.calls]

    def _call(self, name: str, what: Any = None) -> None:
        self.calls.append((name, what))
        if self.failures.get(name):
            raise KafkaException(self.failures[name].popleft())

    def list_topics(self, _topic: str, timeout: float) -> None:
        """A connection."""

    def init_transactions(self, _seconds: float) -> None:
        self._call("init")

    def begin_transaction(self) -> None:
        self._call("begin")

    def produce(self, topic: str, value: Any, key: Any, lane: int, on_delivery: Any = None, **_: Any) -> None:
        self._call("produce", (topic, key, value, lane))
        if on_delivery:
            failed = self.failures.get("deliver")
            on_delivery(failed.popleft() if failed else None, None)

    def send_offsets_to_transaction(self, offsets: Any, generation: Any, _seconds: float) -> None:
        self._call("offsets", ({tp.partition: tp.offset for tp in offsets}, generation))

    def commit_transaction(self, _seconds: float) -> None:
        while self.hold():
            time.sleep(0.001)
        self._call("commit")

    def abort_transaction(self, _seconds: float) -> None:
        self._call("abort")

    def flush(self, _seconds: float) -> int:
        return 0

    def consumer_group_metadata(self) -> str:
        return "generation"

    def commit(self, offsets: Any, asynchronous: bool) -> None:
        assert not asynchronous
        self._call("commit_offsets", {tp.partition: tp.offset for tp in offsets})


@pytest.fixture
def fake() -> FakeKafka:
    return FakeKafka()


@pytest.fixture
def make(fake: FakeKafka) -> Iterator[Callable[..., Transactions]]:
    made: list[Transactions] = []

    def build(guarantee: Guarantee = "exactly_once", limits: Limits | None = None) -> Transactions:
        client: Any = fake
        places = Places(group="t", events="t.events", state="t.state", topics={"decisions": "t.decisions"})
        delivery = (
            ExactlyOnce(lambda: client, places, client)
            if guarantee == "exactly_once"
            else AtLeastOnce(RecordProducer(client, places), client)
        )
        transactions = Transactions(delivery, limits)
        made.append(transactions)
        transactions.start()
        transactions.wait_until_fenced()
        transactions.serve()
        return transactions

    yield build
    fake.hold = lambda: False
    for transactions in made:
        transactions.close()


def error(code: int, *, abort: bool = False, retriable: bool = False) -> KafkaError:
    return KafkaError(code, "as told", False, retriable, abort)


REBALANCED = error(KafkaError.ILLEGAL_GENERATION, abort=True)


def test_of_each_state_entry_the_last_change_counts() -> None:
    held = Held()
    held.add(batch(0, 5, value=b"old"))
    held.add(batch(0, 6, value=b"newer"))
    held.add(replace(batch(1, 9), changes=(Change(1, "dedupe", b"k", None),)))

    assert held.changes == {(0, "dedupe", b"k"): b"newer", (1, "dedupe", b"k"): None}
    assert held.progress == {0: 6, 1: 9}
    assert [record.lane for record in held.records] == [0, 0, 1]
    assert (held.rows, held.bytes, len(held.times)) == (5, 2 * len(b"old" + b"newer") + 1, 3)


def test_records_state_and_offsets_are_one_transaction(fake: FakeKafka, make: Callable[..., Transactions]) -> None:
    transactions = make()
    transactions.add(batch(2, 7))
    transactions.flush()

    assert fake.names() == ["init", "begin", "produce", "produce", "produce", "offsets", "commit"]
    assert fake.made("produce") == [
        ("t.decisions", b"r", b"v", 2),
        ("t.state", state_key("dedupe", b"k"), b"v", 2),
        ("t.state", state_key(STEP, KEY), prefix("t", 7), 2),
    ]
    assert fake.made("offsets") == [({2: 7}, "generation")]


def test_what_comes_while_one_commits_is_the_next_transaction(
    fake: FakeKafka, make: Callable[..., Transactions], until: Callable[..., None]
) -> None:
    committing = [True]
    fake.hold = lambda: committing[0]
    transactions = make()
    transactions.add(batch(0, 1))
    until(lambda: "offsets" in fake.names(), "the first transaction to be under way")
    for upto in range(2, 5):
        transactions.add(batch(0, upto))
    committing[0] = False
    transactions.flush()

    assert [offsets for offsets, _ in fake.made("offsets")] == [{0: 1}, {0: 4}]
    assert len(fake.made("commit")) == 2


def test_reading_waits_for_the_commit_at_hand_but_not_long(
    fake: FakeKafka, make: Callable[..., Transactions], until: Callable[..., None]
) -> None:
    committing = [True]
    fake.hold = lambda: committing[0]
    transactions = make()
    transactions.add(batch(0, 1))
    until(lambda: "offsets" in fake.names(), "the first transaction to be under way")

    began = time.monotonic()
    transactions.settle(0.05)
    assert time.monotonic() - began >= 0.05, "the commit is still under way"

    threading.Timer(0.05, committing.clear).start()
    fake.hold = lambda: bool(committing)
    transactions.settle(30)
    assert transactions.committed == {0: 1}, "it ends with the commit"
    transactions.settle(30)


def test_reading_waits_for_most_of_a_long_gap_between_commits(make: Callable[..., Transactions]) -> None:
    transactions = make(limits=Limits(interval=1.0))
    transactions.add(batch(0, 1))
    transactions.flush()
    began = time.monotonic()
    transactions.settle(30)

    assert time.monotonic() - began >= 0.2, "what is read in the gap would wait for its end"


def test_no_more_is_read_while_as_much_is_held_as_may_be(
    fake: FakeKafka, make: Callable[..., Transactions], until: Callable[..., None]
) -> None:
    committing = [True]
    fake.hold = lambda: committing[0]
    transactions = make(limits=Limits(rows=4))
    transactions.add(batch(0, 1))
    until(lambda: "offsets" in fake.names(), "the first transaction to be under way")
    transactions.add(batch(0, 2, key=b"a"))
    before = transactions.full()
    transactions.add(batch(0, 3, key=b"b"))

    assert (before, transactions.full()) == (False, True)


def test_a_rebalance_elsewhere_aborts_and_the_same_content_goes_again(
    fake: FakeKafka, make: Callable[..., Transactions]
) -> None:
    transactions = make()
    fake.fail("offsets", REBALANCED)
    transactions.add(batch(0, 1))
    transactions.flush()
    once = fake.made("produce")[:3]

    assert fake.made("produce") == once * 2
    assert fake.names()[-7:] == ["abort", "begin", "produce", "produce", "produce", "offsets", "commit"]


def test_a_call_that_may_be_tried_again_is_tried_again_within_the_transaction(
    fake: FakeKafka, make: Callable[..., Transactions]
) -> None:
    transactions = make()
    fake.fail("commit", error(KafkaError._TIMED_OUT, retriable=True))
    transactions.add(batch(0, 1))
    transactions.flush()

    assert fake.names()[-3:] == ["offsets", "commit", "commit"]
    assert "abort" not in fake.names()


@pytest.mark.parametrize("call", ["begin", "produce", "offsets", "commit"])
def test_any_other_failure_is_raised_by_whatever_is_called_next(
    fake: FakeKafka, make: Callable[..., Transactions], call: str
) -> None:
    transactions = make()
    fake.fail(call, error(KafkaError._FENCED))
    transactions.add(batch(0, 1))
    for ask in (transactions.flush, transactions.full, lambda: transactions.add(batch(0, 2))):
        with pytest.raises(CommitFailed, match="commit failed: _FENCED"):
            ask()


def test_a_coordinator_that_is_still_loading_is_asked_again(fake: FakeKafka, make: Callable[..., Transactions]) -> None:
    fake.fail("init", error(KafkaError.COORDINATOR_LOAD_IN_PROGRESS, retriable=True))
    make()

    assert fake.names() == ["init", "init"]


def test_a_broker_without_transactions_is_said_with_what_to_do(
    fake: FakeKafka, make: Callable[..., Transactions]
) -> None:
    fake.fail("init", error(KafkaError._UNSUPPORTED_FEATURE))

    with pytest.raises(CommitFailed, match="no transactions; run with --guarantee at_least_once"):
        make()


def test_at_least_once_commits_offsets_after_the_delivery_reports_and_uses_no_transaction(
    fake: FakeKafka, make: Callable[..., Transactions]
) -> None:
    transactions = make("at_least_once")
    transactions.add(batch(0, 1))
    transactions.flush()

    assert fake.names() == ["produce", "produce", "produce", "commit_offsets"]
    assert fake.made("commit_offsets") == [{0: 1}]


def test_at_least_once_does_not_commit_offsets_of_what_was_not_delivered(
    fake: FakeKafka, make: Callable[..., Transactions]
) -> None:
    transactions = make("at_least_once")
    fake.fail("deliver", error(KafkaError._MSG_TIMED_OUT))
    transactions.add(batch(0, 1))

    with pytest.raises(CommitFailed, match="_MSG_TIMED_OUT"):
        transactions.flush()
    assert fake.made("commit_offsets") == []


def test_at_least_once_remembers_no_event_whose_output_did_not_arrive(
    fake: FakeKafka, make: Callable[..., Transactions]
) -> None:
    """Or the lane's next life would take it as decided."""
    transactions = make("at_least_once")
    fake.fail("deliver", error(KafkaError._MSG_TIMED_OUT))
    transactions.add(batch(0, 1))

    with pytest.raises(CommitFailed):
        transactions.flush()
    assert [topic for topic, *_ in fake.made("produce")] == ["t.decisions"]


def test_at_least_once_commits_again_after_a_rebalance(fake: FakeKafka, make: Callable[..., Transactions]) -> None:
    transactions = make("at_least_once")
    fake.fail("commit_offsets", error(KafkaError.REBALANCE_IN_PROGRESS))
    transactions.add(batch(0, 1))
    transactions.flush()

    assert fake.made("commit_offsets") == [{0: 1}, {0: 1}]


def test_flush_has_an_end(fake: FakeKafka, make: Callable[..., Transactions]) -> None:
    fake.hold = lambda: True
    transactions = make()
    transactions.add(batch(0, 1))

    with pytest.raises(CommitFailed, match="could not be committed within 0 s"):
        transactions.flush(0.05)
    fake.hold = lambda: False


def test_fencing_has_an_end_and_nobody_who_stops_waits_for_it(fake: FakeKafka) -> None:
    asked, answer = threading.Event(), threading.Event()

    def init(_seconds: float) -> None:
        asked.set()
        answer.wait(20)

    fake.init_transactions = init  # type: ignore[method-assign]
    client: Any = fake
    places = Places(group="t", events="t.events", state="t.state", topics={})
    transactions = Transactions(ExactlyOnce(lambda: client, places, client))
    transactions.start()
    assert asked.wait(5)
    with pytest.raises(CommitFailed, match="could not be fenced within 0 s"):
        transactions.wait_until_fenced(0.05)
    began = time.monotonic()
    transactions.flush()
    transactions.close()
    took = time.monotonic() - began
    answer.set()

    assert took < 5


def test_a_batch_that_only_moves_offsets_is_committed_and_the_next_one_too(make: Callable[..., Transactions]) -> None:
    transactions = make()
    for upto in (1, 2):
        transactions.add(replace(batch(0, upto), records=(), changes=()))
        transactions.flush(5)

    assert transactions.committed == {0: 2}
    assert transactions.busy_seconds() == 0.0


def test_a_commit_that_hangs_can_be_seen(
    fake: FakeKafka, make: Callable[..., Transactions], until: Callable[..., None]
) -> None:
    transactions = make()
    fake.hold = lambda: True
    transactions.add(batch(0, 1))

    until(lambda: transactions.busy_seconds() > 0.05, "the commit to take long")
