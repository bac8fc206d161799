"""The metrics count what the stages tell them, per batch, with bounded labels."""

import os

import numpy as np
import pytest
from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from operators import meters, metrics


def samples(page: bytes) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    families = text_string_to_metric_families(page.decode())
    return {(s.name, frozenset(s.labels.items())): s.value for family in families for s in family.samples}


def value(name: str, **labels: str) -> float:
    return samples(metrics.expose()).get((name, frozenset(labels.items())), 0.0)


@pytest.mark.parametrize("n", [0, 1, 256])
def test_batch_histogram_counts_as_prometheus_own(n: int) -> None:
    edges, values = (0.1, 1, 10), np.random.default_rng(7).choice([0.05, 0.1, 0.5, 1.0, 5.0, 50.0], n)
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    meters.BatchHistogram("penstock_x", "x", edges, ours).observe_many(values)
    reference = Histogram("penstock_x", "x", buckets=edges, registry=theirs)
    for one in values:
        reference.observe(one)

    assert samples(generate_latest(ours)) == pytest.approx(samples(generate_latest(theirs)))


def test_batch_histogram_observes_one_value_in_the_same_bucket_as_many() -> None:
    registry = CollectorRegistry()
    histogram = meters.BatchHistogram("penstock_x", "x", (1, 2), registry)
    histogram.observe(1.0)
    histogram.observe_many(np.array([1.0, np.nan]))

    assert samples(generate_latest(registry))[("penstock_x_bucket", frozenset({("le", "1.0")}))] == 2
    assert samples(generate_latest(registry))[("penstock_x_count", frozenset())] == 2


def test_counts_has_a_bounded_number_of_children() -> None:
    registry = CollectorRegistry()
    counts = meters.Counts("penstock_x", "x", ["what"], registry)
    for i in range(meters.MOST_CHILDREN + 50):
        counts.add(1, f"value-{i}")

    page = samples(generate_latest(registry))
    assert len(page) == meters.MOST_CHILDREN + 1
    assert page[("penstock_x_total", frozenset({("what", "other")}))] == 50


def test_count_stage_counts_events_and_what_left() -> None:
    before = (
        value("penstock_stage_events_total", stage="guard"),
        value("penstock_stage_left_events_total", stage="guard"),
    )
    metrics.count_stage("guard", 256, 0.002, left=3)
    metrics.count_stage("guard", 256, 0.002)

    assert value("penstock_stage_events_total", stage="guard") - before[0] == 512
    assert value("penstock_stage_left_events_total", stage="guard") - before[1] == 3


def test_count_degraded_counts_decisions_once_and_each_thing() -> None:
    before = value("penstock_degraded_decisions_total")
    metrics.count_degraded([(), ("view:a:missing", "model:m:error"), ("view:a:missing",), ()])

    assert value("penstock_degraded_decisions_total") - before == 2
    assert value("penstock_degradations_total", what="view:a:missing") == 2
    assert value("penstock_degradations_total", what="model:m:error") == 1


def test_set_lane_lags_forgets_lanes_that_are_gone() -> None:
    metrics.set_lane_lags({0: 5, 3: 0})
    metrics.set_lane_lags({3: 7})

    assert value("penstock_lane_lag", lane="3") == 7
    assert value("penstock_lanes_owned") == 1
    assert b'lane="0"' not in metrics.expose()


def test_set_releases_shows_only_what_is_in_force() -> None:
    metrics.set_releases([("severity", "1", "champion")])
    metrics.set_releases([("severity", "2", "champion"), ("severity", "3", "shadow")])

    assert value("penstock_release_info", model="severity", release="2", role="champion") == 1
    assert value("penstock_release_info", model="severity", release="1", role="champion") == 0


def test_observe_latency_is_in_seconds_and_never_negative() -> None:
    count = value("penstock_decision_latency_seconds_count")
    total = value("penstock_decision_latency_seconds_sum")
    metrics.observe_latency(np.array([1_000, 5_000]), np.array([500, 500]), committed_ms=1_500.0)

    assert value("penstock_decision_latency_seconds_count") - count == 2
    assert value("penstock_decision_latency_seconds_sum") - total == pytest.approx(0.5)


def test_seconds_since_poll_is_read_at_the_scrape() -> None:
    metrics.polled(metrics.time.monotonic() - 40)
    assert value("penstock_seconds_since_poll") == pytest.approx(40, abs=1)
    metrics.polled(metrics.time.monotonic())
    assert value("penstock_seconds_since_poll") < 1


def test_seconds_since_poll_begins_anew_in_a_forked_slot() -> None:
    metrics.polled(metrics.time.monotonic() - 3600)
    child = os.fork()
    if child == 0:
        os._exit(0 if metrics.seconds_since_poll() < 60 else 1)

    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    metrics.polled(metrics.time.monotonic())


def test_scan_errors_are_shown_before_the_first_one() -> None:
    assert b'penstock_findings_total{type="SCAN_ERROR"}' in metrics.expose()


def test_every_name_begins_with_penstock() -> None:
    for registry in (metrics.SLOT, metrics.LAUNCHER):
        names = {family.name for family in registry.collect()}
        assert all(name.startswith(("penstock_", "process_")) for name in names)
