"""The alert rules: valid, tested, explained, about metrics that exist, and right in a real Prometheus."""

import re
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ruamel.yaml import YAML

from console.api import Api, SlotsPage
from console.embedded import PartMissing, RedisServer
from console.parity_metrics import REGISTRY
from operators import metrics, view_metrics
from operators.batch import Batch
from operators.enrich import Enricher, ViewRule
from state.feature_writer import FeatureWriter
from state.features import FeatureStore
from state.views import LoadedView
from tests.integration.prometheus_server import RULES, PrometheusServer, hurried, needed, wait_until

FOLDER = RULES.parent
ALERTS: list[dict[str, Any]] = YAML(typ="safe").load(RULES)["groups"][0]["rules"]
NAMES = [rule["alert"] for rule in ALERTS]


def promtool(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([needed("promtool"), *arguments], cwd=FOLDER, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    "arguments",
    [("check", "rules", "alerts.yml"), ("check", "config", "prometheus.yml"), ("test", "rules", "alerts_test.yml")],
    ids=" ".join,
)
def test_promtool_is_content(arguments: tuple[str, ...]) -> None:
    done = promtool(*arguments)

    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_is_tested_to_fire_and_not_to_fire() -> None:
    groups = {group["name"]: group for group in YAML(typ="safe").load(FOLDER / "alerts_test.yml")["tests"]}
    for name in NAMES:
        expected = [bool(check["exp_samples"]) for check in groups[name]["promql_expr_test"]]

        assert expected == [False, True, False], name
        assert all(name in check["expr"] for check in groups[name]["promql_expr_test"])


def test_every_alert_has_its_section_in_the_runbook() -> None:
    sections = set(re.findall(r"(?m)^## (\w+)$", (FOLDER / "RUNBOOK.md").read_text()))
    links = {rule["alert"]: rule["annotations"]["runbook_url"] for rule in ALERTS}

    assert sections == set(NAMES)
    assert links == {name: f"deploy/prometheus/RUNBOOK.md#{name.lower()}" for name in NAMES}


@pytest.mark.parametrize("rule", ALERTS, ids=NAMES)
def test_alert_says_what_and_how_bad(rule: dict[str, Any]) -> None:
    assert rule["annotations"]["summary"]
    assert rule["annotations"]["description"]
    assert rule["labels"]["severity"] in {"page", "ticket"}


def test_alerts_runbook_and_dashboard_name_only_metrics_that_exist() -> None:
    assert view_metrics  # imported for what it adds to those of a slot
    families = [family for registry in (metrics.SLOT, metrics.LAUNCHER, REGISTRY) for family in registry.collect()]
    known = {family.name + ("_total" if family.type == "counter" else "") for family in families}
    known |= {f"{family.name}_bucket" for family in families if family.type == "histogram"}
    pages = (RULES, FOLDER / "RUNBOOK.md", FOLDER.parent / "grafana/penstock.json")
    named = set(re.findall(r"penstock_\w+", "".join(page.read_text() for page in pages)))

    assert named <= known


def test_hurried_rules_differ_in_durations_only() -> None:
    duration = r"\b\d+[smhd]\b"
    shipped = RULES.read_text()

    assert "for: 1s" in hurried(shipped)
    assert set(re.findall(r"\[(\w+)\]", hurried(shipped))) == {"6s"}
    assert re.sub(duration, "", hurried(shipped)) == re.sub(duration, "", shipped)


@pytest.fixture
def launcher() -> Iterator[Api]:
    """A slot's and a launcher's page in this process: the metrics are the real ones, counted by the test."""

    def well() -> tuple[bool, str]:
        return True, "ready"

    metrics.set_ready(True)
    slot = Api("127.0.0.1", 0, health=well, ready=well).start()
    page = Api("127.0.0.1", 0, metrics=SlotsPage(lambda: {0: slot.port}), health=well, ready=well).start()
    yield page
    page.close()
    slot.close()


def test_rejected_alert_fires_while_a_producer_is_broken(tmp_path: Path, launcher: Api) -> None:
    def events(share_rejected: float) -> None:
        metrics.polled(time.monotonic())
        metrics.count_stage("decode", 100, 0.001)
        metrics.count_rejected("missing_field", round(100 * share_rejected))

    with PrometheusServer(tmp_path, launcher.port) as prometheus:

        def fires(share_rejected: float) -> bool:
            events(share_rejected)
            return "PenstockRejectedRatioHigh" in prometheus.firing()

        wait_until(
            lambda: not fires(0.01) and prometheus.value("penstock_stage_events_total") is not None, 20, "it is scraped"
        )
        wait_until(lambda: fires(0.5), 30, "the alert fires")
        wait_until(lambda: not fires(0.01), 30, "the alert is cleared")

        assert prometheus.firing() == set()


@pytest.mark.long  # 18 s; test_engine_alert.py has the same with the whole engine
def test_alerts_fire_while_redis_is_down(tmp_path: Path, launcher: Api, absent: Callable[[str], None]) -> None:
    try:
        redis = RedisServer(tmp_path / "redis")
    except PartMissing as missing:
        absent(f"a real Redis cannot be started: {missing}")
    view = LoadedView("holder", (("claims_3y", "number"),))
    expected = {"PenstockBreakerOpen", "PenstockDegradedRatioHigh"}
    with redis, PrometheusServer(tmp_path, launcher.port) as prometheus:
        store = FeatureStore.connect(redis.url, "claims", timeout=0.5, failures=2, reset=0.5, max_age=0.0)
        writer = FeatureWriter.connect(redis.url, "claims")
        writer.load(view, [("PH-1", int(time.time() * 1000), [3.0])])
        enricher = Enricher(store, [ViewRule(view, "policyholder_id")])

        def firing() -> set[str]:
            metrics.polled(time.monotonic())
            degraded = enricher.work(_claims(50)).degraded
            metrics.count_decisions(["approve"] * len(degraded))
            metrics.count_degraded(degraded)
            return prometheus.firing()

        def no_alert_after_a_scrape() -> bool:
            return not firing() and prometheus.value("penstock_breaker_open") == 0

        wait_until(no_alert_after_a_scrape, 30, "it is scraped and well")
        redis.stop()
        wait_until(lambda: firing() == expected, 30, "the alerts fire while Redis is down")
        redis.start()
        writer.load(view, [("PH-1", int(time.time() * 1000), [3.0])])
        wait_until(no_alert_after_a_scrape, 30, "the alerts are cleared")


def _claims(n: int) -> Batch:
    rows = np.arange(n)
    nothing = [None] * n
    return Batch(
        "claims.events",
        np.zeros(n, np.int32),
        rows,
        rows,
        nothing,
        nothing,
        [[] for _ in rows],
        columns={"policyholder_id": ["PH-1"] * n},
        degraded=[()] * n,
    )
