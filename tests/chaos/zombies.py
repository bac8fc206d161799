"""Slots that are stopped with a commit at hand until others have decided all that it holds, and then go on with it.

A nap ends after some seconds, whatever the others have done meanwhile; a zombie wakes when its commit, let through,
would decide again what is decided. Only the group can refuse it: its producer has no new life, and its transaction
begins after it woke up, so no time-out has ended it.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.chaos.crash_points import REFUSED
from tests.chaos.engine import lives, signal_to
from tests.chaos.plan import Incident
from tests.chaos.verdict import Origin

_SETTLE_SECONDS = 0.5
"""By then the load has heard of every event that a slot had read before it stopped."""
_MOST_SECONDS = 20.0
"""Less than the 30 s after which a slot ends itself for not having polled."""
_RETRIES = 5
"""Of all together: one that nobody overtakes takes a slot away for long."""
_FREE_SECONDS = 3.0
"""For so long nothing is done to a slot that woke up."""


@dataclass(slots=True)
class _Zombie:
    pid: int
    incident: Incident
    since: float
    woken: float = 0.0
    undecided: set[Origin] | None = None


class Zombies:
    """Watches what others decide meanwhile, and wakes them."""

    def __init__(self, orders: Path, acked: Sequence[Origin], decided: Mapping[Origin, float]) -> None:
        """Of slots that find their orders in `orders`; `acked` events are in the topic, `decided` ones were read."""
        self._orders, self._acked, self._decided = orders, acked, decided
        self._all: list[_Zombie] = []
        self._retries = _RETRIES
        self.overtaken: set[int] = set()
        """Pids of those that woke up when all was decided that was undecided when they stopped."""
        self.refused: dict[int, str] = {}
        """Pid of such a one to the broker's answer to its offsets."""

    @property
    def asleep(self) -> bool:
        """Whether there are any that nobody has woken."""
        return any(not zombie.woken for zombie in self._all)

    def spared(self) -> set[int]:
        """Pids of those that sleep or have just woken up."""
        now = time.monotonic()
        return {zombie.pid for zombie in self._all if not zombie.woken or now - zombie.woken < _FREE_SECONDS}

    def stopped(self, pid: int, incident: Incident) -> None:
        """Take one that has stopped."""
        self._all.append(_Zombie(pid, incident, time.monotonic()))

    def look(self) -> list[Incident]:
        """Wake whoever was overtaken; gives the incidents of those that were not, or that something else has ended."""
        for told in self._orders.glob(f"{REFUSED}.*"):
            _, pid, answer = told.name.split(".")
            told.unlink()
            if int(pid) in self.overtaken:
                self.refused.setdefault(int(pid), answer)
        now, again = time.monotonic(), []
        for zombie in self._all:
            if zombie.woken or now - zombie.since < _SETTLE_SECONDS:
                continue
            before = list(self._acked) if zombie.undecided is None else zombie.undecided
            zombie.undecided = {origin for origin in before if origin not in self._decided}
            late = now - zombie.since > _MOST_SECONDS
            if zombie.undecided and not late and lives(zombie.pid):
                continue
            zombie.woken = now
            if not zombie.undecided and lives(zombie.pid):
                self.overtaken.add(zombie.pid)
            elif self._retries:
                self._retries -= 1
                again.append(zombie.incident)
            signal_to(zombie.pid, signal.SIGCONT)
        return again
