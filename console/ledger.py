"""The book of an account: which events were read, and how many first records name each of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson
from confluent_kafka import Message

_FIRST = frozenset({"decisions", "rejected", "quarantine", "duplicates"})
MOST = 1 << 28
"""Offsets of a partition that can be counted, from the first that is still there: each costs two bytes."""
NAMED = 10
"""So many of the origins that are not in order are named in the account."""


@dataclass(frozen=True, slots=True)
class Account:
    """What the topics hold."""

    read: int
    """Events in the events topic: each is an origin that must have exactly one first record."""
    decisions: int
    outcomes: dict[str, int]
    reviews: int
    """Records on the topic for people; each is one of the decisions too."""
    quarantined: int
    rejected: dict[str, int]
    """Reason to count."""
    duplicates: int
    degraded: int
    """Decisions that name something they had to do without, such as a view, or text that was cut out."""
    unaccounted: int
    """Origins without exactly one first record."""
    releases: dict[str, dict[str, int]]
    """Model to release to the decisions it scored; `fallback` where no release did."""
    missing: tuple[str, ...]
    """The first `NAMED` origins without a first record, as `topic-partition-offset`."""
    repeated: tuple[str, ...]
    """The first `NAMED` origins with more than one."""
    strange: int
    """First records that name no event of the events topic, or cannot be read."""
    waiting: int = 0
    """Events without a first record at or beyond the offset that the group has committed: not taken up yet."""
    revisions: int = 0
    """Later records of events that have a first one, such as decisions made again. Nothing else counts them."""
    repeated_revisions: int = 0
    """Those with origin and revision of another one."""
    past: int = 0
    """Events and first records whose other half may be gone, since retention has deleted the beginning of a topic."""

    @property
    def right(self) -> bool:
        """Whether every event has exactly one first record, every first record its event, no revision another's."""
        return self.unaccounted == 0 and self.strange == 0 and self.repeated_revisions == 0


@dataclass(slots=True)
class _Lane:
    """A byte for each offset: is there an event, how many first records name it. Kafka's markers stay 0 in both."""

    begin: int = 0
    """Offset of the first byte: what is before it, the topic of the events no longer has."""
    sure: int = 0
    """Offset from which on all decisions are still there."""
    cut: bool = False
    """Whether decisions have been deleted, and none of those that are left was read yet."""
    past: int = 0
    events: bytearray = field(default_factory=bytearray)
    firsts: bytearray = field(default_factory=bytearray)

    def at(self, offset: int) -> int:
        """Where the byte of an offset is; there is one then."""
        place = offset - self.begin
        if place >= len(self.events):
            more = bytes(place + 1 - len(self.events) + 1024)
            self.events += more
            self.firsts += more
        return place


