"""More of `operators.metrics`: which job a slot does, and what only those count that compute views."""

from __future__ import annotations

from collections.abc import Mapping

from operators.meters import Counts, Table
from operators.metrics import SLOT

_job = Table("penstock_job_info", "1 for the job of this slot", ["name"], SLOT)
_late = Counts("penstock_view_late_events", "Events out of time, by what a view did with them", ["view", "taken"], SLOT)
_tides = Table("penstock_tide_timestamp_seconds", "Up to when a lane's views have all events", ["lane"], SLOT)


def set_job(name: str) -> None:
    """Show which of the pipeline's jobs this slot does; a label called `job` would be the scraper's."""
    _job.rows = {(name,): 1.0}


def count_view_late(view: str, taken: str, n: int) -> None:
    """Count events out of time by what a windowed view did: `included`, `ignored`, `too_late`, or `overfull` values."""
    _late.add(n, view, taken)


def set_tides(tides: Mapping[int, int]) -> None:
    """Show the tides (Unix ms) of this slot's lanes; lanes that are not named have none."""
    _tides.rows = {(str(lane),): tide / 1000 for lane, tide in tides.items()}
