"""A real Prometheus on loopback, in a hurry, for tests of the alert rules."""

import json
import os
import re
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest

RULES = Path(__file__).parents[2] / "deploy/prometheus/alerts.yml"


def needed(program: str) -> str:
    """Find a program of Debian's package `prometheus`; skip without it, fail where it must be there."""
    if found := shutil.which(program):
        return found
    why = f"{program} is missing; Debian's package `prometheus` has it"
    if os.environ.get("PENSTOCK_REQUIRE_REAL") == "1":
        pytest.fail(why)
    pytest.skip(why)


def hurried(rules: str) -> str:
    """Shorten every duration of the rules to seconds, and change nothing else.

    `for:` becomes 1 s; every range `[5m]` becomes 6 s and every `offset 10m` 6 s, six scrapes at one a second.
    Conditions, thresholds, labels and texts stay as they are shipped.
    """
    rules = re.sub(r"(?m)^(\s+for:) \w+$", r"\1 1s", rules)
    return re.sub(r"offset \d+[smhd]\b", "offset 6s", re.sub(r"\[\d+[smhd]\]", "[6s]", rules))


class PrometheusServer:
    """Prometheus scraping one target each second and judging the hurried rules each second."""

    def __init__(self, folder: Path, target_port: int) -> None:
        self._program = needed("prometheus")
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._port = free.getsockname()[1]
        self._folder = folder
        (folder / "alerts.yml").write_text(hurried(RULES.read_text()))
        config = {
            "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
            "rule_files": ["alerts.yml"],
            "scrape_configs": [
                {"job_name": "penstock", "static_configs": [{"targets": [f"127.0.0.1:{target_port}"]}]},
            ],
        }
        (folder / "prometheus.yml").write_text(json.dumps(config))  # JSON is YAML

    def __enter__(self) -> "PrometheusServer":
        self._log = (self._folder / "prometheus.log").open("wb")
        self._process = subprocess.Popen(
            [
                self._program,
                f"--config.file={self._folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={self._folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{self._port}",
            ],
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )
        wait_until(self._is_ready, 30, "Prometheus is ready")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        self._process.wait(10)
        self._log.close()

    def firing(self) -> set[str]:
        """Name the alerts that fire now."""
        alerts = self._ask("/api/v1/alerts")["data"]["alerts"]
        return {alert["labels"]["alertname"] for alert in alerts if alert["state"] == "firing"}

    def value(self, query: str) -> float | None:
        """Give the first sample of a query, or None where there is none."""
        result = self._ask(f"/api/v1/query?query={urllib.request.quote(query)}")["data"]["result"]
        return float(result[0]["value"][1]) if result else None

    def _is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/-/ready", timeout=1) as answer:
                return answer.status == 200
        except OSError:
            return False

    def _ask(self, path: str) -> Any:
        with urllib.request.urlopen(f"http://127.0.0.1:{self._port}{path}", timeout=5) as answer:
            return json.load(answer)


def wait_until(holds: Callable[[], bool], seconds: float, what: str) -> None:
    """Wait for a condition, asking ten times a second; fail with `what` was waited for."""
    ends = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < ends, f"waited {seconds:g} s in vain until: {what}"
        time.sleep(0.1)
