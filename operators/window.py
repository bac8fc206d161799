"""Keep the windows of a view: what its keys' events were like of late, stored so that it can be read at any moment."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

from bytewax.dataflow import operator
from bytewax.operators import KeyedStream

from operators.batch import Batch, Change, Item
from operators.job_metrics import count_view_late
from operators.measure import measured_in
from operators.stage import lane_stage
from state.key_windows import KeyWindows
from state.view_windows import ViewWindows


def step_of(view: str) -> str:
    """The step under which a view's windows are stored."""
    return f"view-{view}"


class LaneView:
    """The windows of one view in one lane. `state.view_windows` says what they mean."""

    def __init__(self, lane: int, spec: ViewWindows) -> None:
        self._lane, self._spec, self._windows = lane, spec, KeyWindows(spec)

    def open(self, entries: Mapping[bytes, bytes]) -> None:
        """Take the lane's stored windows."""
        self._windows.restore(entries)

    def opening(self, entries: Mapping[bytes, bytes]) -> Iterator[None]:
        """Take them some hundreds at a time."""
        return self._windows.restoring(entries)

    def work(self, batch: Batch) -> Batch:
        """Add the rows to the windows of their keys."""
        measured = measured_in(batch, self._spec)
        rekeyed = len(batch.source_lane) > 0
        tally = self._windows.observe(
            measured.keys,
            batch.event_ms.tolist(),
            behind_ms=batch.behind_ms.tolist(),
            values=measured.values,
            lanes=(batch.source_lane if rekeyed else batch.lane).tolist(),
            offsets=(batch.source_offset if rekeyed else batch.offset).tolist(),
        )
        for taken in ("included", "ignored", "too_late", "overfull"):
            if n := getattr(tally, taken):
                count_view_late(self._spec.name, taken, n)
        step = step_of(self._spec.name)
        changes = [Change(self._lane, step, key, value) for key, value in self._windows.changes()]
        return replace(batch, changes=(*batch.changes, *changes))


@operator
def window(step_id: str, up: KeyedStream[Item], *, view: str, build: Callable[[int], LaneView]) -> KeyedStream[Item]:
    """Keep the windows of one view.

    In: `Batch` pieces keyed by lane, measured, with `behind_ms`. Out: the same.
    Leaves: nothing; events that came late follow the view's rule and are counted.
    State: step `view-<name>`, one entry per key, deleted by event time when no window has anything of it.
    """
    return lane_stage(step_of(view), up, build)
