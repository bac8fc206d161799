"""Feature views in Redis, read for a whole batch in one round trip.

Reading never raises: what Redis does not answer in time, or cannot read, is a `Lack`. A cache of bounded size and age
stands before it; a view's answers stay in it as they came, with the tide that was read beside them, so that nothing
that is cached can look younger than it is.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from state.breaker import Breaker
from state.cache import AgingCache
from state.cluster_link import ClusterLink
from state.link import Asks, NoLink
from state.redis_address import Address
from state.redis_link import CONNECT_SECONDS, Link
from state.views import Lack, Request, View

Cached: TypeAlias = AgingCache[Request, Any]


@dataclass(slots=True)
class Found:
    """What a batch's keys have in one view."""

    kept: list[Any]
    """What the view keeps of the answer for each distinct key, and at last `Lack.MISSING`."""
    rows: npt.NDArray[np.intp]
    """(n,) place in `kept` of each row; the last one for a row without a key."""
    hits: int
    """Keys that the cache knew."""
    misses: int


class FeatureStore:
    """Reads the views of one pipeline."""

    def __init__(self, link: Asks, pipeline: str, *, cache: Cached, now: Callable[[], float] = time.monotonic) -> None:
        """Read through `link`; `now` gives monotonic seconds."""
        self._link = link
        self._pipeline = pipeline
        self._cache = cache
        self._now = now
        self._views: set[View] = set()

    @classmethod
    def connect(
        cls,
        url: str | None,
        pipeline: str,
        *,
        timeout: float = 0.05,
        failures: int = 5,
        reset: float = 2.0,
        entries: int = 10_000,
        max_age: float = 1.0,
        now: Callable[[], float] = time.monotonic,
    ) -> FeatureStore:
        """Begin to connect to `url`, in a thread of its own.

        Args:
            url: see `state.redis_address`; None where there is no Redis.
            pipeline: part of every key.
            timeout: seconds that a read may take in all.
            failures: of the breaker, in a row.
            reset: seconds for which the open breaker lets nothing through.
            entries: of the cache.
            max_age: seconds that the cache keeps them.
            now: monotonic seconds.

        Raises:
            ValueError: the URL is none of Redis.
        """
        cache: Cached = AgingCache(entries, max_age)
        if url is None:
            return cls(NoLink(), pipeline, cache=cache, now=now)
        address, breaker, track = Address.parse(url), partial(Breaker, failures, reset, now), bool(entries and max_age)
        link: Asks
        if address.kind == "cluster":
            link = ClusterLink(address, timeout=timeout, breaker=breaker, track=track, now=now)
        else:
            link = Link(address.connect(CONNECT_SECONDS), timeout=timeout, breaker=breaker(), track=track, now=now)
        return cls(link, pipeline, cache=cache, now=now)

    def __repr__(self) -> str:
        return f"FeatureStore(pipeline={self._pipeline!r})"  # flows are printed: no address, no password

    @property
    def is_open(self) -> bool:
        """Whether a circuit breaker lets nothing through to Redis."""
        return self._link.is_open

    def read(self, wanted: Mapping[View, Sequence[str | None]]) -> dict[View, Found]:
        """Read keys of several views in one round trip, as far as the cache does not know them.

        Args:
            wanted: view to the key of each row (n,), None where it has none.

        Returns:
            View to what was found.
        """
        now = self._now()
        self._forget_changed(wanted)
        asked = [_Asked(view, self._pipeline, keys, self._cache, now) for view, keys in wanted.items()]
        names = [name for each in asked for name in each.names]
        commands = [command for each in asked for command in each.commands]
        values, replies = self._link.ask(names, commands) if names or commands else ([], [])
        left, other = iter(values), iter(replies)
        return {each.view: each.take(left, other, self._cache, now) for each in asked}

    def stored(self, view: View, key: str) -> bytes | None:
        """What is stored for a key, as it is; None where nothing is, or it cannot be had."""
        requests = view.requests(self._pipeline, [key])
        values, _ = self._link.ask([each for each in requests if isinstance(each, bytes)])
        return values[0] if values and isinstance(values[0], bytes) else None

    def close(self) -> None:
        """Give the connection back."""
        self._link.close()

    def _forget_changed(self, views: Mapping[View, Any]) -> None:
        self._views |= views.keys()
        changed = self._link.changed()
        if changed is None:
            self._cache.clear()
            return
        for name in changed:
            for view in self._views:
                self._cache.forget(view.request(name))


class _Asked:
    """One view's part of a round trip."""

    def __init__(self, view: View, pipeline: str, keys: Sequence[str | None], cache: Cached, now: float) -> None:
        self.view = view
        self._keys = keys
        distinct = dict.fromkeys(keys)
        distinct.pop(None, None)
        self._distinct: list[str] = list(distinct)  # type: ignore[arg-type] # it is gone
        self._requests = view.requests(pipeline, self._distinct)
        self._known = cache.find(self._requests, now)
        self._absent: Sequence[int] = range(len(self._requests))
        if self._known:
            self._absent = [at for at, each in enumerate(self._requests) if each not in self._known]
        absent = [self._requests[at] for at in self._absent]
        aside = view.aside(pipeline) if absent else None
        self._asides = 0 if aside is None else 1
        self.names = [request for request in absent if isinstance(request, bytes)]
        self.commands = [*([] if aside is None else [aside]), *(each for each in absent if isinstance(each, tuple))]

    def take(self, values: Iterator[Any], replies: Iterator[Any], cache: Cached, now: float) -> Found:
        """Take this view's part of the answers, which come in the order of the questions."""
        aside = next(replies) if self._asides else None
        answers = list(islice(values, len(self.names))) or list(islice(replies, len(self._absent)))
        fresh = self.view.kept([self._distinct[at] for at in self._absent], answers, aside)
        cache.store(
            (
                (self._requests[at], each)
                for at, each in zip(self._absent, fresh, strict=True)
                if each is not Lack.UNAVAILABLE
            ),
            now,
        )
        if self._known:
            kept = [self._known.get(request) for request in self._requests]
            for at, each in zip(self._absent, fresh, strict=True):
                kept[at] = each
        else:
            kept = fresh
        return Found([*kept, Lack.MISSING], self._rows(), len(self._known), len(self._absent))

    def _rows(self) -> npt.NDArray[np.intp]:
        if len(self._distinct) == len(self._keys):
            return np.arange(len(self._keys), dtype=np.intp)
        place = {key: at for at, key in enumerate(self._distinct)}
        return np.array([place.get(key, -1) for key in self._keys], np.intp)  # type: ignore[arg-type] # None has none
