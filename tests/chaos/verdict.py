"""What is wrong with the committed records of a run, as one who reads topics and knows the rules can tell."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import orjson

from tests.chaos.reader import Place, Record
from tests.operators.recall_oracle import recompute

KINDS = ("missing", "twice", "out of lane order", "in a wrong lane", "windows wrong", "reviews wrong")

Origin = tuple[int, int]
"""Lane and offset of an event."""


@dataclass(frozen=True, slots=True)
class Windows:
    """What `recall` is asked for, read from the pipeline file."""

    features: Mapping[str, tuple[str, int, str | None]]
    """Name to function, window in milliseconds, and field."""
    pane_ms: int
    lateness_ms: int
    include_late: bool


@dataclass(slots=True)
class Verdict:
    """Counts of what is wrong, and when each kind first was."""

    counts: Counter[str] = field(default_factory=Counter)
    since: dict[str, float] = field(default_factory=dict)
    """Kind to Unix seconds: when the record could be read; for one that is missing, when its event was appended."""
    roles: Counter[str] = field(default_factory=Counter)
    """Topic to its number of records."""

    def add(self, kind: str, moment: float) -> None:
        """Note one more of a kind."""
        self.counts[kind] += 1
        self.since[kind] = min(moment, self.since.get(kind, math.inf))

    @property
    def clean(self) -> bool:
        """Whether nothing is wrong."""
        return not self.counts.total()


def judge(
    events: Mapping[Origin, Record],
    records: Iterable[Record],
    reviews: str,
    windows: Windows,
    arrived: Mapping[Place, float],
) -> tuple[Verdict, dict[Origin, Any]]:
    """Compare the first records and reviews with the events.

    Args:
        events: origin to event, as the events topic has it.
        records: of the topics of first records and of the reviews, each partition's in log order.
        reviews: name of the reviews' topic.
        windows: how recalled features are made.
        arrived: when a reader had each record, in Unix seconds.

    Returns:
        What is wrong, and origin to the body of its (first) first record.
    """
    verdict, bodies, asked = Verdict(), {}, Counter[Origin]()
    last: dict[tuple[str, int], int] = {}
    moments: dict[Origin, float] = {}
    for record in records:
        body = orjson.loads(record.value or b"null")
        origin = body["origin"]["partition"], body["origin"]["offset"]
        topic, lane, _ = record.place
        moment = arrived.get(record.place, math.inf)
        verdict.roles[topic] += 1
        if topic == reviews:
            asked[origin] += 1
            continue
        if origin in bodies:
            verdict.add("twice", moment)
            continue
        if lane != origin[0]:
            verdict.add("in a wrong lane", moment)
        if origin[1] <= last.get((topic, lane), -1):
            verdict.add("out of lane order", moment)
        last[topic, lane] = origin[1]
        bodies[origin], moments[origin] = body, moment
    for origin in events.keys() - bodies.keys():
        verdict.add("missing", events[origin].append_ms / 1000)
    for origin in _wrong_windows(events, bodies, windows):
        verdict.add("windows wrong", moments[origin])
    wanted = {origin for origin, body in bodies.items() if body.get("outcome") == "review"}
    for origin in wanted | asked.keys():
        if asked[origin] != (origin in wanted):
            verdict.add("reviews wrong", moments.get(origin, math.inf))
    return verdict, bodies


def _wrong_windows(events: Mapping[Origin, Record], bodies: Mapping[Origin, Any], windows: Windows) -> Iterable[Origin]:
    """Decisions with a recalled feature other than a recomputation from the decided events of their lane."""
    lanes: dict[int, list[int]] = defaultdict(list)
    for (lane, offset), body in sorted(bodies.items(), key=lambda item: item[0]):
        if body["kind"] == "decision" and (lane, offset) in events:
            lanes[lane].append(offset)
    for lane, offsets in lanes.items():
        inputs = [_input(events[lane, offset], bodies[lane, offset], windows) for offset in offsets]
        expected = recompute(
            inputs,
            windows.features,
            pane_ms=windows.pane_ms,
            lateness_ms=windows.lateness_ms,
            include_late=windows.include_late,
        )
        for offset, features in zip(offsets, expected, strict=True):
            if any(not _same(bodies[lane, offset]["features"][name], value) for name, value in features.items()):
                yield lane, offset


def _input(event: Record, body: Any, windows: Windows) -> dict[str, Any]:
    data = orjson.loads(event.value or b"null")
    fields = data.get("data", data)
    wanted = {of for _, _, of in windows.features.values() if of is not None}
    return {
        "entity": body["entity"],
        "event_ms": round(datetime.fromisoformat(fields["noticed_at"]).timestamp() * 1000),
        "append_ms": event.append_ms,
        **{name: float(fields[name]) for name in wanted},
    }


def _same(found: float | None, expected: float) -> bool:
    return math.isnan(expected) if found is None else found == expected


def kills_before(kind: str, moment: float, kills: Sequence[float]) -> int:
    """How many kills there were when something was wrong; an event that is lost was lost by the kill that followed."""
    before = sum(kill <= moment for kill in kills)
    return min(before + (kind == "missing"), len(kills))
