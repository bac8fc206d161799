"""A view that is computed from the events: its panes are read from Redis and evaluated at each row's event time.

A value is a string at `penstock:<pipeline>:<view>:<key>`: 16 bytes version (`state/versions.py`), then the key's panes
(`state/packed.py`); nothing after the version where the key was deleted. It speaks for the moment of its lane's tide
(`state/tides.py`), however long ago the key's last event was, and so does the absence of a value: a key that is not
there has had no event in its windows. A view without tides was never written: every value is missing.

Where the key is a token for what the producer chose the lane by, nobody can tell its lane: then every value speaks for
the moment of the lane that is furthest behind.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from state.tides import Tides, tides_key
from state.versions import SIZE
from state.view_reader import ViewReader
from state.view_windows import ViewWindows
from state.views import Command, Lack, Request, Values, redis_keys

Kept: TypeAlias = "tuple[bytes | None, float] | Lack"
"""Panes, and the tide that was read before them in Unix seconds: what is cached looks no younger than it is."""


@dataclass(frozen=True)
class WindowedView:
    """Reads the windows of keys."""

    windows: ViewWindows
    any_lane: bool = False
    """Whether a key may be in another lane than murmur2 says."""

    @property
    def name(self) -> str:
        """Unique in its pipeline."""
        return self.windows.name

    @cached_property
    def features(self) -> tuple[tuple[str, str], ...]:
        """All are numbers."""
        return tuple((feature.name, "number") for feature in self.windows.features)

    @cached_property
    def _reader(self) -> ViewReader:
        return ViewReader(self.windows)

    def requests(self, pipeline: str, keys: Sequence[str]) -> Sequence[Request]:
        """Strings for GET."""
        return redis_keys(pipeline, self.name, keys)

    def request(self, redis_key: bytes) -> Request:
        """A string for GET."""
        return redis_key

    def aside(self, pipeline: str) -> Command | None:
        """The tides of all lanes."""
        return b"HGETALL", tides_key(pipeline, self.name)

    def kept(self, keys: Sequence[str], replies: Sequence[Any], aside: Any) -> list[Kept]:
        """Panes of each key, and the tide that they speak for."""
        tides = Tides.read(aside)
        if tides is None:
            lack = aside if isinstance(aside, Lack) else Lack.MISSING
            return [lack] * len(keys)
        own = [tides.least()] * len(keys) if self.any_lane else tides.of(keys).tolist()
        return [self._kept(reply, tide) for reply, tide in zip(replies, own, strict=True)]

    def _kept(self, reply: Any, tide: float) -> Kept:
        if isinstance(reply, Lack):
            return reply
        if math.isnan(tide):
            return Lack.MISSING
        if reply is None or len(reply) == SIZE:
            return None, tide
        panes = reply[SIZE:]
        return (panes, tide) if self._reader.readable(panes) else Lack.UNREADABLE

    def values(self, kept: Sequence[Kept], rows: npt.NDArray[np.intp], at_ms: npt.NDArray[np.int64]) -> Values:
        """Evaluate each row's windows at its event time."""
        chosen = [kept[row] for row in rows.tolist()]
        lacks = {row: each for row, each in enumerate(chosen) if isinstance(each, Lack)}
        panes = [None if isinstance(each, Lack) else each[0] for each in kept]
        as_of = np.array([math.nan if isinstance(each, Lack) else each[1] for each in chosen], np.float64)
        numbers = np.stack(list(self._reader.evaluate_many(panes, at_ms, rows).values()))
        numbers[:, list(lacks)] = np.nan
        return Values(numbers, [], as_of, lacks)
