"""Where the state of a slot's lanes is kept, beside its topic: in the memory of the steps, or in stores on disk."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Protocol, TypeAlias

from confluent_kafka.admin import AdminClient

from operators.batch import Change
from operators.held import Held
from operators.record_producer import Places
from state.entries import InMemory, LaneEntries


class StateHome(Protocol):
    """What keeps lane state; `InSteps` or `operators.lane_stores.LaneStores`."""

    def open(self, ends: Mapping[int, int]) -> Mapping[int, LaneEntries]:
        """Begin to restore lanes: lane to the end of its state partition. By the flow's thread."""

    def hold(self, changes: Iterable[Change]) -> None:
        """Take the changes of a batch, which are not committed yet. By the flow's thread."""

    def write(self, held: Held, at: float) -> None:
        """Keep what was committed. By the committing thread, once the commit has succeeded; it began at `at`."""

    def close(self, lanes: Iterable[int]) -> None:
        """Let go of lanes that were revoked. By the flow's thread, when nothing of them is being committed."""


Keep: TypeAlias = Callable[[Places, AdminClient], StateHome]
"""Makes one for a slot; `Places.ends` is then noted."""


class InSteps:
    """The steps hold all of it in memory, so there is nothing to do but to read it for them. A `StateHome`."""

    def open(self, ends: Mapping[int, int]) -> dict[int, LaneEntries]:
        """Begin with nothing."""
        return {lane: InMemory() for lane in ends}

    def hold(self, changes: Iterable[Change]) -> None:
        """Do nothing."""

    def write(self, held: Held, at: float) -> None:
        """Do nothing."""

    def close(self, lanes: Iterable[int]) -> None:
        """Do nothing."""
