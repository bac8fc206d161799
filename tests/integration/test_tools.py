"""What other people's tools see of a pipeline: lag and counts, by programs that share nothing with the engine.

The commands are those of deploy/kafka/TOOLS.md. One engine decides some events and is stopped; then more events come.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import struct
import subprocess
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import pytest
from confluent_kafka import Consumer, ConsumerGroupTopicPartitions, IsolationLevel, KafkaError, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec
from ruamel.yaml import YAML

from console.accounting import account, topics_of
from console.embedded import KafkaServer
from console.kafka_jars import find_jars, find_java
from console.ledger import Account
from dataflows.pipeline import Pipeline
from tests.integration.launched import FIRSTS, LANES, Launched, committed, firsts, launched, small_on, wait

TOOLS = Path("deploy/kafka/TOOLS.md").read_text()
CLASSES = {
    "kafka-consumer-groups.sh": "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand",
    "kafka-console-consumer.sh": "org.apache.kafka.tools.consumer.ConsoleConsumer",
}
WAITING = {0: 7, 1: 0, 2: 2, 3: 0}
"""Lane to the events that came when no slot was there. Lane 3 has never had one."""
LAG = {0: 7, 1: 1, 2: 2}
"""Lane to offsets beyond the committed one: the last events of lane 1 came in a transaction, which has a marker."""
ABORTED = 30
"""Records on the decisions topic whose transaction was aborted."""


@dataclass(frozen=True, slots=True)
class Work:
    """What was done, and what one of the tools said while the engine was there."""

    bootstrap: str
    pipeline: Pipeline
    at_rest: str
    """`kafka-consumer-groups` when all was decided and no producer had used a transaction."""
    account: Account
    """Our own count of the topics, in the end."""

    def told(self, program: str, **changed: str) -> str:
        """What the command of the document prints for this pipeline; `changed`: what is replaced in it by what."""
        return told(self.bootstrap, self.pipeline.pipeline, program, **changed)


def told(bootstrap: str, name: str, program: str, **changed: str) -> str:
    [words] = [words[1:] for words in commands() if words[0] == program]
    for old, new in {"localhost:9092": bootstrap, "claims": name, **changed}.items():
        words = [word.replace(old, new) for word in words]
    start = [program]
    if program in CLASSES:
        java, jars = find_java()[0], find_jars()
        start = [java, "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-cp", f"{jars}/*", CLASSES[program]]
    done = subprocess.run([*start, *words], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, f"{shlex.join([program, *words])}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
    return done.stdout


def commands() -> Iterator[list[str]]:
    for block in re.findall(r"(?ms)^```sh\n(.*?)^```$", TOOLS):
        yield from map(shlex.split, block.replace("\\\n", " ").splitlines())


@pytest.fixture(scope="module")
def work(kafka: KafkaServer, tmp_path_factory: pytest.TempPathFactory) -> Work:
    """One engine's life, and what came after it."""
    folder = tmp_path_factory.mktemp("tools")
    file, pipeline = small_on(kafka, f"tools_{uuid.uuid4().hex[:8]}", folder)
    topic, bootstrap = pipeline.topic("events"), kafka.bootstrap
    with launched(file, bootstrap, folder) as run:
        run.until_ready()
        plain = producer(bootstrap)
        put(plain, topic, {0: 200, 1: 150, 2: 50})
        put(plain, topic, {0: 20})  # the same ids again
        plain.produce(topic, "{", partition=2)
        assert plain.flush(20) == 0
        until_decided(run, bootstrap, pipeline, {0: 220, 1: 150, 2: 51})
        at_rest = told(bootstrap, pipeline.pipeline, "kafka-consumer-groups.sh")
        in_a_transaction(bootstrap, topic, {1: 5}, commit=True)
        until_decided(run, bootstrap, pipeline, {1: 155})
        run.process.terminate()
        assert run.ends() == 0
    put(plain, topic, {lane: n for lane, n in WAITING.items() if n}, first=10_000)
    assert plain.flush(20) == 0
    in_a_transaction(bootstrap, pipeline.topic("decisions"), {0: ABORTED}, commit=False)
    connection = {"bootstrap.servers": bootstrap}
    found = account(connection, topics_of(pipeline.pipeline), group=pipeline.pipeline)
    return Work(bootstrap, pipeline, at_rest, found)


