"""`penstock replay` at work: events of a range are read, joined with their decisions, decided again and compared."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import orjson

from console.redrive import CLOCKS_MS, batch_of
from console.rejections import Ranges, SelectionWrong, moment_of, place_of, refuse_empty
from dataflows.replay import DecidedAgain, Redecided, differs, known_of, same_score
from operators.batch import Record
from operators.lane_state import Message
from operators.topic_ranges import TopicRanges
from state.latest import Latest

if TYPE_CHECKING:
    from console.steps import Steps
    from dataflows.pipeline import Pipeline

ROWS = 256
"""Of a batch, and so of revisions in one transaction."""


@dataclass(slots=True)
class Comparison:
    """What deciding again changes."""

    named: int
    """So many changed decisions are listed."""
    events: int = 0
    """In the range."""
    compared: int = 0
    """Of them, those with a decision that could be made again."""
    changed: int = 0
    """With another outcome, other reasons, or another score or release."""
    kept_out: int = 0
    """Of them, those that the contract or the guard would not let through now."""
    outcomes: Counter[tuple[str, str]] = field(default_factory=Counter)
    """(Before, after) to decisions; after may be `rejected:<reason>` or `quarantined`."""
    scores: dict[str, dict[str, float]] = field(default_factory=dict)
    """Model to how many of its scores `differ`, and the `greatest` difference."""
    undecided: int = 0
    """Events without a decision: rejected, held back, duplicates, or not decided yet."""
    lacking: Counter[str] = field(default_factory=Counter)
    """Feature that is needed and was not logged to decisions that could not be made again for it."""
    listed: list[dict[str, Any]] = field(default_factory=list)
    """The first `named` changed decisions."""

    def take(self, each: Redecided) -> bool:
        """Compare one decision; whether it says something else now."""
        before, after = each.before, each.after
        self.compared += 1
        self.outcomes[before["outcome"], each.outcome] += 1
        for model, score in {} if after is None else after["scores"].items():
            self._score(model, before["scores"].get(model), score)
        changed = after is None or differs(before, after)
        if changed:
            self.changed += 1
            self.kept_out += after is None
            if len(self.listed) < self.named:
                self.listed.append(_listed(each))
        return changed

    def as_json(self) -> dict[str, Any]:
        """As it is printed."""
        pairs = [
            {"before": before, "after": after, "count": n, "share": n / max(self.compared, 1)}
            for (before, after), n in sorted(self.outcomes.items(), key=lambda pair: (-pair[1], pair[0]))
        ]
        plain = ("events", "compared", "undecided", "changed", "kept_out", "scores", "lacking")
        return {name: getattr(self, name) for name in plain} | {"outcomes": pairs, "decisions": self.listed}

    def _score(self, model: str, before: Mapping[str, Any] | None, after: Mapping[str, Any]) -> None:
        found = self.scores.setdefault(model, {"differ": 0, "greatest": 0.0})
        if before is None or not same_score(before, after):
            found["differ"] += 1
        if before is not None and before["score"] is not None and after["score"] is not None:
            found["greatest"] = max(found["greatest"], abs(before["score"] - after["score"]))


def _listed(each: Redecided) -> dict[str, Any]:
    before, after = each.before, each.after
    return {
        "decision_id": before["decision_id"],
        "revision": before["revision"],
        "before": {"outcome": before["outcome"], "reasons": before["reasons"]},
        "after": {"outcome": each.outcome, "reasons": [] if after is None else after["reasons"]},
    }


def range_of(reader: TopicRanges, pipeline: Pipeline, since: str, until: str, lanes: Sequence[int]) -> Ranges:
    """Lane to first and last offset of what was asked for.

    Args:
        reader: of the topics.
        pipeline: whose events.
        since: a time, or `lane:offset`, the first that counts.
        until: the same, the first that does not count.
        lanes: only these; all where there are none.

    Raises:
        SelectionWrong: naming what cannot be.
    """
    topic = pipeline.topic("events")
    bounds = reader.bounds(topic)
    edges = [_edge(pipeline, text) for text in (since, until)]
    named = {edge[0] for edge in edges if isinstance(edge, tuple)}
    wanted = named or set(lanes) or set(bounds)
    if len(named) > 1 or (named and lanes):
        raise SelectionWrong("a range that begins or ends at an offset is in one lane: name it once, without --lane")
    if unknown := sorted(wanted - bounds.keys()):
        raise SelectionWrong(f"there is no lane {unknown[0]}; {topic} has lanes 0 to {max(bounds)}")
    if len({type(edge) for edge in edges}) == 1:
        first, end = (edge[1] if isinstance(edge, tuple) else edge for edge in edges)
        refuse_empty(first, end)
    starts, stops = (
        dict.fromkeys(wanted, edge[1]) if isinstance(edge, tuple) else reader.since(topic, dict.fromkeys(wanted, edge))
        for edge in edges
    )
    return {lane: (max(starts[lane], bounds[lane][0]), min(stops[lane], bounds[lane][1])) for lane in sorted(wanted)}


def _edge(pipeline: Pipeline, text: str) -> int | tuple[int, int]:
    """Unix milliseconds, or lane and offset."""
    try:
        return moment_of(text)
    except SelectionWrong:
        try:
            return place_of(pipeline, text)
        except SelectionWrong:
            raise SelectionWrong(
                f"could not read where the range begins or ends ({text[:60]!r}): expected a time with its zone, such "
                "as 2026-05-01T08:00:00Z, or LANE:OFFSET"
            ) from None


def recollect(reader: TopicRanges, pipeline: Pipeline, ranges: Ranges, latest: Latest, steps: Steps) -> None:
    """Read the latest decision of each event in the ranges: from the first event's time to the end of the topic.

    A revision stands where it was written, which may be long after its event.
    """
    events, topic = pipeline.topic("events"), pipeline.topic("decisions")
    bounds = reader.bounds(topic)
    moments = {}
    for messages in reader.read(events, {lane: (at, min(at + 1, stop)) for lane, (at, stop) in ranges.items()}):
        for message in messages:
            kind, at_ms = message.timestamp()
            moments[message.partition()] = at_ms - CLOCKS_MS if kind == _BROKER_TIME else 0
    starts = {lane: bounds[lane][0] for lane, (start, stop) in ranges.items() if start < stop}
    starts |= {lane: max(start, starts[lane]) for lane, start in reader.since(topic, moments).items()}
    steps.begin("reading decisions", sum(bounds[lane][1] - start for lane, start in starts.items()))
    for messages in reader.read(topic, {lane: (start, bounds[lane][1]) for lane, start in starts.items()}):
        known = (known_of("decisions", message.partition(), message.value(), body=True) for message in messages)
        latest.take(each for each in known if each and ranges[each.lane][0] <= each.offset < ranges[each.lane][1])
        steps.advance(len(messages))


_BROKER_TIME = 2
"""`TIMESTAMP_LOG_APPEND_TIME`; with the producer's time, nothing follows for the time of the decision."""


