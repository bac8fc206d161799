"""The reading side of the demo: an independent reader of a pipeline's topics, which knows how long decisions took."""

from __future__ import annotations

import threading
import time
from array import array
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from console.accounting import Reader
from console.ledger import Account, Ledger

RECENT = 5.0
"""Seconds that recent rates and latencies look back."""
_MOST_RECENT = 20_000
_NEVER = float("inf")


class Latencies:
    """Seconds from produce to a committed decision, joined by origin: whichever side comes first waits for the other.

    A latency ends when the independent reader holds the committed record, so it holds the producer's own batching, the
    broker, the engine, the commit, and the reading. Both ends are this process' clock. 8 bytes of memory a decision.
    """

    def __init__(self) -> None:
        self._sent: dict[tuple[int, int], float] = {}
        self._decided: dict[tuple[int, int], float] = {}
        self._lock = threading.Lock()
        self._all = array("d")
        self._recent: deque[tuple[float, float, int]] = deque(maxlen=_MOST_RECENT)

    def sent(self, partition: int, offset: int, at: float) -> None:
        """Note when an event was produced."""
        with self._lock:
            decided = self._decided.pop((partition, offset), None)
            if decided is None:
                self._sent[partition, offset] = at
            elif decided is not _NEVER:
                self._note(partition, at, decided)

    def decided(self, partition: int, offset: int, at: float) -> None:
        """Note when its decision was read."""
        with self._lock:
            sent = self._sent.pop((partition, offset), None)
            if sent is None:
                self._decided[partition, offset] = at
            else:
                self._note(partition, sent, at)

    def forget(self, partition: int, offset: int) -> None:
        """Note that an event gets no decision: it was rejected, held back or a duplicate."""
        with self._lock:
            if self._sent.pop((partition, offset), None) is None:
                self._decided[partition, offset] = _NEVER

    def quantiles(self, *shares: float) -> list[float | None]:
        """Latencies in seconds below which these shares of all decisions are; None where there are none."""
        with self._lock:
            seconds = np.array(self._all)
        return _quantiles(seconds, shares)

    def recent(self, now: float, *shares: float) -> list[float | None]:
        """The same for the decisions of the last `RECENT` seconds."""
        with self._lock:
            seconds = np.array([took for at, took, _ in self._recent if at > now - RECENT])
        return _quantiles(seconds, shares)

    def waiting_since_before(self, moment: float) -> int:
        """How many events produced before `moment` have no first record yet."""
        with self._lock:
            return sum(at < moment for at in self._sent.values())

    def since(self, moment: float, lanes: Sequence[int] | None = None) -> list[tuple[float, float, int]]:
        """(When it was decided, latency, lane) of the decisions read since a moment, of these lanes or of all."""
        with self._lock:
            return [row for row in self._recent if row[0] >= moment and (lanes is None or row[2] in lanes)]

    def _note(self, partition: int, sent: float, decided: float) -> None:
        self._all.append(decided - sent)
        self._recent.append((decided, decided - sent, partition))


def _quantiles(seconds: npt.NDArray[np.float64], shares: Sequence[float]) -> list[float | None]:
    """Nearest rank: the smallest value with at least that share at or below it."""
    if not len(seconds):
        return [None] * len(shares)
    return [float(value) for value in np.quantile(seconds, shares, method="inverted_cdf")]


@dataclass(frozen=True, slots=True)
class Progress:
    """What has been read so far."""

    read: int = 0
    by_role: Mapping[str, int] = field(default_factory=dict)
    outcomes: Mapping[str, int] = field(default_factory=dict)
    rejected: Mapping[str, int] = field(default_factory=dict)
    releases: Mapping[str, str] = field(default_factory=dict)
    """Model to the release of the decision read last."""
    waiting: int = 0
    """Events without a first record yet."""
    repeated: int = 0
    """First records beyond the first of their origin."""


class Follower:
    """Reads in a thread of its own until stopped, and keeps the ledger and the latencies up to date."""

    def __init__(
        self, connection: Mapping[str, Any], topics: Mapping[str, str], now: Callable[[], float] = time.monotonic
    ) -> None:
        self._reader = Reader(connection, topics)
        self._ledger = Ledger(topics["events"])
        self._lock = threading.Lock()
        self._now = now
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="follow", daemon=True)
        self._rates: deque[tuple[float, int, int]] = deque()
        self.latencies = Latencies()
        self.first_decision_at: float | None = None
        """When the first decision was read, by the clock `now`."""
        self.failure: Exception | None = None

    def start(self) -> Follower:
        """Begin."""
        self._thread.start()
        return self

    def stop(self) -> None:
        """End, and let go of the connection."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join(10.0)
        self._reader.close()

    def account(self) -> Account:
        """What has been read so far."""
        with self._lock:
            return self._ledger.account()

    def progress(self) -> Progress:
        """The figures of the account that cost nothing to know, for a view that asks often."""
        with self._lock:
            ledger = self._ledger
            return Progress(
                read=ledger.read,
                by_role=dict(ledger.by_role),
                outcomes=dict(ledger.outcomes),
                rejected=dict(ledger.reasons),
                releases=dict(ledger.latest),
                waiting=ledger.waiting,
                repeated=ledger.repeated,
            )

    def all_there(self, sent: int) -> bool:
        """Whether `sent` events and a first record for each of them have been read. Cheap: for a loop that waits."""
        with self._lock:
            return self._ledger.read >= sent and self._ledger.waiting == 0

    def rates(self) -> tuple[float, float]:
        """Events and first records per second, over the last `RECENT` seconds."""
        with self._lock:
            now = self._now()
            if len(self._rates) < 2:  # a rate needs two moments
                return 0.0, 0.0
            at, events, firsts = self._rates[0]
            span = max(now - at, 0.001)
            return (self._ledger.read - events) / span, (self._ledger.firsts - firsts) / span

    def _run(self) -> None:
        try:
            while not self._stopped.is_set():
                self._take(self._reader.read(0.05))
        except Exception as failure:  # noqa: BLE001,RUF100 - a thread's failure is told by the one who asks
            self.failure = failure

    def _take(self, records: Sequence[tuple[str, Any]]) -> None:
        now = self._now()
        with self._lock:
            for role, message in records:
                origin = self._ledger.take(role, message)
                if origin is not None and role == "decisions":
                    self.first_decision_at = self.first_decision_at or now
                    self.latencies.decided(*origin, now)
                elif origin is not None:
                    self.latencies.forget(*origin)
            self._rates.append((now, self._ledger.read, self._ledger.firsts))
            while len(self._rates) > 2 and self._rates[0][0] < now - RECENT:
                self._rates.popleft()
