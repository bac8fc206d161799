"""The demo's run against a stand-in for the engine: half-way, kill, the end, and what happens when somebody leaves."""

import json
import subprocess
import sys
import threading
import time

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from console import accounting, performance
from console.demo_replay import Replay
from console.embedded import MockKafka
from console.follow import Follower
from console.performance import Cast, DemoFailed, Performance
from deploy.pipelines.planned import Planned

PARTITIONS = range(4)


class StandIn:
    """Approves every event; slower in the lanes of a slot that was killed. Its slots are programs that sleep."""

    def __init__(self, connection, topics, leave_out=0):
        self.connection, self.topics, self.leave_out = connection, topics, leave_out
        self.programs = [self.program() for _ in range(2)]
        self.restarts = [0, 0]
        self.stopped = threading.Event()
        self.running = True
        self.decided = 0
        self.thread = threading.Thread(target=self.decide, daemon=True)
        self.thread.start()

    @staticmethod
    def program():
        return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])

    def slots(self):
        for number, program in enumerate(self.programs):
            if program.poll() is not None:
                time.sleep(0.3)
                self.programs[number] = self.program()
                self.restarts[number] += 1
        return [
            {"slot": n, "pid": p.pid, "state": "running", "restarts": self.restarts[n], "lanes": [n, n + 2]}
            for n, p in enumerate(self.programs)
        ]

    def decide(self):
        consumer = Consumer(self.connection | {"group.id": "x", "auto.offset.reset": "earliest", "log_level": 0})
        consumer.assign([TopicPartition(self.topics["events"], p, 0) for p in PARTITIONS])
        producer = Producer(self.connection | {"log_level": 0})
        while not self.stopped.is_set():
            message = consumer.poll(0.05)
            if message is None or message.error():
                continue
            self.decided += 1
            if self.decided == self.leave_out:
                continue
            lane, topic = message.partition(), message.topic()
            if self.programs[lane % 2].poll() is not None:
                time.sleep(0.3)
            origin = {"topic": topic, "partition": lane, "offset": message.offset()}
            body = {"kind": "decision", "origin": origin, "revision": 0, "outcome": "approve", "scores": {}}
            producer.produce(self.topics["decisions"], json.dumps(body), partition=lane)
            producer.flush(5)
        consumer.close()

    def tail(self):
        return "the last line"

    def stop(self):
        self.stopped.set()
        self.thread.join(10)
        for program in self.programs:
            program.kill()
            program.wait()


@pytest.fixture(scope="module")
def connection(tmp_path_factory):
    with MockKafka(tmp_path_factory.mktemp("mock")) as kafka:
        yield {"bootstrap.servers": kafka.bootstrap}


@pytest.fixture
def played(connection, request):
    """Makes a performance of `n` events at `rate`; everything is ended after the test."""
    started = []

    def make(n=60, rate=100.0, leave_out=0, half_way=lambda: "published"):
        names = accounting.topics_of(f"p{abs(hash(request.node.name))}")
        client = Producer(connection | {"log_level": 0})
        for name in names.values():
            client.list_topics(name, timeout=10)
        engine = StandIn(connection, names, leave_out)
        follower = Follower(connection, names).start()
        events = (Planned(b"k%d" % (i % 20), b"%d" % i, (), "clean") for i in range(n))
        replay = Replay(connection, names["events"], events, rate=rate, on_sent=follower.latencies.sent)
        started.extend([engine, follower, replay])
        cast = Cast("claims", "a stand-in", "at_least_once", ("approve",), n)
        return Performance(cast, replay, follower, engine, half_way=half_way), replay, follower, engine

    yield make
    for part in reversed(started):
        part.stop()


class Typed:
    """A person who types each of these keys once, after the first events."""

    def __init__(self, keys):
        self.keys = list(keys)

    def pressed(self, timeout):
        time.sleep(timeout)
        return self.keys.pop(0) if self.keys else ""


def test_run_ends_when_every_event_has_its_first_record(played):
    published, seen = [], []
    run, replay, follower, _ = played(half_way=lambda: published.append(replay.sent) or "release 2 is published")
    run.play(seen.append)

    assert follower.account().right
    assert follower.account().read == replay.sent == 60
    assert len(published) == 1
    assert published[0] >= 30
    assert seen[-1].note == "release 2 is published"
    assert seen[-1].sent == seen[-1].total == 60
    assert seen[-1].progress.outcomes == {"approve": 60}
    assert all(value > 0 for value in seen[-1].whole)
    assert [slot.lanes for slot in seen[-1].slots] == [(0, 2), (1, 3)]


def test_killed_slot_is_replaced_and_its_cost_shown(played):
    seen = []
    run, _, follower, engine = played(n=150, rate=60.0)
    before = engine.programs[0]
    run.play(seen.append, kill_after=0.3)

    assert before.wait(5) == -9
    assert engine.restarts == [1, 0]
    kill = seen[-1].kill
    assert (kill.slot, kill.lanes, kill.waiting, kill.twice) == (0, (0, 2), 0, 0)
    assert 0 < kill.pause < kill.ago
    assert kill.worst > 0
    assert follower.account().right


def test_k_kills_one_slot_after_the_other_and_q_ends_the_run(played):
    seen = []
    run, replay, follower, engine = played(n=100_000, rate=50.0)
    run.play(seen.append, keys=Typed(["", "", "k", "", "k", "", "q"]))

    assert engine.restarts == [1, 1]
    assert replay.sent < 1_000
    assert follower.account().right
    assert seen[-1].note == "finishing what has been sent"


def test_missing_record_ends_the_run_after_the_patience(played, monkeypatch):
    monkeypatch.setattr(performance, "PATIENCE", 1.0)
    run, _, follower, _ = played(n=20, leave_out=7)
    run.play(lambda _: None)

    assert follower.account().unaccounted == 1


def test_run_fails_when_the_engine_ends(played):
    run, _, _, engine = played(n=1_000)
    engine.running = False

    with pytest.raises(DemoFailed, match="the last line"):
        run.play(lambda _: None)


def test_run_fails_when_the_reader_ends(played):
    run, _, follower, _ = played(n=1_000)
    follower.failure = OSError("gone")

    with pytest.raises(DemoFailed, match="reader of the demo ended: gone"):
        run.play(lambda _: None)
