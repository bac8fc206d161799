"""Records that a topic does not take: found out in advance where it can be, and put down to their lane where it cannot.

One record that is too large fails the transaction that it is in, and every transaction that tries it again. So its lane
is closed, as a broken one is, and the others go on. Nothing of it is lost: the lane stands before that event.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from typing import Any

import orjson
from confluent_kafka import KafkaException, Producer
from confluent_kafka.admin import AdminClient, ConfigResource, ResourceType

from operators.batch import Record
from operators.held import Held
from operators.patience import CALL_SECONDS
from operators.record_producer import Places
from operators.transaction import RecordsTooLarge

log = logging.getLogger(__name__)

_ASK_SECONDS = 2.0
_AROUND = 100
"""Bytes of a batch of one record beside its key, value and headers: 61 of the batch, and lengths and times."""
_DEFAULT = 1_048_588
"""Kafka's own `max.message.bytes`."""
_BATCH = 1_000_000
"""librdkafka's own `batch.size`."""


class SizeLimits:
    """What the topics take at most, `max.message.bytes`: asked for at once, waited for when needed."""

    def __init__(self, admin: AdminClient, topics: Collection[str]) -> None:
        """Ask, without waiting."""
        wanted = [ConfigResource(ResourceType.TOPIC, topic) for topic in sorted(set(topics))]
        self._asked: Mapping[Any, Future[Any]] = admin.describe_configs(wanted, request_timeout=_ASK_SECONDS)
        self._limits: dict[str, int] | None = None

    def get(self) -> Mapping[str, int]:
        """Topic to bytes of a batch; without those whose settings may not be read."""
        if self._limits is None:
            self._limits = dict(self._answers())
        return self._limits

    def batch_bytes(self) -> int:
        """How large a batch may be: many small records together must not be what a topic refuses."""
        return min([_BATCH, *self.get().values()])

    def _answers(self) -> Iterable[tuple[str, int]]:
        for resource, answer in self._asked.items():
            try:
                yield resource.name, int(answer.result(_ASK_SECONDS)["max.message.bytes"].value)
            except (KafkaException, FutureTimeout, KeyError, ValueError) as failure:
                log.debug("what topic %s takes at most is not known: %r", resource.name, failure)


def refuse_too_large(
    held: Held, places: Places, limits: Mapping[str, int], transactional: Producer | None = None
) -> None:
    """Find out whose a record is that was not taken; returns where it is nobody's, and the failure is another one.

    Raises:
        RecordsTooLarge: it is that of some lanes, without which the rest can be committed.
    """
    lanes = too_large(held, places, limits)
    unknown = sorted({*places.topics.values(), places.state} - limits.keys())
    if unknown and not lanes:
        log.warning(
            "how large the records of %s may be is not known; Kafka's default, %d bytes, is assumed. May this client "
            "describe their configs?", unknown, _DEFAULT,
        )  # fmt: skip
        lanes = too_large(held, places, {**dict.fromkeys(unknown, _DEFAULT), **limits})
    if lanes:
        if transactional is not None:
            transactional.abort_transaction(CALL_SECONDS)
        raise RecordsTooLarge(lanes)


def too_large(held: Held, places: Places, limits: Mapping[str, int]) -> dict[int, str]:
    """Lane to what is wrong, for each lane with a record that is larger, before compression, than its topic takes."""
    found: dict[int, str] = {}
    for record in held.records:
        topic = places.topics[record.topic]
        size = _AROUND + _length(record.key) + _length(record.value)
        size += sum(len(name) + len(value) + 4 for name, value in record.headers)
        if size > limits.get(topic, size) and record.lane not in found:
            found[record.lane] = _told(record.lane, f"the record of {_origin(record)}", size, topic, limits[topic])
    for (lane, step, key), value in held.changes.items():
        size = _AROUND + len(step) + len(key) + _length(value)
        if size > limits.get(places.state, size) and lane not in found:
            found[lane] = _told(lane, f"an entry of the memory of {step}", size, places.state, limits[places.state])
    return found


def _length(data: bytes | None) -> int:
    return 0 if data is None else len(data)


def _origin(record: Record) -> str:
    try:
        offset = int(orjson.loads(record.value or b"")["origin"]["offset"])
    except (ValueError, TypeError, KeyError):
        return "an event"
    return f"event {record.lane}:{offset} (`--to {offset + 1}` passes over it)"


def _told(lane: int, what: str, size: int, topic: str, limit: int) -> str:
    return (
        f"lane {lane}: {what} has {size} bytes, and topic {topic} takes {limit}. Raise max.message.bytes of the topic "
        "(`kafka-configs.sh --alter`), and end this slot, which the launcher starts again; or stop all slots and give "
        f"the event up by `penstock lanes skip FILE {lane} --to OFFSET`"
    )
