"""Exactly once: outputs, lane state and offsets in one Kafka transaction, as in KIP-447."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

from confluent_kafka import Consumer, KafkaException, Producer

from operators import metrics
from operators.fence import NO_TRANSACTIONS, fenced_producer
from operators.held import Held
from operators.patience import CALL_SECONDS, may_be_too_large, passes_with_an_abort, patiently, plain
from operators.record_producer import Places, RecordProducer
from operators.too_large import refuse_too_large
from operators.transaction import CommitFailed

log = logging.getLogger(__name__)

_REBALANCE_RETRIES, _REBALANCE_PAUSE = 50, 0.1


class ExactlyOnce:
    """Nothing of a commit happens unless all of it does. A `Delivery`."""

    def __init__(
        self,
        make: Callable[[], Producer],
        places: Places,
        consumer: Consumer,
        limits: Callable[[], Mapping[str, int]] = dict,
    ) -> None:
        """Send to `places` by a producer that `make` makes, for the lanes of `consumer`; topics take up to `limits`."""
        self._make, self._places, self._consumer, self._limits = make, places, consumer, limits
        self._records: RecordProducer | None = None
        self._generation: Any = None

    def begin(self) -> None:
        """Fence this slot's past lives.

        Raises:
            CommitFailed: the transaction coordinator did not answer in time, or this broker has none.
        """
        began = time.monotonic()
        try:
            producer = fenced_producer(self._make, self._places.events)
        except KafkaException as failure:
            if failure.args[0].code() in NO_TRANSACTIONS:
                raise CommitFailed("this broker has no transactions; run with --guarantee at_least_once") from failure
            raise CommitFailed(f"could not begin as a transactional producer: {plain(failure)}") from failure
        self._records = RecordProducer(producer, self._places)
        log.info("fenced past lives of this slot in %.2f s", time.monotonic() - began)

    def serve(self) -> None:
        """Note the group's generation, which only the consumer's thread may ask for. 12 µs."""
        self._generation = self._consumer.consumer_group_metadata()

    def pending(self) -> bool:
        """Say whether something written waits for `serve`: never."""
        return False

    def write(self, held: Held) -> None:
        """Commit outputs, state and offsets; again under the new generation where the group rebalances meanwhile."""
        records = self._records
        assert records is not None  # noqa: S101 -- for the type checker: `begin` came before
        for _ in range(_REBALANCE_RETRIES):
            try:
                self._commit(records, held)
                return
            except KafkaException as failure:
                if may_be_too_large(failure.args[0]):
                    refuse_too_large(held, self._places, self._limits(), records.client)
                if not passes_with_an_abort(failure.args[0]):
                    raise
                # Nothing of it happened: the same content again, under the new generation. State is not rolled back.
                records.client.abort_transaction(CALL_SECONDS)
                metrics.count_commit_retry()
                time.sleep(_REBALANCE_PAUSE)
        raise CommitFailed(f"the group's generation moved on {_REBALANCE_RETRIES} times in a row while committing")

    def _commit(self, records: RecordProducer, held: Held) -> None:
        producer, offsets = records.client, records.offsets(held.progress)
        producer.begin_transaction()
        records.outputs(held)
        records.lane_state(held)
        patiently(lambda: producer.send_offsets_to_transaction(offsets, self._generation, CALL_SECONDS))
        patiently(lambda: producer.commit_transaction(CALL_SECONDS))
