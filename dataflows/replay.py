"""Events decided again: rejected ones by the contract of today, decided ones from what their decisions logged.

A *rejected* event was never decided, so nothing of it is logged. It is decided as of now: views are read and releases
are looked up at this moment. Its lane's windows have gone on without it, so it has none (`recall:replayed`).

A *decided* event is decided as of then: its recalled windows, views, ages and what was degraded about them are those of
its decision, releases are looked up by its append time; derived features, models, fallbacks and the policy give their
answers again. Shadows are not asked. With the policy and releases of then the answers are those of then, except
where a model was over its budget.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from dataflows.consistency import check_sense
from dataflows.pipeline import Pipeline
from dataflows.stages import Stages, logged_features, views_of
from models.admission import ScoringModel
from models.catalog import Catalog
from models.history import InForce, Part, Release
from operators.batch import Batch, Record
from operators.logged import Logged
from operators.stage import Work
from operators.wire import decision_id, duplicate, revised
from state.latest import Known, Latest

UNRECALLED = "recall:replayed"
"""In `degraded` of a decision that had no recalled windows, since its event is decided out of its turn."""
_FIRSTS = ("decisions", "quarantine", "duplicates")


class PolicyUnfit(Exception):
    """A policy cannot decide this pipeline's events; the message has a line for each reason."""


class StoppedClock:
    """Tells the time at which it was last stopped: a batch is decided at one moment."""

    def __init__(self) -> None:
        self._seconds = time.time()

    def stop(self) -> int:
        """Stop anew; the moment as Unix milliseconds."""
        self._seconds = time.time()
        return int(self._seconds * 1000)

    def __call__(self) -> float:
        """Unix seconds."""
        return self._seconds


class NamedReleases:
    """The releases in force, but for models whose release was named. Nothing is a shadow."""

    def __init__(self, catalog: Catalog, named: Mapping[str, Release]) -> None:
        self._catalog = catalog
        self._named = {model: InForce(release) for model, release in named.items()}

    def parts(self, model: str, append_ms: npt.NDArray[np.int64]) -> list[Part]:
        """Group rows by what scores them."""
        if (named := self._named.get(model)) is not None:
            return [Part(slice(0, len(append_ms)), named)] if len(append_ms) else []
        parts = self._catalog.parts(model, append_ms)
        return [Part(part.rows, InForce(part.in_force.champion)) for part in parts]

    def model(self, release: Release) -> ScoringModel:
        """The loaded model; raises `models.catalog.ReleaseUnavailable`."""
        return self._catalog.model(release)

    def loaded(self, release: Release) -> ScoringModel | None:
        """Never asked, since nothing is a shadow."""
        return None


def with_policy(pipeline: Pipeline, other: Pipeline) -> Pipeline:
    """The pipeline with the policy of another pipeline file.

    Raises:
        PolicyUnfit: the policy uses what this pipeline does not have.
    """
    changed = pipeline.model_copy(update={"policy": other.policy})
    sections = {name: getattr(changed, name) for name in Pipeline.model_fields}
    complaints = check_sense(sections, ())
    if complaints:
        lines = (f"{'.'.join(map(str, each.path))}: {each.what}; expected {each.expected}" for each in complaints)
        raise PolicyUnfit("\n".join(lines))
    return changed


def unhurried(pipeline: Pipeline) -> Pipeline:
    """The pipeline with time for its models and views: how busy this machine is must not decide."""
    enrich = pipeline.enrich.model_copy(update={"timeout": timedelta(seconds=5)})
    models = {name: spec.model_copy(update={"budget": timedelta(hours=1)}) for name, spec in pipeline.models.items()}
    return pipeline.model_copy(update={"models": models, "enrich": enrich})


@dataclass(frozen=True, slots=True)
class Mended:
    """What became of rejected events."""

    records: tuple[Record, ...]
    """To write, all with revision 1."""
    known: tuple[Known, ...]
    """What is known about their origins once they are written."""
    outcomes: Counter[str]
    """Of those that are decided now."""
    rejected: Counter[str]
    """Reason to events that are rejected still; they get no record."""
    quarantined: int
    duplicates: int


