"""What the job `views` tells Prometheus; like the rest of `operators.metrics`, once per batch."""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client import Counter, Gauge

from operators.meters import Counts, Table
from operators.metrics import SLOT

_written = Counts("penstock_view_written_values", "Values written to Redis that were newer", ["topic"], SLOT)
_older = Counts("penstock_view_older_values", "Values that Redis had already, or newer ones", ["topic"], SLOT)
_lags = Table("penstock_view_lag_records", "Records of a changelog not yet in Redis", ["topic", "lane"], SLOT)
_tides = Table(
    "penstock_view_tide_timestamp_seconds", "Up to when Redis has all events, Unix time", ["topic", "lane"], SLOT
)
_failing = Gauge("penstock_view_writer_failing", "1 while Redis does not take values", registry=SLOT)
_again = Counter("penstock_view_lanes_again", "Lanes written again since Redis had lost something", registry=SLOT)


def count_written(topic: str, newer: int, older: int) -> None:
    """Count values of one changelog that Redis took, and that it had already."""
    _written.add(newer, topic)
    _older.add(older, topic)


def set_lags(lags: Mapping[tuple[str, int], int]) -> None:
    """Show (topic, lane) to records that are not in Redis yet; lanes that are not named are another's."""
    _lags.rows = {(topic, str(lane)): float(records) for (topic, lane), records in lags.items()}


def set_tides(topic: str, tides: Mapping[int, int]) -> None:
    """Show lane to tide (Unix ms) of one changelog as it is in Redis."""
    others = {labels: value for labels, value in _tides.rows.items() if labels[0] != topic}
    _tides.rows = others | {(topic, str(lane)): tide / 1000 for lane, tide in tides.items()}


def set_failing(failing: bool) -> None:
    """Note whether Redis takes values."""
    _failing.set(failing)


def count_again(lanes: int) -> None:
    """Count lanes of which Redis had lost something."""
    _again.inc(lanes)
