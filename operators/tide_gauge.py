"""The tide of each lane: the moment up to which everything that is in it has been read.

The broker is asked now and then where the lanes end, and the moment of asking is kept. Once a lane has been read up to
there, everything that was appended before that moment has been read, so that is its tide: it moves on with the clock
while nothing comes, and stands while the broker cannot be asked. A lane that lags has the append time of the last event
that was read. What is in a transaction that is still open counts as not appended yet.

Moments are this machine's clock, append times the broker's: a tide is wrong by as much as these differ.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any

import numpy as np
import numpy.typing as npt
from confluent_kafka import IsolationLevel, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

_CALL_SECONDS = 5.0


class TideGauge:
    """Reads the tides of the lanes of one topic; never blocks.

    Args:
        admin: of the cluster.
        events: the topic.
        interval: seconds from one question, and from one answer of `moved`, to the next.
        now: Unix seconds.
    """

    def __init__(
        self, admin: AdminClient, events: str, *, interval: float, now: Callable[[], float] = time.time
    ) -> None:
        self._admin, self._events, self._interval, self._now = admin, events, interval, now
        self._asked: Mapping[TopicPartition, Future[Any]] | None = None
        self._asked_ms = 0
        self._ask_at = self._tell_at = 0.0
        """`time.monotonic()` of the next question and of the next answer."""
        self._ends: dict[int, tuple[int, int]] = {}
        """Lane to where it ended, and at which moment."""
        self._tides: dict[int, int] = {}
        self._told: dict[int, int] = {}

    def read(self, lanes: npt.NDArray[np.int32], append_ms: npt.NDArray[np.int64]) -> None:
        """Take rows that have been read, grouped by lane, in offset order: their lanes and append times, (n,)."""
        last = np.flatnonzero(np.append(lanes[1:] != lanes[:-1], True))
        now = self._now_ms()
        for lane, at in zip(lanes[last].tolist(), append_ms[last].tolist(), strict=True):
            self._rise(lane, min(at, now))  # a producer's time may be any

    def moved(self, reached: Mapping[int, int]) -> dict[int, int]:
        """Ask if it is time; lane to tide (Unix ms) of lanes whose tide has moved, once in an interval.

        Args:
            reached: open lane to the offset up to which it has been read.
        """
        now = time.monotonic()
        self._listen()
        if self._asked is None and reached and now >= self._ask_at:
            self._ask(reached)
            self._ask_at = now + self._interval
        if now < self._tell_at:
            return {}
        for lane, (end, moment) in self._ends.items():
            if reached.get(lane, -1) >= end:
                self._rise(lane, moment)
        moved = {lane: self._tides[lane] for lane in reached if self._tides.get(lane) != self._told.get(lane)}
        if moved:
            self._told |= moved
            self._tell_at = now + self._interval
        return moved

    def _rise(self, lane: int, moment: int) -> None:
        self._tides[lane] = max(moment, self._tides.get(lane, 0))

    def _ask(self, reached: Mapping[int, int]) -> None:
        self._asked_ms = self._now_ms()
        self._asked = self._admin.list_offsets(
            {TopicPartition(self._events, lane): OffsetSpec.latest() for lane in reached},
            isolation_level=IsolationLevel.READ_COMMITTED,
            request_timeout=_CALL_SECONDS,
        )

    def _listen(self) -> None:
        if self._asked is None or not all(answer.done() for answer in self._asked.values()):
            return
        asked, self._asked = self._asked, None
        for partition, answer in asked.items():
            try:
                self._ends[partition.partition] = answer.result().offset, self._asked_ms
            except KafkaException:  # its broker is away: the tide stands, and the views grow old
                self._ends.pop(partition.partition, None)

    def _now_ms(self) -> int:
        return int(self._now() * 1000)
