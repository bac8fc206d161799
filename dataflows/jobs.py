"""The jobs of a pipeline: each its own processes and consumer group on the same spine, joined by topics only.

`decisions` decides events. `features` computes the windowed views of the entity, and sends what the views of another
key need through the topic `by-<key>` to the job of that name, which computes those. `views` writes what both have
computed into Redis. A pipeline without windowed views has the first one only.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from dataflows.pipeline import Pipeline
from dataflows.view_stages import windowed_views

DECISIONS, FEATURES, VIEWS = "decisions", "features", "views"
BY = "by-"
"""Begins the name of a job, and of its topic, that computes the views of another key than the entity."""
OUTPUTS = ("decisions", "reviews", "rejected", "quarantine", "duplicates")
"""Roles of the topics that `decisions` writes; each has as many partitions as there are lanes."""


class JobUnknown(Exception):
    """The pipeline has no job of that name; the message lists those that it has."""


@dataclass(frozen=True, slots=True)
class Job:
    """One kind of work on a pipeline. Topics are named by their role: `Pipeline.topic` knows the full name."""

    name: str
    group: str
    """The consumer group; `<group>-<slot>` is a slot's transactional id."""
    reads: tuple[str, ...]
    """One topic whose partitions are the job's lanes; `views` reads several, and has none."""
    writes: tuple[str, ...] = ()
    """Topics with a partition for each lane."""
    state: str | None = None
    """The compacted topic of its lane state, which it reads and writes."""
    shares: tuple[str, ...] = ()
    """Topics that all slots of all pipelines read and write."""

    @property
    def key(self) -> str | None:
        """The contract field whose views a `by-<key>` job computes; None for the other jobs."""
        return self.name.removeprefix(BY) if self.name.startswith(BY) else None

    @property
    def sees_events(self) -> bool:
        """Whether it meets events as producers wrote them, and so needs the guard and a key to seal with."""
        return "events" in self.reads

    @property
    def beats(self) -> bool:
        """Whether its slots send heartbeats and answers to releases."""
        return "admissions" in self.shares

    @property
    def roles(self) -> tuple[str, ...]:
        """Every topic that it needs."""
        return (*self.reads, *self.writes, *((self.state,) if self.state else ()), *self.shares)


def jobs_of(pipeline: Pipeline, group: str = "") -> dict[str, Job]:
    """The jobs of a pipeline by their names.

    Args:
        pipeline: the pipeline file.
        group: consumer group of `decisions`, with which the groups of the others begin; the pipeline's name by default.
    """
    return {job.name: job for job in _jobs(pipeline, group or pipeline.pipeline)}


def job_of(pipeline: Pipeline, name: str, group: str = "") -> Job:
    """One of them.

    Raises:
        JobUnknown: there is none of that name.
    """
    jobs = jobs_of(pipeline, group)
    if name not in jobs:
        why = "" if len(jobs) > 1 else f": no view of {pipeline.pipeline} has windows, so there is nothing else to do"
        raise JobUnknown(f"there is no job '{name}'; expected one of {', '.join(jobs)}{why}")
    return jobs[name]


def other_keys(pipeline: Pipeline) -> list[str]:
    """The keys of windowed views that are not the entity, in the order of the file."""
    keys = dict.fromkeys(pipeline.views[view].key for view in windowed_views(pipeline))
    return [key for key in keys if key != pipeline.contract.entity]


def _jobs(pipeline: Pipeline, group: str) -> Iterator[Job]:
    yield Job(DECISIONS, group, ("events",), OUTPUTS, "state", ("registry", "admissions"))
    if not windowed_views(pipeline):
        return
    rekeyed = [BY + key for key in other_keys(pipeline)]
    yield Job(FEATURES, f"{group}.{FEATURES}", ("events",), tuple(rekeyed), FEATURES)
    for name in rekeyed:
        yield Job(name, f"{group}.{name}", (name,), (), f"{name}.{FEATURES}")
    yield Job(VIEWS, f"{group}.{VIEWS}", (FEATURES, *(f"{name}.{FEATURES}" for name in rekeyed)))
