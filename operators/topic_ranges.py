"""Reading parts of topics from one offset to another: what is committed there, once, in bounded memory, in no group."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from typing import Any

from confluent_kafka import Consumer, IsolationLevel, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from operators.lane_state import QUIET, Message
from operators.patience import CALL_SECONDS, listed, passes, plain

_MOST = 1000


class TopicUnreadable(Exception):
    """A topic cannot be read; the message says which, why, and what to look at."""


class TopicRanges:
    """Reads ranges of topics. Use it as a context manager.

    Args:
        connection: librdkafka properties; `bootstrap.servers` at least.
        patience: seconds without anything new after which a range is given up.
    """

    def __init__(self, connection: Mapping[str, Any], *, patience: float = 60.0) -> None:
        self._patience, self._closed = patience, False
        properties = {**connection, "log_level": QUIET}
        self._admin = AdminClient(properties)
        self._consumer = Consumer(
            {
                **properties,
                "group.id": f"penstock-ranges-{os.getpid()}",  # the client wants one; nothing is committed to it
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "isolation.level": "read_committed",
                "auto.offset.reset": "error",  # what was deleted before it was read must be told, not passed over
                "fetch.wait.max.ms": 50,
                "queued.max.messages.kbytes": 16384,
            }
        )

    def __enter__(self) -> TopicRanges:
        return self

    def __exit__(self, *_: object) -> None:
        self._closed = True
        self._consumer.close()

    def lanes(self, topic: str) -> list[int]:
        """The topic's partitions.

        Raises:
            TopicUnreadable: there is no such topic, or no broker answers.
        """
        try:
            found = self._consumer.list_topics(topic, timeout=CALL_SECONDS).topics[topic]
        except KafkaException as failure:
            raise TopicUnreadable(
                f"could not ask for topic {topic}: {plain(failure)}; are --bootstrap and --client-config right?"
            ) from None
        if found.error is not None or not found.partitions:
            raise TopicUnreadable(f"there is no topic {topic}; is it the right pipeline and the right cluster?")
        return sorted(found.partitions)

    def cluster(self) -> str:
        """The cluster's id; raises `TopicUnreadable`."""
        try:
            return str(self._consumer.list_topics(timeout=CALL_SECONDS).cluster_id)
        except KafkaException as failure:
            raise TopicUnreadable(
                f"could not reach the cluster: {plain(failure)}; are --bootstrap and --client-config right?"
            ) from None

    def bounds(self, topic: str) -> dict[int, tuple[int, int]]:
        """Each partition's first offset and the end of its log.

        The end of the log, not of what is committed: a record that was committed earlier may stand behind the begin of
        a transaction that is still open, and whoever must know it has to wait for that one's end. `read` does.
        """
        lanes = self.lanes(topic)
        first = self._ask(topic, dict.fromkeys(lanes, OffsetSpec.earliest()))
        end = self._ask(topic, dict.fromkeys(lanes, OffsetSpec.latest()))
        return {lane: (first[lane], end[lane]) for lane in lanes}

    def since(self, topic: str, moments: Mapping[int, int]) -> dict[int, int]:
        """Partition and time (Unix milliseconds) to the first offset at or after it; the end where there is none."""
        if not moments:
            return {}
        found = self._ask(topic, {lane: OffsetSpec.for_timestamp(max(at, 0)) for lane, at in moments.items()})
        ends = self.bounds(topic)
        return {lane: offset if offset >= 0 else ends[lane][1] for lane, offset in found.items()}

    def read(self, topic: str, ranges: Mapping[int, tuple[int, int]]) -> Iterator[list[Message]]:
        """Give the records of a topic, each partition's in order, at most 1,000 at a time.

        Args:
            topic: its name.
            ranges: partition to the first offset and the one at which to stop.

        Raises:
            TopicUnreadable: a range could not be read to its end: it was deleted meanwhile, or nothing came for
                `patience` seconds, as where a transaction stays open.
        """
        stops = {lane: stop for lane, (start, stop) in ranges.items() if start < stop}
        self._consumer.incremental_assign([TopicPartition(topic, lane, ranges[lane][0]) for lane in stops])
        deadline = time.monotonic() + self._patience
        try:
            while stops:
                if found := self._some(topic, stops):
                    deadline = time.monotonic() + self._patience
                    yield found
                    deadline = max(deadline, time.monotonic() + self._patience)  # what the caller took is not ours
                elif time.monotonic() > deadline:
                    raise TopicUnreadable(
                        f"nothing came from {topic} partition {min(stops)} for {self._patience:.0f} s although its log "
                        "goes on; is the broker there, or a transaction still open?"
                    )
        finally:
            self._release(topic, list(stops))

    def _some(self, topic: str, stops: dict[int, int]) -> list[Message]:
        """What has come; ranges that are at their end leave `stops`."""
        first = self._consumer.poll(0.2)
        chunk: list[Message] = [] if first is None else [first, *self._consumer.consume(_MOST - 1, 0)]
        found: list[Message] = []
        for message in chunk:
            lane, error = message.partition(), message.error()
            if error is not None and error.code() != KafkaError._PARTITION_EOF:
                if not passes(error):
                    raise TopicUnreadable(f"could not read {topic} partition {lane}: {error.str()}")
                continue
            if lane not in stops or message.topic() != topic:
                continue
            if error is None and message.offset() < stops[lane]:
                found.append(message)
            # The last offsets may be a transaction's markers, which are never given out: the end's own offset says so.
            if message.offset() + (error is None) >= stops[lane]:
                del stops[lane]
                self._release(topic, [lane])
        return found

    def _release(self, topic: str, lanes: list[int]) -> None:
        if lanes and not self._closed:  # a reading that was left early may end after the client
            self._consumer.incremental_unassign([TopicPartition(topic, lane) for lane in lanes])

    def _ask(self, topic: str, wanted: Mapping[int, OffsetSpec]) -> dict[int, int]:
        request = {TopicPartition(topic, lane): spec for lane, spec in wanted.items()}
        try:
            futures = self._admin.list_offsets(
                request, isolation_level=IsolationLevel.READ_UNCOMMITTED, request_timeout=CALL_SECONDS
            )
            return {part.partition: listed(future) for part, future in futures.items()}
        except (KafkaException, TimeoutError) as failure:
            raise TopicUnreadable(f"could not ask for the offsets of {topic}: {plain(failure)}") from None
