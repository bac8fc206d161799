"""The tide of a lane as it is stored among its state: the moment up to which the lane's views have all of the source.

One entry per lane: key `now` of step `tide`, value = version byte, Unix milliseconds (8 bytes, little-endian). It is
written for whoever reads the state topic; the lane itself begins without one and says it again when it knows.
"""

from __future__ import annotations

import struct

from state.entries import StateUnreadable

STEP, KEY = "tide", b"now"
_TIDE = struct.Struct("<Bq")
_VERSION = 1


def pack_tide(moment_ms: int) -> bytes:
    """Write a tide, Unix milliseconds."""
    return _TIDE.pack(_VERSION, moment_ms)


def read_tide(stored: bytes) -> int:
    """Read a tide, Unix milliseconds.

    Raises:
        StateUnreadable: it is of another version or broken.
    """
    try:
        version, moment_ms = _TIDE.unpack(stored)
    except struct.error:
        version, moment_ms = 0, 0
    if version != _VERSION:
        raise StateUnreadable(f"could not read a tide: this build reads version {_VERSION} of it")
    return int(moment_ms)
