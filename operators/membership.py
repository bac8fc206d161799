"""Who a slot is to Kafka: its place in the group, and the properties of its clients that follow from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

Guarantee: TypeAlias = Literal["exactly_once", "at_least_once"]


@dataclass(frozen=True, slots=True)
class Membership:
    """Who a slot is and which topics its pipeline has."""

    group: str
    slot: int
    events: str
    state: str
    topics: Mapping[str, str]
    """Role of an output topic to its full name."""
    session_seconds: float = 10.0
    home: str = ""
    """Host and launcher of this process, for people and for itself: two processes may believe to be the same slot."""

    @property
    def name(self) -> str:
        """`group.instance.id` and `transactional.id`: a restarted process fences its own past with it."""
        return f"{self.group}-{self.slot}"


def client_id(membership: Membership) -> str:
    """Name the consumer as the group's description shows it, unless the client config gives it another name."""
    return f"{membership.name}@{membership.home}" if membership.home else membership.name


def consumer_properties(connection: Mapping[str, Any], membership: Membership) -> dict[str, Any]:
    """Give the properties of the slot's consumer, a static member of the group."""
    return {
        "fetch.wait.max.ms": 500,
        "client.id": client_id(membership),
        **connection,
        "group.id": membership.group,
        "group.instance.id": membership.name,
        "partition.assignment.strategy": "cooperative-sticky",
        "session.timeout.ms": int(membership.session_seconds * 1000),
        "heartbeat.interval.ms": 500,  # how soon a member learns of a rebalance: lanes move in 1 s instead of 3
        "enable.auto.commit": False,
        "auto.offset.reset": "error",  # a lane overtaken by retention must be loud
        "isolation.level": "read_committed",
        "queued.max.messages.kbytes": 16384,
    }


def producer_properties(connection: Mapping[str, Any], membership: Membership, guarantee: Guarantee) -> dict[str, Any]:
    """Give the properties of the slot's producer, transactional or only idempotent."""
    shared = {
        **connection,
        "enable.idempotence": True,
        "acks": "all",
        "linger.ms": 0,
        # A broker that is still writing the last transaction's markers refuses the next one's first record for a few
        # milliseconds; with the client's 100 ms a commit that met this took 90 to 220 ms instead of 15.
        "retry.backoff.ms": 2,
        "retry.backoff.max.ms": 1000,
        "compression.type": "lz4",
        "queue.buffering.max.messages": 200_000,
        "message.max.bytes": 16 * 1024 * 1024,  # a sealed original is 1.8 times the event it keeps
    }
    if guarantee == "at_least_once":
        return shared
    # No longer than the session: a dead slot's open transaction must not outlive its claim on the lanes.
    return shared | {
        "transactional.id": membership.name,
        "transaction.timeout.ms": int(membership.session_seconds * 1000),
    }
