"""How a stage becomes Bytewax steps: plain functions on batches, and memory that belongs to a lane.

`stage` is for stages without memory: one call per poll, all lanes together. Between `by_lane` and `together` a poll
travels as one piece per lane, and `lane_stage` gives each lane its own memory, which opens and closes with the lane.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Protocol, TypeAlias, runtime_checkable

import bytewax.operators as op
from bytewax.dataflow import Stream, operator
from bytewax.operators import KeyedStream, StatefulBatchLogic

from operators import metrics
from operators.batch import Batch, Close, Item, Open, join

Work: TypeAlias = Callable[[Batch], Batch]

_OPENING_SECONDS = 0.01
"""How long a stage may take entries before it lets other lanes go on: 1,000,000 entities at once took 2 s."""


class LaneWork(Protocol):
    """The memory of one step for one lane."""

    def open(self, entries: Mapping[bytes, bytes]) -> None:
        """Take the lane's state as it was at its committed offset: state key to value."""

    def work(self, batch: Batch) -> Batch:
        """Answer rows of this lane, in offset order; `changes` of the result tell what to remember."""


@runtime_checkable
class LargeLaneWork(LaneWork, Protocol):
    """A memory that may have so many entries that taking them all at once would hold up other lanes."""

    def opening(self, entries: Mapping[bytes, bytes]) -> Iterator[None]:
        """Do what `open` does, and pause every millisecond or so; to be finished before the first row."""


def stage(verb: str, up: Stream[Item], work: Work) -> Stream[Item]:
    """Apply `work` to every batch, let lane control pass, and count both under the label `verb`.

    In: any item. Out: the same items in the same order. State: none.
    """

    def on_items(items: list[Item]) -> list[Item]:
        return [_timed(verb, work, item) if isinstance(item, Batch) else item for item in items]

    return op.flat_map_batch(verb, up, on_items)


@operator
def by_lane(step_id: str, up: Stream[Item]) -> KeyedStream[Item]:
    """Cut each batch into one piece per lane, keyed by lane.

    In: any item. Out: control items and pieces with the lane's number as key; the last piece of a batch says so, which
    `together` relies on.
    """

    def cut(items: list[Item]) -> list[tuple[str, Item]]:
        return [piece for item in items for piece in _pieces(item)]

    return op.flat_map_batch("cut", up, cut)


@operator
def together(step_id: str, up: KeyedStream[Item]) -> Stream[Item]:
    """Join the pieces of a poll again, so that what follows makes one call for all of them.

    In: the pieces of `by_lane`, in any order of lanes. Out: one batch per poll. State: the pieces of the poll in
    flight, at most one poll since the source waits for the sink.
    """
    waiting: dict[int, list[Batch]] = {}

    def gather(items: list[tuple[str, Item]]) -> list[Item]:
        out: list[Item] = []
        for _, item in items:
            if not isinstance(item, Batch):
                out.append(item)
                continue
            pieces = waiting.setdefault(item.poll, [])
            pieces.append(item)
            if len(pieces) == item.pieces:
                out.append(join(waiting.pop(item.poll)))
        return out

    return op.flat_map_batch("gather", up, gather)


def lane_stage(verb: str, up: KeyedStream[Item], build: Callable[[int], LaneWork]) -> KeyedStream[Item]:
    """Give each lane a memory of its own, opened by `Open` with the entries of step `verb` and dropped by `Close`.

    In and out: items keyed by lane. State: what `build(lane)` keeps; it is made durable by the changes that its batches
    carry, so Bytewax's own snapshots are empty.
    """

    class Lane(StatefulBatchLogic[Item, Item, None]):
        def __init__(self) -> None:
            self.memory: LaneWork | None = None
            self.opening: Iterator[None] = iter(())

        def on_batch(self, values: list[Item]) -> tuple[list[Item], bool]:
            out: list[Item] = []
            for item in values:
                if isinstance(item, Open):
                    if self.memory is None:
                        self.memory = build(item.lane)
                        self.opening = _opening(self.memory, item.entries.get(verb, {}))
                    out.append(item if _advance(self.opening) else replace(item, complete=False))
                elif isinstance(item, Close):
                    self.memory = None
                    out.append(item)
                elif self.memory is None:
                    raise RuntimeError(f"{verb}: rows of lane {item.lane[:1].tolist()} came before the lane was opened")
                else:
                    deque(self.opening, maxlen=0)  # nothing is left of it where the source waited, as it does
                    out.append(_timed(verb, self.memory.work, item))
            return out, self.memory is None

        def snapshot(self) -> None:
            return None

    return op.stateful_batch(verb, up, lambda _resume: Lane())


def _opening(memory: LaneWork, entries: Mapping[bytes, bytes]) -> Iterator[None]:
    if isinstance(memory, LargeLaneWork):
        return memory.opening(entries)
    memory.open(entries)
    return iter(())


def _advance(opening: Iterator[None]) -> bool:
    """Take entries for `_OPENING_SECONDS`; whether that was all."""
    until = time.perf_counter() + _OPENING_SECONDS
    return all(time.perf_counter() < until for _ in opening)


def _timed(verb: str, work: Work, batch: Batch) -> Batch:
    if not len(batch):  # every row has left; the batch still carries their records and progress
        return batch
    began = time.perf_counter()
    result = work(batch)
    metrics.count_stage(verb, len(batch), time.perf_counter() - began, left=len(batch) - len(result))
    return result


def _pieces(item: Item) -> list[tuple[str, Item]]:
    if not isinstance(item, Batch):
        return [(str(item.lane), item)]
    return [(str(lane), piece) for lane, piece in item.by_lane()]
