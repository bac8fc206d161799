"""Log lines for people: when, which process, how bad, what. Libraries speak only when something is wrong."""

from __future__ import annotations

import logging
import os

_OURS = ("console", "dataflows", "operators", "state", "models")
_CLIENT_LINE = "%s [%s] %s"
"""What the Kafka client logs through: facility, client, text."""
_CLIENT_SECONDS = 10.0


def log_as(who: str) -> None:
    """Log to standard error as process `who`; `PENSTOCK_LOG_LEVEL` says from which level on."""
    logging.basicConfig(
        level="WARNING",
        format=f"%(asctime)s.%(msecs)03d {who}: %(levelname).1s %(message)s",
        datefmt="%H:%M:%S",
        force=True,
    )
    for package in _OURS:
        logging.getLogger(package).setLevel(os.environ.get("PENSTOCK_LOG_LEVEL", "INFO").upper())
    for handler in logging.getLogger().handlers:
        handler.addFilter(OncePerFacility())


class OncePerFacility(logging.Filter):
    """Lets through one line per facility of a Kafka client every 10 s: it tries to connect 20 times a second."""

    def __init__(self) -> None:
        super().__init__()
        self._next: dict[tuple[str, str], float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Decide on one line."""
        if record.msg != _CLIENT_LINE or not isinstance(record.args, tuple):
            return True
        facility, client, _ = record.args
        place = str(client), str(facility)
        if record.created < self._next.get(place, 0.0):
            return False
        self._next[place] = record.created + _CLIENT_SECONDS
        return True
