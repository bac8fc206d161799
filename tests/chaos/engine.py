"""`penstock run` as a chaos run sees it: a tree of processes that can be killed at every level and started again."""

from __future__ import annotations

import os
import signal
import sys
import time
import urllib.request
from collections.abc import Mapping
from pathlib import Path

from console.parts import PartFailed
from console.ports import free_row
from console.tether import Child
from tests.chaos import crash_points, mutants

ROOT = Path(__file__).resolve().parents[2]
INJECT = ROOT / "tests" / "chaos" / "inject"
"""On PYTHONPATH, it lets crash points and mutants into the processes of a run."""
_READY_SECONDS = 90.0
_direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class Slots:
    """A launcher, its template and the slots."""

    def __init__(
        self, file: Path, settings: Mapping[str, str], log: Path, *, orders: Path | None = None, mutant: str = ""
    ) -> None:
        """Prepare it.

        Args:
            file: the pipeline.
            settings: of `penstock run`, by the names of its environment variables without `PENSTOCK_`.
            log: file for everything it says.
            orders: folder by which slots are told to die; without it they have no crash points.
            mutant: what it should be instead of itself.
        """
        self._port = free_row(int(settings["SLOTS"]) + 1)
        self._command = [sys.executable, "-m", "console.cli", "run", str(file)]
        settings = {**settings, "METRICS_PORT": str(self._port)}
        self._environment = {f"PENSTOCK_{name}": value for name, value in settings.items()}
        if orders is not None or mutant:
            self._environment |= {
                "PYTHONPATH": str(INJECT),
                crash_points.ORDERS: str(orders or ""),
                mutants.MUTANT: mutant,
            }
        self.log = log
        self._child: Child | None = None

    @property
    def running(self) -> bool:
        """Whether the launcher lives."""
        return self._child is not None and self._child.running

    def start(self) -> None:
        """Start the launcher."""
        self._child = Child("penstock run", self._command, self.log, env=self._environment)

    def wait_until_ready(self) -> None:
        """Wait until every slot is ready.

        Raises:
            PartFailed: it ended, or was not ready in time.
        """
        deadline = time.monotonic() + _READY_SECONDS
        while not self.ready():
            if not self.running or time.monotonic() > deadline:
                how = f"was not ready within {_READY_SECONDS:.0f} s" if self.running else "ended"
                raise PartFailed(f"penstock run {how}; {self.log} ends with:\n{self.tail()}")
            time.sleep(0.05)

    def ready(self) -> bool:
        """Whether every slot is ready."""
        try:
            with _direct.open(f"http://127.0.0.1:{self._port}/readyz", timeout=2.0) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def template(self) -> int | None:
        """Pid of the template, where there is one."""
        launcher = children(self._child._watcher.pid) if self.running and self._child is not None else []
        return next(iter(children(launcher[0])), None) if launcher else None

    def slots(self) -> dict[int, float]:
        """Pid of each slot that lives to its age in seconds."""
        template = self.template()
        return {pid: age for pid in (children(template) if template else []) if (age := _age(pid)) is not None}

    def kill_launcher(self) -> None:
        """End the launcher with SIGKILL; the kernel ends what is below it."""
        if self._child is not None:
            self._child.kill()
            self._child = None

    def stop(self) -> None:
        """Let it finish and commit what it has begun, and end."""
        if self._child is not None:
            self._child.stop(45.0)
            self._child = None

    def tail(self) -> str:
        """The end of its log."""
        return self._child.tail() if self._child is not None else ""


def children(pid: int) -> list[int]:
    """The processes that a process has started; none where it is gone."""
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def signal_to(pid: int, number: signal.Signals) -> bool:
    """Send a signal; says whether there was a process to send it to."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


def lives(pid: int) -> bool:
    """Whether there is such a process, stopped or not."""
    return _age(pid) is not None


def _age(pid: int) -> float | None:
    """Seconds since it was started; None for one that is gone, or dead and not yet reaped."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        uptime = float(Path("/proc/uptime").read_text().split()[0])
    except OSError:
        return None
    return None if stat[0] == "Z" else uptime - int(stat[19]) / os.sysconf("SC_CLK_TCK")
