"""The live view of the demo: what goes in and comes out, how long it takes, what is in force, the slots; 80 by 24."""

from __future__ import annotations

import os
import select
import sys
import termios
import tty
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from console.follow import Progress

WIDTH, HEIGHT = 80, 24
_ROWS, _SLOTS = 7, 4
"""How many lines the middle panels and the table of slots have."""
_COLOURS = ("green", "yellow", "red", "magenta")
"""Of the policy's outcomes, from mild to severe."""


@dataclass(frozen=True, slots=True)
class SlotRow:
    """A slot as the launcher sees it."""

    number: int
    pid: int
    state: str
    lanes: tuple[int, ...]
    restarts: int


@dataclass(frozen=True, slots=True)
class Kill:
    """What it cost that a slot was killed. Seconds."""

    slot: int
    ago: float
    lanes: tuple[int, ...]
    """The lanes that it had."""
    pause: float | None
    """Until the next decision in them; None while there is none."""
    worst: float | None
    """Longest latency in them since."""
    worst_elsewhere: float | None
    waiting: int
    """Events from before the kill that have no first record yet."""
    twice: int


@dataclass(frozen=True, slots=True)
class State:
    """Everything that the view shows."""

    pipeline: str
    kafka: str
    """What kind of Kafka this is, such as `Apache Kafka`."""
    guarantee: str
    elapsed: float
    """Seconds."""
    sent: int
    total: int
    progress: Progress = field(default_factory=Progress)
    outcomes: tuple[str, ...] = ()
    """The policy's outcomes, from mild to severe."""
    rate_in: float = 0.0
    """Events per second, lately; `rate_out` is first records per second."""
    rate_out: float = 0.0
    recent: tuple[float | None, ...] = (None, None, None)
    """p50, p95 and p99 of the last seconds, in seconds."""
    whole: tuple[float | None, ...] = (None, None, None)
    """The same of the whole run."""
    slots: tuple[SlotRow, ...] = ()
    kill: Kill | None = None
    note: str = ""
    """What is going on, in a few words."""


def render(state: State) -> RenderableType:
    """Draw the view: a pure function, `WIDTH` by `HEIGHT` characters."""
    middle = Table.grid(expand=True)
    for ratio in (27, 27, 24):
        middle.add_column(ratio=ratio)
    middle.add_row(_first_records(state), _rejected(state.progress.rejected), _in_force(state.progress.releases))
    top = Table.grid(expand=True)
    top.add_column(ratio=1)
    top.add_column(ratio=1)
    top.add_row(_events(state), _latencies(state))
    keys = Text.assemble(
        ("k", "bold reverse"), " kill a slot with SIGKILL   ", ("q", "bold reverse"), " quit", justify="right"
    )
    note = Text(state.note)
    note.truncate(WIDTH - keys.cell_len - 1, overflow="ellipsis")
    view = Group(_title(state), top, middle, _slots(state.slots), _cost(state.kill), _line(note, keys))
    frame = Table.grid()
    frame.add_column(width=WIDTH)
    frame.add_row(view)
    return frame


def _title(state: State) -> RenderableType:
    minutes, seconds = divmod(int(state.elapsed), 60)
    guarantee = state.guarantee.replace("_", " ")
    colour = "green" if state.guarantee == "exactly_once" else "yellow"
    name = Text.assemble(
        ("penstock ", "bold cyan"), (state.pipeline, "bold"), f" on {state.kafka}, ", (guarantee, f"bold {colour}")
    )
    return _line(name, Text(f"{minutes:02d}:{seconds:02d}", justify="right"))


def _events(state: State) -> Panel:
    on_their_way = max(state.progress.waiting, 0)
    rows = (
        ("sent", f"{state.sent:,} of {state.total:,}"),
        ("in, out", f"{state.rate_in:,.0f} / {state.rate_out:,.0f} per second"),
        ("on their way", f"{on_their_way:,}"),
    )
    return _panel("events", [_row(name, Text(value)) for name, value in rows])


def _latencies(state: State) -> Panel:
    head = Text("".ljust(12) + "".join(name.rjust(8) for name in ("p50", "p95", "p99")), style="dim")
    rows = [
        Text(name.ljust(12) + "".join(_ms(value).rjust(8) for value in values))
        for name, values in (("last 5 s", state.recent), ("whole run", state.whole))
    ]
    return _panel("produce to committed decision, ms", [head, *rows])