class RejectedAgain:
    """Decides rejected events by the stages of a pipeline as they are today."""

    def __init__(self, pipeline: Pipeline, stages: Stages, latest: Latest, clock: StoppedClock) -> None:
        """Take the stages, built with the clock, and what is known of decided events and revisions."""
        self._name, self._stages = pipeline.pipeline, stages
        self._recalled = tuple(pipeline.recall.features)
        self._latest, self._clock = latest, clock

    def decide(self, batch: Batch) -> Mended:
        """Decide events of which none has a revision, as they were read; their append times do not matter."""
        batch = replace(batch, append_ms=np.full(len(batch), self._clock.stop(), np.int64))
        stages = self._stages
        before = (stages.decoder.work, stages.guard.work, self._fresh, self._unrecalled)
        done = _through(batch, (*before, stages.enricher.work, *_deciding(stages)))
        reasons = Counter(str(orjson.loads(r.value or b"")["reason"]) for r in done.records if r.topic == "rejected")
        records = tuple(revised(record, 1, "rejection") for record in done.records if record.topic != "rejected")
        kinds = Counter(record.topic for record in records)
        return Mended(
            records,
            tuple(filter(None, (known_of(r.topic, r.lane, r.value) for r in records if r.topic in _FIRSTS))),
            Counter(done.outcomes),
            reasons,
            kinds["quarantine"],
            kinds["duplicates"],
        )

    def _fresh(self, batch: Batch) -> Batch:
        """Mark the events whose id was decided at another origin: sent again, perhaps mended, by the producer."""
        here: dict[tuple[int, str], int] = {}
        stays = np.ones(len(batch), np.bool_)
        marks = []
        for row, (lane, offset, event_id, entity) in enumerate(
            zip(batch.lane.tolist(), batch.offset.tolist(), batch.event_ids, batch.entities, strict=True)
        ):
            first = self._latest.first_with(lane, event_id)
            if first is None:
                first = here.setdefault((lane, event_id), offset)
            if first != offset:
                stays[row] = False
                named = decision_id(self._name, lane, first)
                marks.append(
                    duplicate(self._name, batch.topic, lane, offset, event_id=event_id, entity=entity, first=named)
                )
        return batch.leave(stays, marks)

    def _unrecalled(self, batch: Batch) -> Batch:
        if not self._recalled:
            return batch
        columns = {name: np.full(len(batch), np.nan) for name in self._recalled}
        degraded = [(*row, UNRECALLED) for row in batch.degraded]
        return replace(batch, columns={**batch.columns, **columns}, degraded=degraded)


@dataclass(frozen=True, slots=True)
class Redecided:
    """An event's decision before, and what it is now."""

    before: Mapping[str, Any]
    """The latest decision, as on its topic."""
    after: Mapping[str, Any] | None
    """The decision now; None where there is none, and then `outcome` says what there is."""
    outcome: str
    """The outcome now, or `rejected:<reason>`, `quarantined`."""
    records: tuple[Record, ...]
    """The decision now, to be written as the revision after the one before."""


