"""Group commit: what batches decided, remembered and finished is written while the next batches are already at work.

What finishes while a transaction commits is held and becomes the next, so no batch size or interval is tuned.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from typing import Protocol

from operators import metrics
from operators.batch import Batch
from operators.held import Held, Limits
from operators.patience import CALL_SECONDS, is_kafka, plain
from operators.state_home import InSteps, StateHome

_FLUSH_SECONDS = 20.0
_FENCE_SECONDS = 2 * CALL_SECONDS
_SERVE_SECONDS = 0.02
_HEAD_START = 0.005
"""Seconds before the next transaction may begin from which on a batch is begun for it."""


class CommitFailed(Exception):
    """The transaction cannot be committed by this process; a new life of the slot starts at the committed offsets."""


class RecordsTooLarge(Exception):
    """Lanes have records that their topics do not take; nothing of the commit happened."""

    def __init__(self, lanes: Mapping[int, str]) -> None:
        """Say for each lane which record, how large, and what to do."""
        super().__init__("; ".join(lanes.values()))
        self.lanes = lanes


class Delivery(Protocol):
    """What is promised about a commit, and how it is kept: `ExactlyOnce` or `AtLeastOnce`."""

    def begin(self) -> None:
        """Make sure that no past life of this slot can write any more. By the committing thread, once."""

    def write(self, held: Held) -> None:
        """Write all that is held, or raise; `RecordsTooLarge` where it would do without some lanes."""

    def serve(self) -> None:
        """Do what only the consumer's thread may."""

    def pending(self) -> bool:
        """Say whether something written is finished only by the next `serve`."""


