"""How far a long command is: a bar where a person watches, otherwise a line now and then. On standard error."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

EVERY_SECONDS = 5.0
"""Between two lines where there is no terminal."""


class Steps:
    """One step of a command after the other, each with its own count. A context manager."""

    def __init__(self, *, terminal: bool | None = None, now: Callable[[], float] = time.monotonic) -> None:
        """Prepare; `terminal` says whether a person watches, by default whether standard error is a terminal."""
        self._now, self._what, self._total, self._done = now, "", 0, 0
        self._told_at = now()
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        if sys.stderr.isatty() if terminal is None else terminal:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self._bar = Progress(*columns, console=Console(stderr=True, force_terminal=True), transient=True)

    def __enter__(self) -> Steps:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()

    def begin(self, what: str, total: int) -> None:
        """Say what comes now, and how many units it has."""
        self._what, self._total, self._done = what, total, 0
        if self._bar is not None:
            if self._task is not None:
                self._bar.remove_task(self._task)
            self._task = self._bar.add_task(what, total=total)
        elif total:
            self._tell()

    def advance(self, units: int) -> None:
        """Count units that are done."""
        self._done += units
        if self._bar is not None and self._task is not None:
            self._bar.advance(self._task, units)
        elif self._now() >= self._told_at + EVERY_SECONDS:
            self._tell()

    def reach(self, done: int) -> None:
        """Say how many units are done altogether."""
        if done > self._done:
            self.advance(done - self._done)

    def _tell(self) -> None:
        self._told_at = self._now()
        print(f"{self._what}: {self._done} of {self._total}", file=sys.stderr, flush=True)
