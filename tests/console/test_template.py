"""When a slot that died is started again, and what is said about it."""

from __future__ import annotations

import logging
import signal
import subprocess
import sys

import pytest

from console.leaving import EXIT_FENCED, EXIT_UNFIT
from console.template import FIRST_PAUSE, LONGEST_PAUSE, QUICK_SECONDS, TELL_AFTER, Slot, Template, _how

KILLED, FAILED = signal.SIGKILL.value, 1 << 8  # as `waitpid` tells them


@pytest.mark.parametrize(
    "status, says",
    [(KILLED, "killed by SIGKILL"), (FAILED, "exit status 1"), (70 << 8, "exit status 70"), (0, "exit status 0")],
)
def test_how_a_process_ended_is_told_in_words(status: int, says: str) -> None:
    assert _how(status) == says


def test_back_off_grows_with_each_quick_death_in_a_row_up_to_a_bound() -> None:
    slot, now, pauses = Slot(0), 100.0, []
    for _ in range(11):
        slot.pid, slot.since = 4711, now
        slot.died(KILLED, now + 1.0)
        pauses.append(slot.start_at - (now + 1.0))
        now = slot.start_at

    doubling = [FIRST_PAUSE * 2**n for n in range(7)]
    assert pauses == pytest.approx([0.0, *doubling, *[LONGEST_PAUSE] * 3])
    assert (slot.pid, slot.restarts, slot.exit) == (0, 11, "killed by SIGKILL")


def test_a_life_that_lasted_is_started_again_at_once_whatever_came_before() -> None:
    slot = Slot(0, pid=1, since=0.0, quick_deaths=9)
    slot.died(FAILED, QUICK_SECONDS)

    assert (slot.start_at, slot.quick_deaths) == (QUICK_SECONDS, 1)


@pytest.mark.parametrize(
    "slot, state", [(Slot(0, pid=5), "running"), (Slot(0), "waiting"), (Slot(0, finished=True), "stopped")]
)
def test_the_table_says_what_a_slot_does(slot: Slot, state: str) -> None:
    assert slot.status()["state"] == state


def test_the_plain_word_comes_when_a_slot_dies_again_and_again(caplog: pytest.LogCaptureFixture) -> None:
    slot, template = Slot(3), Template([3], -1, lambda _number, _last_exit: None)
    with caplog.at_level(logging.WARNING, "console.template"):
        for _ in range(TELL_AFTER):
            slot.died(FAILED, slot.since)
            template._say(slot)

    assert [record.levelname for record in caplog.records] == ["WARNING"] * (TELL_AFTER - 1) + ["ERROR"]
    assert "slot 3 has died 3 times in a row" in caplog.messages[-1]
    assert "exit status 1" in caplog.messages[-1]
    assert "the other slots go on" in caplog.messages[-1]


def test_a_stop_between_a_fork_and_the_note_of_it_reaches_the_slot() -> None:
    told_to_stop = """
import os, signal, sys, time
from console.template import Template
fork = os.fork
def fork_and_stop():
    if pid := fork():
        os.kill(os.getpid(), signal.SIGTERM)
    return pid
os.fork = fork_and_stop
sys.exit(Template([0, 1], 1, lambda *_: time.sleep(60)).run())
"""
    ended = subprocess.run(
        [sys.executable, "-c", told_to_stop], capture_output=True, text=True, timeout=20, check=False
    )

    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.count('"state": "running"') == 1, "none is started after the stop"
    assert "killed by SIGTERM" in ended.stdout


def test_a_slot_looks_first_where_a_new_life_alone_cures_nothing() -> None:
    """Once fenced it tries again, since a broker that was killed fences, too; twice in a row there is a rival."""
    slot, looks = Slot(0), []
    for code in (EXIT_FENCED, EXIT_FENCED, EXIT_FENCED, 1, EXIT_FENCED, EXIT_UNFIT):
        slot.died(code << 8, slot.since + 1.0)
        looks.append(slot.look_first)

    assert looks == [0, EXIT_FENCED, EXIT_FENCED, 0, 0, EXIT_UNFIT]


def test_a_slot_that_was_fenced_after_a_long_life_tries_again() -> None:
    slot = Slot(0)
    slot.died(EXIT_FENCED << 8, slot.since + 1.0)
    slot.died(EXIT_FENCED << 8, slot.since + QUICK_SECONDS + 1.0)

    assert slot.look_first == 0