def producer(bootstrap: str, **more: Any) -> Producer:
    return Producer({"bootstrap.servers": bootstrap, "linger.ms": 2, "log_level": 0, **more})


def put(client: Producer, topic: str, events: dict[int, int], first: int = 0) -> None:
    """Produce so many events to each lane; equal numbers are equal ids."""
    for lane, n in events.items():
        for i in range(first, first + n):
            body = {"id": f"E-{lane}-{i}", "who": f"W-{i % 9}", "at": "2026-01-15T12:00:00Z", "amount": i % 200}
            client.produce(topic, json.dumps(body), partition=lane)


def in_a_transaction(bootstrap: str, topic: str, events: dict[int, int], *, commit: bool) -> None:
    client = producer(bootstrap, **{"transactional.id": f"{topic}-{commit}"})
    client.init_transactions(20)
    client.begin_transaction()
    put(client, topic, events, first=20_000)
    assert client.flush(20) == 0  # an abort would only drop what has not been sent
    client.commit_transaction(20) if commit else client.abort_transaction(20)


def until_decided(run: Launched, bootstrap: str, pipeline: Pipeline, upto: dict[int, int]) -> None:
    def decided() -> bool:
        return upto.items() <= committed(bootstrap, pipeline).items()

    wait(decided, 30, run, f"to commit {upto}")


def lags(told: str) -> dict[int, tuple[str, str, str, str]]:
    """Lane to CURRENT-OFFSET, LOG-END-OFFSET, LAG and CONSUMER-ID of `kafka-consumer-groups`."""
    rows = [line.split() for line in told.splitlines() if ".events" in line]
    return {int(row[2]): (row[3], row[4], row[5], row[6]) for row in rows}


def test_kafkas_own_tool_shows_slots_at_rest_without_lag(work: Work) -> None:
    shown = lags(work.at_rest)

    assert {lane: row[:3] for lane, row in shown.items()} == {
        0: ("220", "220", "0"),
        1: ("150", "150", "0"),
        2: ("51", "51", "0"),
        3: ("-", "0", "-"),
    }
    assert all(row[3].startswith(f"{work.pipeline.pipeline}-0-") for row in shown.values())


def test_kafkas_own_tool_shows_what_waits_in_each_lane(work: Work) -> None:
    shown = {lane: row[2] for lane, row in lags(work.told("kafka-consumer-groups.sh")).items() if row[2] != "-"}

    assert {lane: int(lag) for lane, lag in shown.items()} == LAG
    assert work.account.waiting == sum(WAITING.values())


def test_kedas_formula_gives_what_waits(work: Work) -> None:
    [trigger] = YAML(typ="safe").load(re.findall(r"(?ms)^```yaml\n(.*?)^```$", TOOLS)[0])["triggers"]
    assert trigger["type"] == "kafka"
    policy = trigger["metadata"]["offsetResetPolicy"]

    assert keda(work, policy) == LAG | {3: 0}
    assert keda(work, "latest") == LAG | {3: 1}  # so the document says to choose the other


def keda(work: Work, policy: str) -> dict[int, int]:
    """Lane to lag: the end less the committed offset; without one, the end or 1, as `offsetResetPolicy` says."""
    admin, lanes = AdminClient({"bootstrap.servers": work.bootstrap, "log_level": 0}), lanes_of(work)
    asked = [ConsumerGroupTopicPartitions(work.pipeline.pipeline, lanes)]
    [answer] = admin.list_consumer_group_offsets(asked, request_timeout=20).values()
    at = {lane.partition: lane.offset for lane in answer.result(20).topic_partitions}
    without = {lane: end if policy == "earliest" else 1 for lane, end in ends(work).items()}
    return {lane: end - at[lane] if at[lane] >= 0 else without[lane] for lane, end in ends(work).items()}


