"""Brokers of several kinds, as clients meet them."""

from __future__ import annotations

import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from console.kafka_cluster import KafkaCluster, _java_hash
from console.kafka_security import Security
from console.topics import Topic


def test_the_hash_is_javas() -> None:
    """Values of Java's `String.hashCode`, the last one with a surrogate pair."""
    assert [_java_hash(text) for text in ("", "abc", "claims-0", "polygenelubricants", "\U0001f600")] == [
        0, 96354, 683037594, -2147483648, 1772899,
    ]  # fmt: skip


def test_rules_without_users_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="without SASL no client has a name"):
        Security(tmp_path, sasl=False)


def test_nobody_else_can_read_keys_and_passwords(tmp_path: Path) -> None:
    security = Security(tmp_path)
    security.prepare()
    properties = security.client_properties("engine")
    password = properties["sasl.password"]
    private = {path.name for path in tmp_path.iterdir() if stat.S_IMODE(path.stat().st_mode) == 0o600}

    assert private == {"node.pem", "engine.properties"}
    assert properties == security.client_properties("engine"), "a file that is there is used again"
    assert password not in repr(security) + str(security.broker_settings())
    assert security.client_properties("other")["sasl.password"] != password


def test_who_may_do_what_on_a_secured_cluster(secured: KafkaCluster, unique: Callable[[str], str]) -> None:
    topic, user = unique("topic"), unique("user")
    secured.create_topics({topic: Topic(1)})
    secured.add_users([user])
    client = {**secured.security.client_properties(user), "bootstrap.servers": secured.bootstrap, "log_level": 0}

    assert topic not in AdminClient(client).list_topics(timeout=10).topics, "nothing was granted"
    assert refusal({**client, "sasl.password": "wrong"}) == KafkaError._AUTHENTICATION
    plain = {"bootstrap.servers": secured.bootstrap, "log_level": 0}
    assert refusal(plain) in (KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN)
    assert refusal({**plain, "security.protocol": "SSL", "enable.ssl.certificate.verification": True}) in (
        KafkaError._SSL, KafkaError._TRANSPORT,
    )  # fmt: skip
    arguments = b"".join(path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline"))
    assert client["sasl.password"].encode() not in arguments


def refusal(client: dict[str, object]) -> int:
    """The first error that a client with these properties meets."""
    met: list[int] = []
    admin = AdminClient({**client, "error_cb": lambda error: met.append(error.code())})
    with pytest.raises(KafkaException):
        admin.list_topics(timeout=2)
    admin.poll(0)
    return met[0]


def test_leaders_move_and_a_paused_broker_loses_them(
    cluster: KafkaCluster, topic_name: str, until: Callable[..., None]
) -> None:
    cluster.create_topics({topic_name: Topic(1, {"min.insync.replicas": "2"})})
    properties = {"bootstrap.servers": cluster.bootstrap, "enable.idempotence": True, "log_level": 0}
    producer = Producer({**properties, "socket.timeout.ms": 2000})  # a minute by default: a frozen broker just hangs
    first = cluster.leader(topic_name, 0)
    second = next(node for node in cluster.brokers if node != first)
    cluster.move_leader(topic_name, 0, second)

    assert cluster.leader(topic_name, 0) == second
    write(producer, topic_name)

    cluster[second].pause()
    until(lambda: cluster.leader(topic_name, 0) != second, "another broker to lead", timeout=20)
    write(producer, topic_name)
    cluster[second].resume()
    cluster.wait_until_in_sync()

    third = next(node for node in cluster.brokers if node not in (first, second))
    cluster[third].kill()
    write(producer, topic_name)

    assert end_of(cluster.bootstrap, topic_name) == 3


def write(producer: Producer, topic: str) -> None:
    said: list[object] = []
    producer.produce(topic, b"x", partition=0, on_delivery=lambda error, _: said.append(error))
    producer.flush(20)
    assert said == [None]


def end_of(bootstrap: str, topic: str) -> int:
    reader = Consumer({"bootstrap.servers": bootstrap, "group.id": topic, "log_level": 0})
    try:
        return int(reader.get_watermark_offsets(TopicPartition(topic, 0), 10)[1])
    finally:
        reader.close()


def test_coordinators_are_where_kafka_itself_says(cluster: KafkaCluster, unique: Callable[[str], str]) -> None:
    """Kafka tells a group's coordinator; that of a transactional id is found by the same rule."""
    topic = unique("topic")
    cluster.create_topics({topic: Topic(1)})
    for group in (unique("claims"), unique("payments"), unique("orders")):
        reader = Consumer({"bootstrap.servers": cluster.bootstrap, "group.id": group, "log_level": 0})
        reader.commit(offsets=[TopicPartition(topic, 0, 0)], asynchronous=False)
        reader.close()
        told = cluster.admin.describe_consumer_groups([group])[group].result(10)

        assert cluster.group_coordinator(group) == told.coordinator.id
