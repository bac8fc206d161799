"""`penstock run` as a person meets it: real processes, a real broker, and the mock."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from console.embedded import KafkaServer, MockKafka
from tests.integration.launched import (
    LANES,
    ROOT,
    Launched,
    alive,
    committed,
    firsts,
    gone,
    launched,
    send,
    small_on,
    small_pipeline,
    wait,
)


@pytest.fixture(scope="module")
def mock(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MockKafka]:
    with MockKafka(tmp_path_factory.mktemp("mock")) as server:
        yield server


def decided(run: Launched, bootstrap: str, pipeline: Any, events: int, timeout: float = 30.0) -> None:
    wait(lambda: sum(committed(bootstrap, pipeline).values()) >= events, timeout, run, f"to commit {events} events")


def figure(page: str, name: str) -> float:
    """Sum of a metric's samples on a page; NaN where there is none."""
    found = re.findall(rf"(?m)^{re.escape(name)}(?:{{[^}}]*}})? (\S+)$", page)
    return sum(map(float, found)) if found else float("nan")


def row(run: Launched, slot: int) -> dict[str, Any]:
    return next(row for row in run.table() if row["slot"] == slot)


def pid_of(run: Launched, slot: int) -> int:
    """Of a slot that lives; 0, its pid while it does not, would be this test's own process group."""
    wait(lambda: run.table() and row(run, slot)["pid"] in run.pids(), 60, run, "to start the slot")
    return int(row(run, slot)["pid"])


def kill_slot(run: Launched, slot: int) -> None:
    """Kill it while it lives; it may have just left by itself."""

    def kill() -> bool:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid_of(run, slot), signal.SIGKILL)
            return True
        return False

    wait(kill, 60, run, "to have a slot that can be killed")


def break_slot(run: Launched, slot: int) -> None:
    """Kill it as soon as it lives, until the launcher has said the plain word."""

    def kill() -> bool:
        if pid := row(run, slot)["pid"]:
            with contextlib.suppress(ProcessLookupError):  # it has just died
                os.kill(pid, signal.SIGKILL)
        return f"slot {slot} has died" in run.said()

    wait(kill, 20, run, "to say that the slot dies again and again")


def test_a_slot_that_dies_again_and_again_a_rival_and_a_stop(
    kafka: KafkaServer, unique: Callable[[str], str], tmp_path: Path
) -> None:
    """One run of two slots through all of it: it starts slowly, and each part leaves it as the next one needs it."""
    file, pipeline = small_on(kafka, unique("run"), tmp_path)
    with launched(file, kafka.bootstrap, tmp_path, slots=2) as run:
        run.until_ready()
        send(kafka.bootstrap, pipeline, 400)
        decided(run, kafka.bootstrap, pipeline, 400)
        page = run.page("/metrics")

        assert figure(page, "penstock_decision_latency_seconds_count") == 400
        assert 0 < figure(page, "penstock_decision_latency_seconds_sum") < 400 * 5
        assert {'slot="0"', 'slot="1"'} <= set(re.findall(r'slot="\d+"', page))
        assert "exactly_once: outputs, lane state and offsets are one transaction" in run.said()

        break_slot(run, 1)
        wait(lambda: 'penstock_slot_up{slot="1"} 0.0' in run.page("/metrics"), 10, run, "to show the slot as down")
        assert 'penstock_slot_up{slot="0"} 1.0' in run.page("/metrics")
        assert "the other slots go on" in run.said()
        send(kafka.bootstrap, pipeline, 400, first=400)
        decided(run, kafka.bootstrap, pipeline, 800, timeout=60)

        with launched(file, kafka.bootstrap, tmp_path, SLOT="0"):
            hint = "Another process has become slot 0 of this group: give each launcher of a group its own --slot"
            wait(lambda: hint in run.said(), 40, run, "to say that a rival has the same slot")
        run.until_ready()

        send(kafka.bootstrap, pipeline, 2000, first=800)
        everything = run.pids()
        run.process.send_signal(signal.SIGTERM)

        assert run.ends() == 0
        assert alive(everything) == []
        assert run.said().count("stopped; everything that was begun is finished") >= 2
    origins = firsts(kafka.bootstrap, pipeline)
    upto = committed(kafka.bootstrap, pipeline)

    assert origins == {(lane, offset): 1 for lane, end in upto.items() for offset in range(end)}


