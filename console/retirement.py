"""Retiring a slot that will not come back: fenced, out of the group at once, and waited for by nobody.

Without it the slot's lanes wait until its session ends, readers with `read_committed` until its open transaction
times out, and activations until its heartbeat is old.

No transaction of the slot can commit once it is fenced, so what follows may be done in any order and again after a
crash. The client has no call that removes a member, and a static member's `close` leaves it in the group. But a
static member that *unsubscribes* does leave: so this takes the slot's place in the group, as a restarted slot would,
and gives it up.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final

from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition

from console.registry import Registry
from console.roster import Group, Roster, Seat
from operators.fence import NO_TRANSACTIONS, fenced_producer
from operators.membership import Membership, consumer_properties, producer_properties

LISTEN_SECONDS: Final = 5.0
"""A slot beats every 2 s."""
_LEAVE_SECONDS: Final = 20.0
_LOOK_SECONDS: Final = 0.2
_SESSION_SECONDS: Final = 6.0
"""The least that a broker allows by default: how long the group waits should this process die in the slot's place."""

Tell = Callable[[str], None]


class SlotAlive(Exception):
    """It was heard while listening."""


class RetirementFailed(Exception):
    """A step could not be done; the message says which, and what holds now."""


class Retirement:
    """Retires one slot.

    Args:
        connection: librdkafka properties.
        membership: the slot's place in the group.
        group: asks about the group.
        registry: reads and writes the slots' heartbeats; open.
        tell: called with each step done, a line for people.
        beats: whether the slot sent heartbeats, so that activations wait for it.
    """

    def __init__(
        self,
        connection: Mapping[str, Any],
        membership: Membership,
        group: Group,
        registry: Registry,
        tell: Tell,
        *,
        beats: bool = True,
    ) -> None:
        self._connection = {**connection, "log_level": 0}
        self._slot, self._name = membership.slot, membership.name
        self._membership = replace(membership, session_seconds=_SESSION_SECONDS)
        self._group, self._registry, self._tell, self._beats = group, registry, tell, beats

    def listen(self) -> None:
        """Find out whether the slot lives; one that said goodbye, or has been silent for long, is not waited for.

        Raises:
            SlotAlive: it sent a heartbeat meanwhile.
        """
        answers = self._registry.answers
        last = answers.heard().get(self._name)
        if last is None or self._name not in answers.live():
            return
        self._tell(f"slot {self._slot} was heard lately; listening for {LISTEN_SECONDS:.0f} s whether it lives")
        deadline = time.monotonic() + LISTEN_SECONDS
        while time.monotonic() < deadline:
            self._registry.read()
            now = answers.heard().get(self._name)
            if now is None:  # it said goodbye
                return
            if now != last:
                raise SlotAlive(
                    f"slot {self._slot} is alive: it sent a heartbeat just now. End it first (SIGTERM to its "
                    "launcher). --force retires it all the same, but a launcher that still runs starts it again"
                )
            time.sleep(_LOOK_SECONDS)

    def retire(self, timeout: float) -> Roster:
        """Fence the slot, take it out of the group, and wait until others have its lanes.

        Args:
            timeout: seconds to wait for its lanes to move.

        Returns:
            The group as it is then.

        Raises:
            RetirementFailed: a step could not be done.
            RosterUnreadable: the group cannot be asked about.
            RegistryUnreachable: the admissions topic cannot be written.
        """
        seat = self._roster().seat(self._slot)
        if seat is None:
            self._tell(
                f"slot {self._slot} is not in group {self._group.name}, and was not heard; it is fenced all the same"
            )
        self.fence()
        if seat is not None and seat.member:
            self.leave()
        if self._beats:
            self._registry.say_goodbye_for(self._name)
            self._tell("no activation waits for it any more")
        return self._wait(seat, timeout)

    def fence(self) -> None:
        """End the slot's open transaction, and let it commit nothing more.

        Raises:
            RetirementFailed: the transaction coordinator does not answer, or refuses.
        """
        began = time.monotonic()
        properties = producer_properties(self._connection, self._membership, "exactly_once")
        try:
            fenced_producer(lambda: Producer(properties), self._membership.events)
        except KafkaException as failure:
            if failure.args[0].code() in NO_TRANSACTIONS:
                self._tell("this broker has no transactions: there is nothing to fence")
                return
            raise RetirementFailed(
                f"could not fence slot {self._slot}: {failure.args[0].str()}; nothing was changed. Is the transaction "
                f"coordinator up, and may this client use the transactional id {self._name}?"
            ) from None
        self._tell(
            f"slot {self._slot} is fenced in {time.monotonic() - began:.2f} s: its open transaction, if there was one, "
            "is aborted, and it can commit nothing more"
        )

    def leave(self) -> None:
        """Take the slot out of the group: join in its place, and unsubscribe.

        Raises:
            RetirementFailed: the client refused; the slot's session then has to end by itself.
        """
        consumer = Consumer(consumer_properties(self._connection, self._membership))
        joined = threading.Event()

        def assigned(client: Consumer, _: list[TopicPartition]) -> None:
            client.incremental_assign([])  # in its place, and reading nothing
            joined.set()

        try:
            consumer.subscribe(
                [self._membership.events],
                on_assign=assigned,
                on_revoke=lambda client, _: client.incremental_unassign([]),  # it reads none of them
            )
            _poll_until(consumer, joined.is_set)
            consumer.unsubscribe()
            _poll_until(consumer, lambda: not consumer.memberid())
        except KafkaException as failure:
            raise RetirementFailed(
                f"slot {self._slot} is fenced, but could not be taken out of group {self._group.name}: "
                f"{failure.args[0].str()}. Its lanes move when its session ends"
            ) from None
        finally:
            consumer.close()
        self._tell(f"slot {self._slot} has been taken out of group {self._group.name}")

    def _wait(self, seat: Seat | None, timeout: float) -> Roster:
        """Until the slot is no member any more and its lanes have others, where there are any."""
        began, told = time.monotonic(), 0.0
        while True:
            roster = self._roster()
            now, waited = roster.seat(self._slot), time.monotonic() - began
            gone = now is None or not now.member
            left = sorted({*(seat.lanes if seat is not None else ())} & {*roster.nobodys, *(now.lanes if now else ())})
            if gone and (not left or not any(seat.member for seat in roster.seats)):
                return roster
            if waited > timeout:
                why = (
                    f"lanes {left} have no slot yet"
                    if gone
                    else "it is still a member: its lanes move when its session ends"
                )
                raise RetirementFailed(f"slot {self._slot} is fenced, but after {timeout:.0f} s {why}")
            if waited - told > 2.0:
                told = waited
                self._tell(f"waiting for lanes {left} to move: {waited:.0f} s of at most {timeout:.0f} s")
            time.sleep(_LOOK_SECONDS)

    def _roster(self) -> Roster:
        return self._group.roster(self._registry.answers.heard())


def _poll_until(consumer: Consumer, condition: Callable[[], bool]) -> None:
    """Serve the group until the condition holds, for `_LEAVE_SECONDS` at most; what came of it, the group says."""
    deadline = time.monotonic() + _LEAVE_SECONDS
    while not condition() and time.monotonic() < deadline:
        consumer.poll(0.05)
