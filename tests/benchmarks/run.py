"""`make bench`: the engine against a loop by hand and the naive recipe; what certainty, a large state and a kill cost.

In each round every system in turn works off a topic that was filled while it stood still; what counts is the CPU time
of its processes (user and system, all threads), from standing still to the commit of the last event. Ratios are made
within a round and then summarised: the machine may be busy with other things, but equally busy for both of a pair.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import enriching
import kills
import measure
import restore
import viewing
from compare import differences
from guarantee import heading, measure_guarantees, show_guarantees
from latency import measure_latency
from measure import Spread, leave_on_sigterm
from releases import fill_views, publish, wait_until_in_force
from stand import Stand
from systems import Engine, System, loop

AIM = 2.0
"""Most that the engine may cost, as a multiple of the loop by hand."""
_NAIVE_SHARE = 20
"""The naive recipe gets one in so many of the events: it needs as much longer."""
_RATE = 1000
_PARTS = ("systems", "guarantee", "restore", "kills", "enrich", "features")


def main() -> int:
    """Measure, print, and say by the exit status whether all systems decided alike."""
    options = _options()
    leave_on_sigterm()
    key = base64.b64encode(os.urandom(32)).decode()
    parts = [options.only] if options.only else _PARTS
    found: dict[str, Any] = {}
    if "systems" in parts:
        with tempfile.TemporaryDirectory(prefix="penstock-bench-") as folder:
            found |= bench(Path(folder), key, options)
    if "guarantee" in parts:
        found["guarantee"] = guarantees(key, options)
    if "restore" in parts:
        with tempfile.TemporaryDirectory(prefix="penstock-bench-") as folder:
            found["restore"] = restore.bench(Path(folder), _teller(options))
    if "kills" in parts:
        with tempfile.TemporaryDirectory(prefix="penstock-bench-") as folder:
            found["kills"] = kills.bench(Path(folder), key, options.kills)
    if "enrich" in parts:
        with tempfile.TemporaryDirectory(prefix="penstock-bench-") as folder:
            found["enrich"] = enriching.bench(Path(folder), options.repeats, _teller(options))
    if "features" in parts:
        with tempfile.TemporaryDirectory(prefix="penstock-bench-") as folder:
            found["features"] = viewing.bench(Path(folder), options.events, _teller(options))
    if options.json:
        print(json.dumps(found, default=asdict))
        return 1 if found.get("differences") else 0
    if "systems" in parts:
        show(found)
    if "guarantee" in parts:
        show_guarantees(found["guarantee"], options.repeats, _turn(options))
    shows = {"restore": restore.show, "kills": kills.show, "enrich": enriching.show, "features": viewing.show}
    for part in found.keys() & shows.keys():
        shows[part](found[part])
    return 1 if found.get("differences") else 0


def guarantees(key: str, options: argparse.Namespace) -> dict[str, Any]:
    """Brokers, in words, to what each guarantee costs there."""
    found = {}
    for brokers in options.brokers:
        with tempfile.TemporaryDirectory(prefix="penstock-bench-") as folder:
            found[heading(brokers)] = measure_guarantees(
                Path(folder),
                key,
                brokers=brokers,
                repeats=options.repeats,
                seconds=_turn(options),
                say=_teller(options),
            )
    return found


def _turn(options: argparse.Namespace) -> int:
    """Seconds of one engine's turn; there are six of them in a round."""
    return max(5, options.seconds // 2)


def _teller(options: argparse.Namespace) -> Callable[[str], None]:
    """Tells a person how far it is; nothing, where the output is for a program."""
    return (lambda _: None) if options.json else (lambda what: print(what, file=sys.stderr, flush=True))


def bench(folder: Path, key: str, options: argparse.Namespace) -> dict[str, Any]:
    """Run the three systems once."""
    say = _teller(options)
    with ExitStack() as stack:
        stand = stack.enter_context(Stand(folder))
        fill_views(stand)
        releases = publish(stand, folder / "artefacts")
        engine = Engine(stand, folder / "artefacts", key)
        by_hand = loop(stand, "by_hand", "hand", releases, key)
        naive = loop(stand, "naive", "naive", releases, key)
        for system in (engine, by_hand, naive):
            say(f"starting {system.name}")
            stand.make_topics(system.prefix)
            stack.enter_context(system)
        wait_until_in_force(stand)
        before = measure.machine()
        rounds = measure_rounds(stand, (engine, by_hand, naive), options, say)
        say("comparing decisions")
        differ = differences(stand.first_records("claims"), stand.first_records("hand"))
        say(f"latency at {_RATE} events a second")
        latency = measure_latency(stand, engine.prefix, stand.plan(_RATE * options.seconds), _RATE)
        memory = {"slot": measure.memory_mb(engine.deciding()), "template": measure.memory_mb(engine.template())}
    return {
        "events": options.events,
        "repeats": options.repeats,
        "machine": before,
        "us_per_event": {name: Spread.of(values) for name, values in rounds.items()},
        "ratio": {
            f"engine / {other}": Spread.of_ratios(rounds["engine"], rounds[other]) for other in ("by hand", "naive")
        },
        "differences": differ,
        "latency": latency,
        "memory_mb": memory,
    }


def measure_rounds(
    stand: Stand, systems: tuple[System, ...], options: argparse.Namespace, say: Any
) -> dict[str, list[float]]:
    """Give each system's microseconds of CPU per event, one value a round; a first round only warms up."""
    rounds: dict[str, list[float]] = {system.name: [] for system in systems}
    for number in range(options.repeats + 1):
        events = stand.plan(options.events if number else max(options.events // 10, 500))
        # The order turns with each round, so that none of them always comes first.
        for system in (*systems[number % len(systems) :], *systems[: number % len(systems)]):
            share = events[::_NAIVE_SHARE] if system.name == "naive" else events
            cost = system.drain(share) / len(share) * 1e6
            if number:
                rounds[system.name].append(cost)
            say(f"round {number} of {options.repeats}: {system.name} {cost:.1f} us of CPU per event")
    return rounds


def show(found: dict[str, Any]) -> None:
    """Print a table for people."""
    print(f"\n{found['events']} events a round, {found['repeats']} rounds: median (least-greatest)\n")
    print(f"{'system':<10}{'us of CPU per event':>24}{'events per core-second':>26}")
    for name, spread in found["us_per_event"].items():
        print(f"{name:<10}{spread!s:>24}{1e6 / spread.median:>26,.0f}")
    print()
    for name, spread in found["ratio"].items():
        aim = f"   (aim: at most {AIM})" if name.endswith("by hand") else ""
        print(f"{name:<20}{spread}{aim}")
    same = "identical for every event" if not found["differences"] else "; ".join(found["differences"])
    print(f"{'decisions':<20}{same}")
    late = found["latency"]
    print(f"{'produce to commit':<20}p50 {late['p50_ms']} ms, p99 {late['p99_ms']} ms at {_RATE} events/s")
    for name, memory in found["memory_mb"].items():
        print(f"{'memory, ' + name:<20}RSS {memory['rss']:.0f} MB, PSS {memory['pss']:.0f} MB")
    print("\n" + ", ".join(f"{name} {value}" for name, value in found["machine"].items()))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench", description=main.__doc__)
    parser.add_argument("--events", type=int, default=60_000, help="events in each round")
    parser.add_argument("--repeats", type=int, default=5, help="rounds that count")
    parser.add_argument("--seconds", type=int, default=20, help="how long latency is measured")
    parser.add_argument(
        "--quick", action="store_true", help="2 rounds of 6,000 events, 6 s of latency: does it still run?"
    )
    parser.add_argument(
        "--only",
        choices=_PARTS,
        help="one of the parts: who decides, how sure, how long a large lane takes to open, what a kill costs",
    )
    parser.add_argument("--kills", type=int, default=20, help="how many slots are killed for the last part")
    parser.add_argument(
        "--brokers", type=int, nargs="+", choices=(1, 3), default=(1, 3), help="for the second part: on one, on three"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    if options.quick:
        options.events, options.repeats, options.seconds = 6_000, 2, 6
    return options


if __name__ == "__main__":
    sys.exit(main())
