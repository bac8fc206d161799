"""Lane state comes back: a compacted topic is read to its end before a lane's first event."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from confluent_kafka import OFFSET_BEGINNING, Consumer, IsolationLevel, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from operators import metrics
from operators.batch import Open
from operators.patience import CALL_SECONDS, listed, passes
from operators.state_home import InSteps, StateHome
from state.entries import Entry, LaneEntries

log = logging.getLogger(__name__)

Message: TypeAlias = Any
"""A consumed record. The client's stubs make every field optional, also those that every record has."""

_CHUNK = 2000
_TELL_SECONDS = 2.0

QUIET = 2
"""`log_level` of clients beside a slot's main ones, which say what is wrong with the brokers for all of them."""


@dataclass
class _Lane:
    end: int
    entries: LaneEntries
    began: float = field(default_factory=time.monotonic)
    chunk: list[Entry] = field(default_factory=list)
    read: int = 0
    at: int = 0
    """Offset of the last record read; compaction leaves gaps, so it says how far, and `read` says how many."""

    def left(self) -> int:
        """Records yet to be read, at most."""
        return max(self.end - self.at - 1, 0)

    def __post_init__(self) -> None:
        self.start = self.entries.following
        self.at = max(self.start - 1, 0)

    def unread(self) -> bool:
        """Whether there is anything between what is on disk and the end."""
        return self.start < self.end

    def add(self, message: Message) -> None:
        self.chunk.append((message.key(), message.value()))
        self.at = message.offset()

    def take(self) -> None:
        """Hand over what was read: a store on disk writes a chunk in one piece."""
        if self.chunk:
            self.entries.take(self.chunk, self.at + 1)
            self.read += len(self.chunk)
            self.chunk = []


class Restore:
    """Reads the state of lanes that were just assigned, a chunk at a time, so that other lanes go on meanwhile."""

    def __init__(
        self, connection: Mapping[str, Any], admin: AdminClient, topic: str, group: str, home: StateHome | None = None
    ) -> None:
        """Read compacted topic `topic`, whose partitions are the lanes, into `home`, which may have most of it.

        Args:
            connection: librdkafka properties that every client shares.
            admin: of the same cluster.
            topic: of the state.
            group: joined by others.
            home: what keeps lane state; by default the steps do.
        """
        self._topic, self._admin, self._home = topic, admin, home or InSteps()
        self._consumer = Consumer(
            {
                **connection,
                "log_level": QUIET,
                # The client wants one and looks for its coordinator, which access rules must allow: so no other than
                # the slot's own. Nothing joins it here and nothing is committed.
                "group.id": group,
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "isolation.level": "read_committed",
                "auto.offset.reset": "earliest",
                "queued.max.messages.kbytes": 16384,
                # A fetch that finds a lane already at its end waits, and with it the other lanes: half a second.
                "fetch.wait.max.ms": 10,
            }
        )
        self._lanes: dict[int, _Lane] = {}
        self._read = 0
        self._told = 0.0, 0
        """When and at how many records the log was told of it last."""
        self._consumer.list_topics(topic, timeout=CALL_SECONDS)  # a first fetch without metadata costs a second

    def begin(self, lanes: list[int]) -> None:
        """Start to read these lanes, up to their ends as they are now.

        Call it after the lanes' committed offsets were read: that read waits for an open transaction over them, so what
        belongs to those offsets is before the end. The end is the log's, not the last stable one.
        """
        latest = OffsetSpec.latest()
        request = {TopicPartition(self._topic, lane): latest for lane in lanes}
        futures = self._admin.list_offsets(
            request, isolation_level=IsolationLevel.READ_UNCOMMITTED, request_timeout=CALL_SECONDS
        )
        ends = {partition.partition: listed(future) for partition, future in futures.items()}
        for lane, entries in self._home.open(ends).items():
            self._lanes[lane] = _Lane(ends[lane], entries)
        self._told = time.monotonic(), self._read
        unread = [lane for lane in lanes if self._lanes[lane].unread()]
        if unread:
            self._consumer.incremental_assign(
                [TopicPartition(self._topic, lane, self._lanes[lane].start or OFFSET_BEGINNING) for lane in unread]
            )

    def drop(self, lanes: list[int]) -> None:
        """Forget lanes that were revoked, open or not."""
        self._unassign([lane for lane in lanes if lane in self._lanes and self._lanes[lane].unread()])
        for lane in lanes:
            self._lanes.pop(lane, None)
        self._home.close(lanes)
        self._tell()

    def busy(self) -> bool:
        """Say whether any lane is being read."""
        return bool(self._lanes)

    def share(self, lane: int) -> float:
        """How much of a lane's state has been read, from 0 to 1. May be asked from any thread."""
        state = self._lanes.get(lane)
        return 1.0 if state is None or not state.end else 1 - state.left() / state.end

    def poll(self, seconds: float) -> list[Open]:
        """Read a chunk, waiting for at most `seconds`; the lanes that are now complete."""
        if not self._lanes:
            return []
        done = [lane for lane, state in self._lanes.items() if not state.unread()]
        if not done:
            chunk: list[Message] = list(self._consumer.consume(_CHUNK, 0)) or [self._consumer.poll(seconds)]
            done = [message.partition() for message in chunk if message is not None and self._take(message)]
            for state in self._lanes.values():
                state.take()
            self._unassign(done)
        opened = [self._open(lane) for lane in done]
        self._tell()
        return opened

    def _take(self, message: Message) -> bool:
        """Take a record; whether its lane has been read to its end."""
        state, error = self._lanes.get(message.partition()), message.error()
        if error is None:
            if state is not None:
                state.add(message)
                self._read += 1
        elif error.code() == KafkaError._PARTITION_EOF:
            # The position never reaches the end of a log that ends with a transaction's marker: the end-of-partition
            # event's own offset does.
            return state is not None and message.offset() >= state.end
        elif not passes(error):
            raise KafkaException(error)
        return False

    def _tell(self) -> None:
        """Show how far the lanes are: in the metrics after each chunk, in the log while it takes long."""
        left = {lane: state.left() for lane, state in self._lanes.items()}
        metrics.set_restore(self._read, left)
        now = time.monotonic()
        if not left or (seconds := now - self._told[0]) < _TELL_SECONDS:
            return
        log.info(
            "reading back the state of lanes %s: %d records so far, %.0f %% of their log, %.0f records/s",
            sorted(self._lanes),
            sum(state.read for state in self._lanes.values()),
            100 - 100 * sum(left.values()) / sum(state.end for state in self._lanes.values()),
            (self._read - self._told[1]) / seconds,
        )
        self._told = now, self._read

    def _open(self, lane: int) -> Open:
        state = self._lanes.pop(lane)
        seconds = time.monotonic() - state.began
        metrics.observe_restore(seconds)
        if state.read or state.start:
            after = f", after those on disk to offset {state.start}" if state.start else ""
            log.info("lane %d restored: %d state records in %.2f s%s", lane, state.read, seconds, after)
        return Open(lane, state.entries.opened())

    def _unassign(self, lanes: list[int]) -> None:
        if lanes:
            self._consumer.incremental_unassign([TopicPartition(self._topic, lane) for lane in lanes])
