"""Calls to a broker: how long they may take, when to ask again, and what their errors mean."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from confluent_kafka import OFFSET_INVALID, KafkaError, KafkaException

CALL_SECONDS = 15.0
"""Time-out of one client call: well inside the 30 s after which the watchdog ends a slot that hangs."""
_PAUSE = 0.1
_PASSING = frozenset({
    KafkaError._ALL_BROKERS_DOWN, KafkaError._TRANSPORT, KafkaError._TIMED_OUT, KafkaError._RESOLVE,
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS, KafkaError.COORDINATOR_NOT_AVAILABLE, KafkaError.NOT_COORDINATOR,
})  # fmt: skip
"""Brokers that cannot be reached, and coordinators on their way: only errors of a producer say that they are retriable,
not those of a consumer."""

_Answer = TypeVar("_Answer")


def patiently(ask: Callable[[], _Answer]) -> _Answer:
    """Ask again while what is wrong may pass, for `CALL_SECONDS`: a broker still loads or moves what is asked for."""
    deadline = time.monotonic() + CALL_SECONDS
    while True:
        try:
            return ask()
        except KafkaException as failure:
            if not passes(failure.args[0]) or time.monotonic() > deadline:
                raise
            time.sleep(_PAUSE)


def passes(error: KafkaError) -> bool:
    """Whether the client gets over it by itself, or the same call may succeed later."""
    lasts = error.fatal() or error.txn_requires_abort()
    return not lasts and (error.retriable() or error.code() in _PASSING)


def listed(answer: Future[Any]) -> int:
    """The offset that `list_offsets` was asked for.

    Where the broker hangs, the client (2.16) gives an invalid offset when the time is over, and no error: taken for an
    end, it says that there is nothing to read, be it state to restore or revisions that are written already.

    Raises:
        KafkaException: it was not answered in time, or refused.
    """
    offset = int(answer.result(2 * CALL_SECONDS).offset)
    if offset == OFFSET_INVALID:
        raise KafkaException(KafkaError(KafkaError._TIMED_OUT))
    return offset


def is_rebalance(error: KafkaError) -> bool:
    """Whether it says no more than that the group's generation has moved on."""
    return error.code() in (KafkaError.ILLEGAL_GENERATION, KafkaError.REBALANCE_IN_PROGRESS) and not error.fatal()


def passes_with_an_abort(error: KafkaError) -> bool:
    """Whether a transaction that met it may be aborted and its content sent again in a new one.

    A stale generation, and what may follow it: aborting purges what is in flight, and the broker can then miss a
    sequence number of the next transaction, which another abort puts right (it raises the producer's epoch).
    """
    skipped = error.code() == KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER and not error.fatal()
    return bool(error.txn_requires_abort()) and (is_rebalance(error) or skipped)


def may_be_too_large(error: KafkaError) -> bool:
    """Whether a record may be larger than its topic, or the client, takes.

    The first call after such a failure says so; one that comes a moment too soon says no more than `_STATE`.
    """
    return not error.fatal() and error.code() in (KafkaError.MSG_SIZE_TOO_LARGE, KafkaError._STATE)


def is_kafka(failure: BaseException) -> bool:
    """Whether a failure is the client's, with its error in it."""
    return isinstance(failure, KafkaException) and isinstance(failure.args[0], KafkaError)


def plain(failure: BaseException) -> str:
    """Name a failure without quoting anything but the client's own words."""
    return f"{failure.args[0].name()}: {failure.args[0].str()}" if is_kafka(failure) else repr(failure)
