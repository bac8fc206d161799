"""Every Prometheus metric, defined once, and the small functions by which the stages count.

All of them are called once per batch, never once per event: `count_stage` takes 2 µs, `observe_latency` of 256 events
13 µs (measured). Labels are bounded: stages, reasons, models, releases, views, lanes; never an id or a value.

`SLOT` holds what a slot process shows, `LAUNCHER` what the launcher adds of its own. Both are made at import, so a slot
forked from the template starts from zero.
"""

from __future__ import annotations

import os
import time
from collections import Counter as Tally
from collections.abc import Iterable, Mapping

import numpy as np
import numpy.typing as npt
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)

from operators.meters import BatchHistogram, Counts, Table

SLOT = CollectorRegistry()
LAUNCHER = CollectorRegistry()

disable_created_metrics()  # type: ignore[no-untyped-call]  # a `_created` series for each counter doubles the page
ProcessCollector(registry=SLOT)  # CPU, memory and file handles of this process, read at scrape


_LATENCY = (0.002, 0.005, 0.01, 0.02, 0.035, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1, 2, 5, 10, 30, 60)
_AGE = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 30, 60, 300, 1800, 3600, 86400)

_stage_events = Counts("penstock_stage_events", "Events that entered a stage", ["stage"], SLOT)
_stage_left = Counts("penstock_stage_left_events", "Events that left the path at a stage", ["stage"], SLOT)
_stage_batches = Counts("penstock_stage_batches", "Batches that a stage worked on", ["stage"], SLOT)
_stage_seconds = Counts("penstock_stage_seconds", "Wall time that a stage worked", ["stage"], SLOT)
_batch = BatchHistogram("penstock_batch_events", "Events per poll", [2**n for n in range(14)], SLOT)

_rejected = Counts("penstock_rejected_events", "Events that broke the contract", ["reason"], SLOT)
_quarantined = Counter("penstock_quarantined_events", "Events held back for personal data", registry=SLOT)
_findings = Counts("penstock_findings", "Personal data found, or a scan that failed", ["type"], SLOT)
for _failed in ("SCAN_ERROR", "SCAN_TIMEOUT", "SCAN_TOO_LARGE"):
    _findings.start(_failed)
_duplicates = Counter("penstock_duplicate_events", "Events already seen in their lane", registry=SLOT)
_late = Counts("penstock_late_events", "Events late or far ahead, by what was done with them", ["taken"], SLOT)
_decisions = Counts("penstock_decisions", "Decisions made", ["outcome"], SLOT)
_degraded = Counts("penstock_degradations", "Things that decisions had to do without", ["what"], SLOT)
_degraded_decisions = Counter("penstock_degraded_decisions", "Decisions made without something", registry=SLOT)

_scored = Counts("penstock_model_events", "Events scored by a release", ["model", "release"], SLOT)
_scoring = Counts("penstock_model_seconds", "Wall time in a release", ["model", "release"], SLOT)
_fallbacks = Counts("penstock_model_fallback_events", "Events scored by a model's fallback", ["model", "why"], SLOT)
_shadowless = Counts(
    "penstock_shadow_missing_events", "Events without a shadow's score: not loaded", ["model", "release"], SLOT
)
_refused = Counts("penstock_releases_refused", "Releases that this slot did not accept", ["model", "why"], SLOT)
_unknown_records = Counter("penstock_registry_ignored_records", "Registry records of an unknown kind", registry=SLOT)
_releases = Table("penstock_release_info", "Releases in force", ["model", "release", "role"], SLOT)

_hits = Counts("penstock_feature_cache_hits", "Keys answered by the local cache", ["view"], SLOT)
_misses = Counts("penstock_feature_cache_misses", "Keys read from the feature store", ["view"], SLOT)
_missing = Counts("penstock_features_missing_events", "Events whose key had no value", ["view"], SLOT)
_stale = Counts("penstock_features_stale_events", "Events whose value was older than max_age", ["view"], SLOT)
_breakers = Table("penstock_breaker_open", "1 while a circuit breaker lets nothing through", ["dependency"], SLOT)

