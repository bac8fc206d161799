"""The admitter: a thread that fetches, loads and tries releases, so that a slow artefact store never stops the events.

It works on what the follower of the registry wants: first the champions that are in force or will be (a slot may not
decide without them), then the changes that wait for this slot's answer, then the shadows in force that are not loaded
(a slot decides without them). A refusal of a world that may mend itself (the store cannot be reached) is tried again;
any other answer to a change is final for this process. No release ends the thread: what nobody foresaw is a refusal.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from models.admission import Answer, Refused
from models.catalog import Catalog
from models.history import Change, Release
from models.release import TRANSIENT, AdmissionRecord, RefusalReason
from operators import metrics

log = logging.getLogger(__name__)

_RETRY_NEEDED, _RETRY_LATER = 1.0, 15.0
"""Seconds until the next attempt."""


@dataclass(frozen=True, slots=True)
class Answered:
    """This slot's answer to one release or promotion."""

    of: int
    answer: Answer | None
    """None: accepted without a test, a promotion of a loaded release."""

    @property
    def accepted(self) -> bool:
        """Whether this slot can use it."""
        return not isinstance(self.answer, Refused)

    def record(self, pipeline: str, slot: str) -> AdmissionRecord:
        """The answer as a record of the admissions topic."""
        refused = self.answer if isinstance(self.answer, Refused) else None
        return AdmissionRecord(
            pipeline=pipeline,
            of=self.of,
            slot=slot,
            accepted=self.accepted,
            reason=refused.reason if refused else None,
            detail=refused.detail[:1000] if refused else None,
            figures=dict(self.answer.figures) if self.answer is not None else {},
        )


@dataclass(frozen=True, slots=True)
class _Job:
    """One thing to load: `of` is the change that waits for an answer, None for a release that is in force."""

    release: Release
    of: int | None
    retires: bool = False


class Admitter:
    """Loads what the follower wants, one release at a time."""

    def __init__(self, catalog: Catalog, *, now: Callable[[], float] = time.monotonic) -> None:
        """Prepare; `start` begins the thread.

        Args:
            catalog: gets the loaded models.
            now: clock in seconds, for the next attempt.
        """
        self._catalog = catalog
        self._now = now
        self._wake = threading.Condition()
        self._needed: tuple[Release, ...] = ()
        self._optional: tuple[Release, ...] = ()
        self._pending: tuple[Change, ...] = ()
        self._load_at: dict[int, float] = {}
        """Offset of a release in force to when it is tried again."""
        self._answer_at: dict[int, float] = {}
        """Offset of a pending change to when it is tried again; infinity when it has its final answer."""
        self._answers: list[Answered] = []
        self._failures: dict[int, str] = {}
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="admitter", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End after the release at hand; a daemon thread, it is not waited for."""
        with self._wake:
            self._stopping = True
            self._wake.notify()

    def want(self, needed: Sequence[Release], pending: Sequence[Change], optional: Sequence[Release] = ()) -> None:
        """Say what is wanted now; what was asked for before and is not named is dropped."""
        with self._wake:
            self._needed, self._pending, self._optional = tuple(needed), tuple(pending), tuple(optional)
            releases, changes = {of.offset for of in (*needed, *optional)}, {change.offset for change in pending}
            self._load_at = {of: at for of, at in self._load_at.items() if of in releases}
            self._failures = {of: why for of, why in self._failures.items() if of in releases}
            self._answer_at = {of: at for of, at in self._answer_at.items() if of in changes}
            self._wake.notify()

    def take(self) -> list[Answered]:
        """The answers since the last call."""
        with self._wake:
            answers, self._answers = self._answers, []
            return answers

    def missing(self) -> str | None:
        """Why a needed release is not loaded, in plain words; None when all are."""
        return next(iter(self._lacking(self._needed)), None)

    def missing_shadows(self) -> str | None:
        """Which shadows give no scores, and why, in plain words; None when all do."""
        return "; ".join(f"no scores from a shadow: {why}" for why in self._lacking(self._optional)) or None

    def _lacking(self, wanted: Sequence[Release]) -> list[str]:
        with self._wake:
            return [
                f"release {release.version} of {release.model} is in force: "
                + self._failures.get(release.offset, "it is being loaded")
                for release in wanted
                if not self._catalog.has(release)
            ]

    def _run(self) -> None:
        while True:
            with self._wake:
                while not self._stopping and (job := self._next()) is None:
                    self._wake.wait(0.5)
                if self._stopping:
                    return
            assert job is not None  # noqa: S101 -- for the type checker
            try:
                self._do(job)
            except Exception as error:  # the thread must not end while the slot lives
                log.exception("release %s of %s cannot be tried", job.release.version, job.release.model)
                detail = f"trying it fails with {type(error).__name__}"
                self._answered(job, Refused(RefusalReason.BROKEN_FILE, detail))

    def _next(self) -> _Job | None:
        now = self._now()
        if (release := self._due(self._needed, now)) is not None:
            return _Job(release, None)
        for change in self._pending:
            if self._answer_at.get(change.offset, now) <= now:
                return _Job(self._catalog.history.release_of(change), change.offset, change.role == "retired")
        return None if (release := self._due(self._optional, now)) is None else _Job(release, None)

    def _due(self, wanted: Sequence[Release], now: float) -> Release | None:
        for release in wanted:
            if self._load_at.get(release.offset, now) <= now and not self._catalog.has(release):
                return release
        return None

    def _do(self, job: _Job) -> None:
        # A promotion of what is loaded, or out of service, needs no test; the release itself had it.
        tested = job.of != job.release.offset and (job.retires or self._catalog.has(job.release))
        self._answered(job, None if tested else self._catalog.admit(job.release))

    def _answered(self, job: _Job, answer: Answer | None) -> None:
        at = self._now()
        with self._wake:
            if job.of is None:
                retry = _RETRY_NEEDED if job.release in self._needed else _RETRY_LATER
                self._load_at[job.release.offset] = at + retry
                if isinstance(answer, Refused):
                    self._failures[job.release.offset] = f"{answer.reason}: {answer.detail}"
                return
            again = isinstance(answer, Refused) and answer.reason in TRANSIENT
            self._answer_at[job.of] = at + _RETRY_LATER if again else float("inf")
            self._answers.append(Answered(job.of, answer))
        if isinstance(answer, Refused):
            metrics.count_release_refused(job.release.model, answer.reason)
            log.warning("refused release %s of %s: %s", job.release.version, job.release.model, answer.detail)
