"""`penstock run` as a child process with a small pipeline, and what a plain Kafka client sees of its work.

with launched(file, kafka.bootstrap, tmp_path, slots=2) as run:
    run.until_ready()
    send(kafka.bootstrap, pipeline, 100)
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from confluent_kafka import Consumer, IsolationLevel, KafkaError, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from console.ports import free_row
from console.scenery import seal_key
from console.topics import topics_of
from dataflows.pipeline import Pipeline, load

ROOT = Path(__file__).resolve().parents[2]
LANES = 4
FIRSTS = ("decisions", "rejected", "quarantine", "duplicates")
SMALL = """
pipeline: {name}
contract:
  format: json
  event_id: id
  entity: who
  event_time: at
  fields:
    id: {{ type: string }}
    who: {{ type: string }}
    at: {{ type: datetime }}
    amount: {{ type: number }}
guard: {{ default: allow, headers: allow }}
{more}
policy:
  version: "1"
  outcomes: [approve, review]
  default: approve
  on_unknown: review
  rules:
    - {{ name: large, when: "amount > 100", outcome: review, reason: LARGE }}
topics: {{ registry: {name}.registry, admissions: {name}.admissions }}
"""


def small_pipeline(called: str, folder: Path, more: str = "") -> Path:
    """Write a pipeline without models that shares no topic with another; gives the file."""
    file = folder / "pipeline.yaml"
    file.write_text(SMALL.format(name=called.replace("-", "_"), more=more), encoding="utf-8")
    return file


def small_on(kafka: Any, called: str, folder: Path, more: str = "") -> tuple[Path, Pipeline]:
    """The same, with its topics created."""
    file = small_pipeline(called, folder, more)
    pipeline = load(file)
    kafka.create_topics(topics_of(pipeline, LANES))
    return file, pipeline


class Launched:
    """A launcher, its log and its pages."""

    def __init__(self, file: Path, bootstrap: str, folder: Path, *, slots: int, settings: dict[str, str]) -> None:
        self.port = free_row(slots + 2)
        self.slots, self.log = slots, folder / f"run-{self.port}.log"
        options = {
            "BOOTSTRAP": bootstrap,
            "SLOTS": str(slots),
            "METRICS_PORT": str(self.port),
            "SEAL_KEY": seal_key(),
            "ARTEFACTS": str(folder),
            **settings,
        }
        self.environment = {**os.environ, **{f"PENSTOCK_{name}": value for name, value in options.items()}}
        self._file = file
        self.process = self._start()

    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def page(self, path: str) -> str:
        """A page of the launcher, or nothing when it does not answer 200."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=3) as answer:
                return str(answer.read().decode())
        except OSError:
            return ""

    def table(self) -> list[dict[str, Any]]:
        return list(json.loads(self.page("/slots") or "[]"))

    def pids(self) -> list[int]:
        """The launcher and everything below it."""
        found = [self.process.pid]
        for pid in found:
            children = Path(f"/proc/{pid}/task/{pid}/children")
            found += map(int, children.read_text().split()) if children.exists() else []
        return found

    def until_ready(self, timeout: float = 60.0) -> None:
        wait(lambda: self.page("/readyz"), timeout, self, "to be ready")

    def ends(self, timeout: float = 30.0) -> int:
        """Its exit status."""
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            pytest.fail(f"it did not end within {timeout:g} s; it said:\n{self.said()[-6000:]}")

    def _start(self) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            command = [sys.executable, "-m", "console.cli", "run", str(self._file)]
            return subprocess.Popen(command, cwd=ROOT, env=self.environment, stderr=log, stdout=log)


@contextmanager
def launched(
    file: Path, bootstrap: str, folder: Path, *, slots: int = 1, how: type[Launched] = Launched, **settings: str
) -> Iterator[Launched]:
    """Run until the end of the block; nothing is left of it."""
    run = how(file, bootstrap, folder, slots=slots, settings=settings)
    try:
        yield run
    finally:
        left = run.pids()
        run.process.kill()
        run.process.wait()
        try:
            gone(left)
        finally:
            for pid in alive(left):  # the test has failed; they must not disturb the next
                os.kill(pid, signal.SIGKILL)


