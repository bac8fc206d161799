"""What is finished and not yet committed, and how much of it there may be."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from operators.batch import Batch, Record


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of what is held back while a transaction commits; beyond them the source is not polled."""

    interval: float = 0.005
    """Seconds between a commit's return and the next transaction's first record. With no gap the broker is still
    writing markers, answers CONCURRENT_TRANSACTIONS, and the client backs off: p99 188 ms instead of 34."""
    rows: int = 20_000
    """One commit of 16,000 changed rows took 0.55 s."""
    bytes: int = 64 * 1024 * 1024


@dataclass(slots=True)
class Held:
    """What the next transaction will contain."""

    records: list[Record] = field(default_factory=list)
    changes: dict[tuple[int, str, bytes], bytes | None] = field(default_factory=dict)
    progress: dict[int, int] = field(default_factory=dict)
    times: list[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]] = field(default_factory=list)
    bytes: int = 0

    def add(self, batch: Batch) -> None:
        """Take a batch; of each state entry the last value counts."""
        self.records.extend(batch.records)
        for change in batch.changes:
            self.changes[change.lane, change.step, change.key] = change.value
        self.progress.update(batch.progress)
        self.times.append((batch.append_ms, batch.event_ms))
        self.bytes += sum(len(record.value or b"") for record in batch.records)
        self.bytes += sum(len(change.value or b"") for change in batch.changes)

    def without(self, lanes: Collection[int]) -> Held:
        """Give what is held of the other lanes; times are not known by lane, and are left out."""
        return Held(
            records=[record for record in self.records if not {record.lane, *record.others}.intersection(lanes)],
            changes={entry: value for entry, value in self.changes.items() if entry[0] not in lanes},
            progress={lane: following for lane, following in self.progress.items() if lane not in lanes},
        )

    @property
    def rows(self) -> int:
        """Records that a commit of this would write; none where a batch only moved offsets."""
        return len(self.records) + len(self.changes)
