"""Group membership: which lanes this slot has, opened with their state, closed when revoked.

The consumer is a static member of its group (`group.instance.id`), which is a matter of correctness, not of comfort:
without it a process that has lost its lanes can still commit offsets for them inside a transaction.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Mapping
from typing import Any

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

from operators.batch import Close, Open
from operators.closed_lanes import ClosedLanes, Why
from operators.delivery import deliver
from operators.held import Limits
from operators.lane_lags import LaneLags
from operators.lane_state import QUIET, Message, Restore
from operators.membership import Guarantee, Membership, consumer_properties
from operators.patience import CALL_SECONDS, passes, patiently
from operators.prefix import LaneBroken, begin_at
from operators.record_producer import Places
from operators.roll_call import RollCall
from operators.state_home import InSteps, Keep
from operators.topic_watch import TopicsUnfit, TopicWatch
from operators.transaction import Transactions

log = logging.getLogger(__name__)


class LanesLost(Exception):
    """The group gave this slot's lanes away without asking; only a new life may go on."""


class Lanes:
    """One consumer, one producer and the lanes between them.

    Delivery: with `exactly_once`, outputs, lane state and offsets are one Kafka transaction; with `at_least_once`,
    offsets follow the delivery reports and a crash repeats records.
    """

    def __init__(
        self,
        connection: Mapping[str, Any],
        membership: Membership,
        *,
        guarantee: Guarantee = "exactly_once",
        limits: Limits | None = None,
        keep: Keep | None = None,
        tells_ends: bool = False,
    ) -> None:
        """Make the clients; nothing joins the group before `start`.

        Args:
            connection: librdkafka properties that every client shares: brokers, security.
            membership: this slot's place in the group.
            guarantee: of the sink.
            limits: of what is held while a transaction commits.
            keep: makes what keeps lane state beside its topic; by default the steps do it in memory.
            tells_ends: whether `positions` tells the end of a log that ends with markers.
        """
        self._membership = membership
        properties = consumer_properties(connection, membership) | {"enable.partition.eof": tells_ends}
        self._consumer = Consumer(properties, logger=log)
        self.count = 0
        """How many lanes the group has; 0 before `start`."""
        self._admin = AdminClient({**connection, "log_level": QUIET})  # kept: its futures die with it
        self._roll_call = RollCall(
            self._admin,
            connection,
            group=membership.group,
            name=membership.name,
            events=membership.events,
            other=membership.state,
        )
        self._watch = TopicWatch(self._admin, membership.events, [membership.state, *membership.topics.values()])
        places = Places.of(membership, ends={} if keep else None, topic_id=lambda: self._watch.topic_id)
        home = keep(places, self._admin) if keep else InSteps()
        self._restore = Restore(connection, self._admin, membership.state, membership.group, home)
        self._exactly_once = guarantee == "exactly_once"
        delivery = deliver(guarantee, connection, membership, places, admin=self._admin, consumer=self._consumer)
        self.transactions = Transactions(delivery, limits, home)
        self._start: dict[int, int] = {}
        """Assigned lane, not yet open, to the group's committed offset; negative where there is none."""
        self._closed = ClosedLanes()
        self._restored: dict[int, Open] = {}
        """Lane to its state, where nothing could be read yet."""
        self._taken_up: dict[int, tuple[Open, int]] = {}
        """Lane whose state is on its way through the stages to that state and the offset at which it will begin."""
        self._again: dict[int, Open] = {}
        """Lane to its state, where stages have not taken all of it yet."""
        self._next: dict[int, int] = {}
        """Open lane to the next offset to read."""
        self._ends: dict[int, int] = {}
        """Lane to where its log was found to end last, behind its last event."""
        self._lags = LaneLags(self._consumer, membership.events)
        self._control: deque[Open | Close] = deque()
        self._joined = False
        self.in_flight = 0
        """Number of the poll that has not reached the sink yet; 0 when the flow is empty."""

    def start(self) -> None:
        """Begin to end this slot's past transaction, and join the group; a second call does nothing."""
        if self.count:
            return
        self.transactions.start()
        events = self._membership.events
        topic = self._consumer.list_topics(events, timeout=CALL_SECONDS).topics[events]
        if topic.error is not None:
            raise TopicsUnfit(f"topic {events}: {topic.error.str()}; `penstock topics` creates what is missing")
        self.count = len(topic.partitions)
        self._roll_call.begin(self.count)
        self._consumer.subscribe([events], on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._lost)

    def joined(self) -> bool:
        """Say whether the group has given out all lanes since this slot joined it, be it none to this one."""
        return self._joined and self._roll_call.complete

    def owned(self) -> list[int]:
        """List the lanes that are open."""
        return sorted(self._next)

    def positions(self) -> dict[int, tuple[int, int]]:
        """Open lane to the next offset to read, and to how far its log is known to have nothing but what was read."""
        return {lane: (following, max(following, self._ends.get(lane, 0))) for lane, following in self._next.items()}

    def broken(self) -> list[str]:
        """Say why lanes of this slot are not read and will not be until somebody mends them; the others go on."""
        return self._closed.messages()

    def opening(self) -> dict[int, float]:
        """Lane that is assigned and not yet open to how much of its state has been read, from 0 to 1."""
        return {lane: self._restore.share(lane) for lane in sorted([*self._start, *self._taken_up])}

    def poll(self, most: int, seconds: float) -> tuple[list[Open | Close], list[Message]]:
        """Serve the group, then read: lane control that happened, and up to `most` rows of open lanes.

        Waits for at most `seconds` when there is nothing. Rows are grouped by lane, in offset order.

        Raises:
            LanesLost: the session was lost.
            KafkaException: a broken world.
        """
        wait = 0.0 if self._restore.busy() or self._control or self._again else seconds
        # `consume(n, t)` waits all of `t` unless n rows came, so: one poll that waits, then what else is there.
        first = self._consumer.poll(wait)
        messages: list[Message] = [] if first is None else [first, *self._consumer.consume(most - 1, 0)]
        restored = self._restore.poll(0.0 if self._next or self._restored else seconds)
        for opened in (*self._restored.values(), *restored):
            self._open(opened)
        self._restored.clear()
        if self._again:  # one lane at a time, so that many large ones hold the others up no longer than one does
            self._control.append(self._again.pop(next(iter(self._again))))
        control = list(self._control)
        self._control.clear()
        return control, self._accept(messages)

    def tick(self) -> None:
        """Do what is due now and then, whether or not anything may be read."""
        self.transactions.serve()
        for lane, why in self.transactions.refused().items():
            if lane in self._next:
                self._give_up(lane, "too_large", why)
        self._roll_call.look()
        self._watch.look()
        self._lags.look(self._next, self.transactions.committed)

    def idle(self) -> None:
        """Serve the group while nothing may be read yet, so that joining and restoring go on meanwhile.

        Once a lane is open this would hand out its rows, and pausing costs a second, so then the group has to wait, for
        `max.poll.interval.ms` (5 minutes) at most; after that it gives the lanes of a slot that is not ready to others.
        """
        if not self._next:
            self._accept([message for message in (self._consumer.poll(0.0),) if message is not None])
        self._restored |= {opened.lane: opened for opened in self._restore.poll(0.0)}

    def close(self) -> None:
        """Commit what is finished and go. A static member's lanes wait for it until its session ends.

        The consumer is left as it is: a static member tells the group nothing by closing, and a client that closes when
        lanes have just come may hang for ever in the callback (librdkafka issue 4884).
        """
        self.transactions.flush()
        self.transactions.close()
        self._restore.drop([*self._start, *self._taken_up, *self._next])

    def _accept(self, messages: list[Message]) -> list[Message]:
        """Keep rows of open lanes from their next offset on: one call may return rows of a lane it just revoked."""
        rows = []
        for message in messages:
            error, lane, offset = message.error(), message.partition(), message.offset()
            if error is not None:
                if error.code() == KafkaError._PARTITION_EOF:
                    self._ends[lane] = offset
                else:
                    self._refuse(error, lane)
                continue
            if offset >= self._next.get(lane, offset + 1):
                self._next[lane] = offset + 1
                rows.append(message)
        rows = [row for row in rows if row.partition() in self._next]  # not of a lane that has just been given up
        rows.sort(key=lambda row: row.partition())
        return rows

    def _give_up(self, lane: int, why: Why, message: str) -> None:
        """Close an open lane, and leave it closed; what of it was not committed is decided when it opens again."""
        self._consumer.incremental_unassign([TopicPartition(self._membership.events, lane)])
        del self._next[lane]
        self._control.append(Close(lane))
        self._closed.close(lane, why, message)

    def _refuse(self, error: KafkaError, lane: int) -> None:
        if error.code() != KafkaError._AUTO_OFFSET_RESET:
            if not passes(error):
                raise KafkaException(error)
            log.warning("lane %s: %s", lane, error.str())
        elif lane in self._next:  # else it has just been revoked
            self._give_up(
                lane,
                "retention",
                f"lane {lane}: offset {self._next[lane]} no longer exists in {self._membership.events}; retention has "
                "deleted events that were never decided. To go on without them stop all slots, and run "
                f"`penstock lanes skip FILE {lane} --to earliest`, which says how many they are",
            )

    def _assigned(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        log.info("lanes %s assigned", sorted(partition.partition for partition in partitions))
        self.transactions.wait_until_fenced()
        if self._exactly_once:  # the mock cluster, where nothing is, takes 10 s to refuse
            self._watch.wait_until_known()
        # Committed offsets first (the read waits for an open transaction over them), then the state's end.
        committed = patiently(lambda: consumer.committed(partitions, timeout=CALL_SECONDS))
        for partition in committed:
            if partition.error is not None:
                raise KafkaException(partition.error)
            self._start[partition.partition] = partition.offset
        self._restore.begin([partition.partition for partition in committed])
        self._roll_call.soon()
        self._joined = True
        consumer.incremental_assign([])  # the lanes are fetched once their state is here

    def _open(self, opened: Open) -> None:
        lane = opened.lane
        committed = self._start.pop(lane)
        try:
            start = begin_at(
                opened, committed, self._membership.group, self._watch.topic_id, exactly_once=self._exactly_once
            )
        except LaneBroken as why:
            self._closed.close(lane, "state", str(why))
            return
        self._taken_up[lane] = opened, start
        self._control.append(opened)

    def opened(self, item: Open) -> None:
        """Read a lane's events from now on, its state having gone through all stages; or hand it in once more."""
        opened, start = self._taken_up.get(item.lane, (None, 0))
        if opened is None or opened.entries is not item.entries:  # revoked meanwhile
            return
        if not item.complete:
            self._again[item.lane] = opened
            return
        del self._taken_up[item.lane]
        self._next[item.lane] = max(start, 0)
        self._ends.pop(item.lane, None)
        self.transactions.opened(item.lane, self._next[item.lane])
        self._consumer.incremental_assign(
            [TopicPartition(self._membership.events, item.lane, start if start >= 0 else OFFSET_BEGINNING)]
        )

    def _revoked(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        """Commit what is finished; nothing is unfinished, since the source polls only when the flow is empty."""
        self.transactions.flush()
        lanes = sorted(partition.partition for partition in partitions)
        log.info("lanes %s revoked", lanes)
        self._restore.drop(lanes)
        self._restored = {lane: opened for lane, opened in self._restored.items() if lane not in lanes}
        # Of those that are read; none after a lost session, where the client has dropped them already.
        consumer.incremental_unassign([read for read in consumer.assignment() if read.partition in lanes])
        for lane in lanes:
            self._start.pop(lane, None)
            self._closed.forget(lane)
            self._again.pop(lane, None)
            if self._taken_up.pop(lane, None) or self._next.pop(lane, None) is not None:
                self._control.append(Close(lane))

    def _lost(self, _consumer: Consumer, partitions: list[TopicPartition]) -> None:
        raise LanesLost(
            f"{self._membership.name} lost lanes {sorted(p.partition for p in partitions)}: its session of "
            f"{self._membership.session_seconds:g} s ended; was the broker away, or this process stopped for a while?"
        )
