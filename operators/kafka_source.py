"""The source: everything a slot reads, one poll at a time, as batches and lane control."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from dataclasses import replace
from operator import methodcaller

import numpy as np
from bytewax.inputs import DynamicSource, StatelessSourcePartition

from operators import metrics
from operators.batch import UNREADABLE, Batch, Headers, Item
from operators.lane_state import Message
from operators.lanes import Lanes
from operators.tide_gauge import TideGauge

_IDLE_SECONDS = 0.05
_MANY = 256
"""Rows in a batch from which on its fixed cost, some 2 ms, no longer counts."""
_GATE_PAUSE, _GATE_SECONDS = 0.005, 10.0


class LaneSource(DynamicSource[Item]):
    """Polls all lanes of a slot with one consumer.

    Delivery: an event's offset is committed only together with its outputs, by `LaneSink` on the same `Lanes`.
    """

    def __init__(
        self,
        lanes: Lanes,
        *,
        most: int = 1024,
        gate: Callable[[float], bool] = lambda _arrived: True,
        tides: TideGauge | None = None,
        stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        """Read up to `most` events a poll.

        Args:
            lanes: shared with the sink.
            most: events in one batch.
            gate: whether an event that arrived at a time (`time.monotonic()`) may be decided yet; while it says no,
                nothing is read.
            tides: says how far lanes have been read; batches then carry it, and one without rows where nothing comes.
            stopping: whether to end; the flow is then drained and committed.
        """
        self.lanes, self.most, self.gate, self.tides, self.stopping = lanes, most, gate, tides, stopping

    def build(self, step_id: str, worker_index: int, worker_count: int) -> StatelessSourcePartition[Item]:
        """Join the group, if that is not done. One batch in flight is true with one worker only: more are refused."""
        if worker_count != 1:
            raise ValueError(
                f"{step_id} runs with one Bytewax worker per process, not {worker_count}: add slots instead"
            )
        self.lanes.start()
        return _Poller(self)


class _Poller(StatelessSourcePartition[Item]):
    def __init__(self, source: LaneSource) -> None:
        self._source = source
        self._lanes = source.lanes
        self._polls = itertools.count(1)
        self._rows = 0
        """Of the last poll."""

    def next_batch(self) -> list[Item]:
        source, lanes = self._source, self._lanes
        metrics.polled(time.monotonic())
        lanes.tick()
        if source.stopping():
            lanes.transactions.flush()
            raise StopIteration
        if lanes.in_flight or lanes.transactions.full():
            return []
        if self._rows < _MANY and not lanes.opening():
            # What is read now waits for the commit at hand in any case. What comes meanwhile is one batch, not five.
            # Not for long: a commit may itself wait for a rebalance, which goes on only while the consumer is polled.
            lanes.transactions.settle(_IDLE_SECONDS)
        if not source.gate(time.monotonic() + _IDLE_SECONDS):
            lanes.idle()
            return []
        control, messages = lanes.poll(source.most, _IDLE_SECONDS)
        self._rows, batch = len(messages), None
        if messages:
            metrics.count_poll(len(messages))
            batch = to_batch(messages, next(self._polls))
            self._wait_for_gate(batch.arrived_at)
        if source.tides is not None:
            batch = self._with_tides(batch, source.tides)
        if batch is None:
            return list(control)
        lanes.in_flight = batch.poll
        return [*control, batch]

    def _with_tides(self, batch: Batch | None, gauge: TideGauge) -> Batch | None:
        """Add the tides that have moved to a batch, which there need not be."""
        if batch is not None:
            gauge.read(batch.lane, batch.append_ms)
        positions = self._lanes.positions()
        moved = gauge.moved({lane: reached for lane, (_, reached) in positions.items()})
        if not moved:
            return batch
        batch = batch if batch is not None else to_batch([], next(self._polls))
        progress = {lane: positions[lane][0] for lane in moved}
        tides = {lane: {lane: tide} for lane, tide in moved.items()}
        return replace(batch, progress={**progress, **batch.progress}, tides=tides)

    def _wait_for_gate(self, arrived: float) -> None:
        """The poll took longer than the gate foresaw: wait for what is in force to be known."""
        deadline = time.monotonic() + _GATE_SECONDS
        while not self._source.gate(arrived):
            if time.monotonic() > deadline:
                raise TimeoutError(
                    f"the registry log could not be read to its end within {_GATE_SECONDS:.0f} s, and deciding without "
                    "knowing what is in force is not allowed; is the registry topic reachable?"
                )
            time.sleep(_GATE_PAUSE)


def to_batch(messages: list[Message], poll: int) -> Batch:
    """Turn rows grouped by lane into columns."""
    topic = messages[0].topic() if messages else ""
    lanes = [message.partition() for message in messages]
    offsets = [message.offset() for message in messages]
    return Batch(
        topic=topic,
        lane=np.array(lanes, np.int32),
        offset=np.array(offsets, np.int64),
        append_ms=np.array([message.timestamp()[1] for message in messages], np.int64),
        keys=[message.key() for message in messages],
        values=[message.value() for message in messages],
        headers=[headers_of(message) for message in messages],
        arrived_at=time.monotonic(),
        poll=poll,
        progress=dict(zip(lanes, (offset + 1 for offset in offsets), strict=True)),
    )


def headers_of(message: Message) -> Headers:
    """A header name that is not UTF-8 makes the client raise, once; later it gives names that crash Python."""
    try:
        return _ask_headers(message) or []
    except (SystemError, UnicodeDecodeError):
        return UNREADABLE


_ask_headers: Callable[[Message], Headers | None] = methodcaller("headers")
"""The client gives an answer and leaves an error behind. Where `message.headers()` has been called often, Python does
not look for that, and the error strikes the next line that looks, outside of any `try` around the call."""
