"""The hash against values that Java's own client gives, and against the client that writes events."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from confluent_kafka import Producer

from console.kafka_server import KafkaServer
from console.topics import Topic, create_topics
from state.murmur2 import _hash, lanes_of

JAVA = {
    b"21": -973932308,
    b"foobar": -790332482,
    b"a-little-bit-long-string": -985981536,
    b"a-little-bit-longer-string": -1486304829,
    b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
    b"abc": 479470107,
}
"""From `org.apache.kafka.common.utils.UtilsTest` of Apache Kafka 4.1."""


@pytest.mark.parametrize("key, java", JAVA.items())
def test_it_is_the_hash_that_java_computes(key: bytes, java: int) -> None:
    assert _hash(key, 1, len(key)).astype("int32").tolist() == [java]


def test_keys_of_many_lengths_in_one_batch_are_told_apart() -> None:
    keys = list(JAVA)

    assert lanes_of(keys, 17).tolist() == [(java & 0x7FFFFFFF) % 17 for java in JAVA.values()]
    assert lanes_of([], 4).tolist() == []


def test_keys_go_where_a_producer_of_events_sends_them(kafka: KafkaServer, unique: Callable[[str], str]) -> None:
    """Librdkafka's `murmur2_random` on a real topic, with keys of 1 to 40 bytes."""
    topic, chance, partitions = unique("murmur"), random.Random(5), 7
    keys = [chance.randbytes(chance.randint(1, 40)) for _ in range(300)]
    create_topics(kafka.bootstrap, {topic: Topic(partitions)})
    sent: dict[bytes, int] = {}
    producer = Producer({"bootstrap.servers": kafka.bootstrap, "partitioner": "murmur2_random", "log_level": 0})
    for key in keys:
        producer.produce(
            topic, b"", key, on_delivery=lambda _, message: sent.update({message.key(): message.partition()})
        )
    assert producer.flush(30) == 0

    assert sent == dict(zip(keys, lanes_of(keys, partitions).tolist(), strict=True))
