"""What a SIGKILL costs: the worst latency of an event in the lanes of the slot that died, and in those of the other.

Two slots with all stages on, claims at a steady rate; one slot after the other is killed, far enough apart that each
kill is seen alone.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import measure
from latency import Journey
from measure import Spread
from releases import fill_views, publish, wait_until_in_force
from stand import Stand
from systems import Engine

_RATE = 500
_EVERY_SECONDS = 4.0
_SEEN_FOR = 3.5
"""Seconds after a kill in which events are counted as concerned."""


@dataclass(frozen=True, slots=True)
class Killed:
    """One kill."""

    at: float
    """`time.monotonic()`."""
    slot: int
    lanes: tuple[int, ...]


def bench(folder: Path, key: str, kills: int) -> dict[str, Any]:
    """Start everything and measure `kills` kills."""
    with ExitStack() as stack:
        stand = stack.enter_context(Stand(folder))
        fill_views(stand)
        publish(stand, folder / "artefacts")
        engine = Engine(stand, folder / "artefacts", key, slots=2, session=10)
        stand.make_topics(engine.prefix)
        stack.enter_context(engine)
        wait_until_in_force(stand)
        return measure_kills(stand, engine, kills) | {"machine": measure.machine()}


def measure_kills(stand: Stand, engine: Engine, kills: int) -> dict[str, Any]:
    """Kill one slot after the other under load.

    Returns:
        `own_s` and `others_s`: for each kill the worst seconds from produce to a committed first record that a reader
        has, of events sent from half a second before the kill on, in the lanes of the slot that died and elsewhere.
    """
    seconds = round(_EVERY_SECONDS * (kills + 1))
    journey = Journey(stand, engine.prefix, stand.plan(_RATE * seconds), _RATE)
    done: list[Killed] = []

    def kill_them() -> None:
        for number in range(kills):
            while (wait := journey.began + _EVERY_SECONDS * (number + 0.5) - time.monotonic()) > 0:
                time.sleep(wait)
            row = engine.slots()[number % 2]
            os.kill(row["pid"], signal.SIGKILL)
            done.append(Killed(time.monotonic(), row["slot"], tuple(row["lanes"])))

    killer = threading.Thread(target=kill_them)
    killer.start()
    waits = journey.travel()
    killer.join()
    return {
        "own_s": [_worst(waits, kill, own=True) for kill in done],
        "others_s": [_worst(waits, kill, own=False) for kill in done],
        "slots": [kill.slot for kill in done],
    }


def _worst(waits: dict[tuple[int, int], tuple[float, float]], kill: Killed, *, own: bool) -> float:
    concerned = [
        wait
        for (lane, _), (sent, wait) in waits.items()
        if (lane in kill.lanes) is own and kill.at - 0.5 < sent < kill.at + _SEEN_FOR
    ]
    return round(max(concerned, default=0.0), 3)


def show(found: dict[str, Any]) -> None:
    """Print a table for people."""
    for what, name, aim in (("its lanes", "own_s", 1.0), ("other lanes", "others_s", 0.5)):
        values: Sequence[float] = found[name]
        print(f"{what:<14}worst latency {Spread.of(values)} s over {len(values)} kills   (aim: at most {aim})")
    print(", ".join(f"{name} {value}" for name, value in found["machine"].items()))
