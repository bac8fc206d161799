"""Rejections as a person asks for them: which ones, and one after the other as they stand on their topic."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from operators.kafka_source import headers_of
from operators.topic_ranges import TopicRanges
from operators.wire import Reason, Rejection, origin_key, parse_decision_id

if TYPE_CHECKING:
    from dataflows.pipeline import Pipeline

Ranges = Mapping[int, tuple[int, int]]
"""Partition to the first offset and the one at which to stop."""


_MOST = 1 << 63
"""Kafka's offsets are less."""


class SelectionWrong(Exception):
    """What was asked for cannot be; the message says what may be asked."""


@dataclass(frozen=True, slots=True)
class Selection:
    """Which rejections are meant: those that fit everything that is given."""

    reasons: frozenset[str] = frozenset()
    lanes: frozenset[int] = frozenset()
    origins: frozenset[tuple[int, int]] = frozenset()
    """Partition and offset of the events."""
    since: int | None = None
    """Unix milliseconds of the rejection, the first that counts."""
    before: int | None = None
    """The first that does not."""

    def takes(self, rejection: Rejection) -> bool:
        """Whether a rejection that stands within the time and in the lanes is meant."""
        origin = rejection.origin
        return (not self.reasons or rejection.reason.value in self.reasons) and (
            not self.origins or (origin.partition, origin.offset) in self.origins
        )

    def ranges(self, reader: TopicRanges, topic: str) -> Ranges:
        """Where in the topic of rejections to look."""
        bounds = reader.bounds(topic)
        wanted = self.lanes | {lane for lane, _ in self.origins}
        if unknown := sorted(wanted - bounds.keys()):
            raise SelectionWrong(f"there is no lane {unknown[0]}; {topic} has lanes 0 to {max(bounds)}")
        lanes = [lane for lane in bounds if lane in wanted or not wanted]
        starts = {lane: bounds[lane][0] for lane in lanes}
        stops = {lane: bounds[lane][1] for lane in lanes}
        if self.since is not None:
            starts = reader.since(topic, dict.fromkeys(lanes, self.since))
        if self.before is not None:
            stops = reader.since(topic, dict.fromkeys(lanes, self.before))
        return {lane: (starts[lane], min(stops[lane], bounds[lane][1])) for lane in lanes}


@dataclass(frozen=True, slots=True)
class Rejected:
    """A rejection as it stands on its topic."""

    record: Rejection
    at_ms: int
    """The broker's time of the rejection, Unix milliseconds."""
    stage: str
    """Which stage rejected it."""

    @property
    def place(self) -> tuple[int, int]:
        """Partition and offset of the event."""
        return self.record.origin.partition, self.record.origin.offset

    @property
    def origin(self) -> str:
        """The event's place in words: `topic-partition-offset`."""
        return origin_key(self.record.origin.topic, *self.place).decode()


def rejections(
    reader: TopicRanges, topic: str, ranges: Ranges, passed: Callable[[int], None] = lambda _: None
) -> Iterator[Rejected]:
    """Give the rejections in these ranges, in the order of their lanes.

    Args:
        reader: of the topics.
        topic: of the rejections.
        ranges: where to look.
        passed: told how many records were read, also those that are no rejections that this version can read, or stand
            in another lane than their event.
    """
    for messages in reader.read(topic, ranges):
        for message in messages:
            try:
                record = Rejection.model_validate_json(message.value() or b"")
            except ValueError:
                continue
            if record.revision == 0 and record.origin.partition == message.partition() and record.origin.offset < _MOST:
                yield Rejected(record, message.timestamp()[1], _stage(message))
        passed(len(messages))


def select(  # noqa: PLR0917 -- as the options of the commands
    pipeline: Pipeline,
    origins: list[str],
    reasons: list[str],
    lanes: list[int],
    since: str | None,
    before: str | None,
) -> Selection:
    """Make a selection of what a person typed.

    Raises:
        SelectionWrong: naming what cannot be read and what may be given.
    """
    if unknown := [reason for reason in reasons if reason not in set(Reason)]:
        raise SelectionWrong(f"there is no reason {unknown[0]}; the reasons are {', '.join(Reason)}")
    first, end = (None if text is None else moment_of(text) for text in (since, before))
    if first is not None and end is not None:
        refuse_empty(first, end)
    origins_of = frozenset(place_of(pipeline, text) for text in origins)
    return Selection(frozenset(reasons), frozenset(lanes), origins_of, first, end)


def refuse_empty(first: int, end: int) -> None:
    """Raise `SelectionWrong` where `end`, the first that is not meant, does not come after `first`."""
    if end <= first:
        raise SelectionWrong("there is nothing between --from and --to: --to must be later, and itself is not meant")


def place_of(pipeline: Pipeline, text: str) -> tuple[int, int]:
    """Partition and offset of an event named by its decision id, by `topic-partition-offset` or by `lane:offset`.

    Raises:
        SelectionWrong: it is none of these, or of another pipeline.
    """
    events = pipeline.topic("events")
    lane, _, offset = text.removeprefix(f"{events}-").partition("-" if text.startswith(f"{events}-") else ":")
    if _is_number(lane) and _is_number(offset):
        return int(lane), int(offset)
    try:
        name, at_lane, at_offset = parse_decision_id(text)
    except ValueError as wrong:
        raise SelectionWrong(
            f"could not read an origin: expected a decision id, {events}-LANE-OFFSET or LANE:OFFSET ({wrong})"
        ) from None
    if name != pipeline.pipeline:
        raise SelectionWrong(f"the decision id is of pipeline {name}, the file is of {pipeline.pipeline}")
    return at_lane, at_offset


def moment_of(text: str) -> int:
    """Unix milliseconds of a time with its zone; raises `SelectionWrong`."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise SelectionWrong("could not read a time: expected one with its zone, such as 2026-05-01T08:00:00Z")
    return int(moment.timestamp() * 1000)


def in_words(at_ms: int) -> str:
    """A moment as RFC 3339, in UTC."""
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


def _stage(message: Any) -> str:
    found = dict(headers_of(message)).get("__connect.errors.stage")
    return (found or b"decode").decode("utf-8", "replace")


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) < 20
