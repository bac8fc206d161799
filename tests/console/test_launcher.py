"""The launcher's own decisions; its processes are in tests/integration/test_run.py."""

from __future__ import annotations

import io
import json
import logging
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from console.api import Api
from console.launcher import Launcher
from dataflows.pipeline import load
from dataflows.settings import Settings
from operators import metrics

CLAIMS = Path("deploy/pipelines/claims/pipeline.yaml")


def launcher(**given: int) -> Launcher:
    settings = Settings.model_validate({"file": CLAIMS, "bootstrap": "b:9092", **given})
    return Launcher(settings, load(CLAIMS))


def status(slot: int, restarts: int, state: str = "running") -> bytes:
    return json.dumps({"slot": slot, "pid": 5, "state": state, "restarts": restarts, "exit": ""}).encode() + b"\n"


def test_the_table_shows_the_last_that_the_template_said_of_each_slot() -> None:
    launched = launcher(slots=2)
    launched._follow(io.BytesIO(status(1, 0) + status(0, 0) + status(1, 1, "waiting")))

    table = launched.slots()

    assert [(row["slot"], row["state"], row["restarts"], row["lanes"]) for row in table] == [
        (0, "running", 0, []),
        (1, "waiting", 1, []),
    ]


def test_restarts_are_counted_once_each() -> None:
    def count() -> float:
        return metrics.LAUNCHER.get_sample_value("penstock_slot_restarts_total", {"slot": "77"}) or 0.0

    launched = launcher(slot=77)
    launched._follow(io.BytesIO(status(77, 0) + status(77, 1) + status(77, 1) + status(77, 2)))

    assert count() == 2


def test_each_slot_has_a_port_that_its_number_gives() -> None:
    assert launcher(slots=3, slot=4, metrics_port=9000)._ports() == {4: 9005, 5: 9006, 6: 9007}


def test_it_is_not_ready_while_a_slot_does_not_answer() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    launched = launcher(slots=1, metrics_port=port - 1)

    assert launched._ready() == (False, "slots [0] are not ready")

    answer = Api("127.0.0.1", port, health=lambda: (True, ""), ready=lambda: (True, "")).start()
    try:
        assert launched._ready() == (True, "all slots are ready")
    finally:
        answer.close()


def test_a_killed_template_is_a_failure_that_is_said(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR, "console.launcher"):
        assert launcher()._verdict(-signal.SIGKILL) == 1

    assert "the template process was killed (SIGKILL), and its slots with it" in caplog.text


def test_a_template_that_was_told_to_stop_before_it_had_slots_ended_well() -> None:
    launched = launcher()
    launched._on_signal(signal.SIGTERM, None)

    assert launched._verdict(-signal.SIGTERM) == 0
    assert [launched._verdict(code) for code in (0, 1)] == [0, 1]


def test_a_template_that_is_stopped_before_it_has_read_its_pipeline_ended_well(monkeypatch: pytest.MonkeyPatch) -> None:
    launched, popen = launcher(), subprocess.Popen

    def stopped(_: list[str], **options: Any) -> subprocess.Popen[bytes]:
        template = popen(["sleep", "60"], **{**options, "pass_fds": ()})
        template.terminate()
        template.wait()
        launched._stop_at = time.monotonic()
        return template

    monkeypatch.setattr(subprocess, "Popen", stopped)

    assert launched._run_template() == 0


def test_a_port_that_is_taken_is_said_plainly(monkeypatch: pytest.MonkeyPatch) -> None:
    from console import cluster
    from console.cli import app

    monkeypatch.setattr(cluster, "check_cluster", lambda *_: [])
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            result = CliRunner().invoke(
                app,
                ["run", str(CLAIMS), "--bootstrap", "b:1", "--metrics-port", str(port)],
                env={"PENSTOCK_SEAL_KEY": "A" * 43 + "="},
            )
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

    assert result.exit_code == 2, result.output
    assert (
        f"could not listen on 127.0.0.1:{port} (Address already in use); choose another --metrics-port" in result.output
    )
    assert "Errno" not in result.output
