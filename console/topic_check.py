"""Are the topics of a pipeline there, and are they as its delivery promise needs them?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient, ConfigResource, ResourceType

from dataflows.jobs import FEATURES, Job, jobs_of
from dataflows.pipeline import SHARED_TOPICS, Pipeline

_NEEDS_BROKER_TIME = {
    "events": (False, "a producer could choose which release and policy decide"),
    "registry": (True, "a release would be in force from when its publisher's clock says, and not for all at once"),
    "admissions": (
        True,
        "whether a slot is alive would depend on its own clock, so a release could be activated too soon",
    ),
}
"""Role to whether it is severe where the producer's time is used, and what would happen."""
_VALUES = True, "which of two values of a feature is the newer one would depend on the writers' clocks"


@dataclass(frozen=True, slots=True)
class Note:
    """One thing about a topic."""

    topic: str
    severe: bool
    """True where the pipeline cannot keep its promise; False where it can, with less certainty."""
    what: str
    missing: bool = False
    """Whether the topic does not exist."""
    lanes: bool = False
    """Whether it has another number of partitions than there are lanes."""

    def __str__(self) -> str:
        return f"{'error' if self.severe else 'warning'}: topic {self.topic}: {self.what}"


def check_topics(
    pipeline: Pipeline, connection: Mapping[str, Any], timeout: float = 10.0, jobs: Iterable[Job] = ()
) -> list[Note]:
    """Compare the topics of a cluster with what the pipeline needs.

    Args:
        pipeline: the pipeline file.
        connection: properties of the Kafka client.
        timeout: seconds for each of two calls.
        jobs: those of its jobs whose topics are looked at; by default all.

    Raises:
        KafkaException: the cluster was not reached in time, or refuses.
    """
    jobs = list(jobs) or list(jobs_of(pipeline).values())
    admin = AdminClient({"log_level": 0, **connection})
    listed = admin.list_topics(timeout=timeout).topics
    names = {role: pipeline.topic(role) for job in jobs for role in job.roles}
    notes = [
        Note(name, True, f"it does not exist; create it for the pipeline's {role}", missing=True)
        for role, name in names.items()
        if name not in listed
    ]
    partitions = {role: len(listed[name].partitions) for role, name in names.items() if name in listed}
    notes += _partitions(names, partitions)
    settings = _settings(admin, [names[role] for role in partitions], timeout)
    for role in partitions:
        notes += _judge(role, names[role], settings.get(names[role], {}))
    return notes


def _partitions(names: Mapping[str, str], partitions: Mapping[str, int]) -> list[Note]:
    first = next(iter(names))  # whose partitions are the lanes of the first job
    lanes = partitions.get(first)
    notes = [
        Note(
            names[role],
            True,
            f"it has {partitions[role]} partitions and {names[first]} has {lanes}; they must be equal",
            lanes=True,
        )
        for role in names
        if role not in SHARED_TOPICS and lanes is not None and role in partitions and partitions[role] != lanes
    ]
    if partitions.get("registry", 1) != 1:
        notes.append(Note(names["registry"], True, "it has more than one partition, so its order would be unknown"))
    return notes


def _settings(admin: AdminClient, topics: list[str], timeout: float) -> dict[str, dict[str, str]]:
    """Topic to its settings; a topic whose settings may not be read is left out."""
    if not topics:
        return {}
    asked = admin.describe_configs(
        [ConfigResource(ResourceType.TOPIC, name) for name in topics], request_timeout=timeout
    )
    settings: dict[str, dict[str, str]] = {}
    for resource, answer in asked.items():
        try:
            settings[resource.name] = {name: entry.value for name, entry in answer.result(timeout).items()}
        except (KafkaException, TimeoutError):
            continue
    return settings


def _judge(role: str, name: str, settings: Mapping[str, str]) -> list[Note]:
    if not settings:
        return [Note(name, False, "its settings could not be read, so they were not checked")]
    notes: list[Note] = []
    needs = _NEEDS_BROKER_TIME.get(role, _VALUES if role.endswith(FEATURES) else None)
    if needs is not None and settings.get("message.timestamp.type") != "LogAppendTime":
        severe, why = needs
        notes.append(Note(name, severe, f"message.timestamp.type is not LogAppendTime: {why}"))
    cleanup = settings.get("cleanup.policy", "")
    if (role in ("state", "admissions") or role.endswith(FEATURES)) and cleanup != "compact":
        notes.append(
            Note(name, True, f"cleanup.policy is {cleanup}; it must be compact, or what is remembered would be lost")
        )
    if role == "registry" and (cleanup != "delete" or settings.get("retention.ms") != "-1"):
        what = "it must have cleanup.policy=delete and retention.ms=-1, or it would be forgotten who was champion"
        notes.append(Note(name, True, what))
    return notes
