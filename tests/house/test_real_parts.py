"""A test whose real part is missing is skipped and says why, or fails where real parts are required."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize(("required", "outcome"), [("0", "1 skipped"), ("1", "1 error")])
def test_a_missing_part_is_a_skip_or_a_failure_but_never_a_pass(tmp_path: Path, required: str, outcome: str) -> None:
    wanted = "tests/integration/test_embedded.py::test_topics_are_created_once_and_as_asked"
    environment = {**os.environ, "PATH": str(tmp_path), "PENSTOCK_REQUIRE_REAL": required}
    environment.pop("JAVA_HOME", None)
    told = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", wanted],
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )

    assert outcome in told.stdout.splitlines()[-1]
    assert "a real Kafka cannot be started: no Java found" in told.stdout
