"""How far each open lane is behind its events, told as a metric every second."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping

from confluent_kafka import Consumer, TopicPartition

from operators import metrics

_SECONDS = 1.0


class LaneLags:
    """Events of each lane that are not committed yet, by what the last fetch said of the lane's end."""

    def __init__(self, consumer: Consumer, events: str) -> None:
        """Ask `consumer`, which reads `events`; only its own thread may call `look`."""
        self._consumer, self._events = consumer, events
        self._told_at = 0.0

    def look(self, lanes: Iterable[int], committed: Mapping[int, int]) -> None:
        """Tell the metrics when it is time: open lanes, and lane to the next offset that is not decided."""
        now = time.monotonic()
        if now - self._told_at < _SECONDS:
            return
        self._told_at = now
        lags = {}
        for lane in lanes:
            _, high = self._consumer.get_watermark_offsets(TopicPartition(self._events, lane), cached=True)
            lags[lane] = max(high - committed.get(lane, 0), 0)
        metrics.set_lane_lags(lags)