def compare(
    reader: TopicRanges,
    pipeline: Pipeline,
    ranges: Ranges,
    latest: Latest,
    *,
    again: DecidedAgain,
    found: Comparison,
    write: Callable[[Sequence[Record]], None],
    steps: Steps,
) -> None:
    """Decide the events of the ranges again.

    Args:
        reader: of the topics.
        pipeline: whose events.
        ranges: lane to offsets.
        latest: the decisions of these events.
        again: decides them.
        found: where the differences are counted.
        write: commits the revisions of a batch, all or none: the decisions that say something else now.
        steps: told of each event.
    """
    steps.begin("deciding events again", sum(max(stop - start, 0) for start, stop in ranges.values()))
    for messages in _batches(reader.read(pipeline.topic("events"), ranges)):
        found.events += len(messages)
        rows, decisions = _joined(messages, latest, again, found)
        if rows:
            redecided = again.decide(batch_of(rows), decisions)
            write([record for each in redecided if found.take(each) for record in each.records])
        steps.advance(len(messages))


def _joined(
    messages: Sequence[Message], latest: Latest, again: DecidedAgain, found: Comparison
) -> tuple[list[Message], list[dict[str, Any]]]:
    """The events with a decision that can be made again, and those decisions, in the same order."""
    rows, decisions = [], []
    for message in sorted(messages, key=lambda each: (each.partition(), each.offset())):
        known = latest.of(message.partition(), message.offset())
        if known is None:
            found.undecided += 1
            continue
        decision = orjson.loads(known[1] or b"")
        if (name := again.lacks(decision)) is not None:
            found.lacking[name] += 1
            continue
        rows.append(message)
        decisions.append(decision)
    return rows, decisions


def _batches(chunks: Iterator[list[Message]]) -> Iterator[list[Message]]:
    for chunk in chunks:
        for at in range(0, len(chunk), ROWS):
            yield chunk[at : at + ROWS]
