"""What `enrich` costs: a loaded view, cache off, against a pipelined read by hand with hiredis; and windows.

Both read the same keys of the same Redis and make the same columns and ages; in each round they take turns, batch by
batch, and a round's ratio is of its medians. By hand means: nothing can fail, nothing is measured or said.
"""

from __future__ import annotations

import socket
import statistics
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hiredis
import numpy as np
from measure import Spread

from console.embedded import RedisServer
from operators.batch import Batch
from operators.enrich import Enricher, ViewRule
from state.feature_writer import FeatureWriter
from state.features import FeatureStore
from state.key_windows import KeyWindows
from state.tides import Mark
from state.versions import version
from state.view_windows import ViewWindows
from state.views import LoadedView, View, redis_keys
from state.window_spec import Feature
from state.windowed_view import WindowedView

AIM = 1.5
SIZES = (64, 256)
_BATCHES, _WARM = 200, 50
_HOLDER = LoadedView("holder", (("claims_3y", "number"), ("paid_3y", "number"), ("tenure_days", "number")))
_HOUR, _PANE = 3_600_000, 60_000
_WINDOWS = ViewWindows(
    "lately",
    "holder_id",
    (
        Feature("claims_1h", "count", _HOUR),
        Feature("paid_1h", "sum", _HOUR, "paid"),
        Feature("last", "seconds_since_last", _HOUR),
    ),
    _PANE,
)
_LANES = 8


class ByHand:
    """MGET on a socket, hiredis, struct, numpy."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._reader = hiredis.Reader()
        self._value = struct.Struct("<16x8x3d")

    def read(self, keys: list[str]) -> dict[str, Any]:
        """Columns and ages of the keys."""
        names = [b"penstock:bench:holder:" + key.encode() for key in keys]
        self._socket.sendall(hiredis.pack_command((b"MGET", *names)))  # type: ignore[arg-type]
        while (values := self._reader.gets()) is False:
            self._reader.feed(self._socket.recv(65536))
        now, missing = time.time(), (float("nan"),) * 3
        rows = [self._value.unpack(value) if value is not None else missing for value in values]
        ages = [
            now - (int.from_bytes(value[:8]) - (1 << 63)) / 1000 if value is not None else float("nan")
            for value in values
        ]
        columns = {
            f"holder_{name}": np.array(column)
            for (name, _), column in zip(_HOLDER.features, zip(*rows, strict=True), strict=True)
        }
        aged = np.array(ages)
        degraded = [("view:holder:stale",) if age > 30 * 86_400 else () for age in ages]
        return {**columns, "age": aged, "degraded": degraded}


def bench(folder: Path, rounds: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Microseconds per batch of each size, and our ratio to the read by hand."""
    found: dict[str, Any] = {}
    with RedisServer(folder) as server:
        writer = FeatureWriter.connect(server.url, "bench")
        keys = [f"PH-{n:06d}" for n in range(20_000)]
        now = round(time.time() * 1000)
        writer.load(_HOLDER, [(key, now, [1.5, 2.5, float(n)]) for n, key in enumerate(keys)])
        _fill_windows(writer, keys[:5000], now)
        store = FeatureStore.connect(server.url, "bench", timeout=1.0, entries=0)
        by_hand = ByHand(server.port)
        loaded, windowed = (_enricher(store, view) for view in (_HOLDER, WindowedView(_WINDOWS)))
        works: dict[str, Callable[[list[str], Batch], Any]] = {
            "by hand": lambda keys, _batch: by_hand.read(keys),
            "loaded": lambda _keys, batch: loaded.work(batch),
            "windows": lambda _keys, batch: windowed.work(batch),
        }
        for size in SIZES:
            taken: dict[str, list[float]] = {name: [] for name in works}
            for number in range(rounds):
                turn = _round(works, keys[:5000], size, now)
                for name, values in turn.items():
                    taken[name].append(values)
                say(f"round {number + 1} of {rounds}: {size} rows, {turn}")
            found[str(size)] = {
                "us": {name: Spread.of(values) for name, values in taken.items()},
                "ratio": Spread.of_ratios(taken["loaded"], taken["by hand"]),
            }
        store.close()
        writer.close()
    return found


def show(found: dict[str, Any]) -> None:
    """Print a table for people."""
    print("\nenrich, cache off: us of wall time per batch, median (least-greatest) of rounds\n")
    print(f"{'rows':<6}{'by hand':>18}{'loaded view':>18}{'windowed view':>18}{'loaded / by hand':>22}")
    for size, each in found.items():
        us = each["us"]
        print(f"{size:<6}{us['by hand']!s:>18}{us['loaded']!s:>18}{us['windows']!s:>18}{each['ratio']!s:>22}")
    print(f"\naim: at most {AIM} times the read by hand")


def _round(
    works: dict[str, Callable[[list[str], Batch], Any]], keys: list[str], size: int, now: int
) -> dict[str, float]:
    taken: dict[str, list[float]] = {name: [] for name in works}
    order = list(works)
    for number in range(_WARM + _BATCHES):
        some = keys[number * size % (len(keys) - size) :][:size]
        batch = _batch(some, now)
        order.append(order.pop(0))  # so that none of them always comes first
        for name in order:
            began = time.perf_counter()
            done = works[name](some, batch)
            took = (time.perf_counter() - began) * 1e6
            assert not any(done["degraded"] if isinstance(done, dict) else done.degraded)
            if number >= _WARM:
                taken[name].append(took)
    return {name: statistics.median(values) for name, values in taken.items()}


def _enricher(store: FeatureStore, view: View) -> Enricher:
    return Enricher(store, [ViewRule(view, "holder_id", max_age=30 * 86_400)])


def _batch(keys: list[str], now: int) -> Batch:
    n = len(keys)
    return Batch(
        "events", np.zeros(n, np.int32), np.arange(n), np.full(n, now), [None] * n, [b""] * n, [[]] * n,
        event_ms=np.full(n, now), columns={"holder_id": keys}, degraded=[()] * n,
    )  # fmt: skip


def _fill_windows(writer: FeatureWriter, keys: list[str], now: int) -> None:
    """Ten panes with an event for each key, and tides."""
    windows = KeyWindows(_WINDOWS)
    windows.restore({})
    for pane in range(10, 0, -1):
        n = len(keys)
        windows.observe(
            keys,
            [now - pane * 5 * _PANE] * n,
            behind_ms=[0] * n,
            values={"paid": [1.0] * n},
            lanes=[0] * n,
            offsets=range(n),
        )
    names, values = redis_keys("bench", "lately", keys), windows.read(keys)
    writer.put((name, version(now, 1) + (value or b""), None) for name, value in zip(names, values, strict=True))
    writer.move([("lately", lane, _LANES, Mark(now, 2, now), b"") for lane in range(_LANES)])