class Transactions:
    """Commits what is added, in the background, one transaction after another.

    All methods are called by the flow's thread, which alone uses the consumer: the client lets one thread at a time
    into a consumer, and a call from another would wait for the poll, or for ever inside a rebalance. A failure of the
    committing thread is raised by the next call: the process then leaves, and recovery is the same as after a crash.
    """

    def __init__(self, delivery: Delivery, limits: Limits | None = None, home: StateHome | None = None) -> None:
        """Write by `delivery`, holding no more than `limits`; `home` keeps the state that was committed."""
        self._delivery, self._limits, self._home = delivery, limits or Limits(), home or InSteps()
        self.committed: dict[int, int] = {}
        """Lane to the next offset that is not yet decided, as of the last commit."""
        self._held = Held()
        self._refused: dict[int, str] = {}
        """Lane of which nothing is written any more to why, until it is opened again."""
        self._fenced = False
        self._busy_since: float | None = None
        self._stopping = False
        self._failure: BaseException | None = None
        self._last_commit = 0.0
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="transactions", daemon=True)

    def start(self) -> None:
        """Fence this slot's past life and end its open transaction, in the background; `wait_until_fenced` waits."""
        self._thread.start()

    def wait_until_fenced(self, seconds: float = _FENCE_SECONDS) -> None:
        """Wait until this slot's past life can commit nothing more. Offsets may be read only after that.

        Joining the group goes on meanwhile: a broker that is still ending the old transaction lets the client try
        again only every half second.

        Raises:
            CommitFailed: the transaction coordinator did not answer in time.
        """
        with self._changed:
            answered = self._changed.wait_for(lambda: self._fenced or self._failure, seconds)
            self._raise_failure()
        if not answered:
            raise CommitFailed(f"this slot's past life could not be fenced within {seconds:.0f} s; is the broker well?")

    def busy_seconds(self) -> float:
        """How long the commit at hand has taken; a client call can ignore its time-out, and then only this shows it."""
        since = self._busy_since
        return 0.0 if since is None else time.monotonic() - since

    def add(self, batch: Batch) -> None:
        """Take what a batch decided, remembered and finished."""
        with self._changed:
            self._raise_failure()
            self._held.add(batch)
            self._home.hold(batch.changes)
            self._changed.notify_all()

    def serve(self) -> None:
        """Do what only the consumer's thread may: note the group's generation, or commit what was delivered."""
        self._delivery.serve()

    def refused(self) -> dict[int, str]:
        """Lanes that have a record which its topic does not take, and why: nothing of theirs is committed any more."""
        with self._changed:
            return dict(self._refused)

    def opened(self, lane: int, following: int) -> None:
        """Take a lane that begins at offset `following`; what it was refused for is forgotten."""
        with self._changed:
            self._refused.pop(lane, None)
            self.committed[lane] = following

    def full(self) -> bool:
        """Say whether so much is held that no more may be read."""
        with self._changed:
            self._raise_failure()
            return self._held.rows >= self._limits.rows or self._held.bytes >= self._limits.bytes

    def settle(self, seconds: float) -> None:
        """Wait, for at most `seconds`, until what is read now can soon be in a transaction."""
        with self._changed:
            if self._changed.wait_for(lambda: self._busy_since is None, seconds):
                gap = self._last_commit + self._limits.interval - _HEAD_START - time.monotonic()
                if gap > 0:
                    self._changed.wait(min(gap, seconds))

    def flush(self, seconds: float = _FLUSH_SECONDS) -> None:
        """Wait until all that was added is committed.

        Raises:
            CommitFailed: it was not, within `seconds`.
        """
        deadline = time.monotonic() + seconds
        with self._changed:
            while self._busy_since is not None or self._held.progress or self._delivery.pending():
                self._raise_failure()
                if time.monotonic() > deadline:
                    raise CommitFailed(
                        f"what was held could not be committed within {seconds:.0f} s; is the broker well?"
                    )
                self._changed.wait(_SERVE_SECONDS)
                self.serve()
            self._raise_failure()

    def close(self) -> None:
        """Stop after what is held has been committed; what still fences a past life has nothing to commit."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        if self._fenced:
            self._thread.join(CALL_SECONDS)

    def _raise_failure(self) -> None:
        if self._failure:
            if isinstance(self._failure, CommitFailed):
                raise self._failure
            raise CommitFailed(f"commit failed: {plain(self._failure)}") from self._failure

    def _run(self) -> None:
        try:
            self._delivery.begin()
            with self._changed:
                self._fenced = True
                self._changed.notify_all()
            while (held := self._next()) is not None:
                self._commit(held)
        except BaseException as failure:  # kept for the flow's thread, which raises it
            metrics.count_abort(failure.args[0].name() if is_kafka(failure) else type(failure).__name__)
            with self._changed:
                self._failure = failure
                self._changed.notify_all()

    def _commit(self, held: Held) -> None:
        began, at = time.monotonic(), time.time()
        while held.progress:
            try:
                self._delivery.write(held)
                break
            except RecordsTooLarge as refusal:
                metrics.count_too_large(len(refusal.lanes))
                with self._changed:
                    self._refused.update(refusal.lanes)
                held = held.without(refusal.lanes)
        self._last_commit = time.monotonic()
        self._home.write(held, at)  # never before: a store must not know of what is not committed
        self.committed.update(held.progress)
        _count(held, self._last_commit - began)
        with self._changed:
            self._busy_since = None
            self._changed.notify_all()

    def _next(self) -> Held | None:
        """Wait for something to commit and for the gap since the last commit; None when stopping."""
        with self._changed:
            self._changed.wait_for(lambda: self._held.progress or self._stopping)
            while (gap := self._last_commit + self._limits.interval - time.monotonic()) > 0:
                self._changed.wait(gap)
            if not self._held.progress:
                return None
            held, self._held, self._busy_since = self._held, Held(), time.monotonic()
            return held.without(self._refused) if self._refused else held


def _count(held: Held, seconds: float) -> None:
    if held.progress:
        metrics.count_commit(held.rows, seconds)
    now = time.time() * 1000
    for append_ms, event_ms in held.times:
        metrics.observe_latency(append_ms, event_ms, now)
