"""What lane state costs in memory and on disk: `PYTHONPATH=. .venv/bin/python tests/benchmarks/lane_store.py`.

Without a broker (but for `--restore`): the memories of recall and dedupe for one lane, driven in batches as a slot
drives them, each batch committed and written. Each row is a process of its own. CPU time is that of all threads.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import lane_restore
import measure

from state.dedupe import SeenIds
from state.entries import Entry, OnDisk
from state.id_chunks import index
from state.lane_stamp import Stamp
from state.lane_store import LaneStore, Shared
from state.window_spec import Feature, WindowSpec
from state.windows import EntityWindows

BATCH, HOT_KEYS, EVENTS, SEED = 256, 1_000, 100_000, 7
SPEC = WindowSpec((Feature("n", "count", 3_600_000), Feature("total", "sum", 3_600_000, "amount")))
WANTED = Stamp("bench.state", "id", "bench", lane=0, at=time.time())


class Disk:
    """A lane's store: what a slot does with it around a commit."""

    def __init__(self, folder: Path, step: str) -> None:
        self.store = LaneStore(
            folder / "lane-0", Shared(), WANTED, end=10**12, max_age=3600.0, indexes={"dedupe": index}
        )
        self.entries = OnDisk(self.store, step)
        self._prefix, self._offset = step.encode() + b"\0", 0

    def keep(self, changes: Iterable[Entry]) -> None:
        records = [(self._prefix + name, value) for name, value in changes]
        for key, value in records:
            self.store.hold(key, value)
        self._offset += len(records) + 1
        self.store.write(records, self._offset, at=WANTED.at)


def main() -> None:
    """Measure each row and print the table."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--size", type=int, default=1_000_000, help="entities, and event ids, in the lane")
    parser.add_argument("--restore", action="store_true", help="only: read a lane back from a real broker")
    parser.add_argument("--row", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.row:
        print(json.dumps(row(*options.row, options.size)))
        return
    if options.restore:
        lane_restore.show(options.size)
        return
    print(f"{options.size} entities or ids in a lane, batches of {BATCH}, seed {SEED}\n")
    for step in ("recall", "dedupe"):
        for where in ("memory", "disk"):
            told = subprocess.run(
                [sys.executable, __file__, "--size", str(options.size), "--row", step, where],
                check=True, capture_output=True, text=True,
            )  # fmt: skip
            print(
                f"{step}, {where}: " + ", ".join(f"{name} {value}" for name, value in json.loads(told.stdout).items())
            )


def row(step: str, where: str, size: int) -> dict[str, Any]:
    """Fill a lane, go on at two patterns of keys, open it again."""
    folder = Path(tempfile.mkdtemp(prefix="penstock-bench-"))
    try:
        return (_recall if step == "recall" else _dedupe)(where, folder, size)
    finally:
        shutil.rmtree(folder)


def _recall(where: str, folder: Path, size: int) -> dict[str, Any]:
    before = measure.memory_mb(os.getpid())["rss"]
    windows, disk = EntityWindows(SPEC), Disk(folder, "recall") if where == "disk" else None
    if disk:
        windows.restore(disk.entries)
    dice, began = random.Random(SEED), 1_800_000_000_000

    def work(numbers: list[int], at: int) -> None:
        n = len(numbers)
        windows.observe([f"entity-{i:09}" for i in numbers], [at] * n, [at] * n, {"amount": [1.0] * n})
        changes = windows.changes()
        if disk:
            disk.keep(changes)

    fill = _cost(lambda: _each(size, lambda first, n: work(list(range(first, first + n)), began)), size)
    figures: dict[str, Any] = {"fill_us": fill, "rss_mb": round(measure.memory_mb(os.getpid())["rss"] - before)}
    for name, keys in (("hot_us", HOT_KEYS), ("uniform_us", size)):
        events = [dice.randrange(keys) for _ in range(EVENTS)]
        figures[name] = _cost(lambda e=events: _each(EVENTS, lambda f, n: work(e[f : f + n], began + 60_000)), EVENTS)
    figures["rss_after_mb"] = round(measure.memory_mb(os.getpid())["rss"] - before)
    return figures | _reopen(disk, folder, "recall", lambda entries: EntityWindows(SPEC).restore(entries))


def _dedupe(where: str, folder: Path, size: int) -> dict[str, Any]:
    before = measure.memory_mb(os.getpid())["rss"]
    seen, disk = SeenIds(86_400_000, 10**9), Disk(folder, "dedupe") if where == "disk" else None
    if disk:
        seen.restore(disk.entries)
    dice = random.Random(SEED)

    def work(ids: list[str], first: int) -> None:
        n = len(ids)
        seen.mark(ids, range(first, first + n), [first // 10] * n)
        changes = seen.changes()
        if disk:
            disk.keep(changes)

    fill = _cost(lambda: _each(size, lambda f, n: work([f"event-{i:09}" for i in range(f, f + n)], f)), size)
    figures: dict[str, Any] = {"fill_us": fill, "rss_mb": round(measure.memory_mb(os.getpid())["rss"] - before)}
    repeats = [f"event-{dice.randrange(size):09}" for _ in range(EVENTS)]
    figures["repeat_us"] = _cost(lambda: _each(EVENTS, lambda f, n: work(repeats[f : f + n], size + f)), EVENTS)
    fresh = [f"other-{i:09}" for i in range(EVENTS)]
    figures["new_us"] = _cost(lambda: _each(EVENTS, lambda f, n: work(fresh[f : f + n], size + EVENTS + f)), EVENTS)
    return figures | _reopen(disk, folder, "dedupe", lambda entries: SeenIds(86_400_000, 10**9).restore(entries))


def _reopen(disk: Disk | None, folder: Path, step: str, restore: Callable[[OnDisk], None]) -> dict[str, Any]:
    """How long a lane takes to open from its store, and how much there is on disk."""
    if disk is None:
        return {}
    disk.store.close()
    began = time.perf_counter()
    restore(Disk(folder, step).entries)
    seconds = time.perf_counter() - began
    return {"open_s": round(seconds, 2), "disk_mb": round(sum(f.stat().st_size for f in folder.rglob("*")) / 1e6)}


def _each(count: int, work: Callable[[int, int], None]) -> None:
    for first in range(0, count, BATCH):
        work(first, min(BATCH, count - first))


def _cost(work: Callable[[], None], events: int) -> float:
    """Microseconds of CPU per event."""
    began = time.process_time()
    work()
    return round((time.process_time() - began) / events * 1e6, 1)


if __name__ == "__main__":
    main()