def lanes_of(work: Work) -> list[TopicPartition]:
    return [TopicPartition(work.pipeline.topic("events"), lane) for lane in range(LANES)]


def ends(work: Work) -> dict[int, int]:
    """Lane to the offset after its last record, as whoever does not ask for committed ones is told."""
    admin = AdminClient({"bootstrap.servers": work.bootstrap, "log_level": 0})
    specs = {lane: OffsetSpec.latest() for lane in lanes_of(work)}
    answers = admin.list_offsets(specs, isolation_level=IsolationLevel.READ_UNCOMMITTED, request_timeout=20)
    return {lane.partition: answer.result(20).offset for lane, answer in answers.items()}


def test_burrow_can_read_the_offsets_and_finds_the_same_lag(work: Work) -> None:
    """It reads the topic of committed offsets itself; in each version of a value that it knows, the offset is first."""
    last: dict[int, int] = {}
    for key, value in offsets_topic(work.bootstrap):
        version, group, topic, lane = offset_key(key)
        if version in {0, 1} and group == work.pipeline.pipeline and topic == work.pipeline.topic("events"):
            read_as, last[lane] = struct.unpack_from(">hq", value)
            assert read_as in {0, 1, 3, 4}

    assert {lane: ends(work)[lane] - offset for lane, offset in last.items()} == LAG


def offset_key(key: bytes) -> tuple[int, str, str, int]:
    """Version, group, topic and partition; other kinds of records have versions from 2 on, and give only that."""
    [version] = struct.unpack_from(">h", key)
    if version > 1:
        return version, "", "", -1
    at, words = 2, []
    for _ in range(2):
        [length] = struct.unpack_from(">h", key, at)
        words.append(key[at + 2 : at + 2 + length].decode())
        at += 2 + length
    return version, *words, *struct.unpack_from(">i", key, at)


def offsets_topic(bootstrap: str) -> Iterator[tuple[bytes, bytes]]:
    """Key and value of all that stands there now, uncommitted as well, as Burrow reads it."""
    settings = {"bootstrap.servers": bootstrap, "group.id": "burrow", "enable.partition.eof": True, "log_level": 0}
    client = Consumer({**settings, "isolation.level": "read_uncommitted", "auto.offset.reset": "error"})
    topic = "__consumer_offsets"
    try:
        parts = client.list_topics(topic, timeout=20).topics[topic].partitions
        client.assign([TopicPartition(topic, part, 0) for part in parts])
        ended: set[int] = set()
        while len(ended) < len(parts):
            for message in client.consume(1000, 0.2):
                if message.error() is None:
                    if message.value() is not None:
                        yield message.key(), message.value()
                else:
                    assert message.error().code() == KafkaError._PARTITION_EOF, message.error()
                    ended.add(message.partition())
    finally:
        client.close()


def counted(lines: list[str]) -> Counter[tuple[int, int]]:
    """Origin to first records among lines as a reader prints them."""
    origins = [json.loads(line)["origin"] for line in lines]
    return Counter((origin["partition"], origin["offset"]) for origin in origins)


def test_our_own_account_is_right(work: Work) -> None:
    assert work.account.right
    assert (work.account.read, work.account.decisions, work.account.duplicates) == (435, 405, 20)
    assert sum(work.account.rejected.values()) == 1


def test_a_java_console_consumer_reads_what_our_account_counts(work: Work) -> None:
    read = work.told("kafka-console-consumer.sh").splitlines()

    assert len(read) == work.account.read - work.account.waiting
    assert counted(read) == firsts(work.bootstrap, work.pipeline)


def test_kcat_reads_what_our_account_counts(work: Work, absent: Callable[[str], NoReturn]) -> None:
    if shutil.which("kcat") is None:
        absent("there is no kcat (Debian: apt install kcat)")
    read = [line for role in FIRSTS for line in work.told("kcat", decisions=role).splitlines()]

    assert len(read) == work.account.read - work.account.waiting
    assert counted(read) == firsts(work.bootstrap, work.pipeline)
    everything = work.told("kcat", read_committed="read_uncommitted").splitlines()
    assert len(everything) == work.account.decisions + ABORTED
