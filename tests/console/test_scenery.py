"""The engine as the demo starts it: each job of the pipeline a program of its own."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from console import scenery
from console.scenery import Engine, Jobs, Servers
from dataflows.pipeline import load

SERVERS = Servers("mock", "at_least_once", "", "127.0.0.1:1", "redis://127.0.0.1:1/0")
OTHERS = ("features", "by-device_id", "views")
"""The jobs of payments besides `decisions`."""


class Started:
    """A program that is not there."""

    def __init__(self, _name: str, command: Sequence[str], log: Path, *, env: Mapping[str, str]) -> None:
        self.command, self.log, self.env, self.running = list(command), log, env, True

    def option(self, name: str) -> str:
        return self.command[self.command.index(name) + 1]

    def stop(self, _timeout: float) -> None:
        self.running = False

    def tail(self) -> str:
        return f"the end of {self.log.name}"


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Started]:
    """What has been started, in that order."""
    programs: list[Started] = []

    def start(name: str, command: Sequence[str], log: Path, *, env: Mapping[str, str]) -> Started:
        programs.append(Started(name, command, log, env=env))
        return programs[-1]

    monkeypatch.setattr(scenery, "Child", start)
    return programs


def jobs(pipeline: str, folder: Path) -> Jobs:
    file = Path(f"deploy/pipelines/{pipeline}/pipeline.yaml")
    return Jobs(load(file), file, SERVERS, slots=2, key="secret", artefacts=folder, folder=folder)


def test_the_seal_key_reaches_the_engine_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, started: list[Started]
) -> None:
    monkeypatch.delenv("PENSTOCK_SEAL_KEY", raising=False)
    Engine(tmp_path / "p.yaml", SERVERS, slots=1, key="secret", artefacts=tmp_path, folder=tmp_path).start()

    [program] = started
    assert program.env == {"PENSTOCK_SEAL_KEY": "secret"}
    assert not any("secret" in word for word in program.command)
    assert "PENSTOCK_SEAL_KEY" not in os.environ


def test_every_job_of_a_pipeline_with_windows_is_started(tmp_path: Path, started: list[Started]) -> None:
    jobs("payments", tmp_path).start()

    slots = {program.option("--job"): program.option("--slots") for program in started}
    assert slots == {"decisions": "2", **dict.fromkeys(OTHERS, "1")}
    assert [program.log.name for program in started] == ["engine.log", *(f"{job}.log" for job in OTHERS)]
    rows = [(int(program.option("--metrics-port")), int(program.option("--slots"))) for program in started]
    ports = [first + n for first, slots in rows for n in range(slots + 1)]
    assert len(set(ports)) == 9, "each launcher has a port, and each of its slots one of those that follow"


def test_without_windows_there_is_the_engine_alone(tmp_path: Path, started: list[Started]) -> None:
    jobs("claims", tmp_path).start()

    assert [program.option("--job") for program in started] == ["decisions"]


def test_decisions_end_before_what_they_need(
    tmp_path: Path, started: list[Started], monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[str] = []
    monkeypatch.setattr(Started, "stop", lambda self, _: ended.append(self.option("--job")))
    run = jobs("payments", tmp_path)
    run.start()
    run.stop()

    assert ended == ["decisions", *OTHERS]


def test_any_job_that_ends_is_noticed_and_says_why(tmp_path: Path, started: list[Started]) -> None:
    run = jobs("payments", tmp_path)
    run.start()
    assert run.running
    started[2].running = False

    assert not run.running
    assert run.tail() == "the end of by-device_id.log"


def test_every_job_is_waited_for(tmp_path: Path, started: list[Started], monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[str] = []
    monkeypatch.setattr(Engine, "wait_until_ready", lambda self, _: waited.append(self.metrics))
    run = jobs("payments", tmp_path)
    run.start()
    run.wait_until_ready()

    assert waited == [f"http://127.0.0.1:{program.option('--metrics-port')}/metrics" for program in started]
