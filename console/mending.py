"""`penstock rejected replay` at work: rejections are opened, decided again and written, each once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from console.redrive import CLOCKS_MS
from console.rejections import Ranges, Rejected, Selection, rejections
from dataflows.replay import RejectedAgain, known_of
from operators.batch import Batch, Record
from operators.sealed import Original, open_original
from operators.topic_ranges import TopicRanges
from operators.wire import Rejection
from state.latest import Latest
from state.vault import SealBroken, Vault

if TYPE_CHECKING:
    from console.steps import Steps
    from dataflows.pipeline import Pipeline

ROWS, BYTES = 256, 4 * 1024 * 1024
"""Of originals in one batch, and so in one transaction."""
DONE = ("decisions", "quarantine", "duplicates")
"""Where a rejected event's later record stands."""


@dataclass(slots=True)
class Tally:
    """What became of the selected rejections."""

    selected: int = 0
    already: int = 0
    """Decided, quarantined or marked by an earlier run."""
    decided: Counter[str] = field(default_factory=Counter)
    """Outcome to events."""
    rejected: Counter[str] = field(default_factory=Counter)
    """Reason for which they are rejected still."""
    quarantined: int = 0
    duplicates: int = 0
    """Their event id was decided at another origin."""
    unopened: Counter[str] = field(default_factory=Counter)
    """`other_key`: sealed with another key. `cut`: too large to have been kept whole. `other_topic`: read elsewhere."""

    def as_json(self) -> dict[str, Any]:
        """As it is printed."""
        return {name: getattr(self, name) for name in Tally.__slots__}


@dataclass(frozen=True, slots=True)
class Found:
    """The selected rejections, counted."""

    counts: dict[int, int]
    """Lane to rejections."""
    earliest: dict[int, int]
    """Lane to the time of its first one, Unix milliseconds."""


def find(reader: TopicRanges, topic: str, ranges: Ranges, selection: Selection, steps: Steps) -> Found:
    """Count the selected rejections in these ranges."""
    steps.begin("reading rejections", sum(stop - start for start, stop in ranges.values()))
    counts: Counter[int] = Counter()
    earliest: dict[int, int] = {}
    for each in rejections(reader, topic, ranges, steps.advance):
        if selection.takes(each.record):
            lane = each.place[0]
            counts[lane] += 1
            earliest[lane] = min(earliest.get(lane, each.at_ms), each.at_ms)
    return Found(dict(counts), earliest)


def recollect(reader: TopicRanges, pipeline: Pipeline, found: Found, latest: Latest, steps: Steps) -> None:
    """Read what the selected rejections' lanes have decided since, and within the window of dedupe before.

    Call it when nobody else writes revisions any more: what was committed before is read.
    """
    window = round(pipeline.dedupe.window.total_seconds() * 1000) + CLOCKS_MS
    moments = {lane: at - window for lane, at in found.earliest.items()}
    for role in DONE:
        topic = pipeline.topic(role)
        bounds, starts = reader.bounds(topic), reader.since(topic, moments)
        ranges = {lane: (max(start, bounds[lane][0]), bounds[lane][1]) for lane, start in starts.items()}
        steps.begin(f"reading {role}", sum(stop - start for start, stop in ranges.values()))
        for messages in reader.read(topic, ranges):
            known = (known_of(role, each.partition(), each.value()) for each in messages)
            latest.take(each for each in known if each is not None and (role == "decisions" or each.revision))
            steps.advance(len(messages))


class Mending:
    """Decides rejections that have no later record yet.

    Args:
        again: decides them.
        vault: opens them.
        topic: of the events.
        latest: what is known of their lanes, kept up to date with what is written.
        write: commits the records of a batch, all or none.
        limit: the most that are tried.
        steps: told of each.
    """

    def __init__(
        self,
        again: RejectedAgain,
        vault: Vault,
        latest: Latest,
        write: Callable[[Sequence[Record]], None],
        *,
        topic: str,
        limit: int | None,
        steps: Steps,
    ) -> None:
        self._again, self._vault, self._latest, self._write, self._topic = again, vault, latest, write, topic
        self._left, self._steps = limit, steps
        self.tally = Tally()

    def mend(self, found: Iterable[Rejected]) -> Tally:
        """Take the selected ones in turn; say what became of them."""
        tally = self.tally
        for rows in _batches(self._opened(found)):
            mended = self._again.decide(_batch(rows))
            self._write(mended.records)
            self._latest.take(mended.known)
            tally.decided += mended.outcomes
            tally.rejected += mended.rejected
            tally.quarantined += mended.quarantined
            tally.duplicates += mended.duplicates
            self._steps.advance(len(rows))
        return tally

    def _opened(self, found: Iterable[Rejected]) -> Iterator[tuple[Rejected, Original]]:
        """The originals of those without a later record."""
        for each in found:
            if self._left == 0:
                return
            self.tally.selected += 1
            known = self._latest.of(*each.place)
            if known is not None and known[0] > 0:
                self.tally.already += 1
                self._steps.advance(1)
                continue
            self._left = None if self._left is None else self._left - 1
            original = self._open(each.record)
            if isinstance(original, Original):
                yield each, original
            else:
                self.tally.unopened[original] += 1
                self._steps.advance(1)

    def _open(self, record: Rejection) -> Original | str:
        """The whole original, or why there is none."""
        if record.origin.topic != self._topic:  # a decision id would name another event
            return "other_topic"
        try:
            original = open_original(self._vault, record)
        except SealBroken:
            return "other_key"
        return original if original.whole else "cut"


def _batches(opened: Iterator[tuple[Rejected, Original]]) -> Iterator[list[tuple[Rejected, Original]]]:
    """Bounded in rows and bytes; an origin is in a batch once, should its rejection have been written twice."""
    rows: dict[tuple[int, int], tuple[Rejected, Original]] = {}
    size = 0
    for each, original in opened:
        rows.setdefault(each.place, (each, original))
        size += original.size
        if len(rows) >= ROWS or size >= BYTES:
            yield [rows[place] for place in sorted(rows)]
            rows, size = {}, 0
    if rows:
        yield [rows[place] for place in sorted(rows)]


def _batch(rows: Sequence[tuple[Rejected, Original]]) -> Batch:
    """The events as they were read; `RejectedAgain` gives them their time."""
    return Batch(
        topic=rows[0][0].record.origin.topic,
        lane=np.array([each.place[0] for each, _ in rows], np.int32),
        offset=np.array([each.place[1] for each, _ in rows], np.int64),
        append_ms=np.zeros(len(rows), np.int64),
        keys=[original.key for _, original in rows],
        values=[original.value for _, original in rows],
        headers=[list(original.headers) for _, original in rows],
    )