_commits = Counter("penstock_commits", "Transactions committed", registry=SLOT)
_committed_records = Counter("penstock_committed_records", "Records in committed transactions", registry=SLOT)
_commit_seconds = BatchHistogram("penstock_commit_seconds", "First record to commit returned", _LATENCY, SLOT)
_orphaned = Counter("penstock_orphaned_lanes", "Lanes found without a member and given out again", registry=SLOT)
_retries = Counter("penstock_commit_retries", "Transactions done again after a rebalance elsewhere", registry=SLOT)
_aborts = Counts("penstock_commit_aborts", "Transactions aborted", ["why"], SLOT)
_restore_seconds = BatchHistogram("penstock_restore_seconds", "Lane assigned to lane open", _LATENCY, SLOT)
_restored = Gauge("penstock_restore_records", "State records read back since the process began", registry=SLOT)
_unrestored = Table("penstock_restore_remaining_records", "State records yet to be read, at most", ["lane"], SLOT)
_latency = BatchHistogram("penstock_decision_latency_seconds", "Broker append time to commit", _LATENCY, SLOT)
_age = BatchHistogram("penstock_decision_age_seconds", "Contract's event time to commit", _AGE, SLOT)
_lags = Table("penstock_lane_lag", "Events in the lane not yet committed", ["lane"], SLOT)
_lanes = Gauge("penstock_lanes_owned", "Lanes of this slot", registry=SLOT)
_closed = Table("penstock_lane_closed", "1 for a lane of this slot that is not read", ["lane", "why"], SLOT)
_too_large = Counter("penstock_too_large_records", "Records that their topic does not take", registry=SLOT)
_passed_over = Counter("penstock_passed_over_events", "Events that somebody chose not to decide", registry=SLOT)
_standing_by = Table("penstock_standing_by", "1 while this slot waits for people: it may not begin", ["why"], SLOT)
_ready = Gauge("penstock_ready", "1 while this slot decides events", registry=SLOT)
_since_poll = Gauge("penstock_seconds_since_poll", "Since the source last polled", registry=SLOT)

_restarts = Counts("penstock_slot_restarts", "Times the launcher started a slot again", ["slot"], LAUNCHER)
_slots_up = Table("penstock_slot_up", "1 while the slot answers its scrape", ["slot"], LAUNCHER)

_poll = {"at": time.monotonic()}


def count_stage(stage: str, rows_in: int, seconds: float, left: int = 0) -> None:
    """Count one batch of `rows_in` events through `stage`, `left` of which went out of the path there."""
    _stage_events.add(rows_in, stage)
    _stage_batches.add(1, stage)
    _stage_seconds.add(seconds, stage)
    if left:
        _stage_left.add(left, stage)


def count_poll(rows: int) -> None:
    """Count one poll that gave `rows` events."""
    _batch.observe(rows)


def polled(at: float) -> None:
    """Note that the source polls, at `time.monotonic()` seconds `at`."""
    _poll["at"] = at


def seconds_since_poll() -> float:
    """Say how long ago the source polled last; before the first, since the process began."""
    return time.monotonic() - _poll["at"]


# A slot forked again after a day must not seem to have been silent for a day until its first poll.
os.register_at_fork(after_in_child=lambda: polled(time.monotonic()))

_since_poll.set_function(seconds_since_poll)


def count_rejected(reason: str, n: int = 1) -> None:
    """Count `n` events rejected for `reason`, a value of `Reason`."""
    _rejected.add(n, reason)


def count_quarantined(rows: int) -> None:
    """Count events held back because of personal data."""
    _quarantined.inc(rows)


def count_findings(types: Iterable[str]) -> None:
    """Count what was found, one type for each finding, whether the event was held back or redacted."""
    for kind, n in Tally(types).items():
        _findings.add(n, kind)


def count_duplicates(n: int) -> None:
    """Count events whose id the lane's window already held."""
    _duplicates.inc(n)


def count_late(taken: str, n: int) -> None:
    """Count events out of time by what was done: `included`, `ignored`, `too_late`, or `ahead`, as views do."""
    _late.add(n, taken)


def count_decisions(outcomes: Iterable[str]) -> None:
    """Count decisions, one outcome a row."""
    for outcome, n in Tally(outcomes).items():
        _decisions.add(n, outcome)


def count_degraded(degraded: Iterable[tuple[str, ...]]) -> None:
    """Count what the rows' decisions did without: `Batch.degraded`, which is mostly empty tuples."""
    rows = [row for row in degraded if row]
    if rows:
        _degraded_decisions.inc(len(rows))
        for what, n in Tally(what for row in rows for what in row).items():
            _degraded.add(n, what)


def count_scored(model: str, release: str, rows: int, seconds: float) -> None:
    """Count one call of a release."""
    _scored.add(rows, model, release)
    _scoring.add(seconds, model, release)