def _first_records(state: State) -> Panel:
    by_role, outcomes = state.progress.by_role, state.progress.outcomes
    names = [*state.outcomes, *sorted(set(outcomes) - set(state.outcomes))][: _ROWS - 3]
    rows = [(name, outcomes.get(name, 0), _COLOURS[min(i, 3)]) for i, name in enumerate(names)]
    rows += [
        ("quarantined", by_role.get("quarantine", 0), "blue"),
        ("rejected", by_role.get("rejected", 0), "blue"),
        ("duplicates", by_role.get("duplicates", 0), "blue"),
    ]
    most = max((count for _, count, _ in rows), default=0)
    lines = []
    for name, count, colour in rows:
        bar = "█" * (-(-5 * count // most) if most else 0)
        lines.append(Text.assemble(f"{name[:11]:<11}{count:>7,} ", (bar, colour)))
    return _panel("first records", lines, _ROWS)


def _rejected(reasons: Mapping[str, int]) -> Panel:
    ranked = sorted(reasons.items(), key=lambda item: (-item[1], item[0]))
    if len(ranked) > _ROWS:
        ranked = [*ranked[: _ROWS - 1], ("others", sum(count for _, count in ranked[_ROWS - 1 :]))]
    lines = [Text(f"{reason[:17]:<17}{count:>6,}") for reason, count in ranked]
    return _panel("rejected, by reason", lines, _ROWS)


def _in_force(releases: Mapping[str, str]) -> Panel:
    lines = [
        Text.assemble(f"{model[:15]:<15} ", (release[:4], "yellow" if release == "fallback" else "bold green"))
        for model, release in sorted(releases.items())
    ]
    return _panel("versions in force", lines[:_ROWS], _ROWS)


def _slots(slots: Sequence[SlotRow]) -> Panel:
    lines = [Text(f"{'slot':<6}{'pid':<10}{'state':<11}{'restarts':<10}lanes", style="dim")]
    shown = slots if len(slots) < _SLOTS else slots[: _SLOTS - 2]
    for slot in shown:
        colour = "green" if slot.state == "running" else "red"
        lanes = " ".join(map(str, slot.lanes)) or "none yet"
        row = Text.assemble(f"{slot.number:<6}{slot.pid or '-':<10}", (f"{slot.state:<11}", colour))
        lines.append(row + Text(f"{slot.restarts:<10}{lanes}"))
    if len(shown) < len(slots):
        running = sum(slot.state == "running" for slot in slots)
        lines.append(Text(f"and {len(slots) - len(shown)} more; {running} of {len(slots)} are running", style="dim"))
    return _panel("slots", lines, _SLOTS)


def _cost(kill: Kill | None) -> RenderableType:
    """Two lines: what the last kill cost."""
    if kill is None:
        return Text("No slot has been killed yet: press k and watch what it costs.\n", style="dim")
    lanes = f"lanes {' '.join(map(str, kill.lanes))}" if kill.lanes else "no lanes"
    back = f"decided again after {kill.pause:.1f} s" if kill.pause is not None else "not yet decided again"
    lost = f"{kill.waiting} on their way" if kill.waiting else "lost 0"
    return Text.assemble(
        (f"slot {kill.slot} was killed {kill.ago:.0f} s ago: ", "bold red"),
        f"{lanes} {back}\n" if kill.lanes else f"it had {lanes}\n",
        f"  worst latency there {_ms(kill.worst)} ms, elsewhere {_ms(kill.worst_elsewhere)} ms; ",
        (f"{lost}, twice {kill.twice}", "bold" if not kill.waiting and not kill.twice else "bold yellow"),
    )


def _panel(title: str, lines: Sequence[Text], height: int = 3) -> Panel:
    for line in lines:
        line.no_wrap, line.overflow = True, "ellipsis"
    return Panel(Group(*lines), title=title, title_align="left", border_style="dim", height=height + 2, padding=(0, 1))


def _row(name: str, value: Text) -> Text:
    return Text.assemble((f"{name:<14}", "dim"), value)


def _line(left: Text, right: Text) -> RenderableType:
    line = Table.grid(expand=True)
    line.add_column(no_wrap=True, overflow="ellipsis")
    line.add_column(justify="right", no_wrap=True)
    line.add_row(left, right)
    return line


def _ms(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1000:,.0f}"


class Keys:
    """Single keys from the terminal, without waiting or echo. A context manager that puts it back as it was."""

    def __init__(self, fd: int | None = None) -> None:
        self._fd = sys.stdin.fileno() if fd is None else fd
        self._before: list[Any] | None = None

    def __enter__(self) -> Self:
        self._before = termios.tcgetattr(self._fd)
        tty.setcbreak(self._fd)  # Ctrl-C stays Ctrl-C
        return self

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            termios.tcsetattr(self._fd, termios.TCSADRAIN, self._before)

    def pressed(self, timeout: float) -> str:
        """What was typed within `timeout` seconds; empty where nothing was."""
        ready = select.select([self._fd], [], [], timeout)[0]
        return os.read(self._fd, 64).decode(errors="ignore") if ready else ""


def picture(state: State) -> str:
    """The view as an SVG, for a document; it asks nobody for a font."""
    import re
    from io import StringIO

    from rich.console import Console

    paper = Console(width=WIDTH, height=HEIGHT, record=True, file=StringIO(), force_terminal=True)
    paper.print(render(state))
    svg = paper.export_svg(title=f"penstock demo: {state.pipeline}", unique_id="penstock")
    return re.sub(r"\s*@font-face \{.*?\}", "", svg, flags=re.DOTALL)
