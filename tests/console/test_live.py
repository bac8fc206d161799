"""The live view, seen through a terminal of 80 by 24."""

import os
import pty
from dataclasses import replace
from io import StringIO

import pyte
import pytest
from rich.console import Console

from console import live
from console.follow import Progress
from console.live import Kill, SlotRow, State

STATE = State(
    pipeline="claims",
    kafka="Apache Kafka",
    guarantee="exactly_once",
    elapsed=75.0,
    sent=12_000,
    total=20_000,
    progress=Progress(
        read=11_990,
        by_role={"decisions": 11_000, "quarantine": 360, "rejected": 120, "duplicates": 110, "reviews": 3_000},
        outcomes={"approve": 7_000, "review": 3_000, "flag": 1_000},
        rejected={"wrong_type": 20, "missing_field": 12, "invalid_json": 9},
        releases={"severity": "2", "severity_online": "1"},
        waiting=12,
    ),
    outcomes=("approve", "review", "flag"),
    rate_in=250.4,
    rate_out=249.0,
    recent=(0.014, 0.030, 0.041),
    whole=(0.015, 0.033, 0.048),
    slots=(SlotRow(0, 1234, "running", (0, 2, 4), 0), SlotRow(1, 0, "waiting", (), 3)),
    note="release 2 of severity is published",
)


def seen(state):
    """The lines of an 80 by 24 terminal after the view was drawn on it."""
    paper = StringIO()
    console = Console(width=80, height=24, force_terminal=True, file=paper, color_system="truecolor")
    console.print(live.render(state), end="")
    screen = pyte.Screen(80, 24)
    pyte.Stream(screen).feed(paper.getvalue().rstrip("\n").replace("\n", "\r\n"))
    return [line.rstrip() for line in screen.display]


def line_with(state, text):
    return next(line for line in seen(state) if text in line)


def test_view_fills_the_terminal_and_nothing_scrolls_away():
    lines = seen(STATE)

    assert lines[0].startswith("penstock claims on Apache Kafka, exactly once")
    assert lines[0].endswith("01:15")
    assert lines[-1].endswith("k kill a slot with SIGKILL   q quit")
    assert not any("…" in line for line in lines)


@pytest.mark.parametrize(
    "text, also",
    [
        ("sent", "12,000 of 20,000"),
        ("in, out", "250 / 249 per second"),
        ("on their way", "12"),
        ("last 5 s", "14      30      41"),
        ("whole run", "15      33      48"),
        ("approve", "7,000"),
        ("review", "3,000"),
        ("quarantined", "360"),
        ("duplicates", "110"),
        ("missing_field", "12"),
        ("severity ", "2"),
        ("severity_online", "1"),
        ("0     1234", "running    0         0 2 4"),
        ("1     -", "waiting    3         none yet"),
        ("release 2 of severity", "is published"),
    ],
)
def test_view_shows(text, also):
    assert also in line_with(STATE, text)


def test_cost_of_a_kill():
    kill = Kill(slot=1, ago=4, lanes=(1, 3), pause=0.62, worst=0.91, worst_elsewhere=0.05, waiting=0, twice=0)
    state = replace(STATE, kill=kill)

    assert "slot 1 was killed 4 s ago: lanes 1 3 decided again after 0.6 s" in line_with(state, "killed")
    assert "worst latency there 910 ms, elsewhere 50 ms; lost 0, twice 0" in line_with(state, "worst")


def test_cost_while_the_lanes_are_not_back():
    kill = Kill(slot=0, ago=0.2, lanes=(0,), pause=None, worst=None, worst_elsewhere=None, waiting=40, twice=0)
    state = replace(STATE, kill=kill)

    assert "lanes 0 not yet decided again" in line_with(state, "killed")
    assert "40 on their way" in line_with(state, "worst")


def test_empty_view_has_no_figures_yet():
    state = State("claims", "librdkafka's mock", "at_least_once", 0.0, 0, 100)

    assert "at least once" in seen(state)[0]
    assert "-       -       -" in line_with(state, "last 5 s")


def test_much_of_everything_still_fits():
    state = replace(
        STATE,
        sent=123_456_789,
        progress=replace(
            STATE.progress,
            outcomes={f"outcome_{i}_with_a_long_name": 10**7 for i in range(9)},
            rejected={f"reason_{i}_with_a_long_name": i for i in range(20)},
            releases={f"model_{i}_with_a_long_name": "10.12.13" for i in range(12)},
        ),
        slots=tuple(SlotRow(i, 10**6 + i, "running", tuple(range(60)), 12) for i in range(40)),
        note="x" * 200,
    )

    lines = seen(state)
    assert "q quit" in lines[-1]
    assert any("and 38 more; 40 of 40 are running" in line for line in lines)
    assert any("others" in line for line in lines)


def test_view_is_a_function_of_the_state():
    assert seen(STATE) == seen(STATE)


def test_picture_is_an_svg_of_the_view():
    svg = live.picture(STATE)

    assert svg.startswith("<svg")
    assert "url(" not in svg.replace("url(#", "")
    assert "250&#160;/&#160;249" in svg
    assert svg == live.picture(STATE)


def test_keys_come_one_by_one_and_the_terminal_is_put_back():
    import termios

    ours, theirs = pty.openpty()
    before = termios.tcgetattr(theirs)
    with live.Keys(theirs) as keys:
        assert keys.pressed(0) == ""
        os.write(ours, b"k")
        assert keys.pressed(5) == "k"
        assert not termios.tcgetattr(theirs)[3] & termios.ECHO
    assert termios.tcgetattr(theirs) == before
    os.close(ours)
    os.close(theirs)
