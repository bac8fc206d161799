"""The protocol, broken in one way each: what the chaos must find. Runs in the processes under test.

A mutant patches classes of the engine in the template, before slots are forked from it.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable, Mapping
from typing import Any

from confluent_kafka import Consumer, KafkaException, TopicPartition

MUTANT = "PENSTOCK_CHAOS_MUTANT"
"""Environment variable with a name from `MUTANTS`."""


def offsets_outside() -> None:
    """Offsets follow in a transaction of their own: a crash in between leaves events done and not counted as done."""

    def write(self: Any, held: Any) -> None:
        def content() -> None:
            self._records.outputs(held)
            self._records.lane_state(held)

        _transaction(self, content, None)
        _transaction(self, lambda: None, self._records.offsets(held.progress))

    _delivery().write = write


def state_outside() -> None:
    """Lane state follows in a transaction of its own: a crash in between loses what the next life should remember."""

    def write(self: Any, held: Any) -> None:
        _transaction(self, lambda: self._records.outputs(held), self._records.offsets(held.progress))
        _transaction(self, lambda: self._records.lane_state(held), None)

    _delivery().write = write


def store_first() -> None:
    """A lane's store on disk is written before the commit: a crash in between leaves it with what never happened."""
    from operators.transaction import Transactions

    commit = Transactions._commit

    def _commit(self: Any, held: Any) -> None:
        self._home.write(held, time.time())
        commit(self, held)

    Transactions._commit = _commit  # type: ignore[method-assign]


def stranger() -> None:
    """Dynamic membership, and offsets sent under the metadata of a member that never joined: nothing fences a slot."""
    from operators import lanes

    properties = lanes.consumer_properties

    def consumer_properties(connection: Any, membership: Any) -> dict[str, Any]:
        found = properties(connection, membership)
        del found["group.instance.id"]
        _delivery().stranger = Consumer({**connection, "group.id": membership.group})
        return found

    def serve(self: Any) -> None:
        self._generation = self.stranger.consumer_group_metadata()

    lanes.consumer_properties = consumer_properties
    _delivery().serve = serve


def random_id() -> None:
    """A new transactional id for each life: what a dead one left open stays open until it times out."""
    from operators import delivery

    properties = delivery.producer_properties

    def producer_properties(*given: Any) -> dict[str, Any]:
        found = properties(*given)
        return found | {"transactional.id": f"{found['transactional.id']}-{uuid.uuid4()}"}

    delivery.producer_properties = producer_properties


MUTANTS: Mapping[str, Callable[[], None]] = {
    "offsets-outside": offsets_outside,
    "state-outside": state_outside,
    "store-first": store_first,
    "stranger": stranger,
    "random-id": random_id,
}


ON_DISK = "store-first"
"""The mutant that needs lane state on disk."""


def mutate() -> None:
    """Become the mutant that the environment names, if it names one."""
    if name := os.environ.get(MUTANT):
        MUTANTS[name]()


def _delivery() -> Any:
    from operators.exactly_once import ExactlyOnce

    return ExactlyOnce


def _transaction(delivery: Any, content: Callable[[], None], offsets: list[TopicPartition] | None) -> None:
    """What `ExactlyOnce.write` does with all of a commit, for a part of it."""
    from operators.patience import CALL_SECONDS, passes_with_an_abort, patiently

    producer = delivery._records.client
    for _ in range(50):
        try:
            producer.begin_transaction()
            content()
            if offsets is not None:
                patiently(lambda: producer.send_offsets_to_transaction(offsets, delivery._generation, CALL_SECONDS))
            patiently(lambda: producer.commit_transaction(CALL_SECONDS))
            return
        except KafkaException as failure:
            if not passes_with_an_abort(failure.args[0]):
                raise
            producer.abort_transaction(CALL_SECONDS)
            time.sleep(0.1)
