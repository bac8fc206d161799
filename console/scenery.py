"""What the demo needs around the engine: servers, topics, features, and `penstock run` as a program of its own."""

from __future__ import annotations

import json
import secrets
import sys
import time
import urllib.request
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from console.accounting import ROLES
from console.mock_kafka import PARTITIONS
from console.parts import PartFailed
from console.ports import free_row
from console.tether import Child

if TYPE_CHECKING:
    from dataflows.pipeline import Pipeline

LANES = 8
"""Partitions of the topics on a real broker; the mock has four of everything."""
READY_SECONDS = 120.0
_HOST = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Servers:
    """A Kafka and a Redis that are up."""

    kind: str
    """`kafka` or `mock`."""
    guarantee: str
    """What this Kafka can promise: `exactly_once` or `at_least_once`."""
    why: str
    """In plain words, why it is this one."""
    bootstrap: str
    redis: str
    """URL."""

    @property
    def connection(self) -> dict[str, Any]:
        """Properties of Kafka clients."""
        return {"bootstrap.servers": self.bootstrap}

    @property
    def name(self) -> str:
        """What to call this Kafka."""
        return "Apache Kafka" if self.kind == "kafka" else "librdkafka's mock Kafka"


@contextmanager
def servers_up(folder: Path, progress: Callable[[str], None]) -> Iterator[Servers]:
    """Start Kafka and Redis; both end with the context, and with this process whatever ends that.

    Raises:
        PartMissing: there is no Redis and no Valkey.
        PartFailed: one of them did not start.
    """
    from console.embedded import choose_kafka, choose_redis

    with choose_redis(folder) as redis, choose_kafka(folder, progress=progress) as kafka:
        yield Servers(kafka.kind, kafka.guarantee, kafka.why, kafka.bootstrap, redis.url)


def make_topics(servers: Servers, pipeline: Pipeline, folder: Path) -> None:
    """Create the topics of a pipeline as they should be."""
    from console.embedded import MockKafka, create_topics
    from console.topics import topics_of

    if servers.kind == "kafka":
        create_topics(servers.bootstrap, topics_of(pipeline, LANES))
    else:
        mock = MockKafka(folder)
        mock.bootstrap = servers.bootstrap
        mock.create_topics(topics_of(pipeline, PARTITIONS))


def load_features(servers: Servers, pipeline: Pipeline, generator: ModuleType, seed: int, events: int) -> int:
    """Write what the pipeline's views hold before the first event; say how many values."""
    from state.feature_writer import FeatureWriter
    from state.views import LoadedView

    views = {name: LoadedView.of(name, spec.features) for name, spec in pipeline.views.items() if spec.features}
    rows: dict[str, list[tuple[str, int, list[float]]]] = {name: [] for name in views}
    for row in generator.view_rows(seed, events):
        values = [row.values[feature] for feature, _ in views[row.view].features]
        rows[row.view].append((row.key, round(row.as_of * 1000), values))
    writer = FeatureWriter.connect(servers.redis, pipeline.pipeline, timeout=10.0)
    try:
        return sum(
            writer.load(views[name], found[at : at + 1000])
            for name, found in rows.items()
            for at in range(0, len(found), 1000)
        )
    finally:
        writer.close()


def seal_key() -> str:
    """A fresh key for what is held back: 32 random bytes in base64."""
    return b64encode(secrets.token_bytes(32)).decode()


