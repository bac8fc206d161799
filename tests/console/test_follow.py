"""Producing and following on a broker that is there: every event once, at its rate, latencies joined by origin."""

import json
import time

import pytest
from confluent_kafka import Producer

from console import accounting
from console.demo_replay import Replay
from console.embedded import MockKafka
from console.follow import Follower, Latencies
from deploy.pipelines.planned import Planned


@pytest.fixture(scope="module")
def connection(tmp_path_factory):
    with MockKafka(tmp_path_factory.mktemp("mock")) as kafka:
        yield {"bootstrap.servers": kafka.bootstrap}


@pytest.fixture
def topics(connection, request):
    names = accounting.topics_of(f"p{abs(hash(request.node.name))}")
    producer = Producer({**connection, "log_level": 0})
    for name in names.values():
        producer.list_topics(name, timeout=10)
    return names


def plan(n):
    return [Planned(b"PH-%d" % (i % 7), b"event %d" % i, (("a", b"b"),), "clean") for i in range(n)]


def until(holds, seconds=20.0):
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "did not come true in time"
        time.sleep(0.01)


def records(connection, topics):
    reader = accounting.Reader(connection, topics)
    try:
        return list(reader.everything(20.0))
    finally:
        reader.close()


def test_replay_sends_every_event_once_with_key_and_headers(connection, topics):
    sent = []
    replay = Replay(connection, topics["events"], plan(500), on_sent=lambda *where: sent.append(where)).start()
    until(lambda: replay.done)

    found = [message for _, message in records(connection, topics)]
    assert replay.failure is None
    assert (replay.given, replay.sent, replay.kinds) == (500, 500, {"clean": 500})
    assert sorted(m.value() for m in found) == sorted(p.value for p in plan(500))
    assert {(m.partition(), m.offset()) for m in found} == {(p, o) for p, o, _ in sent}
    assert all(m.headers() == [("a", b"b")] for m in found)
    assert len({(m.key(), m.partition()) for m in found}) == 7


def test_replay_keeps_its_rate(connection, topics):
    given = []
    replay = Replay(
        connection, topics["events"], plan(100), rate=200.0, on_sent=lambda _p, _o, at: given.append(at)
    ).start()
    until(lambda: replay.done)

    assert 0.45 < max(given) - min(given) < 3.0


def test_replay_can_be_stopped(connection, topics):
    replay = Replay(connection, topics["events"], plan(100_000), rate=100.0).start()
    until(lambda: replay.given > 5)
    replay.stop()

    assert replay.done
    assert replay.sent == replay.given < 1_000


def test_replay_takes_events_as_it_sends_them(connection, topics):
    taken = []
    replay = Replay(connection, topics["events"], (taken.append(p) or p for p in plan(1_000)), rate=50.0).start()
    until(lambda: replay.given > 3)
    replay.stop()

    assert len(taken) <= replay.given + 1


def test_replay_tells_why_it_ended():
    def broken():
        yield plan(1)[0]
        raise ZeroDivisionError

    replay = Replay({"bootstrap.servers": "127.0.0.1:1"}, "t", broken()).start()
    until(lambda: replay.done)

    assert isinstance(replay.failure, ZeroDivisionError)


def decide(connection, topics, origins):
    producer = Producer({**connection, "log_level": 0})
    for partition, offset in origins:
        origin = {"topic": topics["events"], "partition": partition, "offset": offset}
        scores = {"m": {"score": 1.0, "release": "3"}}
        body = {"kind": "decision", "origin": origin, "revision": 0, "outcome": "approve", "scores": scores}
        producer.produce(topics["decisions"], json.dumps(body), partition=partition)
    assert producer.flush(10) == 0


def test_follower_knows_when_everything_is_there_and_how_long_it_took(connection, topics):
    sent = {}
    follower = Follower(connection, topics).start()
    latencies = follower.latencies

    def on_sent(partition, offset, at):
        sent[partition, offset] = at
        latencies.sent(partition, offset, at)

    replay = Replay(connection, topics["events"], plan(40), on_sent=on_sent).start()
    until(lambda: follower.progress().read == 40)
    assert replay.sent == 40
    assert not follower.all_there(40)
    assert follower.progress().waiting == 40

    decide(connection, topics, list(sent)[:39])
    until(lambda: follower.progress().waiting == 1)
    assert not follower.all_there(40)

    decide(connection, topics, list(sent)[39:])
    until(lambda: follower.all_there(40))
    follower.stop()
    assert follower.failure is None
    assert max(sent.values()) < follower.first_decision_at < time.monotonic()
    assert follower.account().right
    assert follower.progress().outcomes == {"approve": 40}
    assert follower.progress().releases == {"m": "3"}
    p50, p100 = latencies.quantiles(0.5, 1.0)
    assert 0 < p50 <= p100 < 30
    assert latencies.waiting_since_before(time.monotonic()) == 0
    assert len(latencies.since(0.0, [0, 1, 2, 3])) == 40


def test_latencies_join_in_either_order():
    latencies = Latencies()
    latencies.sent(0, 1, 10.0)
    latencies.decided(0, 1, 10.5)
    latencies.decided(1, 1, 12.0)
    latencies.sent(1, 1, 11.0)

    assert latencies.quantiles(0.5, 1.0) == [0.5, 1.0]
    assert latencies.recent(16.0, 0.5) == [1.0]
    assert latencies.since(11.0) == [(12.0, 1.0, 1)]
    assert latencies.since(0.0, [0]) == [(10.5, 0.5, 0)]


def test_events_without_a_decision_have_no_latency():
    latencies = Latencies()
    latencies.sent(0, 1, 10.0)
    latencies.forget(0, 1)
    latencies.forget(0, 2)
    latencies.sent(0, 2, 11.0)

    assert latencies.quantiles(0.5) == [None]
    assert latencies.waiting_since_before(99.0) == 0


def test_quantiles_are_nearest_ranks():
    latencies = Latencies()
    for i in range(1, 101):
        latencies.sent(0, i, 0.0)
        latencies.decided(0, i, float(i))

    assert latencies.quantiles(0.0, 0.5, 0.95, 0.99, 1.0) == [1.0, 50.0, 95.0, 99.0, 100.0]
