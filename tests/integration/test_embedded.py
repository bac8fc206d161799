"""The broker that comes along is a real one: transactions hide what is not committed, and a crash loses nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from confluent_kafka import TIMESTAMP_LOG_APPEND_TIME, Consumer, KafkaError, Message, Producer

from console.embedded import KafkaServer, PartFailed, Topic
from console.kafka_server import Place


def read_to_end(bootstrap: str, topic: str, isolation: str) -> list[Message]:
    """All records of a topic that a reader of this isolation level sees."""
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": "reader",
            "isolation.level": isolation,
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
        }
    )
    consumer.subscribe([topic])
    seen: list[Message] = []
    try:
        while (message := consumer.poll(20)) is not None:
            error = message.error()
            if error is None:
                seen.append(message)
            elif error.code() == KafkaError._PARTITION_EOF:
                return seen
            else:
                pytest.fail(str(error))
    finally:
        consumer.close()
    pytest.fail(f"no end of {topic} within 20 s")


def transact(bootstrap: str, topic: str, *contents: tuple[bytes, bool]) -> None:
    """Write each content in a transaction of its own; commit it or abort it."""
    producer = Producer({"bootstrap.servers": bootstrap, "transactional.id": f"writer-{topic}"})
    producer.init_transactions(30)
    for content, commit in contents:
        producer.begin_transaction()
        producer.produce(topic, content)
        producer.flush(10)
        (producer.commit_transaction if commit else producer.abort_transaction)(30)


def processes_of(folder: Path) -> list[str]:
    """Command lines of the processes that name this folder."""
    lines = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = entry.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(folder) in line:
            lines.append(line)
    return lines


def test_a_reader_of_committed_records_sees_only_committed_transactions(kafka: KafkaServer, topic_name: str) -> None:
    kafka.create_topics({topic_name: Topic(1)})
    transact(kafka.bootstrap, topic_name, (b"kept", True), (b"aborted", False), (b"also kept", True))

    committed = read_to_end(kafka.bootstrap, topic_name, "read_committed")
    everything = read_to_end(kafka.bootstrap, topic_name, "read_uncommitted")

    assert [message.value() for message in committed] == [b"kept", b"also kept"]
    assert [message.value() for message in everything] == [b"kept", b"aborted", b"also kept"]
    assert {message.timestamp()[0] for message in committed} == {TIMESTAMP_LOG_APPEND_TIME}


def test_topics_are_created_once_and_as_asked(kafka: KafkaServer, topic_name: str) -> None:
    wanted = {topic_name: Topic(3, {"cleanup.policy": "compact"})}
    kafka.create_topics(wanted)
    kafka.create_topics(wanted)

    producer = Producer({"bootstrap.servers": kafka.bootstrap})

    assert len(producer.list_topics(topic_name, timeout=10).topics[topic_name].partitions) == 3


def test_a_killed_broker_comes_back_with_what_was_committed_and_leaves_no_process(
    kafka: KafkaServer, tmp_path: Path, topic_name: str, until: Callable[..., None]
) -> None:
    server = KafkaServer(tmp_path)  # its own, so that nobody else's is killed; `kafka` says that one can be started
    with server:
        bootstrap = server.bootstrap
        server.create_topics({topic_name: Topic(1)})
        transact(bootstrap, topic_name, (b"kept", True))
        server.kill()
        until(lambda: not processes_of(tmp_path), "the broker to be gone")
        server.start()

        assert server.bootstrap == bootstrap
        assert [m.value() for m in read_to_end(bootstrap, topic_name, "read_committed")] == [b"kept"]
        assert processes_of(tmp_path)

    assert not server.running
    assert not processes_of(tmp_path)


def test_a_broker_that_cannot_start_says_why(kafka: KafkaServer, tmp_path: Path) -> None:
    with pytest.raises(PartFailed, match="is taken"):
        KafkaServer(tmp_path / "taken", port=kafka.port).start()
    with pytest.raises(PartFailed, match=r"(?s)could not format.*Invalid value none"):
        KafkaServer(tmp_path / "wrong", settings={"log.cleaner.threads": "none"}).start()
    refused = KafkaServer(tmp_path / "refused", place=Place(controllers={1: kafka.port}))
    with pytest.raises(PartFailed, match=r"(?s)ended while it started.*Address already in use"):
        refused.start()

    assert not processes_of(tmp_path)
