"""The transactional spine on a real broker, with real processes that are really killed."""

from __future__ import annotations

import ctypes
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import confluent_kafka
import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition

from console.embedded import KafkaServer
from console.topics import Topic
from operators.batch import UNREADABLE
from operators.kafka_source import to_batch

ROOT = Path(__file__).resolve().parents[2]
LANES = 4
SEED = 20261123


class Group:
    """Slots of `deploy/examples/count.py`, their topics, and an independent reader."""

    def __init__(self, kafka: KafkaServer, name: str, logs: Path) -> None:
        self.bootstrap, self.name, self.logs = kafka.bootstrap, name, logs
        self.slots: dict[int, subprocess.Popen[bytes]] = {}
        plain, compact = Topic(LANES), Topic(LANES, config={"cleanup.policy": "compact"})
        kafka.create_topics({f"{name}.events": plain, f"{name}.counts": plain, f"{name}.state": compact})
        self.producer = Producer({"bootstrap.servers": self.bootstrap, "linger.ms": 2})
        self.sent = 0

    def start(self, slot: int) -> None:
        with (self.logs / f"slot-{slot}.log").open("ab") as log:
            command = [sys.executable, "-m", "deploy.examples.count", self.bootstrap, self.name, str(slot)]
            self.slots[slot] = subprocess.Popen(command, cwd=ROOT, stderr=log)

    def kill(self, slot: int) -> None:
        self.slots[slot].kill()
        self.slots[slot].wait()

    def send(self, key: bytes) -> None:
        self.producer.produce(f"{self.name}.events", b"x", key)
        self.producer.poll(0)
        self.sent += 1

    def committed(self) -> int:
        lanes = [TopicPartition(f"{self.name}.events", lane) for lane in range(LANES)]
        # read_uncommitted: the answer does not wait for the open transaction of a slot that was just killed
        settings = {"bootstrap.servers": self.bootstrap, "group.id": self.name, "isolation.level": "read_uncommitted"}
        reader = Consumer(settings)
        try:
            return sum(max(lane.offset, 0) for lane in reader.committed(lanes, 10))
        except KafkaException as failure:
            if not (failure.args[0].retriable() or failure.args[0].code() == KafkaError.NOT_COORDINATOR):
                raise
            return 0  # a broker that has just started is still loading its groups: ask again
        finally:
            reader.close()

    def counts(self) -> list[tuple[int, bytes, int, int]]:
        """Everything that a committed reader sees: lane, key, offset of the event, count."""
        reader = Consumer(
            {
                "bootstrap.servers": self.bootstrap,
                "group.id": f"{self.name}-check",
                "isolation.level": "read_committed",
                "enable.partition.eof": True,
            }
        )
        reader.assign([TopicPartition(f"{self.name}.counts", lane, 0) for lane in range(LANES)])
        ended: set[int] = set()
        rows = []
        try:
            while len(ended) < LANES:
                message = reader.poll(10)
                assert message is not None
                if message.error():
                    ended.add(message.partition())
                else:
                    offset, count = map(int, message.value().split())
                    rows.append((message.partition(), message.key(), offset, count))
        finally:
            reader.close()
        return rows

    def stop(self) -> dict[int, int]:
        for process in self.slots.values():
            while process.poll() is None and not handles_sigterm(process.pid):
                time.sleep(0.01)  # one that was just started still imports
            process.terminate()
        return {slot: process.wait(30) for slot, process in self.slots.items()}


def handles_sigterm(pid: int) -> bool:
    """Whether a process would drain; before that, SIGTERM ends it as any other."""
    status = Path(f"/proc/{pid}/status").read_text()
    caught = int(status.partition("SigCgt:")[2].split()[0], 16)
    return bool(caught >> (signal.SIGTERM - 1) & 1)


