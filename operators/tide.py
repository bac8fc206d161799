"""Say up to when a lane's views have all of the source: the age of their values is counted from it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import bytewax.operators as op
from bytewax.dataflow import Stream, operator

from operators.batch import Batch, Change, Item
from operators.job_metrics import set_tides
from state.tide import KEY, STEP, pack_tide


class TideTable:
    """What each open lane has heard of its sources. Lost with the process, and heard again within a tide's interval."""

    def __init__(self, sources: Callable[[], int]) -> None:
        """Expect `sources()` lanes of the source in each lane: a lane's tide is the least of theirs."""
        self._sources = sources
        self._heard: dict[int, dict[int, int]] = {}
        self._told: dict[int, int] = {}

    def forget(self, lane: int) -> None:
        """The lane is opened or closed: begin anew."""
        self._heard.pop(lane, None)
        self._told.pop(lane, None)
        set_tides(self._told)

    def work(self, batch: Batch) -> Batch:
        """Write the tides that have moved; the rows have come to their end."""
        changes = []
        for lane, heard in batch.tides.items():
            known = self._heard.setdefault(lane, {})
            known.update(heard)
            tide = min(known.values())
            if len(known) >= self._sources() and tide != self._told.get(lane):
                self._told[lane] = tide
                changes.append(Change(lane, STEP, KEY, pack_tide(tide)))
        if changes:
            set_tides(self._told)
        return replace(batch.take(slice(0, 0)), changes=(*batch.changes, *changes))


@operator
def tide(step_id: str, up: Stream[Item], *, table: TideTable) -> Stream[Item]:
    """Write the tides of lanes.

    In: batches with `tides`, also without rows. Out: the same without rows: they are in the views now.
    State: one entry per lane, in the same transaction as what it is about; see `state.tide`.
    """

    def on_items(items: list[Item]) -> list[Item]:
        out: list[Item] = []
        for item in items:
            if isinstance(item, Batch):
                out.append(table.work(item))
            else:
                table.forget(item.lane)
                out.append(item)
        return out

    return op.flat_map_batch("tide", up, on_items)
