"""What /proc says of a process tree, and how figures are put together."""

from __future__ import annotations

import os
import platform
import signal
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

_TICK = os.sysconf("SC_CLK_TCK")
LIBRARIES = ("bytewax", "confluent-kafka", "onnxruntime", "river", "presidio-analyzer", "pydantic", "polars", "orjson")


def leave_on_sigterm() -> None:
    """Take SIGTERM as Ctrl-C: what was started is ended on the way out, and no engine is left behind."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def tree(root: int) -> list[int]:
    """The process `root` and all that descend from it."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (stat := _stat(int(entry.name))):
            parents[int(entry.name)] = int(stat[1])
    found = [root]
    for pid in found:
        found += [child for child, parent in parents.items() if parent == pid]
    return found


def cpu_seconds(root: int) -> float:
    """User and system time of a tree and of its children that have ended, in seconds; the clock ticks every 10 ms."""
    return sum(sum(map(int, stat[11:15])) for pid in tree(root) if (stat := _stat(pid))) / _TICK


def brokers(root: int) -> list[int]:
    """The Kafka brokers in a tree."""
    return [pid for pid in tree(root) if b"kafka.Kafka" in (line := _command(pid)) and line[0].endswith(b"java")]


def _command(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return []


def _stat(pid: int) -> list[str] | None:
    """Fields of /proc/PID/stat from the third on (the second, the name, may hold anything); None when it has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None


def memory_mb(pid: int) -> dict[str, float]:
    """Resident memory, and its proportional part where pages are shared with other processes, in MB."""
    found = {"rss": 0.0, "pss": 0.0}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        name, _, rest = line.partition(":")
        if name.lower() in found:
            found[name.lower()] = round(int(rest.split()[0]) / 1024, 1)
    return found


@dataclass(frozen=True, slots=True)
class Spread:
    """A median with the least and the greatest of what was measured."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Summarise at least one value."""
        return cls(statistics.median(values), min(values), max(values))

    @classmethod
    def of_ratios(cls, ours: Sequence[float], theirs: Sequence[float]) -> Spread:
        """Summarise how many times theirs ours is, each value over the one of the same round."""
        return cls.of([a / b for a, b in zip(ours, theirs, strict=True)])

    def __str__(self) -> str:
        digits = 2 if self.median < 10 else 1 if self.median < 100 else 0
        return f"{self.median:.{digits}f} ({self.low:.{digits}f}-{self.high:.{digits}f})"


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which `share` of them lie."""
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)]


def machine() -> dict[str, str]:
    """What these figures were measured on."""
    cpu = next(
        (line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")), "?"
    )
    return {
        "cpu": f"{os.cpu_count()} x {cpu}",
        "load": " ".join(f"{load:.1f}" for load in os.getloadavg()),
        "python": platform.python_version(),
        **{name: version(name) for name in LIBRARIES},
    }


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []
