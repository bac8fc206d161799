"""Every state that the protocol of `dataflows/DELIVERY.md` can reach, for a few events: none loses or repeats.

The search is breadth first over `tests.chaos.protocol`, so a trace that it prints is a shortest one. `make chaos
ARGS=--search` runs it.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from tests.chaos.protocol import SCRIPTS, World, beginning, successors

_SIZES = ((1, 2, 2), (2, 1, 2), (1, 3, 2))
"""Lanes, events in each, and faults."""


@dataclass(frozen=True, slots=True)
class Found:
    """The end of a search."""

    states: int
    wrong: str
    """Empty where nothing is."""
    trace: list[str]


def search(broken: str = "as it is", *, lanes: int = 1, events: int = 2, faults: int = 3) -> Found:
    """Visit every state until one is wrong."""
    script, fenced = SCRIPTS[broken], broken != "stranger"
    first = beginning(lanes, faults)
    came: dict[World, tuple[World, str] | None] = {first: None}
    queue = deque([first])
    while queue:
        world = queue.popleft()
        following = list(successors(world, script, events, fenced=fenced))
        if wrong := _wrong(world) or ("" if following else _unfinished(world, events)):
            return Found(len(came), wrong, _trace(world, came))
        for label, successor in following:
            if successor not in came:
                came[successor] = world, label
                queue.append(successor)
    return Found(len(came), "", [])


def _wrong(world: World) -> str:
    """What a committed reader would object to."""
    for lane, outputs in enumerate(world.outputs):
        seen = [event for event, _ in outputs]
        if len(set(seen)) < len(seen):
            return f"lane {lane}: an event is decided twice: {seen}"
        if seen != sorted(seen):
            return f"lane {lane}: not in order: {seen}"
        if missing := set(range(world.offsets[lane])) - set(seen):
            return f"lane {lane}: events {sorted(missing)} are passed over"
        for event, remembered in outputs:
            if remembered != tuple(range(event)):
                return f"lane {lane}: event {event} was decided with the memory of events {list(remembered)}"
    return ""


def _unfinished(world: World, events: int) -> str:
    undecided = [lane for lane, outputs in enumerate(world.outputs) if len(outputs) < events]
    return f"nothing can happen any more, and lanes {undecided} have undecided events" if undecided else ""


def _trace(world: World, came: dict[World, tuple[World, str] | None]) -> list[str]:
    steps = []
    while (step := came[world]) is not None:
        world, label = step
        steps.append(label)
    return steps[::-1]


def show(form: str) -> int:
    """Search one form and print what was found; 1 where something is wrong."""
    wrong = 0
    for lanes, events, faults in _SIZES if form == "as it is" else _SIZES[:1]:
        found = search(form, lanes=lanes, events=events, faults=faults)
        size = f"{lanes} lanes, {events} events in each, {faults} faults"
        print(f"{form}, {size}: {found.states:,} states; {found.wrong or 'none loses or repeats'}", flush=True)
        for number, step in enumerate(found.trace, 1):
            print(f"{number:3}. {step}")
        wrong += bool(found.wrong)
    return min(wrong, 1)
