"""A child ends with its parent, and with nothing less."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from console.tether import Child

PARENT = """
import sys, time
from pathlib import Path
from console.tether import Child
Child("sleeper", [sys.executable, "-c", sys.argv[2]], Path(sys.argv[1]) / "log")
time.sleep(60)
"""
SLEEPER = "import os, time; open({path!r}, 'w').write(str(os.getpid())); time.sleep(60)"
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + SLEEPER


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and was not waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def pid_in(path: Path, until: Callable[..., None]) -> int:
    until(lambda: path.exists() and path.read_text(), "the program to say its process id")
    return int(path.read_text())


def test_child_ends_when_its_parent_is_killed(tmp_path: Path, until: Callable[..., None]) -> None:
    told = tmp_path / "pid"
    order = [sys.executable, "-c", PARENT, str(tmp_path), SLEEPER.format(path=str(told))]
    parent = subprocess.Popen(order, env={**os.environ, "PYTHONPATH": str(Path.cwd())})
    pid = pid_in(told, until)
    parent.kill()
    parent.wait()

    until(lambda: not alive(pid), "the orphan to end")


def test_child_outlives_the_thread_that_started_it(tmp_path: Path, until: Callable[..., None]) -> None:
    told = tmp_path / "pid"
    started: list[Child] = []
    order = [sys.executable, "-c", SLEEPER.format(path=str(told))]
    thread = threading.Thread(target=lambda: started.append(Child("sleeper", order, tmp_path / "log")))
    thread.start()
    thread.join()
    pid = pid_in(told, until)

    assert alive(pid)
    started[0].stop()
    assert not alive(pid)


@pytest.mark.parametrize("end", [Child.kill, lambda child: child.stop(timeout=0.3)])
def test_child_that_ignores_sigterm_is_killed(
    tmp_path: Path, until: Callable[..., None], end: Callable[[Child], None]
) -> None:
    told = tmp_path / "pid"
    child = Child("stubborn", [sys.executable, "-c", STUBBORN.format(path=str(told))], tmp_path / "log")
    pid = pid_in(told, until)
    end(child)

    assert not child.running
    assert not alive(pid)


def test_child_dies_with_its_watcher(tmp_path: Path, until: Callable[..., None]) -> None:
    told = tmp_path / "pid"
    child = Child("sleeper", [sys.executable, "-c", SLEEPER.format(path=str(told))], tmp_path / "log")
    pid = pid_in(told, until)
    child._watcher.send_signal(signal.SIGKILL)
    child._watcher.wait()

    until(lambda: not alive(pid), "the program to end")


def test_child_that_cannot_start_says_so_in_its_log(tmp_path: Path, until: Callable[..., None]) -> None:
    child = Child("nothing", ["no-such-program"], tmp_path / "log")
    until(lambda: not child.running, "the watcher to end")

    assert child.tail() == "could not start no-such-program: No such file or directory"


def test_child_gets_variables_that_its_parent_does_not_have(tmp_path: Path, until: Callable[..., None]) -> None:
    told = tmp_path / "told"
    code = f"import os; open({str(told)!r}, 'w').write(os.environ['ONLY_CHILD'] + os.environ['PATH'])"
    child = Child("teller", [sys.executable, "-c", code], tmp_path / "log", env={"ONLY_CHILD": "here "})

    until(lambda: not child.running, "the program to end")
    assert told.read_text() == "here " + os.environ["PATH"]
    assert "ONLY_CHILD" not in os.environ


def state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_a_paused_child_goes_on_or_ends_when_it_is_told_to(
    tmp_path: Path, until: Callable[..., None], end: str
) -> None:
    told = tmp_path / "pid"
    child = Child("sleeper", [sys.executable, "-c", SLEEPER.format(path=str(told))], tmp_path / "log")
    pid = pid_in(told, until)

    child.pause()
    until(lambda: state(pid) == "T", "the program to be frozen")
    child.resume()
    until(lambda: state(pid) == "S", "the program to go on")
    child.pause()
    until(lambda: state(pid) == "T", "the program to be frozen again")
    getattr(child, end)()

    assert not child.running
    assert not alive(pid)
