"""A bounded cache whose entries have a maximum age.

Not cachetools.TTLCache: that takes 1.8 µs to look up and 1.3 to store (measured), more than the Redis read itself costs
per key. One age for all means that the order of storing is the order of ageing, so a dict is enough: 0.1 µs each.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class AgingCache(Generic[K, V]):
    """Remembers at most `entries` values for at most `max_age` seconds; the oldest go first."""

    def __init__(self, entries: int, max_age: float) -> None:
        self._most = entries if max_age else 0
        self._max_age = max_age
        self._stored: dict[K, tuple[float, V]] = {}

    def __len__(self) -> int:
        return len(self._stored)

    def find(self, keys: Iterable[K], now: float) -> dict[K, V]:
        """Give what is known of `keys` and young enough at `now`, in seconds."""
        stored = self._stored
        if not stored:
            return {}
        oldest = now - self._max_age
        found: dict[K, V] = {}
        for key in keys:
            entry = stored.get(key)
            if entry is not None and entry[0] > oldest:
                found[key] = entry[1]
        return found

    def store(self, values: Iterable[tuple[K, V]], now: float) -> None:
        """Remember `values`, read at `now`, in place of the oldest."""
        if not self._most:
            return
        stored = self._stored
        for key, value in values:
            stored.pop(key, None)  # so that it goes to the end
            stored[key] = now, value
        while len(stored) > self._most:
            del stored[next(iter(stored))]

    def forget(self, key: K) -> None:
        """Forget one value, if it is known."""
        self._stored.pop(key, None)

    def clear(self) -> None:
        """Forget all of them."""
        self._stored.clear()
