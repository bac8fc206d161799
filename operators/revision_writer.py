"""Writing revisions: each batch of them in one transaction, by one process at a time."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Producer

from operators.batch import Record
from operators.fence import fenced_producer
from operators.lane_state import QUIET
from operators.patience import CALL_SECONDS, patiently, plain

_FULL_QUEUE_PAUSE = 0.05
_TRANSACTION_SECONDS = 10
"""Readers of the lanes wait for an open transaction: no longer than this for one whose process was killed."""


class RevisionsRefused(Exception):
    """Revisions could not be written; nothing of the batch is there. The message says why and what to do."""


class RevisionWriter:
    """Writes records into the lanes of their origins. A context manager; what is not committed at its end is not there.

    All writers of a pipeline's revisions have one `transactional.id`, so a new one ends and fences the one before: of
    two that would both write revision 1 of an origin, one fails before it has written it. What the other had committed
    can be read from when `__enter__` has returned.

    Args:
        connection: librdkafka properties.
        pipeline: whose revisions they are.
        topics: role of each output topic to its name.
    """

    def __init__(self, connection: Mapping[str, Any], pipeline: str, topics: Mapping[str, str]) -> None:
        self._topics, self._begun = dict(topics), False
        self._properties = {
            **connection,
            "log_level": QUIET,
            "transactional.id": f"{pipeline}-redrive",
            "transaction.timeout.ms": _TRANSACTION_SECONDS * 1000,
            "linger.ms": 0,
            "compression.type": "lz4",
            "message.max.bytes": 16 * 1024 * 1024,
        }

    def __enter__(self) -> RevisionWriter:
        """Fence whoever wrote before, and wait until its open transaction has ended.

        Raises:
            RevisionsRefused: the broker does not answer in time, or refuses.
        """
        try:
            self._producer = fenced_producer(lambda: Producer(self._properties), self._topics["decisions"])
        except KafkaException as failure:
            raise RevisionsRefused(f"could not begin to write revisions: {plain(failure)}") from None
        return self

    def __exit__(self, *_: object) -> None:
        if self._begun:  # something else failed, or a person has ended the command
            self._abort()

    def write(self, records: Sequence[Record]) -> None:
        """Commit records, all or none of them.

        Raises:
            RevisionsRefused: they are not written.
        """
        if not records:
            return
        try:
            self._producer.begin_transaction()
            self._begun = True
            for record in records:
                self._put(record)
            patiently(lambda: self._producer.commit_transaction(CALL_SECONDS))
            self._begun = False
        except KafkaException as failure:
            raise RevisionsRefused(self._why(failure)) from None

    def _put(self, record: Record) -> None:
        while True:
            try:
                self._producer.produce(
                    self._topics[record.topic], record.value, record.key, record.lane, headers=list(record.headers)
                )
                return
            except BufferError:  # the client's queue is full: let it drain
                self._producer.poll(_FULL_QUEUE_PAUSE)

    def _why(self, failure: KafkaException) -> str:
        error: KafkaError = failure.args[0]
        if error.code() in (KafkaError._FENCED, KafkaError.PRODUCER_FENCED, KafkaError.INVALID_PRODUCER_EPOCH):
            return "another run that writes revisions of this pipeline has begun, and this one has ended for it"
        return f"could not write revisions: {plain(failure)}; what was written before stays, run the command again"

    def _abort(self) -> None:
        with contextlib.suppress(KafkaException):  # the next run ends it, or the broker does
            self._producer.abort_transaction(CALL_SECONDS)
