"""What Kafka's access rules must allow `penstock run`, and what of it they refuse.

A broker says which operations a user may do on a topic or a group, so what is missing is known before a slot starts.
Transactional ids are the exception: only a slot that begins to write finds out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import AclOperation, AdminClient

from dataflows.jobs import Job
from dataflows.pipeline import Pipeline

REFUSALS = frozenset({
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.GROUP_AUTHORIZATION_FAILED,
    KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
})  # fmt: skip
_PATIENCE = 5.0
_WHERE = "; deploy/kafka/ACLS.md has all that `penstock run` needs"


def needs(job: Job) -> dict[str, tuple[AclOperation, ...]]:
    """Role of a topic to the operations that a slot of the job does on it; each implies DESCRIBE."""
    both = [*([job.state] if job.state else []), *job.shares]
    return {
        **dict.fromkeys(job.reads, (AclOperation.READ,)),
        **dict.fromkeys(job.writes, (AclOperation.WRITE,)),
        **dict.fromkeys(both, (AclOperation.READ, AclOperation.WRITE)),
    }


def refused(pipeline: Pipeline, job: Job, connection: Mapping[str, Any], timeout: float = 10.0) -> list[str]:
    """Say what the user of these clients has to do and may not, a line for each; what is not there is left out.

    Args:
        pipeline: whose topics are used.
        job: which of its jobs.
        connection: properties of the Kafka client.
        timeout: seconds for each of two calls.
    """
    admin = AdminClient({"log_level": 0, **connection})
    names = {pipeline.topic(role): operations for role, operations in needs(job).items()}
    topics = admin.describe_topics(
        TopicCollection(list(names)), include_authorized_operations=True, request_timeout=timeout
    )
    lines = [line for name, answer in topics.items() for line in _missing("topic", name, names[name], answer)]
    groups = admin.describe_consumer_groups([job.group], include_authorized_operations=True, request_timeout=timeout)
    return lines + _missing("group", job.group, (AclOperation.READ,), groups[job.group])


def explain(error: KafkaError, pipeline: Pipeline, job: Job, slot: int, connection: Mapping[str, Any]) -> list[str]:
    """Say what was refused to a slot; the broker is asked once more, since the client does not always say."""
    if error.code() == KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED:
        return [_say(AclOperation.WRITE, "transactional id", f"{job.group}-{slot}")]
    return refused(pipeline, job, connection, _PATIENCE)


def _missing(kind: str, name: str, operations: Iterable[AclOperation], answer: Any) -> list[str]:
    try:
        allowed = answer.result().authorized_operations
    except KafkaException as failure:
        if failure.args[0].code() not in REFUSALS:
            return []  # it is not there, or its coordinator is not; others say so
        allowed = []
    else:
        if not allowed:  # a broker that does not tell
            return []
    return [_say(operation, kind, name) for operation in operations if operation not in allowed]


def _say(operation: AclOperation, kind: str, name: str) -> str:
    return f"Kafka's access rules refuse {operation.name} on {kind} {name} to the user of these clients{_WHERE}"
