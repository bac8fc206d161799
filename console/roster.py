"""Who is in a pipeline's consumer group: slots with their lanes, lag and last heartbeat, as the cluster tells it."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar

from confluent_kafka import ConsumerGroupTopicPartitions, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, ConsumerGroupDescription, MemberDescription, OffsetSpec

from operators.patience import listed

_CALL_SECONDS = 10.0
_PATIENCE = 2 * _CALL_SECONDS
"""With the client, whose own time-out says what was wrong."""

_Answer = TypeVar("_Answer")


class RosterUnreadable(Exception):
    """The group cannot be asked about. The message says what to look at."""


@dataclass(frozen=True, slots=True)
class Seat:
    """A slot as the group and the admissions topic know it."""

    slot: int
    member: bool
    """Whether it is in the group; a slot that died is until its session ends."""
    lanes: tuple[int, ...]
    lag: int
    """Events in its lanes beyond what the group has committed."""
    client: str
    host: str
    heard_ms: int | None
    """Broker's time of its last heartbeat, Unix ms; None where it said goodbye or was never heard."""


@dataclass(frozen=True, slots=True)
class Roster:
    """A consumer group at one moment."""

    group: str
    state: str
    """The client's word for it: stable, preparing_rebalancing, completing_rebalancing, empty, dead."""
    lags: Mapping[int, int]
    """Lane to its lag; every lane is in it."""
    seats: tuple[Seat, ...]

    def seat(self, slot: int) -> Seat | None:
        """The slot's, where it is in the group or was heard."""
        return next((seat for seat in self.seats if seat.slot == slot), None)

    @property
    def nobodys(self) -> list[int]:
        """Lanes that no slot has."""
        return sorted(self.lags.keys() - {lane for seat in self.seats for lane in seat.lanes})


class Group:
    """Asks about one consumer group.

    Args:
        connection: librdkafka properties; `bootstrap.servers` at least.
        name: of the group.
        events: the topic whose partitions are the lanes.
    """

    def __init__(self, connection: Mapping[str, Any], name: str, events: str) -> None:
        self.name, self._events = name, events
        self._admin = AdminClient({**connection, "log_level": 0})

    def roster(self, heard: Mapping[str, int]) -> Roster:
        """Ask who is there; `heard` is each slot's last heartbeat.

        Raises:
            RosterUnreadable: the broker does not answer, or the topic is not there.
        """
        try:
            found = _described(self._admin, self.name)
            lags = self._lags()
        except KafkaException as failure:
            raise RosterUnreadable(
                f"could not ask for group {self.name}: {failure.args[0].str()}; are --bootstrap and --client-config "
                "right, and is it a real Kafka?"
            ) from None
        return Roster(self.name, found.state.name.lower(), lags, tuple(self._seats(found, lags, heard)))

    def _seats(
        self, found: ConsumerGroupDescription, lags: Mapping[int, int], heard: Mapping[str, int]
    ) -> Iterable[Seat]:
        members = {member.group_instance_id: member for member in found.members if member.group_instance_id}
        for slot, name in sorted((slot, name) for name in {*members, *heard} if (slot := self._number(name)) >= 0):
            member = members.get(name)
            parts = member.assignment.topic_partitions if member is not None else []
            lanes = sorted(part.partition for part in parts if part.topic == self._events)
            yield Seat(
                slot=slot,
                member=member is not None,
                lanes=tuple(lanes),
                lag=sum(lags[lane] for lane in lanes),
                client=member.client_id if member is not None else "",
                host=member.host.lstrip("/") if member is not None else "",
                heard_ms=heard.get(name),
            )

    def _number(self, name: str) -> int:
        """The slot that a name belongs to; -1 where it is not of this group."""
        match = re.fullmatch(rf"{re.escape(self.name)}-(\d+)", name)
        return int(match[1]) if match else -1

    def _lags(self) -> dict[int, int]:
        topic = self._admin.list_topics(self._events, timeout=_CALL_SECONDS).topics[self._events]
        if topic.error is not None:
            raise KafkaException(topic.error)
        lanes = [TopicPartition(self._events, lane) for lane in sorted(topic.partitions)]
        asked = [ConsumerGroupTopicPartitions(self.name, lanes)]
        committed = _answer(
            lambda: self._admin.list_consumer_group_offsets(asked, request_timeout=_CALL_SECONDS)[self.name]
        ).topic_partitions
        ends, begins = self._ends(lanes, OffsetSpec.latest()), self._ends(lanes, OffsetSpec.earliest())
        at = {part.partition: part.offset for part in committed}
        return {lane: max(end - max(at.get(lane, 0), begins[lane]), 0) for lane, end in ends.items()}

    def _ends(self, lanes: list[TopicPartition], which: OffsetSpec) -> dict[int, int]:
        futures = self._admin.list_offsets(dict.fromkeys(lanes, which), request_timeout=_CALL_SECONDS)
        return {part.partition: listed(future) for part, future in futures.items()}


def members_of(admin: AdminClient, group: str) -> list[MemberDescription]:
    """Who is in a group; nobody where there is no such group.

    Raises:
        KafkaException: the cluster does not answer, or refuses.
    """
    try:
        return list(_described(admin, group).members)
    except KafkaException as failure:
        if failure.args[0].code() == KafkaError.GROUP_ID_NOT_FOUND:
            return []
        raise


def _described(admin: AdminClient, group: str) -> ConsumerGroupDescription:
    found: ConsumerGroupDescription = _answer(
        lambda: admin.describe_consumer_groups([group], request_timeout=_CALL_SECONDS)[group]
    )
    return found


def _answer(ask: Callable[[], Future[_Answer]]) -> _Answer:
    """Ask until the group's coordinator is there: that of a cluster's first group is made by asking."""
    deadline = time.monotonic() + _CALL_SECONDS
    while True:
        try:
            return ask().result(_PATIENCE)
        except KafkaException as failure:
            if failure.args[0].code() not in _COMING or time.monotonic() > deadline:
                raise
            time.sleep(_PAUSE)


_COMING = (KafkaError.COORDINATOR_NOT_AVAILABLE, KafkaError.COORDINATOR_LOAD_IN_PROGRESS, KafkaError.NOT_COORDINATOR)
"""What a cluster answers while the coordinator of a group is on its way."""
_PAUSE = 0.1