def count_fallback(model: str, why: str, n: int) -> None:
    """Count rows that the fallback scored; `why` is bounded: `no_release`, `not_finite`, `error`, `over_budget`."""
    _fallbacks.add(n, model, why)


def count_shadow_missing(model: str, release: str, n: int) -> None:
    """Count rows that a shadow in force did not score, since it is not loaded."""
    _shadowless.add(n, model, release)


def count_release_refused(model: str, why: str) -> None:
    """Count a release that this slot refused."""
    _refused.add(1, model, why)


def count_registry_ignored(n: int = 1) -> None:
    """Count registry records of a kind that this version does not know."""
    _unknown_records.inc(n)


def set_releases(in_force: Iterable[tuple[str, str, str]]) -> None:
    """Show the releases in force: (model, release, role)."""
    _releases.rows = dict.fromkeys(in_force, 1.0)


def count_features(view: str, *, hits: int = 0, misses: int = 0, missing: int = 0, stale: int = 0) -> None:
    """Count one batch's reads of a view: keys from the cache and from the store, events with no value or an old one."""
    for counts, n in ((_hits, hits), (_misses, misses), (_missing, missing), (_stale, stale)):
        if n:
            counts.add(n, view)


def set_breaker(dependency: str, is_open: bool) -> None:
    """Show whether the breaker in front of `dependency` is open."""
    _breakers.rows = {**_breakers.rows, (dependency,): float(is_open)}


def count_commit(records: int, seconds: float) -> None:
    """Count one committed transaction and how long it took from its first record."""
    _commits.inc()
    _committed_records.inc(records)
    _commit_seconds.observe(seconds)


def set_ready(ready: bool) -> None:
    """Note whether this slot decides events."""
    _ready.set(ready)


def count_orphaned_lanes(n: int) -> None:
    """Count lanes that belonged to no member of the group and were given out again."""
    _orphaned.inc(n)


def count_commit_retry() -> None:
    """Count a transaction that is done again with the same content."""
    _retries.inc()


def count_abort(why: str) -> None:
    """Count an aborted transaction; `why` is the name of a Kafka error code."""
    _aborts.add(1, why)


def observe_latency(append_ms: npt.NDArray[np.int64], event_ms: npt.NDArray[np.int64], committed_ms: float) -> None:
    """Observe (n,) events' times to a commit at `committed_ms`, all in Unix ms; never below 0, as clocks differ."""
    _latency.observe_many(np.maximum(committed_ms - append_ms, 0.0) / 1e3)
    _age.observe_many(np.maximum(committed_ms - event_ms, 0.0) / 1e3)


def observe_restore(seconds: float) -> None:
    """Observe the time from a lane's assignment until its state was back."""
    _restore_seconds.observe(seconds)


def set_restore(records: int, remaining: Mapping[int, int]) -> None:
    """Show how many records of lane state this process has read back, and how many each lane not yet open lacks."""
    _restored.set(records)
    _unrestored.rows = {(str(lane),): float(left) for lane, left in remaining.items()}


def set_lane_lags(lags: Mapping[int, int]) -> None:
    """Show the lanes of this slot and how many events each is behind; lanes that are not named are gone."""
    _lags.rows = {(str(lane),): float(lag) for lane, lag in lags.items()}
    _lanes.set(len(lags))


def set_lanes_closed(lanes: Mapping[int, str]) -> None:
    """Show the lanes of this slot that stay closed, and why: `state`, `retention` or `too_large`."""
    _closed.rows = {(str(lane), why): 1.0 for lane, why in lanes.items()}


def count_passed_over(n: int) -> None:
    """Count events that were passed over because somebody set the group's offset beyond them."""
    _passed_over.inc(n)


def count_too_large(n: int) -> None:
    """Count lanes that have a record which its topic does not take."""
    _too_large.inc(n)


def set_standing_by(why: str | None) -> None:
    """Show why this slot may not begin: `topics` or `rival`; None when it may."""
    _standing_by.rows = {} if why is None else {(why,): 1.0}


def count_restart(slot: int) -> None:
    """Count a slot that the launcher started again."""
    _restarts.add(1, str(slot))


def set_slots_up(up: Mapping[int, bool]) -> None:
    """Show which slots answered the launcher's scrape."""
    _slots_up.rows = {(str(slot),): float(ok) for slot, ok in up.items()}
    for slot in up:
        _restarts.start(str(slot))


def expose(registry: CollectorRegistry = SLOT) -> bytes:
    """Write a registry in Prometheus' text format."""
    return generate_latest(registry)
