"""The template process: imports everything once, then forks slots and starts dead ones again.

Presidio and River take 6 s to import; a fork takes 0.1 s. The template has one Python thread and only imports and
prepares: it evaluates no Polars expression (every child forked after one hangs) and opens no client, socket or ONNX
session. Run by the launcher as `python -m console.template STATUS_FD`, with the settings in the environment and the
pipeline on standard input.
"""

from __future__ import annotations

import ctypes
import gc
import json
import logging
import os
import pickle
import select
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from console.leaving import EXIT_FENCED, EXIT_UNFIT
from console.logs import log_as

log = logging.getLogger("console.template")  # the module runs as __main__

QUICK_SECONDS, QUICK_KILLED_SECONDS = 90.0, 5.0
"""A slot that ended by itself, or was killed, sooner after its start than this died quickly: back-off grows with each
one in a row. What a slot finds by a time-out (a hung call, a log that cannot be read) ends it within 90 s; a SIGKILL
from outside says nothing about the slot, unless it comes at once, as for want of memory."""
FIRST_PAUSE, LONGEST_PAUSE = 0.25, 30.0
TELL_AFTER = 3
_PR_SET_PDEATHSIG = 1
_STOPS = (signal.SIGTERM, signal.SIGINT)


@dataclass(slots=True)
class Slot:
    """One slot as its template sees it."""

    number: int
    pid: int = 0
    since: float = 0.0
    restarts: int = 0
    quick_deaths: int = 0
    start_at: float = 0.0
    """`time.monotonic()` of the next start."""
    exit: str = ""
    fenced: int = 0
    """Lives in a row that another process ended by becoming this slot."""
    look_first: int = 0
    """Exit status of its last life where the next one must look whether it may begin; else 0."""
    finished: bool = False

    def died(self, status: int, now: float) -> None:
        """Decide when the next life starts: at once, unless it keeps dying quickly."""
        self.exit = _how(status)
        quick = QUICK_KILLED_SECONDS if os.WIFSIGNALED(status) else QUICK_SECONDS
        self.quick_deaths = self.quick_deaths + 1 if now - self.since < quick else 1
        code = 0 if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
        self.fenced = 0 if code != EXIT_FENCED else self.fenced + 1 if self.quick_deaths > 1 else 1
        # A broker that was killed fences members, too, so one fencing says little; two rivals would go on for ever.
        self.look_first = code if code == EXIT_UNFIT or self.fenced > 1 else 0
        pause = 0.0 if self.quick_deaths == 1 else min(FIRST_PAUSE * 2 ** (self.quick_deaths - 2), LONGEST_PAUSE)
        self.pid, self.start_at = 0, now + pause
        self.restarts += 1

    def status(self) -> dict[str, object]:
        """What the launcher shows of it."""
        state = "running" if self.pid else "stopped" if self.finished else "waiting"
        return {
            "slot": self.number,
            "pid": self.pid,
            "state": state,
            "restarts": self.restarts,
            "exit": self.exit,
            "since": time.time(),
        }