class Engine:
    """`penstock run` of one job as a child process, with its log in a file."""

    def __init__(
        self,
        file: Path,
        servers: Servers,
        *,
        slots: int,
        key: str,
        artefacts: Path,
        folder: Path,
        job: str = "decisions",
    ) -> None:
        self._port = free_row(slots + 1)  # one for all, one for each slot
        options = {
            "--job": job,
            "--bootstrap": servers.bootstrap,
            "--redis": servers.redis,
            "--slots": str(slots),
            "--guarantee": servers.guarantee,
            "--metrics-port": str(self._port),
            "--artefacts": str(artefacts),
        }
        command = [sys.executable, "-m", "console.cli", "run", str(file)]
        self._command = command + [text for option in options.items() for text in option]
        self._name, self._key = f"penstock run --job {job}", key
        self._log = folder / ("engine.log" if job == "decisions" else f"{job}.log")
        self._child: Child | None = None

    @property
    def metrics(self) -> str:
        """Where its metrics are."""
        return f"http://{_HOST}:{self._port}/metrics"

    @property
    def running(self) -> bool:
        """Whether its process lives."""
        return self._child is not None and self._child.running

    def start(self) -> None:
        """Start it; the key goes through the environment, where no list of processes shows it."""
        self._child = Child(self._name, self._command, self._log, env={"PENSTOCK_SEAL_KEY": self._key})

    def wait_until_ready(self, timeout: float = READY_SECONDS) -> None:
        """Wait until every slot is ready.

        Raises:
            PartFailed: it ended, or was not ready in time.
        """
        deadline = time.monotonic() + timeout
        while self._ask("/readyz") is None:
            if not self.running:
                raise PartFailed(f"{self._name} ended before it was ready; its log ends with:\n{self.tail()}")
            if time.monotonic() > deadline:
                raise PartFailed(
                    f"{self._name} was not ready within {timeout:.0f} s; its log ends with:\n{self.tail()}"
                )
            time.sleep(0.05)

    def slots(self) -> list[dict[str, Any]]:
        """The launcher's table of slots; empty while it does not answer."""
        page = self._ask("/slots")
        return list(json.loads(page)) if page else []

    def stop(self) -> None:
        """Let it finish and commit what it has begun, and end."""
        if self._child is not None:
            self._child.stop(45.0)
            self._child = None

    def tail(self) -> str:
        """The end of its log."""
        return self._child.tail() if self._child is not None else ""

    def _ask(self, path: str) -> bytes | None:
        try:
            with _direct.open(f"http://{_HOST}:{self._port}{path}", timeout=2.0) as answer:
                return bytes(answer.read(1 << 20))
        except OSError:  # not there yet, or there and not ready (503)
            return None


class Jobs:
    """All jobs of a pipeline, each a `penstock run` of its own: `decisions`, and those that compute its views, if any.

    The slots that are told of are those of `decisions`; the other jobs have one each.
    """

    def __init__(
        self, pipeline: Pipeline, file: Path, servers: Servers, *, slots: int, key: str, artefacts: Path, folder: Path
    ) -> None:
        from dataflows.jobs import DECISIONS, jobs_of

        self.names = tuple(jobs_of(pipeline))
        """`decisions` is the first."""
        counts = {name: slots if name == DECISIONS else 1 for name in self.names}
        self._engines = [
            Engine(file, servers, slots=n, key=key, artefacts=artefacts, folder=folder, job=name)
            for name, n in counts.items()
        ]

    @property
    def metrics(self) -> str:
        """Where the metrics of `decisions` are."""
        return self._engines[0].metrics

    @property
    def running(self) -> bool:
        """Whether all of them live."""
        return all(engine.running for engine in self._engines)

    def start(self) -> None:
        """Start all at once."""
        for engine in self._engines:
            engine.start()

    def wait_until_ready(self) -> None:
        """Wait until every slot of every job is ready; they share the cores while they start.

        Raises:
            PartFailed: one ended, or was not ready in time.
        """
        for engine in self._engines:
            engine.wait_until_ready(READY_SECONDS * len(self._engines))

    def slots(self) -> list[dict[str, Any]]:
        """The table of the slots of `decisions`."""
        return self._engines[0].slots()

    def stop(self) -> None:
        """Let each finish what it has begun, and end: `decisions` first, so that none is decided without its views."""
        for engine in self._engines:
            engine.stop()

    def tail(self) -> str:
        """The end of the log of the one that has ended, or of `decisions`."""
        ended = (engine for engine in self._engines if not engine.running)
        return next(ended, self._engines[0]).tail()


_direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def topics_to_read(pipeline: Pipeline) -> Mapping[str, str]:
    """Role to topic, for the account."""
    return {role: pipeline.topic(role) for role in ROLES}
