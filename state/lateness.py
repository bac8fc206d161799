"""How far the events of one lane are behind: what decides whether an event is late, once, where it came from."""

from __future__ import annotations

import struct
from collections.abc import Sequence

from state.entries import StateUnreadable
from state.window_spec import DAY_MS

NEVER = -(2**62)
"""Before every event time."""
MAX_AHEAD_MS = DAY_MS
_TIME = struct.Struct("<Bq")


class Lateness:
    """The greatest event time of one lane."""

    def __init__(self, stored: bytes | None = None) -> None:
        """Go on from what `pack` gave, or begin.

        Raises:
            StateUnreadable: it is of another version or broken.
        """
        self.latest_ms = read_time(stored)

    def behind(self, event_ms: Sequence[int], append_ms: Sequence[int]) -> list[int | None]:
        """Say for each row, in offset order, by how much it is behind the greatest event time of the rows before.

        Args:
            event_ms: (n,) event times, Unix milliseconds.
            append_ms: (n,) broker times, Unix milliseconds; 0 or less where there is none.

        Returns:
            (n,) milliseconds, at least 0; None where the row is dated more than a day after the broker's time: one
            wrong clock must not end the windows of a whole lane.
        """
        behind: list[int | None] = []
        latest = self.latest_ms
        for time, appended in zip(event_ms, append_ms, strict=True):
            if time > appended + MAX_AHEAD_MS and appended > 0:
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
