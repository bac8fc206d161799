"""Lanes that stay closed until somebody mends them, while the other lanes of the slot go on."""

from __future__ import annotations

import logging
from typing import Literal, TypeAlias

from operators import metrics

log = logging.getLogger(__name__)

Why: TypeAlias = Literal["state", "retention", "too_large"]


class ClosedLanes:
    """Which lanes are closed, and why: in the log, on `/readyz` and as a metric."""

    def __init__(self) -> None:
        self._lanes: dict[int, tuple[Why, str]] = {}

    def close(self, lane: int, why: Why, message: str) -> None:
        """Leave one lane closed, loudly: ending the process would move it to a healthy slot, which then dies of it."""
        self._lanes[lane] = why, message
        log.error("this lane is not read: %s", message)
        self._show()

    def forget(self, lane: int) -> None:
        """The lane is no longer this slot's."""
        if self._lanes.pop(lane, None) is not None:
            self._show()

    def messages(self) -> list[str]:
        """Say why, lane by lane."""
        return [message for _, (_, message) in sorted(self._lanes.items())]

    def _show(self) -> None:
        metrics.set_lanes_closed({lane: why for lane, (why, _) in self._lanes.items()})