class DecidedAgain:
    """Decides events again from what their decisions logged."""

    def __init__(self, pipeline: Pipeline, stages: Stages, clock: StoppedClock) -> None:
        """Take a pipeline that is `unhurried`, and its stages, built with the clock."""
        columns = dict.fromkeys(pipeline.recall.features, "number")
        for view, spec in pipeline.views.items():
            columns |= {f"{view}_{feature}": kind for feature, kind in spec.kinds.items()}
        needed = [name for name in logged_features(pipeline) if name in columns]
        self._logged = Logged(columns, needed, views_of(pipeline), pipeline.policy.outcomes)
        self._stages, self._clock = stages, clock

    def lacks(self, decision: Mapping[str, Any]) -> str | None:
        """Name a feature that is needed and that a decision did not log; None where it can be made again."""
        return self._logged.lacks(decision)

    def decide(self, batch: Batch, decisions: Sequence[Mapping[str, Any]]) -> list[Redecided]:
        """Decide events of one poll again; row by row with their decisions, which lack nothing.

        Where a decision took the place of a rejection, what was in force is looked up by when it was made.
        """
        self._clock.stop()
        of = {(each["origin"]["partition"], each["origin"]["offset"]): each for each in decisions}
        moments = [_in_force_at(each, at) for each, at in zip(decisions, batch.append_ms.tolist(), strict=True)]
        batch = replace(batch, append_ms=np.array(moments, np.int64))

        def join(rows: Batch) -> Batch:
            places = zip(rows.lane.tolist(), rows.offset.tolist(), strict=True)
            return self._logged.join(rows, [of[place] for place in places])

        stages = self._stages
        done = _through(batch, (stages.decoder.work, stages.guard.work, join, *_deciding(stages)))
        return list(_paired(done.records, of))


def known_of(role: str, lane: int, value: bytes | None, *, body: bool = False) -> Known | None:
    """What a record on one of the topics of first records tells: its event id, or with `body`, the whole of it.

    None for what is no such record of its lane: nobody can take it off the topic, and it is about no event.
    """
    try:
        read = orjson.loads(value or b"")
        partition, offset, revision = read["origin"]["partition"], read["origin"]["offset"], read["revision"]
        event_id = read["event_id"] if role == "decisions" else None
        missing = _COMPARED - read.keys() if body else ()
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
        return None
    counts = all(isinstance(n, int) and 0 <= n < 1 << 63 for n in (offset, revision))
    if partition != lane or missing or not counts or not isinstance(event_id, str | None):
        return None
    return Known(lane, offset, revision, None if body else event_id, value if body else None)


_COMPARED = {"decision_id", "decided_at", "outcome", "reasons", "scores", "features", "ages", "degraded"}
"""What a decision must have to be made again."""


def differs(before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    """Whether a decision says something else than the one before: outcome, reasons, a score or who gave it."""
    return (
        before["outcome"] != after["outcome"]
        or list(before["reasons"]) != list(after["reasons"])
        or before["scores"].keys() != after["scores"].keys()
        or any(not same_score(score, after["scores"][model]) for model, score in before["scores"].items())
    )


def same_score(before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    """Whether one release gave one score: models compute in float32, which has 7 digits."""
    one, other = before["score"], after["score"]
    if before["release"] != after["release"] or one is None or other is None:
        return bool(before == after)
    return math.isclose(one, other, rel_tol=1e-6)


def _paired(records: Sequence[Record], of: Mapping[tuple[int, int], Mapping[str, Any]]) -> Iterator[Redecided]:
    reviews = {record.key: record for record in records if record.topic == "reviews"}
    for record in records:
        if record.topic == "reviews":
            continue
        body = orjson.loads(record.value or b"")
        before = of[body["origin"]["partition"], body["origin"]["offset"]]
        if record.topic == "rejected":
            yield Redecided(before, None, f"rejected:{body['reason']}", ())
        elif record.topic == "quarantine":
            yield Redecided(before, None, "quarantined", ())
        else:
            both = [record, *filter(None, [reviews.get(body["decision_id"].encode())])]
            again = tuple(revised(each, before["revision"] + 1, "decision") for each in both)
            yield Redecided(before, body, body["outcome"], again)


def _in_force_at(decision: Mapping[str, Any], append_ms: int) -> int:
    if (decision.get("supersedes") or {}).get("kind") != "rejection":
        return append_ms
    moment: np.datetime64 = np.datetime64(decision["decided_at"].rstrip("Z"), "us")
    return int(moment.astype(np.int64)) // 1000


def _deciding(stages: Stages) -> tuple[Work, ...]:
    return stages.scorer.work, stages.decider.work, stages.encoder.work


def _through(batch: Batch, works: Sequence[Work]) -> Batch:
    for work in works:
        batch = work(batch) if len(batch) else batch
    return batch
