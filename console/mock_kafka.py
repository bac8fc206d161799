"""librdkafka's mock cluster in a process of its own: for a first demo on a machine without Java.

It forgets everything when it ends, keeps 5 MiB per partition and drops the rest silently (set `auto.offset.reset=error`
to notice), and its transaction calls succeed and do nothing: what runs on it declares `at_least_once`.
"""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from confluent_kafka import Producer

from console.parts import PartFailed
from console.tether import Child
from console.topics import Topic

PARTITIONS = 4
"""Every topic of the mock has as many; they come into being when they are first asked for."""


class MockKafka:
    """A context manager around the mock cluster. It ends with this process, whatever ends that."""

    kind = "mock"
    guarantee = "at_least_once"

    def __init__(self, folder: Path, *, why: str = "asked for") -> None:
        """`why` says in plain words why it is not a real broker."""
        self.folder = folder
        self.why = why
        self.bootstrap = ""
        self._child: Child | None = None

    @property
    def running(self) -> bool:
        """Whether its process lives."""
        return self._child is not None and self._child.running

    def start(self, timeout: float = 20.0) -> Self:
        """Start it and wait for its address.

        Raises:
            PartFailed: it ended, or did not say its address within `timeout` seconds.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        address = self.folder / "mock-kafka.address"
        address.unlink(missing_ok=True)
        log = self.folder / "mock-kafka.log"
        root = str(Path(__file__).resolve().parents[1])
        code = (
            f"import sys; sys.path.insert(0, {root!r}); from console.mock_kafka import serve; serve({str(address)!r})"
        )
        self._child = child = Child("mock Kafka", [sys.executable, "-c", code], log)
        deadline = time.monotonic() + timeout
        while not address.exists():
            if not child.running or time.monotonic() > deadline:
                self.stop()
                raise PartFailed(f"the mock Kafka did not start; its log {log} ends with:\n{child.tail()}")
            time.sleep(0.01)
        self.bootstrap = address.read_text()
        return self

    def create_topics(self, topics: Mapping[str, Topic], timeout: float = 30.0) -> None:
        """Bring topics into being. Their configuration means nothing here.

        Raises:
            PartFailed: more than four partitions are asked for.
        """
        for name, topic in topics.items():
            if topic.partitions > PARTITIONS:
                raise PartFailed(
                    f"topic {name} needs {topic.partitions} partitions; the mock Kafka has {PARTITIONS} per topic"
                )
        client = Producer({"bootstrap.servers": self.bootstrap, "log_level": 0})
        for name in topics:
            client.list_topics(name, timeout=timeout)

    def stop(self) -> None:
        """End it; what it held is gone."""
        if self._child is not None:
            self._child.kill()
            self._child = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()


def serve(address: str) -> None:
    """Hold a mock cluster until this process is ended, its address in a file."""
    holder = Producer({"test.mock.num.brokers": 1, "log_level": 0})
    brokers = holder.list_topics(timeout=10).brokers
    half = Path(address + ".half")
    half.write_text(",".join(f"{broker.host}:{broker.port}" for broker in brokers.values()))
    half.rename(address)
    signal.pause()
