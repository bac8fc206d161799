"""The three systems as child processes: the engine, the loop by hand, the naive loop; each with topics and a group."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

import measure
import orjson
from releases import Release
from stand import PIPELINE, Stand

from console.ports import free_row
from deploy.pipelines.planned import Planned

HERE = Path(__file__).parent
_UP_SECONDS, _DRAIN_SECONDS = 90.0, 300.0


class System:
    """A process that reads `<prefix>.events` and writes a first record for each event."""

    def __init__(
        self, name: str, prefix: str, stand: Stand, command: Sequence[str], environment: Mapping[str, str]
    ) -> None:
        self.name, self.prefix, self.group = name, prefix, prefix
        self._stand, self._command, self._environment = stand, command, environment

    def __enter__(self) -> Self:
        self.log = self._stand.folder / f"{self.prefix}.log"
        with self.log.open("wb") as log:
            environment = {**os.environ, **self._environment, "OMP_NUM_THREADS": "1"}
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log, env=environment)
        try:
            self._wait_until_up()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    @property
    def root(self) -> int:
        """The process that was started; what it started counts as well."""
        return self._process.pid

    def drain(self, events: Sequence[Planned]) -> float:
        """Let it work off a topic that was filled while it stood still.

        Returns:
            Seconds of CPU of its process tree, from standing still to the last event's commit.
        """
        topic = f"{self.prefix}.events"
        processes = measure.tree(self.root)
        _signal(processes, signal.SIGSTOP)
        try:
            self._stand.feed(topic, events)
            before = measure.cpu_seconds(self.root)
        finally:
            _signal(reversed(processes), signal.SIGCONT)
        self._stand.wait_until_committed(self.group, topic, _DRAIN_SECONDS)
        return measure.cpu_seconds(self.root) - before

    def deciding(self) -> int:
        """The process that decides."""
        return self.root

    def is_up(self) -> bool:
        """Whether it owns its lanes."""
        return b"ready" in self.log.read_bytes()

    def _wait_until_up(self) -> None:
        deadline = time.monotonic() + _UP_SECONDS
        while not self.is_up():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{self.name} did not start; {self.log} ends with:\n{self.log.read_text()[-3000:]}")
            time.sleep(0.1)

    def _end(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class Engine(System):
    """`penstock run`, by default on the pipeline file as it is shipped."""

    def __init__(
        self,
        stand: Stand,
        artefacts: Path,
        seal_key: str,
        *,
        file: Path = PIPELINE,
        prefix: str = "claims",
        guarantee: str = "exactly_once",
        slots: int = 1,
        session: int = 45,
    ) -> None:
        """Run `slots` slots. A session of 45 s lasts while they stand still and a topic is filled."""
        self._port = free_row(slots + 1)
        command = [sys.executable, "-m", "console.cli", "run", str(file), "--slots", str(slots), "--group", prefix]
        environment = {
            "PENSTOCK_GUARANTEE": guarantee,
            "PENSTOCK_BOOTSTRAP": stand.kafka.bootstrap,
            "PENSTOCK_REDIS": stand.redis.url,
            "PENSTOCK_SEAL_KEY": seal_key,
            "PENSTOCK_ARTEFACTS": str(artefacts),
            "PENSTOCK_METRICS_PORT": str(self._port),
            "PENSTOCK_SESSION_TIMEOUT": str(session),
        }
        super().__init__("engine", prefix, stand, command, environment)

    def is_up(self) -> bool:
        """Whether all lanes are open and every model has a release in force."""
        return self._ask("/readyz") is not None

    def deciding(self) -> int:
        """The first slot."""
        return int(self.slots()[0]["pid"])

    def slots(self) -> list[dict[str, Any]]:
        """The launcher's table: `slot`, `pid`, `lanes` and so on."""
        return list(orjson.loads(self._ask("/slots") or b"[]"))

    def commits(self) -> int:
        """How many it has made, with records or without."""
        page = (self._ask("/metrics") or b"").decode()
        return sum(int(float(n)) for n in re.findall(r"(?m)^penstock_commits_total(?:{.*})? (\S+)", page))

    def template(self) -> int:
        """The process that slots are forked from."""
        return next(pid for pid in measure.tree(self.root) if pid not in (self.root, self.deciding()))

    def _ask(self, path: str) -> bytes | None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._port}{path}", timeout=2) as answer:
                return bytes(answer.read())
        except OSError:
            return None


def loop(stand: Stand, script: str, prefix: str, releases: Mapping[str, Release], seal_key: str) -> System:
    """One of the two loops: `by_hand.py` or `naive.py`."""
    given = {
        "bootstrap": stand.kafka.bootstrap,
        "redis": stand.redis.url,
        "pipeline": str(PIPELINE),
        "prefix": prefix,
        "releases": {name: asdict(release) for name, release in releases.items()},
    }
    command = [sys.executable, str(HERE / f"{script}.py"), orjson.dumps(given).decode()]
    return System(script.replace("_", " "), prefix, stand, command, {"PENSTOCK_SEAL_KEY": seal_key})


def _signal(processes: object, number: int) -> None:
    for pid in list(processes):  # type: ignore[call-overload]
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue
