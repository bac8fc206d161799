"""How far the events of one lane are behind: what decides whether an event is late, once, where it came from.

An event that is dated further ahead of the broker's time than events may be late is *ahead*: it is not taken and moves
no clock. So whatever the clocks of producers say, an event dated when it is appended is behind by no more than that.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence

from state.entries import StateUnreadable

NEVER = -(2**62)
"""Before every event time."""
LEAST_AHEAD_MS = 60_000
"""Clocks may differ by as much, however little events may be late."""
_TIME = struct.Struct("<Bq")


class Lateness:
    """The greatest event time of one lane."""

    def __init__(self, ahead_ms: int, stored: bytes | None = None) -> None:
        """Go on from what `pack` gave, or begin.

        Args:
            ahead_ms: how far ahead of the broker's time an event may be dated, as `most_ahead` says.
            stored: what `pack` gave.

        Raises:
            StateUnreadable: it is of another version or broken.
        """
        self._ahead_ms = ahead_ms
        self.latest_ms = read_time(stored)

    def behind(self, event_ms: Sequence[int], append_ms: Sequence[int]) -> list[int | None]:
        """Say for each row, in offset order, by how much it is behind the greatest event time of the rows before.

        Args:
            event_ms: (n,) event times, Unix milliseconds.
            append_ms: (n,) broker times, Unix milliseconds; 0 or less where there is none.

        Returns:
            (n,) milliseconds, at least 0; None where the row is ahead.
        """
        behind: list[int | None] = []
        latest = self.latest_ms
        for time, appended in zip(event_ms, append_ms, strict=True):
            if is_ahead(time, appended, self._ahead_ms):
                behind.append(None)
            elif time >= latest:
                behind.append(0)
                latest = time
            else:
                behind.append(latest - time)
        self.latest_ms = latest
        return behind

    def pack(self) -> bytes:
        """Write it."""
        return pack_time(self.latest_ms)


def most_ahead(lateness_ms: Iterable[int]) -> int:
    """How far ahead of the broker's time events may be dated, where they may be late by as much: in milliseconds."""
    return max(min(lateness_ms), LEAST_AHEAD_MS)


def is_ahead(event_ms: int, append_ms: int, ahead_ms: int) -> bool:
    """Whether an event is; without a broker's time, as in a history, none is."""
    return event_ms > append_ms + ahead_ms and append_ms > 0


def pack_time(latest_ms: int) -> bytes:
    """Write a greatest event time."""
    return _TIME.pack(1, latest_ms)


def read_time(stored: bytes | None) -> int:
    """Read it; `NEVER` for None.

    Raises:
        StateUnreadable: it is of another version or broken.
    """
    if stored is None:
        return NEVER
    try:
        version, latest = _TIME.unpack(stored)
    except struct.error:
        version, latest = 0, 0
    if version != 1:
        raise StateUnreadable("could not restore the watermark of a lane: this build reads version 1 of it")
    return int(latest)
