"""The job `views`: from the changelogs of windowed views to Redis, which may be away, emptied or replaced meanwhile.

No dataflow: there is one thing to do with a record. Whatever goes wrong with Redis, all lanes are closed, and opened
again once Redis says how far it goes; nothing is lost by that, and what is written twice does no harm.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence

from dataflows.pipeline import Pipeline
from dataflows.view_stages import view_windows
from operators import metrics, view_metrics
from operators.changelogs import Changelogs
from state.feature_writer import FeatureWriter, RedisFailed
from state.view_windows import ViewWindows
from state.view_writer import Record, ViewWriter

log = logging.getLogger(__name__)

_MOST = 2000
"""Records of one round trip."""
_POLL_SECONDS = 0.05
_PAUSES = (0.1, 0.25, 0.5, 1.0)
"""Seconds between tries while Redis fails; the last one from then on."""


def changelogs_of(pipeline: Pipeline) -> dict[str, list[ViewWindows]]:
    """Changelog topic to the views that it has, of the views with windows."""
    found: dict[str, list[ViewWindows]] = {}
    for name, spec in pipeline.views.items():
        if spec.windows:
            found.setdefault(changelog_of(pipeline, name), []).append(view_windows(name, spec))
    return found


def changelog_of(pipeline: Pipeline, view: str) -> str:
    """The changelog topic of a view with windows."""
    key = pipeline.views[view].key
    return pipeline.topic("features" if key == pipeline.contract.entity else f"by-{key}.features")


class WritingViews:
    """Writes views until told to stop. A `dataflows.running.Running`."""

    def __init__(
        self,
        changelogs: Changelogs,
        views: Mapping[str, Sequence[ViewWindows]],
        connect: Callable[[], FeatureWriter],
        stopping: Callable[[], bool],
    ) -> None:
        """Write the views of each changelog topic.

        Args:
            changelogs: reads those topics.
            views: topic to the views that it has.
            connect: gives a connection to Redis; may raise `RedisFailed`.
            stopping: whether to end.
        """
        self._changelogs, self._views, self._connect, self._stopping = changelogs, views, connect, stopping
        self._redis: FeatureWriter | None = None
        self._writers: dict[str, ViewWriter] = {}
        self._asked_of_eviction = False
        self._failures = 0
        self._try_at = 0.0
        self._writing_since: float | None = None
        self._trouble = ""

    def run(self) -> None:
        """Work until told to stop."""
        counts = self._changelogs.start()
        while not self._stopping():
            metrics.polled(time.monotonic())
            self._trying(lambda: self._open(counts))
            batch = self._changelogs.poll(_MOST, _POLL_SECONDS)
            if batch:
                self._trying(lambda batch=batch: self._write(batch))  # type: ignore[misc]
            self._changelogs.tick()
            self._tell_tides()

    def ready(self) -> tuple[bool, str]:
        """Whether every lane of this slot is written."""
        if self._trouble:
            return False, self._trouble
        if not self._changelogs.joined():
            return False, "the group has not given out all lanes yet"
        if waiting := self._changelogs.waiting():
            return False, f"{len(waiting)} changelog lanes are yet to be opened"
        return True, f"writing {len(self.owned())} changelog lanes to Redis"

    def owned(self) -> list[int]:
        """Lanes that it writes, of whichever changelog."""
        return sorted({lane for _, lane in self._changelogs.open_lanes()})

    def busy_seconds(self) -> float:
        """How long the write at hand has taken."""
        since = self._writing_since
        return 0.0 if since is None else time.monotonic() - since

    def close(self) -> None:
        """Let go."""
        self._changelogs.close()
        if self._redis is not None:
            self._redis.close()

    def _trying(self, work: Callable[[], None]) -> None:
        """Do what needs Redis; where it fails, begin anew after a pause."""
        if time.monotonic() < self._try_at:
            return
        self._writing_since = time.monotonic()
        try:
            work()
        except RedisFailed as failure:
            self._begin_anew(failure)
        finally:
            self._writing_since = None

    def _begin_anew(self, failure: RedisFailed) -> None:
        if not self._failures:
            log.warning("Redis does not take values (%s); trying again until it does, nothing is lost", failure)
        self._trouble = f"Redis does not take values: {failure}"
        view_metrics.set_failing(True)
        self._try_at = time.monotonic() + _PAUSES[min(self._failures, len(_PAUSES) - 1)]
        self._failures += 1
        self._changelogs.reopen(self._changelogs.open_lanes())
        if self._redis is not None:
            self._redis.drop()

    def _succeeded(self) -> None:
        if self._failures:
            log.info("Redis takes values again")
        self._forget_trouble()

    def _forget_trouble(self) -> None:
        self._failures, self._trouble = 0, ""
        view_metrics.set_failing(False)

    def _tell_tides(self) -> None:
        """Of the lanes that are this slot's, also while they wait for Redis."""
        own = {*self._changelogs.open_lanes(), *self._changelogs.waiting()}
        for topic, writer in self._writers.items():
            view_metrics.set_tides(topic, {lane: at for lane, at in writer.tides().items() if (topic, lane) in own})

    def _open(self, counts: Mapping[str, int]) -> None:
        """Open the lanes that wait, from where Redis goes to."""
        waiting = self._changelogs.waiting()
        if not waiting:
            if self._trouble and not self._changelogs.open_lanes():  # its lanes are another's now, and so the trouble
                self._forget_trouble()
            return
        if self._redis is None:
            self._redis = self._connect()
            self._writers = {
                topic: ViewWriter(self._redis, views, counts[topic]) for topic, views in self._views.items()
            }
        starts: dict[tuple[str, int], int] = {}
        for topic, writer in self._writers.items():
            lanes = [lane for of, lane in waiting if of == topic]
            starts |= {(topic, lane): start for lane, start in writer.begin(lanes).items()} if lanes else {}
        if not self._asked_of_eviction:  # not before Redis has answered: what it does not say is taken for well
            self._asked_of_eviction = True
            self._warn_of_eviction(self._redis)
        self._changelogs.open(starts)

    def _write(self, batch: Mapping[str, Mapping[int, Sequence[Record]]]) -> None:
        for topic, by_lane in batch.items():
            writer = self._writers[topic]
            newer, older, lost = writer.write(by_lane)
            view_metrics.count_written(topic, newer, older)
            if lost:
                log.warning("Redis has lost values of lanes %s of %s; they are written again", lost, topic)
                view_metrics.count_again(len(lost))
                self._changelogs.reopen([(topic, lane) for lane in lost])
        self._succeeded()

    @staticmethod
    def _warn_of_eviction(writer: FeatureWriter) -> None:
        if (policy := writer.evicts()) is not None:
            log.error(
                "Redis throws values away when memory is short (maxmemory-policy %s), and a windowed view takes what "
                "is not there for nothing: set maxmemory-policy to noeviction",
                policy,
            )
