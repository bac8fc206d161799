"""The sink: what a batch decided, remembered and finished goes into the next transaction."""

from __future__ import annotations

from bytewax.outputs import DynamicSink, StatelessSinkPartition

from operators.batch import Batch, Item, Open
from operators.lanes import Lanes


class LaneSink(DynamicSink[Item]):
    """Writes all output topics, the lane state and the offsets of a slot.

    Delivery: exactly once or at least once, as `Lanes` was made. A failed transaction raises, the process leaves, and
    its lanes go on from their committed offsets.
    """

    def __init__(self, lanes: Lanes) -> None:
        """Share `lanes` with the source."""
        self._lanes = lanes

    def build(self, step_id: str, worker_index: int, worker_count: int) -> StatelessSinkPartition[Item]:
        """Bytewax calls this once per worker; there is one."""
        return _Writer(self._lanes)


class _Writer(StatelessSinkPartition[Item]):
    def __init__(self, lanes: Lanes) -> None:
        self._lanes = lanes

    def write_batch(self, items: list[Item]) -> None:
        for item in items:
            if isinstance(item, Batch):
                self._lanes.transactions.add(item)
                self._lanes.in_flight = 0
            elif isinstance(item, Open):
                self._lanes.opened(item)
