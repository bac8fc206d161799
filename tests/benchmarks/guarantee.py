"""What exactly once costs against at least once: CPU of the slot per event, and latency, at a steady rate of events.

Six engines stand ready on the same brokers, one for each guarantee and interval between commits, each with topics and a
group of its own. The same events go to one after the other, in turning order; a ratio is made within a round, so that
what else the machine does weighs on both sides of it. What stands ready costs a little, and costs all alike.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import measure
from latency import measure_latency
from measure import Spread
from releases import fill_views, publish
from stand import PIPELINE, ROLES, Stand
from systems import Engine

CPU_AIM, P99_AIM_MS = 1.15, 40.0
"""At most so many times the CPU of at least once; at most so late, on one broker with group commit."""
GUARANTEES = ("exactly_once", "at_least_once")
INTERVALS = {"group commit": None, "20 ms": 20, "100 ms": 100}
"""`delivery.min_commit_interval`; None leaves the default, as short as a broker bears."""
RATES = {1: 1000, 3: 250}
"""Brokers to events a second; three of them with 1,000 are more than two cores can do."""
_WARM_SECONDS = 10
"""Of each of the six, in a round that does not count: brokers then have compiled what they do."""
_COLUMNS = {
    "slot_us": "slot us/event",
    "broker_us": "brokers us/event",
    "commits": "commits/s",
    "p50_ms": "p50 ms",
    "p99_ms": "p99 ms",
    "load": "load",
}


@dataclass(frozen=True, slots=True)
class Turn:
    """One engine at work for some seconds."""

    slot_us: float
    """CPU of the slot's process for each event, user and system."""
    broker_us: float
    """CPU of all brokers for each event: they serve the engine, the sender of the events and the reader."""
    commits: float
    """A second. A busy machine makes larger batches and so fewer and cheaper ones: compare what had about as many."""
    p50_ms: float
    p99_ms: float
    load: float
    """Of the machine in the last minute, by the end."""


Turns = dict[tuple[str, str], list[Turn]]
"""Interval and guarantee to one turn a round."""


def measure_guarantees(
    folder: Path, key: str, *, brokers: int, repeats: int, seconds: int, say: Callable[[str], None]
) -> dict[str, Any]:
    """Start brokers and engines, and give the figures of each interval.

    Args:
        folder: for the servers' data and the engines' logs.
        key: to seal with.
        brokers: how many; of three each has a copy of everything.
        repeats: rounds that count.
        seconds: of each turn.
        say: is told how far it is.
    """
    rate = RATES[brokers]
    with ExitStack() as stack:
        stand = stack.enter_context(Stand(folder, brokers))
        engines = _start(stand, folder, key, stack, say)
        turns: Turns = {which: [] for which in engines}
        order = list(engines)
        for number in range(repeats + 1):
            events = stand.plan(rate * (seconds if number else _WARM_SECONDS))
            for which in (*order[number % len(order) :], *order[: number % len(order)]):
                turn = _turn(stand, engines[which], events, rate)
                say(f"round {number} of {repeats}: {', '.join(which)}: {turn}")
                if number:
                    turns[which].append(turn)
    return {interval: _figures(turns, interval) for interval in INTERVALS}


def heading(brokers: int) -> str:
    """What a table is about, in words."""
    return f"one broker, {RATES[1]}/s" if brokers == 1 else f"{brokers} brokers, 3 copies, {RATES[brokers]}/s"


def _start(
    stand: Stand, folder: Path, key: str, stack: ExitStack, say: Callable[[str], None]
) -> dict[tuple[str, str], Engine]:
    fill_views(stand)
    publish(stand, folder / "artefacts")
    engines = {}
    for interval, ms in INTERVALS.items():
        for guarantee in GUARANTEES:
            prefix = f"{guarantee}_{ms or 0}"
            say(f"starting {guarantee} with {interval}")
            stand.make_topics(prefix)
            file = _variant(folder, prefix, ms)
            engine = Engine(stand, folder / "artefacts", key, file=file, prefix=prefix, guarantee=guarantee)
            engines[interval, guarantee] = stack.enter_context(engine)
    return engines


def _variant(folder: Path, prefix: str, ms: int | None) -> Path:
    """The pipeline as it is shipped, with topics of its own and perhaps another interval."""
    topics = ", ".join(f"{role}: {prefix}.{role}" for role in ROLES)
    delivery = f"delivery: {{ min_commit_interval: {ms}ms }}\n" if ms else ""
    file = folder / f"{prefix}.yaml"
    file.write_text(f"{PIPELINE.read_text()}\ntopics: {{ {topics} }}\n{delivery}")
    return file


def _turn(stand: Stand, engine: Engine, events: Sequence[Any], rate: int) -> Turn:
    slot, brokers = engine.deciding(), measure.brokers(os.getpid())

    def spent() -> tuple[float, float, float]:
        return measure.cpu_seconds(slot), sum(map(measure.cpu_seconds, brokers)), float(engine.commits())

    before = spent()
    try:
        late = measure_latency(stand, engine.prefix, events, rate)
    except TimeoutError as late_ones:
        ready, slots, said = engine.is_up(), engine.slots(), engine.log.read_text(errors="replace")[-3000:]
        raise RuntimeError(f"{engine.prefix}: {late_ones}; ready: {ready}; slots: {slots}; it said:\n{said}") from None
    slot_s, broker_s, commits = (now - then for now, then in zip(spent(), before, strict=True))
    return Turn(
        slot_s / len(events) * 1e6,
        broker_s / len(events) * 1e6,
        commits / (len(events) / rate),
        late["p50_ms"],
        late["p99_ms"],
        os.getloadavg()[0],
    )


def _figures(turns: Turns, interval: str) -> dict[str, Any]:
    """Each guarantee's figures, and the ratio of the slot's CPU."""
    of = {guarantee: turns[interval, guarantee] for guarantee in GUARANTEES}
    figures: dict[str, Any] = {
        guarantee: {each.name: Spread.of([getattr(turn, each.name) for turn in found]) for each in fields(Turn)}
        for guarantee, found in of.items()
    }
    cpu = {guarantee: [turn.slot_us for turn in found] for guarantee, found in of.items()}
    return figures | {"cpu_ratio": Spread.of_ratios(cpu["exactly_once"], cpu["at_least_once"])}


def show_guarantees(found: dict[str, Any], repeats: int, seconds: int) -> None:
    """Print tables for people."""
    print(f"\nexactly once and at least once, {repeats} rounds of {seconds} s: median (least-greatest)")
    for brokers, intervals in found.items():
        print(f"\n{brokers:<28}" + "".join(f"{title:>19}" for title in _COLUMNS.values()))
        for interval, figures in intervals.items():
            for guarantee in GUARANTEES:
                cells = "".join(f"{figures[guarantee][name]!s:>19}" for name in _COLUMNS)
                print(f"{interval + ', ' + guarantee.replace('_', ' '):<28}{cells}")
            print(f"{'  ratio':<28}{figures['cpu_ratio']!s:>19}   (aim: at most {CPU_AIM})")
    print(f"\nproduce to committed and read; aim: p99 at most {P99_AIM_MS:.0f} ms on one broker with group commit")
    loads = [
        figures[guarantee]["load"].median
        for each in found.values()
        for figures in each.values()
        for guarantee in GUARANTEES
    ]
    if max(loads) > 2 * (os.cpu_count() or 1):
        print("The load is more than twice the number of cores: these latencies are the machine's, not the engine's.")
