"""The state of a slot's lanes on disk: opened when they are assigned, written after each commit."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from confluent_kafka import KafkaException, TopicCollection
from confluent_kafka.admin import AdminClient, ConfigResource, ResourceType

from operators.batch import Change
from operators.held import Held
from operators.patience import CALL_SECONDS, plain
from operators.record_producer import Places, state_key
from state.entries import Index, LaneEntries
from state.lane_stamp import Stamp
from state.lane_store import LaneStore, Shared

log = logging.getLogger(__name__)
_MARGIN = 0.9
"""Of the time for which deletions are kept: the rest is for reading the tail, and for clocks that differ."""


class LaneStores:
    """A store on disk for each lane, in a folder of this slot alone; see `state.lane_store`. A `StateHome`."""

    def __init__(
        self,
        places: Places,
        admin: AdminClient,
        *,
        folder: Path,
        indexes: Mapping[str, Index],
        now: Callable[[], float] = time.time,
    ) -> None:
        """Keep the lanes of `places.state` in `folder`; `places.ends` must be noted."""
        self._folder, self._places, self._admin = folder, places, admin
        self._indexes, self._now = indexes, now
        self._shared = Shared()
        self._open: dict[int, LaneStore] = {}

    def open(self, ends: Mapping[int, int]) -> dict[int, LaneEntries]:
        """Open what is on disk, as far as it may be trusted."""
        topic_id, now, kept = self._topic_id(), self._now(), self._seconds_kept() * _MARGIN
        self.close(ends)
        for lane, end in ends.items():
            wanted = Stamp(self._places.state, topic_id, self._places.group, lane, at=now)
            path = self._path(lane)
            self._open[lane] = LaneStore(path, self._shared, wanted, end=end, max_age=kept, indexes=self._indexes)
        if kept:
            self._sweep(now - kept)
        return {lane: self._open[lane] for lane in ends}

    def hold(self, changes: Iterable[Change]) -> None:
        """Let the steps read what is not written yet."""
        for change in changes:
            self._open[change.lane].hold(state_key(change.step, change.key), change.value)

    def write(self, held: Held, at: float) -> None:
        """Write the state records of a commit that has succeeded, each lane in one piece with its offset."""
        by_lane: dict[int, list[tuple[bytes, bytes | None]]] = {lane: [] for lane in held.progress}
        for lane, key, value in self._places.state_of(held):
            by_lane.setdefault(lane, []).append((key, value))
        ends = self._places.ends or {}
        for lane, records in by_lane.items():
            self._open[lane].write(records, ends.get(lane), at)
        ends.clear()  # a lane that was taken out of a commit had one, too

    def close(self, lanes: Iterable[int]) -> None:
        """Close their stores; each is as it was last written."""
        for lane in lanes:
            if (store := self._open.pop(lane, None)) is not None:
                store.close()

    def _path(self, lane: int) -> Path:
        return self._folder / f"lane-{lane}"

    def _sweep(self, before: float) -> None:
        """Delete the stores of lanes that other slots have had for so long that theirs could not be used again."""
        ours = {self._path(lane) for lane in self._open}
        for path in {*self._folder.glob("lane-*")} - ours:
            if path.is_dir() and _last_written(path) < before:
                log.info("the lane store %s is deleted: its lane is elsewhere, and it is too old to be used", path)
                shutil.rmtree(path, ignore_errors=True)

    def _topic_id(self) -> str:
        topic = self._places.state
        asked = self._admin.describe_topics(TopicCollection([topic]), request_timeout=CALL_SECONDS)
        return str(asked[topic].result(CALL_SECONDS).topic_id)

    def _seconds_kept(self) -> float:
        """How long the topic keeps the record of a deletion; 0 where it will not say, so that no store is trusted."""
        resource = ConfigResource(ResourceType.TOPIC, self._places.state)
        try:
            answer = self._admin.describe_configs([resource], request_timeout=CALL_SECONDS)[resource]
            return int(answer.result(CALL_SECONDS)["delete.retention.ms"].value) / 1000
        except KafkaException as refused:
            log.warning(
                "could not read delete.retention.ms of %s (%s), so no lane store can be trusted: allow this user to "
                "describe the topic's settings",
                self._places.state,
                plain(refused),
            )
            return 0.0


def _last_written(folder: Path) -> float:
    """When anything in it was written, Unix seconds; not before the store's own date, which is that of a write."""
    return max((path.stat().st_mtime for path in (folder, *folder.iterdir())), default=0.0)
