"""Programs that never outlive the process that started them.

`Child` starts a program behind a small watcher: this file, run as a script with nothing but the standard library. The
watcher ends the program as soon as its own parent is gone, whatever ended that one, and the kernel ends the program
when the watcher is killed. Linux's parent-death signal alone is not enough: it fires when the *thread* that started
the program ends.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

_LOOK_SECS = 0.5
"""How often the watcher looks for its parent."""
_GRACE_SECS = 10.0
"""How long an orphaned program may take to end by itself."""


class Child:
    """A running program, its log file, and the ways to end it."""

    def __init__(self, name: str, command: Sequence[str], log: Path, *, env: Mapping[str, str] | None = None) -> None:
        """Start it. Its output goes to `log`, appended; it gets no terminal, so Ctrl-C does not reach it.

        Args:
            name: for messages.
            command: the program and its arguments.
            log: the file.
            env: variables that it has besides those of this process.
        """
        self.name = name
        self.log = log
        watcher = [sys.executable, "-I", "-S", __file__, str(os.getpid())]
        with log.open("ab") as out:
            self._watcher = subprocess.Popen(
                [*watcher, *command],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
                env={**os.environ, **(env or {})},
            )

    @property
    def running(self) -> bool:
        """Whether it has not ended yet."""
        return self._watcher.poll() is None

    def stop(self, timeout: float = 30.0) -> None:
        """Ask it to end (SIGTERM) and wait; after `timeout` seconds end it with SIGKILL."""
        self._watcher.terminate()
        try:
            self._watcher.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """End it with SIGKILL, as a crash would, and wait until it is gone."""
        self._watcher.send_signal(signal.SIGQUIT)
        try:
            self._watcher.wait(5)
        except subprocess.TimeoutExpired:
            self._watcher.kill()
            self._watcher.wait()

    def pause(self) -> None:
        """Freeze it with SIGSTOP until `resume`, as if its machine hung; `kill` and `stop` end it all the same."""
        self._watcher.send_signal(signal.SIGTSTP)

    def resume(self) -> None:
        """Let it go on after `pause`."""
        self._watcher.send_signal(signal.SIGCONT)

    def tail(self, lines: int = 20) -> str:
        """The last lines of its log, for an error message."""
        if not self.log.exists():
            return ""
        with self.log.open("rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - 16_384))
            return "\n".join(log.read().decode(errors="replace").splitlines()[-lines:])


def _die_with_watcher() -> None:
    if sys.platform == "linux":
        import ctypes

        parent_death_signal = 1  # PR_SET_PDEATHSIG; the watcher has one thread, so its thread's end is its own
        ctypes.CDLL(None).prctl(parent_death_signal, signal.SIGKILL)


def _watch(parent: int, command: list[str]) -> int:
    """Run the command until it ends, a signal asks for its end, or `parent` is gone. Gives its exit status."""
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGTSTP, signal.SIGCONT):
        signal.signal(number, lambda *_: None)

    child = os.fork()
    if child == 0:
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGTSTP, signal.SIGCONT):
            signal.signal(number, signal.SIG_DFL)
        _die_with_watcher()
        try:
            os.execvp(command[0], command)
        except OSError as error:
            print(f"could not start {command[0]}: {error.strerror}", file=sys.stderr)
            os._exit(127)

    kill_at = float("inf")
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status) % 256
        select.select([woken], [], [], _LOOK_SECS)
        asked = os.read(woken, 64) if select.select([woken], [], [], 0)[0] else b""
        if signal.SIGQUIT in asked or time.monotonic() > kill_at:
            os.kill(child, signal.SIGKILL)
        elif signal.SIGTERM in asked or signal.SIGINT in asked:
            _end(child)
        elif signal.SIGTSTP in asked or signal.SIGCONT in asked:
            last = max(asked.rfind(signal.SIGTSTP), asked.rfind(signal.SIGCONT))
            os.kill(child, signal.SIGSTOP if asked[last] == signal.SIGTSTP else signal.SIGCONT)
        if os.getppid() != parent and kill_at == float("inf"):
            _end(child)
            kill_at = time.monotonic() + _GRACE_SECS


def _end(child: int) -> None:
    """Ask a program to end, be it paused."""
    os.kill(child, signal.SIGTERM)
    os.kill(child, signal.SIGCONT)


if __name__ == "__main__":
    sys.exit(_watch(int(sys.argv[1]), sys.argv[2:]))