@dataclass(slots=True)
class Template:
    """Keeps slots alive until told to stop."""

    numbers: list[int]
    status_fd: int
    become: Callable[[int, int], None]
    """In a forked child: be that slot until it ends; does not return. Told its number and what to look at first."""
    stopping: bool = False
    slots: list[Slot] = field(default_factory=list)

    def run(self) -> int:
        """Fork every slot, start dead ones again; returns when stopped, 0 if all slots ended well."""
        wake_read, wake_write = os.pipe()
        os.set_blocking(wake_write, False)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        for number in _STOPS:
            signal.signal(number, lambda *_: self._stop())
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self.slots = [Slot(number) for number in self.numbers]
        while True:
            self._start_due()
            if self.stopping and not any(slot.pid for slot in self.slots):
                return 0 if all(slot.exit in ("", _how(0), _how(signal.SIGTERM)) for slot in self.slots) else 1
            select.select([wake_read], [], [], self._pause())
            _drain(wake_read)
            self._reap()

    def _pause(self) -> float | None:
        waiting = [slot.start_at for slot in self.slots if not slot.pid and not slot.finished]
        return max(min(waiting) - time.monotonic(), 0.0) if waiting and not self.stopping else None

    def _start_due(self) -> None:
        for slot in self.slots:
            if not (slot.pid or slot.finished or self.stopping) and slot.start_at <= time.monotonic():
                self._fork(slot)

    def _fork(self, slot: Slot) -> None:
        template = os.getpid()
        # Held back, or a stop just now would be passed on to a slot that is not noted yet: to none.
        signal.pthread_sigmask(signal.SIG_BLOCK, _STOPS)
        try:
            if self.stopping:
                return
            pid = os.fork()
            if pid == 0:
                _leave_template_behind(template)
                self.become(slot.number, slot.look_first)
            slot.pid, slot.since = pid, time.monotonic()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPS)
        self._tell(slot)

    def _reap(self) -> None:
        for slot in self.slots:
            if not slot.pid:
                continue
            pid, status = os.waitpid(slot.pid, os.WNOHANG)
            if not pid:
                continue
            if self.stopping:
                slot.pid, slot.exit, slot.finished = 0, _how(status), True
            else:
                slot.died(status, time.monotonic())
                self._say(slot)
            self._tell(slot)

    def _say(self, slot: Slot) -> None:
        pause = max(slot.start_at - time.monotonic(), 0.0)
        if slot.quick_deaths < TELL_AFTER:
            log.warning("slot %d ended (%s); it is started again", slot.number, slot.exit)
        else:
            log.error(
                "slot %d has died %d times in a row, soon after each start (last: %s). Its reason is in "
                "the 'leaving:' line above. The next try is in %.1f s; the other slots go on",
                slot.number,
                slot.quick_deaths,
                slot.exit,
                pause,
            )

    def _stop(self) -> None:
        self.stopping = True
        for slot in self.slots:
            if slot.pid:
                os.kill(slot.pid, signal.SIGTERM)
            else:
                slot.finished = True

    def _tell(self, slot: Slot) -> None:
        os.write(self.status_fd, json.dumps(slot.status()).encode() + b"\n")


def _leave_template_behind(template: int) -> None:
    signal.set_wakeup_fd(-1)
    for number in (*_STOPS, signal.SIGCHLD):  # a slot that is told to stop before it has begun just ends
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPS)
    die_with_parent()
    if os.getppid() != template:  # it died before the kernel knew
        os._exit(1)


def die_with_parent() -> None:
    """Ask the kernel for SIGKILL when the parent ends, so that no slot outlives its template."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _how(status: int) -> str:
    if os.WIFSIGNALED(status):
        return f"killed by {signal.Signals(os.WTERMSIG(status)).name}"
    return f"exit status {os.WEXITSTATUS(status)}"


def _drain(fd: int) -> None:
    while select.select([fd], [], [], 0)[0]:
        os.read(fd, 512)


def main() -> int:
    """Import, prepare, fork."""
    die_with_parent()
    log_as("template")
    from console.slot import run_slot  # with everything that a slot needs
    from dataflows.settings import Settings
    from dataflows.wiring import opener

    settings = Settings.from_environment()
    pipeline = pickle.load(sys.stdin.buffer)  # noqa: S301 -- from the launcher, our parent
    opens = opener(settings, pipeline)

    def become(number: int, look_first: int) -> None:
        log_as(f"slot {number}")
        run_slot(settings.model_copy(update={"slot": number}), pipeline, opens, look_first)

    if (threads := threading.enumerate()) != [threading.main_thread()]:
        log.error("the template would fork broken slots: it has threads %s; does a library start them?", threads)
        return 1
    gc.collect()
    gc.freeze()  # shared pages stay shared
    numbers = list(range(settings.slot, settings.slot + settings.slots))
    return Template(numbers, int(sys.argv[1]), become).run()


if __name__ == "__main__":
    sys.exit(main())
