"""At least once: outputs, then lane state, then offsets, each after the one before has arrived."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping

from confluent_kafka import Consumer, KafkaError, KafkaException

from operators import metrics
from operators.held import Held
from operators.patience import CALL_SECONDS, is_rebalance, may_be_too_large
from operators.record_producer import RecordProducer
from operators.too_large import refuse_too_large


class AtLeastOnce:
    """A crash repeats what was written and not yet committed; nothing is lost. A `Delivery`.

    The order matters. A state that has seen an event whose output never arrived would lose it: the lane's prefix would
    pass over the event, or dedupe would call it a duplicate of a decision that nobody can read.
    """

    def __init__(
        self, records: RecordProducer, consumer: Consumer, limits: Callable[[], Mapping[str, int]] = dict
    ) -> None:
        """Send `records` for the lanes of `consumer`; topics take up to `limits`."""
        self._records, self._consumer, self._limits = records, consumer, limits
        self._delivered: dict[int, int] = {}
        self._lock = threading.Lock()

    def begin(self) -> None:
        """Do nothing: there is no past life to fence."""

    def write(self, held: Held) -> None:
        """Deliver outputs and state; `serve` then commits the offsets."""
        try:
            self._deliver(self._records.outputs, held)
            self._deliver(self._records.lane_state, held)
        except KafkaException as failure:
            if may_be_too_large(failure.args[0]):
                refuse_too_large(held, self._records.places, self._limits())
            raise
        with self._lock:
            self._delivered.update(held.progress)

    def pending(self) -> bool:
        """Say whether offsets of what was delivered are not committed yet."""
        with self._lock:
            return bool(self._delivered)

    def serve(self) -> None:
        """Commit the offsets of what was delivered, which only the consumer's thread may do."""
        with self._lock:
            delivered = dict(self._delivered)
        if not delivered:
            return
        try:
            offsets = self._records.offsets(delivered)
            answers = self._consumer.commit(offsets=offsets, asynchronous=False) or []
            if failed := [answer.error for answer in answers if answer.error is not None]:
                raise KafkaException(failed[0])
        except KafkaException as failure:
            if not is_rebalance(failure.args[0]):
                raise
            metrics.count_commit_retry()  # tried again at the next call
            return
        with self._lock:
            self._delivered = {lane: o for lane, o in self._delivered.items() if o != delivered.get(lane)}

    def _deliver(self, produce: Callable[[Held, Callable[..., None]], None], held: Held) -> None:
        failed: list[KafkaError] = []

        def report(error: KafkaError | None, _message: object) -> None:
            if error is not None:
                failed.append(error)

        produce(held, report)
        left = self._records.client.flush(CALL_SECONDS)
        if failed or left:
            raise KafkaException(failed[0] if failed else KafkaError(KafkaError._MSG_TIMED_OUT))
