"""Fencing a slot's past life quickly.

`init_transactions` makes the broker end the past life's open transaction, and the broker answers
CONCURRENT_TRANSACTIONS until that is done: 20 ms later on an idle broker, 100 on a busy one. librdkafka asks again only
after 500 ms, whatever its settings say, and that was half of the time from SIGKILL to the next decision. A new producer
asks at once, so one that is not answered soon is thrown away for another: 0.1 to 0.2 s instead of 0.56 to 1.0.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

from confluent_kafka import KafkaError, KafkaException, Producer

from operators.patience import CALL_SECONDS, passes, patiently

NO_TRANSACTIONS = (KafkaError._UNSUPPORTED_FEATURE, KafkaError.UNSUPPORTED_VERSION)
"""What a broker without transactions answers."""
_FIRST_SECONDS = 0.03
"""Patience with the first producer; each further one gets half as much again, for brokers that are only slow."""


def fenced_producer(make: Callable[[], Producer], topic: str) -> Producer:
    """Make a producer that has its transactional id for itself: whoever had it before can commit nothing more.

    Args:
        make: makes a producer with the transactional id.
        topic: any that exists.

    Raises:
        KafkaException: the broker has no transactions, refuses, or did not answer within `CALL_SECONDS`.
    """
    deadline = time.monotonic() + CALL_SECONDS
    patience = _FIRST_SECONDS
    while True:
        producer = make()
        # Connected first: an attempt without a connection costs half a second, too.
        patiently(partial(producer.list_topics, topic, timeout=CALL_SECONDS))
        try:
            producer.init_transactions(patience)
            return producer
        except KafkaException as failure:
            if not passes(failure.args[0]) or time.monotonic() > deadline:
                raise
            patience *= 1.5
