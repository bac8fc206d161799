"""A stopped slot goes on when others have decided what it holds, not before; what does not come to that is told."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.chaos import zombies
from tests.chaos.crash_points import Orders
from tests.chaos.plan import Incident
from tests.chaos.zombies import Zombies

INCIDENT = Incident(0, "zombie", "begin_transaction-before")
Until = Callable[[Callable[[], object], str], object]


@pytest.fixture
def slot(monkeypatch: pytest.MonkeyPatch, until: Until) -> Iterator[subprocess.Popen[bytes]]:
    """A process that has stopped."""
    monkeypatch.setattr(zombies, "_SETTLE_SECONDS", 0.0)
    with subprocess.Popen(["sleep", "100"]) as process:
        process.send_signal(signal.SIGSTOP)
        until(lambda: state(process) == "T", "the process to stop")
        yield process
        process.kill()


def state(process: subprocess.Popen[bytes]) -> str:
    return Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_it_wakes_when_all_that_was_undecided_has_been_decided(
    slot: subprocess.Popen[bytes], tmp_path: Path, until: Until
) -> None:
    decided = {(0, 0): 1.0}
    acked = [(0, 0), (0, 1), (1, 0)]
    group = Zombies(tmp_path, acked, decided)
    group.stopped(slot.pid, INCIDENT)
    assert group.look() == []
    acked.append((1, 1))  # sent later: nothing that it could hold
    decided[1, 0] = 2.0
    assert group.look() == []
    assert (group.asleep, state(slot)) == (True, "T")

    decided[0, 1] = 3.0
    assert group.look() == []

    until(lambda: state(slot) == "S", "the process to go on")
    assert (group.asleep, group.overtaken, group.spared()) == (False, {slot.pid}, {slot.pid})


def test_the_brokers_answer_to_one_that_was_overtaken_is_told(
    slot: subprocess.Popen[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    group = Zombies(tmp_path, [], {})
    Orders(tmp_path).refused("ILLEGAL_GENERATION")  # somebody who met a rebalance
    group.stopped(slot.pid, INCIDENT)
    group.look()
    monkeypatch.setattr(os, "getpid", lambda: slot.pid)
    Orders(tmp_path).refused("UNKNOWN_MEMBER_ID")
    group.look()

    assert group.refused == {slot.pid: "UNKNOWN_MEMBER_ID"}
    assert not list(tmp_path.iterdir())


def test_one_that_is_killed_or_not_overtaken_in_time_is_tried_again(
    slot: subprocess.Popen[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, until: Until
) -> None:
    group = Zombies(tmp_path, [(0, 0)], {})
    group.stopped(slot.pid, INCIDENT)
    assert group.look() == []
    monkeypatch.setattr(zombies, "_MOST_SECONDS", 0.0)
    assert group.look() == [INCIDENT]
    until(lambda: state(slot) == "S", "the process to go on")

    monkeypatch.undo()
    monkeypatch.setattr(zombies, "_SETTLE_SECONDS", 0.0)
    slot.kill()
    slot.wait()
    group.stopped(slot.pid, INCIDENT)

    assert group.look() == [INCIDENT]
    assert group.overtaken == set()