@pytest.fixture
def group(kafka: KafkaServer, unique: Callable[[str], str], tmp_path: Path) -> Iterator[Group]:
    group = Group(kafka, unique("count"), tmp_path)
    yield group
    for process in group.slots.values():
        process.kill()
        process.wait()


def assert_exact(group: Group) -> None:
    rows = group.counts()
    origins = Counter((lane, offset) for lane, _, offset, _ in rows)
    seen: Counter[tuple[int, bytes]] = Counter()
    last: dict[int, int] = {}

    assert len(origins) == group.sent, "every event has a record"
    assert set(origins.values()) == {1}, "and only one"
    for lane, key, offset, count in rows:
        assert offset > last.get(lane, -1), "in lane order"
        last[lane] = offset
        seen[lane, key] += 1
        assert count == seen[lane, key], "with the state of exactly the events before it"


def test_no_event_is_lost_or_counted_twice_when_slots_are_killed(group: Group, until: Callable[..., None]) -> None:
    """6,000 events, two slots, five SIGKILLs at random moments."""
    rng = random.Random(SEED)
    group.start(0)
    group.start(1)
    until(lambda: group.send(b"first") or group.committed(), "a first commit")
    for _ in range(5):
        for _ in range(1000):
            group.send(b"key-%d" % rng.randrange(100))
            time.sleep(0.001)  # paced, so that kills meet events at every step of their way
        victim = rng.randrange(2)
        group.kill(victim)
        group.start(victim)
    group.producer.flush(10)
    until(lambda: group.committed() == group.sent, "every event to be committed", timeout=40)

    assert group.stop() == {0: 0, 1: 0}
    assert_exact(group)


def test_a_slot_killed_while_lanes_move_does_not_hang_the_other(group: Group, until: Callable[..., None]) -> None:
    """The second slot joins and is killed inside the rebalance that its joining began."""
    rng = random.Random(SEED)
    group.start(0)
    until(lambda: group.send(b"first") or group.committed(), "a first commit")
    for _ in range(3):
        group.start(1)
        patience = time.monotonic() + 0.7 + rng.random() * 0.6
        while time.monotonic() < patience:
            group.send(b"key-%d" % rng.randrange(20))
            time.sleep(0.002)
        group.kill(1)
    group.start(1)
    group.producer.flush(10)
    until(lambda: group.committed() == group.sent, "every event to be committed", timeout=40)

    assert group.stop() == {0: 0, 1: 0}
    assert_exact(group)


def test_a_past_life_is_fenced(group: Group, until: Callable[..., None]) -> None:
    """Two processes with the same slot: the newer one goes on, the older one leaves; still nothing twice."""
    group.start(0)
    until(lambda: group.send(b"a") or group.committed(), "a first commit")
    older = group.slots[0]
    group.start(0)
    until(lambda: group.send(b"a") or older.poll() is not None, "the older life to leave", timeout=30)
    group.producer.flush(10)
    until(lambda: group.committed() == group.sent, "the newer life to commit everything", timeout=30)

    assert older.returncode == 1
    assert group.stop() == {0: 0}
    assert_exact(group)


STOPPED = """
import os, sys, time
from confluent_kafka.admin import AdminClient
from console.roster import members_of
from operators.lanes import Lanes
from operators.membership import Membership
bootstrap, name = sys.argv[1:]
connection = {"bootstrap.servers": bootstrap}
admin = AdminClient(connection)
lanes = Lanes(connection, Membership(name, 0, f"{name}.events", f"{name}.state", {"counts": f"{name}.counts"}))
lanes.start()
while not any(member.assignment.topic_partitions for member in members_of(admin, name)):
    time.sleep(0.01)
lanes.close()
os._exit(0)
"""


def test_a_slot_told_to_stop_when_it_has_just_been_given_lanes_ends(group: Group) -> None:
    """Nobody has taken them up yet, and a client that is closed then hangs: for 15 s, or for ever."""
    order = [sys.executable, "-c", STOPPED, group.bootstrap, group.name]
    subprocess.run(order, cwd=ROOT, timeout=60, check=True)


