"""A retry budget: retries are a bounded share of the calls, so that they cannot multiply a troubled server's load."""

from __future__ import annotations


class RetryBudget:
    """One retry for every ten calls that succeeded, and at most ten at once (as Finagle's)."""

    _MOST = 10.0

    def __init__(self, share: float = 0.1) -> None:
        self._share = share
        self._left = self._MOST

    def earn(self) -> None:
        """Note a call that succeeded."""
        self._left = min(self._MOST, self._left + self._share)

    def take(self) -> bool:
        """Whether one more retry may be made; if so, it is counted."""
        if self._left < 1:
            return False
        self._left -= 1
        return True
