"""Versions of stored values, by which Redis keeps the newer of two whoever comes later.

The first 16 bytes of every value that Penstock stores are its version: two big-endian numbers, the earlier first in
order, so that versions compare as bytes. A loaded value has (event time, when it was loaded), a windowed one
(append time of its changelog record, offset).
"""

from __future__ import annotations

import struct

SIGN = 1 << 63
"""Added to each number, so that those before 1970 are smaller, too."""
SIZE = 16
OLDER = f"""
local function older(a, b)  -- by bytes: Lua's own comparison is that of the server's language
  for at = 1, {SIZE} do
    local x, y = string.byte(a, at), string.byte(b, at)
    if x ~= y then return not x or x < y end
  end
  return false
end"""
"""A function for scripts: whether the version of `a` is older than that of `b`; '' is older than any."""


def version(first: int, second: int) -> bytes:
    """Write a version."""
    return struct.pack(">QQ", first + SIGN, second + SIGN)


def parts(stored: bytes) -> tuple[int, int]:
    """Read the version at the beginning of a value of at least 16 bytes."""
    first, second = struct.unpack_from(">QQ", stored)
    return first - SIGN, second - SIGN
