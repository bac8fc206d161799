"""The pipelines of the repository: both pass their own check, and the second one runs on the code of the first."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from console.embedded import KafkaServer
from deploy.pipelines.payments import payments
from tests.integration.engine import PIPELINES, ROOT, running

SEED, EVENTS = 20261123, 5000
KINDS = {"clean": "decisions", "pii": "decisions", "late": "decisions", "duplicate": "duplicates", "broken": "rejected"}
"""What a payment is, to the topic of its first record; personal data in it are cut out, not held back."""


@pytest.mark.parametrize("name", sorted(file.parent.name for file in PIPELINES.glob("*/pipeline.yaml")))
def test_a_pipeline_passes_its_check(name: str) -> None:
    command = [sys.executable, "-m", "console.cli", "check", str(PIPELINES / name / "pipeline.yaml")]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)

    assert told.returncode == 0, told.stdout + told.stderr
    assert told.stdout.count("\nok  ") == len(list((PIPELINES / name / "cases").glob("*.yaml"))) > 0


def test_no_package_knows_of_payments() -> None:
    """All that is special about them is in their pipeline's folder."""
    texts = {
        path: path.read_text()
        for name in ("dataflows", "operators", "state", "models")
        for path in Path(name).rglob("*.py")
    }

    assert texts
    assert [str(path) for path, text in texts.items() if re.search(r"(?i)payment|card_id|\bfraud", text)] == []


@pytest.mark.timeout(300)
def test_payments_are_decided_by_the_engine_as_it_is(
    kafka: KafkaServer, redis_url: str, unique: Callable[[str], str], tmp_path: Path
) -> None:
    """5,000 payments as the generator makes them: broken, repeated and late ones, and some with personal data."""
    planned = list(payments.stream(SEED, EVENTS))
    with running(
        "payments", kafka, redis_url, unique("payments"), tmp_path, slots=2, seed=SEED, events=EVENTS
    ) as engine:
        origins = engine.send((event.key, event.value, event.headers) for event in planned)
        firsts = engine.first_records(EVENTS)
    got = [firsts.get(origin, []) for origin in origins]

    assert Counter(origins) == Counter(firsts.keys()), "each event and nothing else has a first record"
    assert {len(found) for found in got} == {1}, "and only one"
    for event, [first] in zip(planned, got, strict=True):
        assert (event.detail, first.role) == (event.detail, KINDS[event.kind])
        if event.kind == "broken":
            assert first.body["reason"] == event.detail
        if event.kind == "pii":
            assert "redacted:memo" in first.body["degraded"]
    for lane in range(4):
        offsets = [first.body["origin"]["offset"] for first in engine.records["decisions"] if first.lane == lane]
        assert offsets == sorted(offsets) != [], "in lane order"
    decided = [first.body for [first] in got if first.role == "decisions"]
    assert {body["scores"]["fraud"]["release"] for body in decided} == {"1"}
    assert {body["outcome"] for body in decided} >= {"approve", "review"}
    lacking = {"view:card:missing", "view:device:missing"}
    assert all(lacking <= set(body["degraded"]) for body in decided), "the jobs that compute views do not run here"
    print(f"seed {SEED}: {dict(Counter(event.kind for event in planned))}")
