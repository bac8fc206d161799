"""The slots' answers: a fold of the admissions topic that says who is alive and who has accepted what.

Liveness is judged in the log's own time: a slot is alive while its last heartbeat is at most `HEARTBEAT_LIMIT_MS`
older than the newest record of the topic. Whoever asks writes heartbeats too, so the newest record is never old while
the broker works, and when it does not, nothing can be activated anyway. A slot that leaves in order says so with a
tombstone.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final

from models.release import AdmissionRecord, HeartbeatRecord, read_answer

HEARTBEAT_LIMIT_MS: Final = 10_000


class Acceptances:
    """What the slots of one pipeline have said. Not thread-safe."""

    def __init__(self, pipeline: str) -> None:
        """Begin with an empty log."""
        self.pipeline = pipeline
        self._beats: dict[str, int] = {}
        self._keys: dict[bytes, str] = {}
        self._answers: dict[int, dict[str, AdmissionRecord]] = {}
        self._newest_ms = 0

    def add(self, key: bytes | None, value: bytes | None, append_ms: int) -> None:
        """Fold one record of the admissions topic; what is unknown or another pipeline's is skipped.

        Args:
            key: of the record; a tombstone is known by it.
            value: JSON, or None for a tombstone.
            append_ms: broker's time of the record, Unix milliseconds.
        """
        self._newest_ms = max(self._newest_ms, append_ms)
        if value is None:
            self._beats.pop(self._keys.pop(key or b"", ""), None)
            return
        record = read_answer(value)
        if record is None or record.pipeline != self.pipeline:
            return
        if isinstance(record, HeartbeatRecord):
            self._beats[record.slot] = append_ms
            self._keys[record.key()] = record.slot
        else:
            self._answers.setdefault(record.of, {})[record.slot] = record

    def heard(self) -> Mapping[str, int]:
        """Slot to the broker's time of its last heartbeat, Unix milliseconds; who said goodbye is not in it."""
        return self._beats

    def live(self) -> frozenset[str]:
        """The slots that are alive at the newest record."""
        return frozenset(slot for slot, at in self._beats.items() if self._newest_ms - at <= HEARTBEAT_LIMIT_MS)

    def answers(self, of: int) -> Mapping[str, AdmissionRecord]:
        """Slot to its last answer to the release or promotion at offset `of` of the registry."""
        return self._answers.get(of, {})

    def all_accept(self, of: int) -> bool:
        """Whether there are live slots and every one of them has accepted the record at offset `of`."""
        answers, live = self.answers(of), self.live()
        return bool(live) and all(slot in answers and answers[slot].accepted for slot in live)

    def keep(self, pending: Collection[int], below: int) -> None:
        """Drop answers that nobody waits for, so that memory does not grow with the log's age.

        Args:
            pending: offsets whose answers are still wanted.
            below: answers from this offset of the registry on are kept too: the record itself was not read yet.
        """
        for old in [offset for offset in self._answers if offset < below and offset not in pending]:
            del self._answers[old]
