"""A record that its topic does not take closes its lane, and the rest of the commit goes on without it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from confluent_kafka import KafkaError

from operators.at_least_once import AtLeastOnce
from operators.batch import Change, Record
from operators.exactly_once import ExactlyOnce
from operators.held import Held
from operators.record_producer import Places, RecordProducer
from operators.too_large import too_large
from operators.transaction import CommitFailed, Delivery, Transactions
from tests.operators.test_transaction import FakeKafka, batch, error

PLACES = Places(group="t", events="t.events", state="t.state", topics={"decisions": "t.decisions"})
LIMITS = {"t.decisions": 1000, "t.state": 2000}
TOO_LARGE = error(KafkaError.MSG_SIZE_TOO_LARGE, abort=True)
LARGE = b'{"origin":{"topic":"t.events","partition":1,"offset":41},"secret":"%b"}' % (b"x" * 1000)


@pytest.fixture
def fake() -> FakeKafka:
    return FakeKafka()


def started(delivery: Delivery) -> Transactions:
    transactions = Transactions(delivery)
    transactions.start()
    transactions.wait_until_fenced()
    transactions.serve()
    return transactions


@pytest.fixture
def transactions(fake: FakeKafka) -> Iterator[Transactions]:
    client: Any = fake
    transactions = started(ExactlyOnce(lambda: client, PLACES, client, lambda: LIMITS))
    yield transactions
    transactions.close()


@pytest.mark.parametrize("failure", [TOO_LARGE, error(KafkaError._STATE)], ids=["said", "only a state"])
def test_the_lane_is_left_out_and_the_rest_committed(
    fake: FakeKafka, transactions: Transactions, failure: KafkaError
) -> None:
    both = Held()
    both.add(batch(0, 5))
    both.add(batch(1, 42, value=LARGE))
    fake.fail("offsets", failure)
    transactions.add(batch(0, 5))
    transactions._held.add(batch(1, 42, value=LARGE))  # one commit of both, whatever the threads do
    transactions.flush()

    assert transactions.committed == {0: 5}
    assert fake.names().count("abort") <= 1
    assert fake.made("offsets")[-1][0] == {0: 5}
    assert transactions.refused() == {1: too_large(both, PLACES, LIMITS)[1]}


def test_where_the_limits_may_not_be_read_it_is_kafkas_default(fake: FakeKafka) -> None:
    """Or a slot that may not describe configs would end at that event, again and again, with all of its lanes."""
    client: Any = fake
    fake.fail("offsets", TOO_LARGE)
    transactions = started(ExactlyOnce(lambda: client, PLACES, client))
    transactions._held.add(batch(0, 5, value=b"x" * 1_048_000))
    transactions.add(batch(1, 42, value=b"x" * 1_048_588))
    transactions.flush()
    transactions.close()

    assert transactions.committed == {0: 5}
    assert "topic t.decisions takes 1048588" in transactions.refused()[1]


def test_nothing_of_the_lane_is_written_until_it_is_opened_again(fake: FakeKafka, transactions: Transactions) -> None:
    fake.fail("offsets", TOO_LARGE)
    transactions.add(batch(1, 42, value=LARGE))
    transactions.flush()
    transactions.add(batch(1, 43))
    transactions.flush()
    assert transactions.committed == {}

    transactions.opened(1, 41)
    transactions.add(batch(1, 42))
    transactions.flush()

    assert transactions.committed == {1: 42}
    assert transactions.refused() == {}


def test_a_failure_that_no_record_explains_is_raised(fake: FakeKafka, transactions: Transactions) -> None:
    fake.fail("offsets", TOO_LARGE)
    transactions.add(batch(0, 5))

    with pytest.raises(CommitFailed, match="MSG_SIZE_TOO_LARGE"):
        transactions.flush()
    assert "abort" not in fake.names()


def test_at_least_once_leaves_the_lane_out_as_well(fake: FakeKafka) -> None:
    client: Any = fake
    fake.fail("deliver", TOO_LARGE)
    transactions = started(AtLeastOnce(RecordProducer(client, PLACES), client, lambda: LIMITS))
    transactions.add(batch(1, 42, value=LARGE))
    transactions.flush()
    transactions.add(batch(0, 5))
    transactions.flush()
    transactions.close()

    assert fake.made("commit_offsets") == [{0: 5}]


def test_it_says_which_event_how_large_and_what_to_do_and_no_value() -> None:
    held = Held()
    held.add(batch(1, 42, value=LARGE))
    told = too_large(held, PLACES, LIMITS)[1]

    assert "lane 1: the record of event 1:41 (`--to 42` passes over it) has 1" in told
    assert "topic t.decisions takes 1000. Raise max.message.bytes" in told
    assert "xxx" not in told


def test_a_memory_that_is_too_large_is_found_too_and_an_unknown_limit_blames_nobody() -> None:
    held = Held()
    held.add(replace(batch(2, 7), changes=(Change(2, "recall", b"k", b"v" * 2000),), records=()))

    assert "an entry of the memory of recall" in too_large(held, PLACES, LIMITS)[2]
    assert too_large(held, PLACES, {}) == {}
    held.records.append(Record("decisions", 3, None, None))
    assert set(too_large(held, PLACES, LIMITS)) == {2}
