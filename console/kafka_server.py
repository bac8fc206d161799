"""One Apache Kafka broker (KRaft) as a child process: for the demo, the tests, and `make kafka`."""

from __future__ import annotations

import base64
import subprocess
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from console.kafka_jars import find_jars, find_java
from console.kafka_security import CLIENT, CONTROLLER, INTERNAL, Security
from console.parts import PartFailed, quiet
from console.ports import free_port, listening
from console.tether import Child
from console.topics import Topic, create_topics

# The second compiler and the parallel collector pay off in servers that run for days: without them the broker starts on
# less CPU (2.6 s against 4.1 s) and leaves it to what is measured beside it.
_JVM = ("-XX:+UseSerialGC", "-Xlog:disable", "-Xlog:all=error:stderr")
_SHORT_LIVED = "-XX:TieredStopAtLevel=1"
"""No second compiler: it costs seconds of CPU at first, and saves a third of it after about half a minute of load."""

_SETTINGS: Mapping[str, str] = {
    "process.roles": "broker,controller",
    "controller.listener.names": CONTROLLER,
    "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT",
    # One broker cannot replicate.
    "offsets.topic.replication.factor": "1",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    # Fewer partitions to create at the first group and the first transaction.
    "offsets.topic.num.partitions": "4",
    "transaction.state.log.num.partitions": "4",
    "group.initial.rebalance.delay.ms": "0",
    "group.min.session.timeout.ms": "1000",
    # A broker that was killed is let in again when its last registration has run out: 3 s instead of 13.
    "broker.heartbeat.interval.ms": "500",
    "broker.session.timeout.ms": "2000",
    # A topic made by a typing mistake has the wrong number of lanes.
    "auto.create.topics.enable": "false",
    # What is in force for an event depends on the broker's time, not on the producer's.
    "log.message.timestamp.type": "LogAppendTime",
    "log.retention.bytes": str(1 << 30),
    "log.cleaner.dedupe.buffer.size": str(16 << 20),
    "num.network.threads": "2",
    "num.io.threads": "4",
}


def _new_cluster() -> str:
    return base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=").replace("-", "A")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a broker stands in its cluster; by default it is alone."""

    node: int = 1
    controllers: Mapping[int, int] = field(default_factory=lambda: {1: free_port()})
    """Node to the port of its controller, for all nodes."""
    cluster: str = field(default_factory=_new_cluster)
    """The cluster's id; 16 bytes in base64."""