class Ledger:
    """Counts events and their first records as they are read, in any order. Two bytes of memory for each offset."""

    def __init__(self, events_topic: str) -> None:
        self._topic = events_topic
        self._lanes: dict[int, _Lane] = {}
        self.read = 0
        self.firsts = 0
        self.waiting = 0
        """Origins that have an event or a first record, and not yet both."""
        self.repeated = 0
        """First records beyond the first of their origin."""
        self.outcomes: Counter[str] = Counter()
        self.reasons: Counter[str] = Counter()
        self.degraded = 0
        self.by_role: Counter[str] = Counter()
        self.scored: Counter[tuple[str, str]] = Counter()
        """(Model, release) to decisions."""
        self.latest: dict[str, str] = {}
        """Model to the release of the decision read last."""
        self.revisions = 0
        """Later records of origins: decided again, in another way or after a rejection."""
        self.repeated_revisions = 0
        """Those that have origin and number of another one."""
        self._revisions: set[tuple[int, int, Any]] = set()
        self._unreadable = 0

    def begins(self, role: str, partition: int, offset: int) -> None:
        """Say where a partition of a topic begins, before anything of it is taken: at 0, unless told otherwise.

        What retention has deleted is missed in no account: first records of events that are gone, and events before the
        first decision that is left where there were others. Retention deletes by the segment, so the two differ.
        """
        if role == "events":
            self._lane(partition).begin = offset
        elif role == "decisions":
            self._lane(partition).cut = offset > 0

    def take(self, role: str, message: Message) -> tuple[int, int] | None:
        """Note a record of any of the topics; gives what `record` gives."""
        if role != "events":
            return self.record(role, message.value())
        self.event(int(message.partition() or 0), int(message.offset() or 0))
        return None

    def event(self, partition: int, offset: int) -> None:
        """Note an event of the events topic."""
        lane = self._lane(partition)
        place = lane.at(offset)
        lane.events[place] = 1
        self.read += 1
        self.waiting += -1 if lane.firsts[place] else 1

    def record(self, role: str, value: bytes | None) -> tuple[int, int] | None:
        """Note a record of an output topic; gives the partition and offset of its origin, if it is a first record."""
        if role not in _FIRST:
            self.by_role[role] += _is_first(value)
            return None
        try:
            body = orjson.loads(value or b"")
            origin, revision = body["origin"], body["revision"]
            topic, partition, offset = origin["topic"], int(origin["partition"]), int(origin["offset"])
        except (orjson.JSONDecodeError, KeyError, TypeError, ValueError):
            self._unreadable += 1
            return None
        if revision != 0:
            self._revision(partition, offset, revision)
            return None
        self.by_role[role] += 1
        self.firsts += 1
        known = self._lanes.get(partition)
        begin = 0 if known is None else known.begin
        if topic != self._topic or partition < 0 or not 0 <= offset < begin + MOST:
            self._unreadable += 1
            return None
        if role == "decisions":
            self.outcomes[str(body.get("outcome"))] += 1
            self.degraded += bool(body.get("degraded"))
            self._note_releases(body.get("scores") or {})
        elif role == "rejected":
            self.reasons[str(body.get("reason"))] += 1
        lane = self._lane(partition)
        if lane.cut and role == "decisions":
            lane.cut, lane.sure = False, offset
        if offset < lane.begin:
            lane.past += 1
            return partition, offset
        place = lane.at(offset)
        if lane.firsts[place]:
            self.repeated += 1
        else:
            self.waiting += -1 if lane.events[place] else 1
        lane.firsts[place] = min(lane.firsts[place] + 1, 255)
        return partition, offset

    def _revision(self, partition: int, offset: int, revision: Any) -> None:
        """Note a later record of an origin; its number must not come twice."""
        known = len(self._revisions)
        self._revisions.add((partition, offset, revision))
        self.revisions += 1
        self.repeated_revisions += len(self._revisions) == known

    def account(self, committed: Mapping[int, int] | None = None) -> Account:
        """Make up the account of what has been read so far.

        Args:
            committed: partition to the offset before which events must have their first record; 0 for those that are
                not named. Empty or None: all must have one.
        """
        missing, repeated, strange, waiting = [], [], self._unreadable, 0
        past = sum(lane.past for lane in self._lanes.values())
        for partition, lane in sorted(self._lanes.items()):
            due = committed.get(partition, 0) if committed else lane.begin + MOST
            for offset, (event, firsts) in enumerate(zip(lane.events, lane.firsts, strict=True), lane.begin):
                if event and firsts == 0 and offset < lane.sure:
                    past += 1
                elif event and firsts == 0 and offset >= due:
                    waiting += 1
                elif event and firsts == 0:
                    missing.append(f"{self._topic}-{partition}-{offset}")
                elif event and firsts > 1:
                    repeated.append(f"{self._topic}-{partition}-{offset}")
                elif firsts and not event:
                    strange += 1
        return Account(
            read=self.read,
            decisions=self.by_role["decisions"],
            outcomes=dict(sorted(self.outcomes.items())),
            reviews=self.by_role["reviews"],
            quarantined=self.by_role["quarantine"],
            rejected=dict(sorted(self.reasons.items())),
            duplicates=self.by_role["duplicates"],
            degraded=self.degraded,
            releases={
                model: {release: n for (of, release), n in sorted(self.scored.items()) if of == model}
                for model in sorted({model for model, _ in self.scored})
            },
            unaccounted=len(missing) + len(repeated),
            missing=tuple(missing[:NAMED]),
            repeated=tuple(repeated[:NAMED]),
            strange=strange,
            waiting=waiting,
            revisions=self.revisions,
            repeated_revisions=self.repeated_revisions,
            past=past,
        )

    def _note_releases(self, scores: Mapping[str, Mapping[str, Any]]) -> None:
        for model, score in scores.items():
            release = str(score.get("release") or "fallback")
            self.scored[model, release] += 1
            self.latest[model] = release

    def _lane(self, partition: int) -> _Lane:
        return self._lanes.setdefault(partition, _Lane())


def _is_first(value: bytes | None) -> bool:
    """Whether a record for people is of a first decision; the same goes for what cannot be read."""
    try:
        return not orjson.loads(value or b"").get("revision")
    except (orjson.JSONDecodeError, AttributeError):
        return True
