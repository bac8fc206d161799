"""The demo's run: events go in, an independent reader counts what comes out, a release goes live, a slot is killed."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

from console.demo_replay import Replay
from console.follow import Follower
from console.live import Keys, Kill, SlotRow, State

TICK = 0.2
"""Seconds between two looks at everything."""
PATIENCE = 60.0
"""Seconds after the last event in which its first record must appear."""
SETTLED = 10.0
"""Seconds after a kill in which its cost may still grow."""
NOTE_SECONDS = 8.0
"""How long a note is shown."""
SHARES = (0.5, 0.95, 0.99)


class DemoFailed(Exception):
    """The demo could not be brought to its end; the message says what happened and where to look."""


class Engine(Protocol):
    """What the performance needs of the running engine."""

    @property
    def running(self) -> bool:
        """Whether it lives."""

    def slots(self) -> list[dict[str, Any]]:
        """The launcher's table."""

    def tail(self) -> str:
        """The end of its log."""


@dataclass(frozen=True, slots=True)
class Cast:
    """What is played: names for the view, and how many events."""

    pipeline: str
    kafka: str
    guarantee: str
    outcomes: tuple[str, ...]
    events: int


@dataclass(frozen=True, slots=True)
class _Killed:
    slot: int
    at: float
    lanes: tuple[int, ...]


class Performance:
    """One run, from the first event to the last first record.

    Args:
        cast: what is played.
        replay: produces the events; not started yet.
        follower: reads what comes out; started.
        engine: `penstock run`.
        half_way: called once when half of the events are sent; says what it did.
        now: a monotonic clock, seconds.
    """

    def __init__(
        self,
        cast: Cast,
        replay: Replay,
        follower: Follower,
        engine: Engine,
        *,
        half_way: Callable[[], str],
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._cast, self._replay, self._follower, self._engine = cast, replay, follower, engine
        self._half_way, self._now = half_way, now
        self._began = now()
        self._killed: _Killed | None = None
        self._settled: Kill | None = None
        """What the last kill cost, once that is known: the reader forgets single latencies."""
        self.kills = 0
        self._half_done = False
        self._told = ("", self._began)
        self._slots: tuple[SlotRow, ...] = ()

    def play(self, show: Callable[[State], None], *, keys: Keys | None = None, kill_after: float | None = None) -> None:
        """Run until every event that was sent has its first record, or `PATIENCE` is over.

        Args:
            show: called with the state of things several times a second.
            keys: where a person types, if there is one.
            kill_after: share of the events after which a slot is killed, as a person would with `k`.

        Raises:
            DemoFailed: the engine, the producer or the reader ended.
        """
        ended_at: float | None = None
        self._replay.start()
        while True:
            self._check()
            self._look(show)
            share = self._replay.sent / max(self._cast.events, 1)
            if share >= 0.5 and not self._half_done:
                self._half_done = True
                self._tell(self._half_way())
            if kill_after is not None and share >= kill_after and self._killed is None:
                self.kill()
            if self._replay.done:
                ended_at = ended_at or self._now()
                if self._follower.all_there(self._replay.sent) or self._now() - ended_at > PATIENCE:
                    self._look(show)
                    return
            self._listen(keys)

    def kill(self) -> None:
        """Kill the next slot that runs with SIGKILL."""
        running = [slot for slot in self._slots if slot.state == "running" and slot.pid > 1 and slot.lanes]
        if not running:
            return
        after = self._killed.slot if self._killed else -1
        victim = next((slot for slot in running if slot.number > after), running[0])
        self._killed, self._settled = _Killed(victim.number, self._now(), victim.lanes), None
        try:
            os.kill(victim.pid, signal.SIGKILL)
            self.kills += 1
        except ProcessLookupError:
            self._tell(f"slot {victim.number} had ended by itself")

    def state(self) -> State:
        """Everything there is to see now."""
        rate_in, rate_out = self._follower.rates()
        now, latencies = self._now(), self._follower.latencies
        return State(
            pipeline=self._cast.pipeline,
            kafka=self._cast.kafka,
            guarantee=self._cast.guarantee,
            elapsed=now - self._began,
            sent=self._replay.sent,
            total=self._cast.events,
            progress=self._follower.progress(),
            outcomes=self._cast.outcomes,
            rate_in=rate_in,
            rate_out=rate_out,
            recent=tuple(latencies.recent(now, *SHARES)),
            whole=tuple(latencies.quantiles(*SHARES)),
            slots=self._slots,
            kill=self._cost(now),
            note=self._told[0] if now - self._told[1] < NOTE_SECONDS else "",
        )

    def _tell(self, note: str) -> None:
        self._told = (note, self._now())

    def _check(self) -> None:
        for who, failure in (("producer", self._replay.failure), ("reader", self._follower.failure)):
            if failure is not None:
                raise DemoFailed(f"the {who} of the demo ended: {failure}") from failure
        if not self._engine.running:
            raise DemoFailed(f"penstock run ended by itself; its log ends with:\n{self._engine.tail()}")

    def _look(self, show: Callable[[State], None]) -> None:
        self._slots = tuple(
            SlotRow(row["slot"], row["pid"], row["state"], tuple(sorted(row.get("lanes", ()))), row["restarts"])
            for row in self._engine.slots()
        )
        show(self.state())

    def _listen(self, keys: Keys | None) -> None:
        if keys is None:
            time.sleep(TICK)
            return
        for key in keys.pressed(TICK):
            if key == "k":
                self.kill()
            elif key == "q":
                self._tell("finishing what has been sent")
                self._replay.stop()

    def _cost(self, now: float) -> Kill | None:
        killed = self._killed
        if killed is None:
            return None
        if self._settled is not None:
            twice = self._follower.progress().repeated
            return replace(self._settled, ago=now - killed.at, twice=twice)
        there = self._follower.latencies.since(killed.at, killed.lanes)
        everywhere = self._follower.latencies.since(killed.at)
        elsewhere = [took for _, took, lane in everywhere if lane not in killed.lanes]
        # What the dead slot had committed may still be on its way to the reader: an event sent later proves new life.
        back = [at - killed.at for at, took, _ in there if at - took > killed.at]
        kill = Kill(
            slot=killed.slot,
            ago=now - killed.at,
            lanes=killed.lanes,
            pause=min(back, default=None),
            worst=max((took for _, took, _ in there), default=None),
            worst_elsewhere=max(elsewhere, default=None),
            waiting=self._follower.latencies.waiting_since_before(killed.at),
            twice=self._follower.progress().repeated,
        )
        if kill.ago > SETTLED and not kill.waiting:
            self._settled = kill
        return kill
