"""The servers that Penstock brings along: a Kafka and a Redis for the demo, for tests, and for people who try it.

Real ones wherever the machine has what they need; each says what it is and what that guarantees.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from console.kafka_jars import find_jars, find_java
from console.kafka_server import KafkaServer
from console.mock_kafka import MockKafka
from console.parts import PartFailed, PartMissing, quiet
from console.redis_server import GivenRedis, RedisServer, choose_redis
from console.topics import Topic, create_topics

__all__ = [
    "GivenRedis",
    "KafkaServer",
    "MockKafka",
    "PartFailed",
    "PartMissing",
    "RedisServer",
    "Topic",
    "choose_kafka",
    "choose_redis",
    "create_topics",
]


def choose_kafka(folder: Path, *, port: int = 0, progress: Callable[[str], None] = quiet) -> KafkaServer | MockKafka:
    """A real broker where Java 17 is found and Kafka can be had, else librdkafka's mock cluster; not started yet.

    Both have `bootstrap`, `kind` (`kafka` or `mock`), `guarantee` (`exactly_once` or `at_least_once`), `why` in plain
    words, and `create_topics`; both are context managers.

    Args:
        folder: where data and logs go.
        port: of the real broker; 0 takes a free one. The mock's is always its own.
        progress: told in a few words what is being done when it takes seconds.
    """
    try:
        find_java()
        find_jars(progress)
    except PartMissing as missing:
        return MockKafka(folder, why=str(missing))
    return KafkaServer(folder, port=port, progress=progress)
