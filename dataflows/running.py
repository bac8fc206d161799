"""What a slot's process needs of its job: to run it, to watch over it, and to tell how it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from bytewax.dataflow import Dataflow
from bytewax.testing import run_main

from dataflows.settings import Settings
from operators.lanes import Lanes
from operators.registry_follower import RegistryFollower


class Running(Protocol):
    """A job that is open in one slot. Whoever runs calls `metrics.polled` at least every few seconds."""

    def run(self) -> None:
        """Work until told to stop; raises where only a new life may go on."""

    def ready(self) -> tuple[bool, str]:
        """Whether it does its work, and if not, why; where it does, what it has to do without. From any thread."""

    def owned(self) -> list[int]:
        """Lanes that it works on; none in a job without lanes. From any thread."""

    def busy_seconds(self) -> float:
        """How long the write at hand has taken, 0 where there is none. From any thread."""

    def close(self) -> None:
        """Finish what was begun and let go."""


Opener: TypeAlias = Callable[[Settings, Callable[[], bool]], Running]
"""Opens a job in one slot, after the fork: from the slot's settings and whether to stop."""


@dataclass(frozen=True, slots=True)
class OnLanes:
    """A Bytewax flow from the lanes' source to their sink. A `Running`."""

    flow: Dataflow
    lanes: Lanes
    doing: str
    """What is done to the lanes, such as `deciding`."""
    registry: RegistryFollower | None = None

    def run(self) -> None:
        """Run the flow with one worker."""
        run_main(self.flow)

    def ready(self) -> tuple[bool, str]:
        """Whether every lane of this slot is open, and what is in force is known."""
        if self.registry is not None and (trouble := self.registry.trouble) is not None:
            return False, trouble
        if not self.lanes.joined():
            return False, "the group has not given out all lanes yet"
        if broken := self.lanes.broken():
            return False, "; ".join(broken)
        if opening := self.lanes.opening():
            each = ", ".join(f"{lane} ({share:.0%})" for lane, share in opening.items())
            return False, f"the state of these lanes is being read back: {each}"
        notice = self.registry.notice if self.registry is not None else ""
        return True, "; ".join(filter(None, [f"{self.doing} lanes {self.owned()}", notice]))

    def owned(self) -> list[int]:
        """Open lanes."""
        return self.lanes.owned()

    def busy_seconds(self) -> float:
        """How long the commit at hand has taken."""
        return self.lanes.transactions.busy_seconds()

    def close(self) -> None:
        """Commit what is finished and let go."""
        self.lanes.close()
        if self.registry is not None:
            self.registry.stop()
