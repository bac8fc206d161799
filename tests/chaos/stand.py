"""What a run stands on: one broker, one Redis, and the claims pipeline twice over the same events.

The two copies have the same name, releases and features and read the same topic, so every event has the same place and
time in both; groups and all other topics differ. One is disturbed, the other is not.
"""

from __future__ import annotations

import os
import signal
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from console.demo_releases import Releases
from console.embedded import KafkaServer
from console.redis_server import choose_redis
from console.scenery import Servers, load_features, seal_key
from console.topics import topics_of
from dataflows.pipeline import Pipeline, load
from deploy.pipelines.claims import claims
from tests.chaos.engine import Slots, children

HOME = Path(__file__).resolve().parents[2] / "deploy" / "pipelines" / "claims"
LANES = 8
FIRSTS = ("decisions", "rejected", "quarantine", "duplicates")
"""Roles of first records; each event has exactly one."""
_OWN = (*FIRSTS, "reviews", "state")
_EVERY_WINDOW = """
    - {{ name: seen_{name}, when: "COALESCE({name}, 0) < 0", outcome: approve, reason: NEVER }}"""
_PATIENT = {"timeout: 50ms": "timeout: 20s", "failures: 5": "failures: 1000", "budget: 100ms": "budget: 60s"}
"""A slow machine must not change a decision: whether a time-out strikes is no property of the events."""

_BROKER = {"broker.session.timeout.ms": "9000"}
"""Kafka's own. With less, a busy broker loses its partitions and gets them back while it loads what groups committed,
and takes the end of the first load for that of the second (4.0 to 4.4): offsets go back, and lanes are closed."""


@dataclass(frozen=True, slots=True)
class Copy:
    """One of the two pipelines."""

    file: Path
    pipeline: Pipeline
    group: str


class Stand:
    """The servers, and the two copies with their topics, features and releases."""

    def __init__(self, folder: Path, seed: int, events: int) -> None:
        self.folder, self._seed, self._events = folder, seed, events
        self.kafka = KafkaServer(folder / "kafka", settings=_BROKER)
        self._stack = ExitStack()
        self.key = seal_key()
        self.artefacts = folder / "artefacts"

    def __enter__(self) -> Self:
        self.artefacts.mkdir(parents=True)
        self._stack.enter_context(self.kafka)
        redis = self._stack.enter_context(choose_redis(self.folder / "redis"))
        self.servers = Servers("kafka", "exactly_once", "the run's", self.kafka.bootstrap, redis.url)
        self.disturbed, self.undisturbed = self._copy("disturbed"), self._copy("undisturbed")
        for copy in (self.disturbed, self.undisturbed):
            self.kafka.create_topics(topics_of(copy.pipeline, LANES))
        load_features(self.servers, self.disturbed.pipeline, claims, self._seed, self._events)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def slots(self, copy: Copy, n: int, *, orders: Path | None = None, mutant: str = "", store: bool = False) -> Slots:
        """Prepare `penstock run` of a copy with `n` slots; with `store`, their lane state is on disk."""
        settings = {
            "BOOTSTRAP": self.servers.bootstrap,
            "REDIS": self.servers.redis,
            "GROUP": copy.group,
            "SLOTS": str(n),
            "SEAL_KEY": self.key,
            "ARTEFACTS": str(self.artefacts),
            "SESSION_TIMEOUT": "6",
        }
        if store:
            settings["LANE_STORE"] = str(self.folder / "lanes")
        return Slots(copy.file, settings, self.folder / f"{copy.group}.log", orders=orders, mutant=mutant)

    def release(self, slots: Slots) -> None:
        """Publish the first release of each model and wait until it is in force; it stays so to the end."""
        releases = Releases(HOME / "models", self.disturbed.pipeline, self.servers.connection, self.artefacts)
        releases.publish("1")
        slots.wait_until_ready()
        releases.wait_until_in_force(alive=lambda: slots.running)

    def pause_broker(self) -> int:
        """Stop the broker's process where it stands; gives its pid."""
        watcher = self.kafka._child
        assert watcher is not None
        (broker,) = children(watcher._watcher.pid)
        os.kill(broker, signal.SIGSTOP)
        return broker

    def _copy(self, group: str) -> Copy:
        text = (HOME / "pipeline.yaml").read_text()
        for quick, patient in _PATIENT.items():
            assert quick in text, quick
            text = text.replace(quick, patient)
        # Each recalled window in a rule, so that every decision logs all of them.
        windows = load(HOME / "pipeline.yaml").recall.features
        at = text.index("  rules:") + len("  rules:")
        text = text[:at] + "".join(_EVERY_WINDOW.format(name=name) for name in windows) + text[at:]
        text += "\ntopics:\n" + "".join(f"  {role}: {group}.{role}\n" for role in _OWN)
        file = self.folder / f"{group}.yaml"
        file.write_text(text)
        return Copy(file, load(file), group)
