"""`penstock lanes skip`: the one way past events that nobody can decide any more, by somebody's explicit choice."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from console.run import give_up, load_or_exit, option

if TYPE_CHECKING:
    from confluent_kafka.admin import AdminClient

    from operators.membership import Membership

_CALL_SECONDS = 15.0


def skip(  # noqa: PLR0917 -- typer makes options of them
    file: Annotated[Path, typer.Argument(envvar="PENSTOCK_FILE", help="The pipeline file.")],
    lane: Annotated[int, typer.Argument(min=0, help="Number of the lane.")],
    bootstrap: Annotated[str, option("BOOTSTRAP", "Kafka brokers, host:port and so on.")],
    to: Annotated[str, typer.Option(help="Where to go on: earliest, latest, or an offset.")],
    anew: Annotated[bool, typer.Option(help="Also go back: the topic was made again, with other events.")] = False,
    job: Annotated[str, option("JOB", "Whose lane it is: decisions, features or by-<key>.")] = "decisions",
    group: Annotated[str, option("GROUP", "Consumer group; by default the pipeline's name.")] = "",
    client_config: Annotated[
        Path | None, option("CLIENT_CONFIG", "File of librdkafka properties, name=value a line.")
    ] = None,
) -> None:
    """Go on in one lane at another offset. The events before it that were not decided never will be.

    For a lane whose next event is gone (deleted by retention, or its topic made again) or cannot be written. All slots
    must be stopped; Kafka keeps their places until their sessions have ended. What is passed over is printed here, and
    logged and counted by the slot that opens the lane.
    """
    from confluent_kafka import KafkaException

    from dataflows.jobs import JobUnknown
    from dataflows.settings import Settings, SettingsInvalid
    from dataflows.wiring import membership_of

    pipeline = load_or_exit(file)
    try:
        settings = Settings(file=file, bootstrap=bootstrap, client_config=client_config, job=job, group=group)
        said = _skip(settings.connection(), membership_of(settings, pipeline), lane, to, anew=anew)
    except (SettingsInvalid, JobUnknown) as wrong:
        give_up(str(wrong))
    except KafkaException as failure:
        give_up(f"lane {lane} could not be skipped at {bootstrap}: {failure.args[0].str()}")
    typer.echo(said)


def _skip(connection: dict[str, Any], who: Membership, lane: int, to: str, *, anew: bool) -> str:
    """Set the group's offset of one lane, and say in its state how far it goes."""
    from confluent_kafka import Producer
    from confluent_kafka.admin import AdminClient

    from operators import prefix
    from operators.record_producer import state_key

    admin = AdminClient({**connection, "log_level": 0})
    group, events, state = who.group, who.events, who.state
    _refuse_members(admin, group)
    first, last, topic_id = _ends(admin, events, lane)
    at = {"earliest": first, "latest": last}.get(to, -1)
    if at < 0:
        if not (to.isdecimal() and first <= int(to) <= last):
            give_up(f"--to {to}: expected earliest, latest, or an offset from {first} to {last}, which lane {lane} has")
        at = int(to)
    before = _committed(admin, group, events, lane)
    passed = at - max(before, 0)
    if passed < 0 and not anew:
        give_up(
            f"lane {lane}: the group has decided the events before {before}; going back to {at} would decide them "
            "twice. Only where the topic was made again, so that these are others: --anew"
        )
    _commit(admin, group, events, lane, at)
    producer = Producer({**connection, "enable.idempotence": True, "log_level": 0})
    key, value = state_key(prefix.STEP, prefix.KEY), prefix.prefix(group, at, topic_id, max(passed, 0))
    producer.produce(state, value, key, lane)
    if producer.flush(_CALL_SECONDS):
        give_up(f"lane {lane}: its offset is {at} now, but {state} could not be written; run the same command again")
    was = f"offset {before}" if before >= 0 else "its beginning"
    return f"lane {lane} of {group} goes on at offset {at} instead of {was}: {max(passed, 0)} events are passed over"


def _refuse_members(admin: AdminClient, group: str) -> None:
    """Exit while a slot is a member: Kafka would refuse too, and a slot would commit over it."""
    from console.roster import members_of

    members = members_of(admin, group)
    if members:
        held = "; ".join(
            f"{member.group_instance_id or member.client_id} on {member.host.lstrip('/')} has lanes "
            f"{sorted(tp.partition for tp in member.assignment.topic_partitions)}"
            for member in members
        )
        give_up(
            f"group {group} has members: {held}. Stop all slots first; Kafka keeps the place of one that was stopped "
            "until its session ends (--session-timeout, 10 s by default)"
        )


def _ends(admin: AdminClient, events: str, lane: int) -> tuple[int, int, str]:
    """First offset, the one after the last, and Kafka's id of the topic."""
    from confluent_kafka import TopicCollection, TopicPartition
    from confluent_kafka.admin import OffsetSpec

    from operators.patience import listed

    topic = admin.describe_topics(TopicCollection([events]), request_timeout=_CALL_SECONDS)[events].result(30)
    if lane >= len(topic.partitions):
        give_up(f"topic {events} has lanes 0 to {len(topic.partitions) - 1}, and no lane {lane}")
    place = TopicPartition(events, lane)
    first, last = (
        listed(admin.list_offsets({place: spec}, request_timeout=_CALL_SECONDS)[place])
        for spec in (OffsetSpec.earliest(), OffsetSpec.latest())
    )
    return first, last, str(topic.topic_id)


def _committed(admin: AdminClient, group: str, events: str, lane: int) -> int:
    from confluent_kafka import ConsumerGroupTopicPartitions, TopicPartition

    asked = ConsumerGroupTopicPartitions(group, [TopicPartition(events, lane)])
    answer = admin.list_consumer_group_offsets([asked], request_timeout=_CALL_SECONDS)[group].result(30)
    return int(answer.topic_partitions[0].offset)


def _commit(admin: AdminClient, group: str, events: str, lane: int, offset: int) -> None:
    from confluent_kafka import ConsumerGroupTopicPartitions, KafkaException, TopicPartition

    wanted = ConsumerGroupTopicPartitions(group, [TopicPartition(events, lane, offset)])
    answer = admin.alter_consumer_group_offsets([wanted], request_timeout=_CALL_SECONDS)[group].result(30)
    if (error := answer.topic_partitions[0].error) is not None:
        raise KafkaException(error)
