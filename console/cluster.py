"""Before a slot starts: does the cluster answer, has it the topics, can it keep the promise that is asked for?

A slot would find out too, but later, and again and again.
"""

from __future__ import annotations

from typing import Any

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from console.permissions import refused
from console.topic_check import check_topics
from dataflows.jobs import job_of
from dataflows.pipeline import Pipeline
from dataflows.settings import Settings

MOCK = "mockCluster"
"""How librdkafka's mock cluster begins its own id."""


_LANES_DIFFER = (
    "the number of lanes is fixed for the life of a pipeline: with more partitions of the events, entities move to "
    "other lanes, away from their memory, and are no longer in order. Kafka cannot take partitions away again. Either "
    "give the pipeline new topics (`topics:` in its file), with the number of lanes that you want, and let producers "
    "write there once what is in the old ones is decided; or accept it: give each topic of the pipeline as many "
    "partitions as the events have (`kafka-topics.sh --alter --partitions`): what has moved begins with an empty memory"
)


class ClusterUnfit(Exception):
    """The pipeline cannot run on this cluster as it is."""


def check_cluster(settings: Settings, pipeline: Pipeline, timeout: float = 10.0) -> list[str]:
    """Look at the cluster and the pipeline's topics.

    Args:
        settings: how to reach the cluster, and the guarantee that it shall give.
        pipeline: whose topics must be there, those of the job that is set.
        timeout: seconds for each of five calls.

    Returns:
        What is not as it should be and does no harm to the guarantee, a line for each.

    Raises:
        ClusterUnfit: it is not reached, its access rules refuse what a slot does, a topic is missing or wrong, or it
            cannot do transactions.
        JobUnknown: the pipeline has no such job.
        SettingsInvalid: the client config cannot be read.
    """
    connection, job = settings.connection(), job_of(pipeline, settings.job, settings.group)
    if _ask(connection, timeout).startswith(MOCK):
        if settings.guarantee == "at_least_once":
            return []  # its topics come into being when they are asked for, and have no settings
        raise ClusterUnfit(
            f"{settings.bootstrap} is librdkafka's mock cluster: its transactions succeed and do nothing, so it cannot "
            "give exactly_once; run with --guarantee at_least_once"
        )
    if refusals := refused(pipeline, job, connection, timeout):
        raise ClusterUnfit("\n".join(refusals))
    try:
        notes = check_topics(pipeline, connection, timeout, [job])
    except KafkaException as failure:
        raise ClusterUnfit(f"could not read the topics of {settings.bootstrap}: {failure.args[0].str()}") from None
    if severe := [note for note in notes if note.severe]:
        advice = []
        if any(note.missing for note in severe):
            create = f"penstock topics {settings.file} --bootstrap {settings.bootstrap}"
            advice.append(f"`{create}` creates the topics that do not exist, as they should be")
        if any(note.lanes for note in severe):
            advice.append(_LANES_DIFFER)
        raise ClusterUnfit("\n".join([*map(str, severe), *advice]))
    return [str(note) for note in notes]


def _ask(connection: dict[str, Any], timeout: float) -> str:
    """Give the cluster's id."""
    said: list[str] = []
    properties: dict[str, Any] = {**connection, "log_level": 0, "error_cb": lambda error: said.append(error.str())}
    admin = AdminClient(properties)
    try:
        return str(admin.list_topics(timeout=timeout).cluster_id)
    except KafkaException as failure:
        admin.poll(0)  # hands over what was said meanwhile, such as that a password is wrong
        why = said[0] if said else failure.args[0].str()
        raise ClusterUnfit(
            f"could not reach Kafka at {connection['bootstrap.servers']} within {timeout:.0f} s: {why}; is it running, "
            "and are address and --client-config right?"
        ) from None