def test_at_least_once_repeats_and_loses_nothing_and_nothing_outlives_the_launcher(
    kafka: KafkaServer, unique: Callable[[str], str], tmp_path: Path
) -> None:
    file, pipeline = small_on(kafka, unique("alo"), tmp_path)
    with launched(file, kafka.bootstrap, tmp_path, GUARANTEE="at_least_once") as run:
        run.until_ready()
        assert "at_least_once: a crash repeats records" in run.said()
        for first in range(0, 3000, 1000):
            send(kafka.bootstrap, pipeline, 1000, first=first)
            kill_slot(run, 0)
        decided(run, kafka.bootstrap, pipeline, 3000, timeout=60)

        everything = run.pids()
        assert len(everything) == 3
        run.process.kill()
        gone(everything, 5)
    origins = firsts(kafka.bootstrap, pipeline)

    assert set(origins) == {(lane, offset) for lane in range(LANES) for offset in range(3000 // LANES)}


def test_on_the_mock_it_decides_and_says_when_its_template_is_killed(
    mock: MockKafka, unique: Callable[[str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"TYPE": "file", "LOG_FILE_PATH": str(tmp_path / "lineage"), "APPEND": "true"}.items():
        monkeypatch.setenv(f"OPENLINEAGE__TRANSPORT__{name}", value)
    file, pipeline = small_on(mock, unique("mock"), tmp_path)
    with launched(file, mock.bootstrap, tmp_path, GUARANTEE="at_least_once") as run:
        run.until_ready()
        send(mock.bootstrap, pipeline, 200)
        decided(run, mock.bootstrap, pipeline, 200)
        _, template, *slots = run.pids()
        os.kill(template, signal.SIGKILL)

        assert run.ends() == 1
        assert "the template process was killed (SIGKILL), and its slots with it" in run.said()
        gone(slots, 5)
    assert len(firsts(mock.bootstrap, pipeline)) == 200
    began, ended = (json.loads(line) for line in (tmp_path / "lineage").read_text().splitlines())
    assert (began["eventType"], ended["eventType"]) == ("START", "FAIL")
    assert began["job"]["name"] == f"{pipeline.pipeline}.decisions"
    assert began["inputs"][0]["name"] == pipeline.topic("events")
    assert ended["run"]["facets"]["errorMessage"]["message"] == "the slots ended with status 1"


def test_a_second_signal_ends_it_at_once(mock: MockKafka, unique: Callable[[str], str], tmp_path: Path) -> None:
    file, _ = small_on(mock, unique("stuck"), tmp_path)
    with launched(file, mock.bootstrap, tmp_path, GUARANTEE="at_least_once") as run:
        os.kill(pid_of(run, 0), signal.SIGSTOP)  # it cannot drain
        everything = run.pids()
        run.process.send_signal(signal.SIGTERM)
        with pytest.raises(subprocess.TimeoutExpired):
            run.process.wait(1)
        run.process.send_signal(signal.SIGINT)

        assert run.ends(5) == 1
        gone(everything, 5)


def refused(file: Path, bootstrap: str, tmp_path: Path, **settings: str) -> str:
    """What `penstock run` says when it ends at once with 2."""
    with launched(file, bootstrap, tmp_path, **settings) as run:
        assert run.ends(40) == 2
        return run.said()


def test_missing_topics_are_named_with_the_command_that_creates_them(
    kafka: KafkaServer, unique: Callable[[str], str], tmp_path: Path
) -> None:
    file = small_pipeline(unique("none"), tmp_path)
    said = refused(file, kafka.bootstrap, tmp_path)

    assert re.search(r"error: topic none_\w+\.events: it does not exist", said)
    assert f"`penstock topics {file} --bootstrap {kafka.bootstrap}` creates" in said
    assert len(said.splitlines()) == 10


def test_the_mock_is_not_believed_about_exactly_once(
    mock: MockKafka, unique: Callable[[str], str], tmp_path: Path
) -> None:
    file, _ = small_on(mock, unique("belief"), tmp_path)
    said = refused(file, mock.bootstrap, tmp_path)

    assert "mock cluster: its transactions succeed and do nothing" in said
    assert "--guarantee at_least_once" in said


class Bare(Launched):
    """The same without a launcher."""

    def _start(self) -> subprocess.Popen[bytes]:
        self.environment["PENSTOCK_FILE"] = str(self._file)
        with self.log.open("ab") as log:
            command = [sys.executable, "-m", "bytewax.run", "dataflows.decisions:flow()"]
            return subprocess.Popen(command, cwd=ROOT, env=self.environment, stderr=log, stdout=log)


def test_one_slot_runs_by_bytewax_itself(kafka: KafkaServer, unique: Callable[[str], str], tmp_path: Path) -> None:
    """`python -m bytewax.run "dataflows.decisions:flow()"`, with the settings in the environment."""
    file, pipeline = small_on(kafka, unique("bare"), tmp_path)
    send(kafka.bootstrap, pipeline, 300)
    with launched(file, kafka.bootstrap, tmp_path, how=Bare) as run:
        decided(run, kafka.bootstrap, pipeline, 300, timeout=60)
        send(kafka.bootstrap, pipeline, 300, first=300)
        run.process.send_signal(signal.SIGTERM)

        assert run.ends() == 0
    origins, upto = firsts(kafka.bootstrap, pipeline), committed(kafka.bootstrap, pipeline)

    assert origins == {(lane, offset): 1 for lane, end in upto.items() for offset in range(end)}