class KafkaServer:
    """A broker on the loopback interface. Its data stay in `folder` between `start`s.

    Use it as a context manager, or call `start` and `stop`. It ends with this process, whatever ends that. One that is
    `steady`, to live for more than a minute, compiles as thoroughly as in production.
    """

    kind = "kafka"
    guarantee = "exactly_once"

    def __init__(
        self,
        folder: Path,
        *,
        port: int = 0,
        settings: Mapping[str, str] | None = None,
        heap_mb: int = 512,
        steady: bool = False,
        progress: Callable[[str], None] = quiet,
        place: Place | None = None,
        security: Security | None = None,
    ) -> None:
        self.folder = folder.resolve()
        self.port = port or free_port()
        self.why = "Java 17 and Apache Kafka were found, so this is a real broker with real transactions"
        self.place = place or Place()
        self._internal = free_port() if security else self.port
        self._security = security
        self._settings = {**_SETTINGS, **(security.broker_settings() if security else {}), **(settings or {})}
        self._jvm = [*_JVM, f"-Xmx{heap_mb}m", *([] if steady else [_SHORT_LIVED])]
        self._progress = progress
        self._child: Child | None = None
        # Parsed classes are shared between starts: 1.0 s and 300 MB instead of 2.4 s and 365 MB. The first stop writes
        # them, in 3 s.
        self._archive: tuple[Path, Path] | None = None

    @property
    def bootstrap(self) -> str:
        """The address for clients."""
        return f"127.0.0.1:{self.port}"

    @property
    def admin(self) -> dict[str, str]:
        """Properties of a client that may do everything."""
        address = {"bootstrap.servers": f"127.0.0.1:{self._internal}"}
        return address | (self._security.node_properties() if self._security else {})

    @property
    def running(self) -> bool:
        """Whether the broker's process lives."""
        return self._child is not None and self._child.running

    def start(self, timeout: float = 60.0) -> Self:
        """Start the broker and wait until it answers.

        Raises:
            PartMissing: there is no Java 17, or Kafka's jars cannot be had.
            PartFailed: it ended, or did not answer within `timeout` seconds.
        """
        return self.launch().wait(timeout)

    def launch(self) -> Self:
        """Start the broker and do not wait: one of several answers only once most of them run.

        Raises:
            PartMissing, PartFailed: as `start`.
        """
        if self.running:
            return self
        java, version = find_java()
        jars = find_jars(self._progress)
        if listening(self.port):
            raise PartFailed(f"port {self.port} of this machine is taken; stop what listens there or choose another")
        self._progress("starting Apache Kafka")
        properties = self._write_properties()
        base = [java, *self._jvm, "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-cp", f"{jars}/*"]
        archive = jars.with_name(f"{jars.name}-java{version}.jsa")
        found = archive.exists()
        if found:
            base.append(f"-XX:SharedArchiveFile={archive}")
            for left_behind in archive.parent.glob(f"{archive.name}.*"):  # by a broker whose parent was killed
                left_behind.unlink(missing_ok=True)
        if not (self.folder / "data" / "meta.properties").exists():
            self._format([*base, "kafka.tools.StorageTool"], properties)
        if not found and self.place.node == min(self.place.controllers):
            self._archive = archive.with_name(f"{archive.name}.{self.port}"), archive
            base.append(f"-XX:ArchiveClassesAtExit={self._archive[0]}")
        self._child = Child("Kafka", [*base, "kafka.Kafka", str(properties)], self.folder / "kafka.log")
        return self

    def wait(self, timeout: float = 60.0) -> Self:
        """Wait until a launched broker answers; one that does not is killed.

        Raises:
            PartFailed: it ended, or did not answer within `timeout` seconds.
        """
        try:
            self._wait_until_it_answers(timeout)
        except BaseException:
            self.kill()
            raise
        return self

    def create_topics(self, topics: Mapping[str, Topic], timeout: float = 30.0) -> None:
        """Create topics; see `console.topics.create_topics`."""
        create_topics(self.admin["bootstrap.servers"], topics, timeout, self.admin)

    def stop(self, timeout: float = 30.0) -> None:
        """End it in order: what clients were told is written stays written, and the log is closed cleanly."""
        if self._child is None:
            return
        self._child.stop(timeout)
        self._child = None
        if self._archive is not None:
            written, wanted = self._archive
            if written.exists():
                written.replace(wanted)
            self._archive = None

    def kill(self) -> None:
        """End it with SIGKILL, as a crash would. `start` brings it back on the same port with the same data."""
        if self._child is not None:
            self._child.kill()
            self._child = None

    def pause(self) -> None:
        """Freeze it with SIGSTOP; to the others it is as if its machine hung."""
        if self._child is not None:
            self._child.pause()

    def resume(self) -> None:
        """Let it go on after `pause`, as if nothing had happened."""
        if self._child is not None:
            self._child.resume()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _write_properties(self) -> Path:
        self.folder.mkdir(parents=True, exist_ok=True)
        ports = {CLIENT: self.port, INTERNAL: self._internal} if self._security else {"PLAINTEXT": self.port}
        ports[CONTROLLER] = self.place.controllers[self.place.node]
        voters = (f"{node}@127.0.0.1:{port}" for node, port in self.place.controllers.items())
        own = {
            "node.id": str(self.place.node),
            "listeners": ",".join(f"{name}://127.0.0.1:{port}" for name, port in ports.items()),
            "controller.quorum.voters": ",".join(voters),
            "log.dirs": str(self.folder / "data"),
        }
        path = self.folder / "server.properties"
        path.write_text("".join(f"{key}={value}\n" for key, value in {**self._settings, **own}.items()))
        return path

    def _format(self, tool: list[str], properties: Path) -> None:
        order = [*tool, "format", "-t", self.place.cluster, "-c", str(properties)]
        told = subprocess.run(order, capture_output=True, text=True, timeout=60, check=False)
        if told.returncode != 0:
            raise PartFailed(f"Kafka could not format {self.folder / 'data'}:\n{(told.stdout + told.stderr)[-2000:]}")

    def _wait_until_it_answers(self, timeout: float) -> None:
        from confluent_kafka import KafkaException
        from confluent_kafka.admin import AdminClient

        deadline = time.monotonic() + timeout
        log, admin = self.folder / "kafka.log", None
        while time.monotonic() < deadline:
            if self._child is None or not self._child.running:
                raise PartFailed(f"Kafka ended while it started; its log {log} ends with:\n{self.tail()}")
            if not listening(self._internal):
                time.sleep(0.02)
                continue
            admin = admin or AdminClient({**self.admin, "log_level": 0})
            try:
                if self.place.node in admin.list_topics(timeout=1).brokers:
                    return
            except KafkaException:
                continue
        raise PartFailed(f"Kafka did not answer within {timeout:.0f} s; its log {log} ends with:\n{self.tail()}")

    def tail(self) -> str:
        """The end of its log."""
        return self._child.tail() if self._child is not None else ""
