"""A circuit breaker: after some failures in a row, ask no more for a while.

Thirty lines instead of pybreaker, whose clock cannot be given: tests and the decision's own time need that.
"""

from __future__ import annotations

import math
from collections.abc import Callable


class Breaker:
    """Counts failures in a row. Open, it lets nothing through for `reset` seconds, and then one trial at a time."""

    def __init__(self, failures: int, reset: float, now: Callable[[], float]) -> None:
        self._most = failures
        self._reset = reset
        self._now = now
        self._failures = 0
        self._opened_at = 0.0

    @property
    def is_open(self) -> bool:
        """Whether it has opened and no trial has succeeded since."""
        return self._failures >= self._most

    def allows(self) -> bool:
        """Whether to try now. A trial that fails opens it for another `reset` seconds."""
        return not self.is_open or self._now() - self._opened_at >= self._reset

    def try_soon(self) -> None:
        """Let the next call through, since the dependency was away and has been seen again."""
        self._opened_at = -math.inf

    def succeeded(self) -> None:
        """Note that the dependency answered."""
        self._failures = 0

    def failed(self) -> None:
        """Note that it did not."""
        self._failures += 1
        if self.is_open:
            self._opened_at = self._now()