def alive(pids: list[int]) -> list[int]:
    """Those that still run; a zombie does not."""
    return [pid for pid in pids if (stat := _stat(pid)) and stat.rpartition(")")[2].split()[0] != "Z"]


def gone(pids: list[int], timeout: float = 10.0) -> None:
    """Wait until none of them runs."""
    deadline = time.monotonic() + timeout
    while left := alive(pids):
        assert time.monotonic() < deadline, f"processes {left} are still there after {timeout:g} s"
        time.sleep(0.02)


def _stat(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""


def wait(condition: Callable[[], object], timeout: float, run: Launched, what: str) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        ended = run.process.poll() is not None and not condition()
        if ended or time.monotonic() > deadline:
            how = f"ended with {run.process.returncode}" if ended else f"took longer than {timeout:g} s"
            pytest.fail(f"it {how}, and was {what}; it said:\n{run.said()[-6000:]}")
        time.sleep(0.02)


Cluster: TypeAlias = str | Mapping[str, str]
"""Addresses of brokers, or all properties of a client."""


def _client(cluster: Cluster) -> dict[str, Any]:
    properties = {"bootstrap.servers": cluster} if isinstance(cluster, str) else dict(cluster)
    return {**properties, "log_level": 0}


def event(n: int) -> str:
    """The n-th event."""
    at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    return json.dumps({"id": f"E-{n}", "who": f"W-{n % 50}", "at": at, "amount": n % 200})


def send(cluster: Cluster, pipeline: Pipeline, events: int, *, first: int = 0, lanes: int = LANES) -> None:
    """Produce events first, first + 1, …, over all lanes."""
    producer = Producer({**_client(cluster), "linger.ms": 2})
    for n in range(first, first + events):
        producer.produce(pipeline.topic("events"), event(n), partition=n % lanes)
        producer.poll(0)
    assert producer.flush(30) == 0


def firsts(cluster: Cluster, pipeline: Pipeline, lanes: int = LANES) -> Counter[tuple[int, int]]:
    """Origin to number of its first records, as a committed reader sees them now."""
    parts = [TopicPartition(pipeline.topic(role), lane, 0) for role in FIRSTS for lane in range(lanes)]
    found: Counter[tuple[int, int]] = Counter()
    for message in _read(cluster, parts):
        origin = json.loads(message.value())["origin"]
        found[origin["partition"], origin["offset"]] += 1
    return found


def committed(cluster: Cluster, pipeline: Pipeline, lanes: int = LANES) -> dict[int, int]:
    """Lane to the next offset that the group would read."""
    client = Consumer({**_client(cluster), "group.id": pipeline.pipeline})
    asked = [TopicPartition(pipeline.topic("events"), lane) for lane in range(lanes)]
    try:
        return {lane.partition: max(lane.offset, 0) for lane in client.committed(asked, 10)}
    finally:
        client.close()


def _ends(cluster: Cluster, parts: list[TopicPartition]) -> dict[tuple[str, int], int]:
    """Where the logs end, be it in a transaction that a committed reader cannot see the end of yet."""
    asked = {TopicPartition(part.topic, part.partition): OffsetSpec.latest() for part in parts}
    admin = AdminClient(_client(cluster))  # kept: its futures die with it
    futures = admin.list_offsets(asked, isolation_level=IsolationLevel.READ_UNCOMMITTED, request_timeout=10)
    return {(part.topic, part.partition): future.result(10).offset for part, future in futures.items()}


def _read(cluster: Cluster, parts: list[TopicPartition]) -> Iterator[Any]:
    settings = {
        **_client(cluster),
        "group.id": "reader",
        "isolation.level": "read_committed",
        "enable.partition.eof": True,
        "auto.offset.reset": "error",
    }
    ends = _ends(cluster, parts)
    client = Consumer(settings)
    client.assign(parts)
    ended: set[tuple[str, int]] = set()
    deadline = time.monotonic() + 30
    try:
        while len(ended) < len(parts):
            assert time.monotonic() < deadline, f"{len(ended)} of {len(parts)} partitions were read to their end"
            for message in client.consume(1000, 0.1):
                if message.error() is None:
                    yield message
                else:
                    assert message.error().code() == KafkaError._PARTITION_EOF, message.error()
                    place = message.topic(), message.partition()
                    if message.offset() >= ends[place]:
                        ended.add(place)
    finally:
        client.close()