def test_headers_that_the_client_cannot_read_do_not_stop_the_lane(kafka: KafkaServer, topic_name: str) -> None:
    """A header name that is not UTF-8 makes the client raise; librdkafka itself is asked to write one."""
    kafka.create_topics({topic_name: Topic(1)})
    produce_with_header(kafka.bootstrap, topic_name, name=b"good")
    for _ in range(20):
        produce_with_header(kafka.bootstrap, topic_name, name=b"bad\xff")
    reader = Consumer({"bootstrap.servers": kafka.bootstrap, "group.id": topic_name})
    reader.assign([TopicPartition(topic_name, 0, 0)])
    good, *bad = [reader.poll(10) for _ in range(21)]
    to_batch([good] * 10_000, 1)  # the engine's own calls are warm, too: Python does them in another way then
    batch = to_batch([*bad, good], 1)
    reader.close()

    assert batch.values == [b"hello"] * 21
    assert all(headers is UNREADABLE for headers in batch.headers[:20])
    assert batch.headers[20] == [("good", b"x")]


def produce_with_header(bootstrap: str, topic: str, name: bytes) -> None:
    folder = Path(confluent_kafka.__file__).parent.parent / "confluent_kafka.libs"
    rdkafka = ctypes.CDLL(str(next(folder.glob("librdkafka*.so*"))))
    rdkafka.rd_kafka_conf_new.restype = rdkafka.rd_kafka_new.restype = ctypes.c_void_p
    error = ctypes.create_string_buffer(512)
    conf = ctypes.c_void_p(rdkafka.rd_kafka_conf_new())
    rdkafka.rd_kafka_conf_set(conf, b"bootstrap.servers", bootstrap.encode(), error, 512)
    handle = ctypes.c_void_p(rdkafka.rd_kafka_new(0, conf, error, 512))
    text, size = ctypes.c_char_p, ctypes.c_size_t
    to_topic, with_value, with_copy = (1, text(topic.encode())), (4, text(b"hello"), size(5)), (7, 2)
    with_header = (9, text(name), text(b"x"), ctypes.c_ssize_t(1))

    assert rdkafka.rd_kafka_producev(handle, *to_topic, *with_value, *with_copy, *with_header, 0) == 0
    assert rdkafka.rd_kafka_flush(handle, 10_000) == 0
    rdkafka.rd_kafka_destroy(handle)


def test_a_broken_lane_stays_closed_and_the_others_go_on(group: Group, until: Callable[..., None]) -> None:
    """The group's offset of one lane is set back by hand, behind what its state has seen."""
    group.start(0)
    for n in range(400):
        group.send(b"key-%d" % n)
    group.producer.flush(10)
    until(lambda: group.committed() == group.sent, "every event to be committed")
    group.stop()
    consumer = Consumer({"bootstrap.servers": group.bootstrap, "group.id": group.name})

    def rewound() -> bool:
        try:  # refused while the static member's session lasts
            answer = consumer.commit(offsets=[TopicPartition(f"{group.name}.events", 1, 3)], asynchronous=False)
        except KafkaException:
            return False
        return answer[0].error is None

    until(rewound, "the group's offset to be set back", timeout=30)
    consumer.close()
    before = len(group.counts())
    group.start(0)
    for n in range(400):
        group.send(b"key-%d" % n)
    group.producer.flush(10)
    until(lambda: len(group.counts()) > before + 250, "the other lanes to be decided", timeout=30)

    log = (group.logs / "slot-0.log").read_text()
    assert "this lane is not read: lane 1: the group's offset is 3" in log
    assert group.slots[0].poll() is None, "the process goes on"
    rows = Counter((lane, offset) for lane, _, offset, _ in group.counts())
    assert set(rows.values()) == {1}, "nothing is decided twice"
