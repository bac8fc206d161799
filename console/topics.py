"""Creating topics and knowing that they are there."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient, NewTopic

from dataflows.jobs import DECISIONS, jobs_of
from dataflows.pipeline import SHARED_TOPICS, Pipeline


@dataclass(frozen=True, slots=True)
class Topic:
    """What a topic should be like when it is created."""

    partitions: int = 1
    config: Mapping[str, str] = field(default_factory=dict)
    """Topic settings by Kafka's own names, such as `cleanup.policy`."""
    replicas: int = 1


@dataclass(frozen=True, slots=True)
class Standing:
    """What a topic is like after it was asked for."""

    partitions: int
    created: bool
    """Whether it was made just now; otherwise it was there before and stayed as it is."""


_BROKER_TIME = {"message.timestamp.type": "LogAppendTime"}
"""With producer time an event could choose its own release."""
_STATE = {
    "cleanup.policy": "compact",
    "min.cleanable.dirty.ratio": "0.3",
    "segment.bytes": str(32 * 1024 * 1024),
    "segment.ms": "600000",  # the active segment is never compacted, so it must not grow old
    "delete.retention.ms": "86400000",
}
_SEALED = {"max.message.bytes": str(4 * 1024 * 1024)}
"""A sealed original is 1.8 times the event it keeps."""


def topics_of(pipeline: Pipeline, lanes: int, replicas: int = 1) -> dict[str, Topic]:
    """All topics of a pipeline's jobs as they should be: what is written for a lane has as many partitions as lanes."""
    settings = {
        "registry": _BROKER_TIME | {"cleanup.policy": "delete", "retention.ms": "-1"},
        "admissions": _BROKER_TIME | {"cleanup.policy": "compact"},
        **dict.fromkeys(("rejected", "quarantine"), _BROKER_TIME | _SEALED),
    }
    jobs = jobs_of(pipeline).values()
    settings |= {job.state: _STATE if job.name == DECISIONS else _STATE | _BROKER_TIME for job in jobs if job.state}
    return {
        pipeline.topic(role): Topic(1 if role in SHARED_TOPICS else lanes, settings.get(role, _BROKER_TIME), replicas)
        for job in jobs
        for role in job.roles
    }


def create_topics(
    bootstrap: str, topics: Mapping[str, Topic], timeout: float = 30.0, client: Mapping[str, str] | None = None
) -> dict[str, Standing]:
    """Create the topics that do not exist and wait until the broker lists them; those that exist stay as they are.

    Args:
        bootstrap: address of the cluster.
        topics: name to what it should be like.
        timeout: seconds for all of it.
        client: more settings of the client, by librdkafka's names.

    Returns:
        Each name in the order of `topics`, with what the topic is like now, which may not be what was wanted.

    Raises:
        KafkaException: the broker refused a topic or was not reached.
        TimeoutError: a topic was created and is not visible in time.
    """
    deadline = time.monotonic() + timeout
    admin = AdminClient({"log_level": 0, **(client or {}), "bootstrap.servers": bootstrap})
    wanted = [
        NewTopic(name, num_partitions=t.partitions, replication_factor=t.replicas, config=dict(t.config))
        for name, t in topics.items()
    ]
    existed = set()
    for name, made in admin.create_topics(wanted, operation_timeout=timeout, request_timeout=timeout).items():
        try:
            made.result(timeout)
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise
            existed.add(name)
    while unseen := topics.keys() - (seen := _seen(admin, max(0.1, deadline - time.monotonic()))).keys():
        if time.monotonic() > deadline:
            message = f"created topics {sorted(unseen)} but {bootstrap} does not list them after {timeout:.0f} s"
            raise TimeoutError(message)
        time.sleep(0.02)
    return {name: Standing(seen[name], name not in existed) for name in topics}


def standing_topics(bootstrap: str, timeout: float = 30.0, client: Mapping[str, str] | None = None) -> dict[str, int]:
    """Topics that are there to the number of their partitions.

    Raises:
        KafkaException: the broker was not reached.
    """
    return _seen(AdminClient({"log_level": 0, **(client or {}), "bootstrap.servers": bootstrap}), timeout)


def _seen(admin: AdminClient, timeout: float) -> dict[str, int]:
    """Topics whose partitions all have a leader, with the number of these."""
    listed = admin.list_topics(timeout=timeout).topics
    return {
        name: len(topic.partitions)
        for name, topic in listed.items()
        if topic.partitions and all(p.leader >= 0 for p in topic.partitions.values())
    }
