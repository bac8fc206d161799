"""Done when the engine itself makes an alert fire: a real Prometheus, a real Redis that goes and comes back."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from console.embedded import KafkaServer, PartMissing, RedisServer
from dataflows.pipeline import Pipeline
from state.feature_writer import FeatureWriter
from state.views import LoadedView
from tests.integration.launched import launched, send, small_on
from tests.integration.prometheus_server import PrometheusServer, needed, wait_until

pytestmark = pytest.mark.ci

VIEWS = """
views:
  person:
    key: who
    features: { visits: number }
    max_age: 30d
    on_missing: default
    on_stale: last_known
    defaults: { visits: 0 }
enrich:
  timeout: 200ms
  breaker: { failures: 2, reset: 1s }
  cache: { entries: 0, max_age: 0s }
"""
EXPECTED = {"PenstockBreakerOpen", "PenstockDegradedRatioHigh"}


def test_alerts_fire_while_the_engines_redis_is_down(
    kafka: KafkaServer, unique: Callable[[str], str], tmp_path: Path, absent: Callable[[str], None]
) -> None:
    """Events flow all the time, and are decided all the time; only Redis goes."""
    needed("prometheus")
    try:
        redis = RedisServer(tmp_path / "redis")
    except PartMissing as missing:
        absent(f"a real Redis cannot be started: {missing}")
    file, pipeline = small_on(kafka, unique("alert"), tmp_path, VIEWS)
    ending = threading.Event()

    def flow() -> None:
        number = 0
        while not ending.wait(0.1):
            send(kafka.bootstrap, pipeline, 20, first=number)
            number += 20

    with redis, launched(file, kafka.bootstrap, tmp_path, REDIS=redis.url) as run:
        fill(redis.url, pipeline)
        run.until_ready()
        events = threading.Thread(target=flow, daemon=True)
        events.start()
        try:
            with PrometheusServer(tmp_path, run.port) as prometheus:

                def well() -> bool:
                    decided = prometheus.value("sum(rate(penstock_decisions_total[3s]))")
                    shut = prometheus.value("penstock_breaker_open") == 0
                    return shut and bool(decided) and not EXPECTED & prometheus.firing()

                wait_until(well, 40, "it decides, is scraped, and no alert fires")
                redis.stop()
                wait_until(lambda: prometheus.firing() >= EXPECTED, 40, "the alerts fire while Redis is down")
                assert (prometheus.value("sum(rate(penstock_decisions_total[3s]))") or 0) > 0, "it decides without"
                redis.start()
                fill(redis.url, pipeline)
                wait_until(well, 40, "the alerts clear once Redis is back")
        finally:
            ending.set()
            events.join(30)


def fill(url: str, pipeline: Pipeline) -> None:
    """Give everyone a value."""
    writer = FeatureWriter.connect(url, pipeline.pipeline)
    now = int(time.time() * 1000)
    try:
        writer.load(LoadedView("person", (("visits", "number"),)), [(f"W-{n}", now, [1.0]) for n in range(50)])
    finally:
        writer.close()
