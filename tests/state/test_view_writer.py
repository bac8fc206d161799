"""From changelog records to a real Redis: never backwards, whoever writes, how often and how late."""

import random

import pytest
import redis
from hypothesis import given, settings
from hypothesis import strategies as st

from operators.changelogs import Row
from state.entities import entity_key
from state.feature_writer import FeatureWriter, RedisFailed
from state.key_windows import KeyWindows
from state.tide import KEY, STEP, pack_tide
from state.tides import Mark, tides_key
from state.versions import SIZE, parts
from state.view_windows import ViewWindows
from state.view_writer import ViewWriter
from state.views import LoadedView, redis_keys
from state.window_spec import Feature

HOUR = 3_600_000
DEVICE = ViewWindows("device", "device_id", (Feature("payments", "count", HOUR),), 10_000)
CARD = ViewWindows("card", "card_id", (Feature("payments", "count", HOUR),), 10_000)


def packed(at_ms):
    keys = KeyWindows(DEVICE)
    keys.restore({})
    keys.observe(["k"], [at_ms], behind_ms=[0], values={}, lanes=[0], offsets=[0])
    return keys.read(["k"])[0]


@pytest.fixture
def server(redis_url):
    with redis.Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture
def now_ms(server):
    seconds, micros = server.time()
    return seconds * 1000 + micros // 1000


@pytest.fixture
def pipeline(unique):
    return unique("p")


@pytest.fixture
def make(redis_url, pipeline):
    made = []

    def writer(*views):
        made.append(FeatureWriter.connect(redis_url, pipeline))
        return ViewWriter(made[-1], views or (DEVICE,), 4)

    yield writer
    for each in made:
        each.close()


def value(offset, at_ms, key="k", view="device"):
    return Row(offset, at_ms, f"view-{view}\0".encode() + entity_key(key), packed(at_ms))


def gone(offset, at_ms, key="k"):
    return Row(offset, at_ms, b"view-device\0" + entity_key(key), None)


def tide(offset, at_ms, tide_ms):
    return Row(offset, at_ms, STEP.encode() + b"\0" + KEY, pack_tide(tide_ms))


def stored(server, pipeline, key="k"):
    return server.get(redis_keys(pipeline, "device", [key])[0])


def test_a_value_is_stored_with_its_version_and_forgotten_when_it_has_decayed(make, server, pipeline, now_ms):
    writer = make()
    assert writer.begin([2]) == {2: 0}
    assert writer.write({2: [value(7, now_ms), tide(8, now_ms, now_ms - 5)]}) == (1, 0, [])
    left = server.pttl(redis_keys(pipeline, "device", ["k"])[0])

    assert parts(stored(server, pipeline)) == (now_ms, 7)
    assert stored(server, pipeline)[SIZE:] == packed(now_ms)
    assert HOUR < left < 3 * HOUR
    assert server.hgetall(tides_key(pipeline, "device")) == {b"lanes": b"4", b"2": Mark(now_ms, 8, now_ms - 5).pack()}


@pytest.mark.parametrize("key", ["tides", "", ":", "lanes"])
def test_a_key_may_have_any_name_and_its_view_is_written_on(make, server, pipeline, now_ms, key):
    """The events say what keys are called: none may lie where the tides are, nor the other way round."""
    writer = make()
    writer.begin([0])
    assert writer.write({0: [tide(1, now_ms, now_ms), value(2, now_ms, key)]}) == (1, 0, [])
    assert writer.write({0: [value(3, now_ms, key), tide(4, now_ms, now_ms)]}) == (1, 0, [])

    assert stored(server, pipeline, key)[SIZE:] == packed(now_ms)
    assert make().begin([0]) == {0: 5}


def test_what_is_no_value_stays_and_holds_up_no_other_key(make, server, pipeline, now_ms):
    [place] = redis_keys(pipeline, "device", ["theirs"])
    server.rpush(place, "a list")
    writer = make()
    writer.begin([0])

    assert writer.write({0: [value(1, now_ms, "theirs"), value(2, now_ms), tide(3, now_ms, now_ms)]}) == (1, 1, [])
    assert server.lrange(place, 0, -1) == [b"a list"]
    assert stored(server, pipeline)[SIZE:] == packed(now_ms)


def test_a_deleted_key_is_not_brought_back_by_a_slow_writer(make, server, pipeline, now_ms):
    fast, slow = make(), make()
    for writer in (fast, slow):
        writer.begin([0])
    fast.write({0: [value(1, now_ms), gone(2, now_ms + 1)]})
    fast.write({0: [gone(3, now_ms + 2)]})

    assert slow.write({0: [value(1, now_ms)]}) == (0, 1, [])
    assert len(stored(server, pipeline)) == SIZE

    long_ago = now_ms - 5 * HOUR  # so long ago that the deletion's mark has gone, too
    slow.write({0: [value(1, long_ago, "old")]})
    assert stored(server, pipeline, "old") is None


def test_a_clock_that_was_set_back_does_not_hold_up_later_records(make, server, pipeline, now_ms):
    writer = make()
    writer.begin([0])
    writer.write({0: [value(1, now_ms), tide(2, now_ms, now_ms)]})
    assert writer.write({0: [value(3, now_ms - 60_000)]}) == (1, 0, [])
    again = make()
    again.begin([0])

    assert again.write({0: [value(4, now_ms - 50_000)]}) == (1, 0, [])
    assert parts(stored(server, pipeline)) == (now_ms, 4)


def test_a_writer_goes_on_where_redis_is_and_a_new_view_begins_at_the_beginning(make, now_ms):
    writer = make()
    writer.begin([0, 1])
    writer.write({0: [tide(9, now_ms, now_ms)], 1: [value(4, now_ms)]})

    assert make().begin([0, 1]) == {0: 10, 1: 0}
    assert make(DEVICE, CARD).begin([0, 1]) == {0: 0, 1: 0}


@pytest.mark.parametrize("loss", ["flushed", "an older snapshot"])
def test_what_redis_has_lost_is_noticed_and_written_again(make, server, pipeline, now_ms, loss):
    writer, log = make(), []

    def write(*rows):
        log.extend(rows)
        return writer.write({0: rows})

    writer.begin([0])
    write(value(1, now_ms, "a"), tide(2, now_ms, now_ms))
    names = [*redis_keys(pipeline, "device", ["a", "b"]), tides_key(pipeline, "device")]
    snapshot = {name: server.dump(name) for name in names if server.exists(name)}
    write(value(3, now_ms, "b"), tide(4, now_ms + 1, now_ms + 1))
    server.delete(*names)
    if loss == "an older snapshot":
        for name, dumped in snapshot.items():
            server.restore(name, 0, dumped)

    assert write(tide(5, now_ms + 2, now_ms + 2)) == (0, 0, [0])
    start = writer.begin([0])[0]
    assert start == (0 if loss == "flushed" else 3)
    assert writer.write({0: [row for row in log if row.offset >= start]})[2] == []
    assert None not in (stored(server, pipeline, "a"), stored(server, pipeline, "b"))
    assert make().begin([0]) == {0: 6}


@settings(max_examples=25)
@given(seed=st.integers(0, 2**32))
def test_whatever_writers_do_the_last_of_the_log_stays(redis_url, seed):
    """Several writers write pieces of one log, again, late and in turns; at the end each key has its last record."""
    chance = random.Random(seed)
    client = redis.Redis.from_url(redis_url)
    seconds, _ = client.time()
    now, pipeline = seconds * 1000, f"p{seed}"
    client.delete(*redis_keys(pipeline, "device", "abc"), tides_key(pipeline, "device"))
    log = []
    for offset in range(30):
        at, key = now + chance.randrange(-2000, 2000), chance.choice("abc")
        log.append(chance.choice([value(offset, at, key), gone(offset, at, key), tide(offset, at, now + offset)]))
    writers = [FeatureWriter.connect(redis_url, pipeline) for _ in range(3)]
    for writer in writers:
        each = ViewWriter(writer, [DEVICE], 4)
        at = each.begin([0], anew=chance.random() < 0.5)[0]
        while at < len(log):
            upto = at + chance.randrange(1, 12)
            assert each.write({0: log[at:upto]})[2] == []
            at = upto if chance.random() < 0.8 else each.begin([0], anew=chance.random() < 0.5)[0]
    late = ViewWriter(writers[0], [DEVICE], 4)
    late.begin([0], anew=True)
    late.write({0: log[: chance.randrange(30)]})
    last = {row.key: row for row in log if row.key.startswith(b"view-")}

    for row in last.values():
        held = client.get(redis_keys(pipeline, "device", [row.key[-1:].decode()])[0])
        assert parts(held)[1] == row.offset
        assert held[SIZE:] == (row.value or b"")
    tides = [row.offset for row in log if row.key.startswith(b"tide")]
    mark = writers[0].marks("device").get(0)
    assert (mark.tide_ms - now if mark else None) == (max(tides) if tides else None)
    for each in (client, *writers):
        each.close()


def test_a_later_load_replaces_an_earlier_one_and_an_older_value_nothing(redis_url, server, pipeline):
    view = LoadedView("holder", (("claims", "number"),))
    writer = FeatureWriter.connect(redis_url, pipeline)

    assert writer.load(view, [("a", 1000, [1.0]), ("a", 3000, [2.0]), ("a", 2000, [3.0])]) == 2
    assert writer.load(view, [("a", 2999, [4.0])]) == 0
    assert writer.load(view, [("a", 3000, [5.0]), ("b", -5, [6.0])]) == 2
    assert server.get(redis_keys(pipeline, "holder", ["a"])[0])[SIZE:] == view.pack(0, [5.0])[SIZE:]
    writer.close()


def test_what_fails_is_named_without_a_value():
    writer = FeatureWriter.connect("redis://:hunter2@127.0.0.1:1/0", "p", timeout=0.2)
    with pytest.raises(RedisFailed, match=r"^ConnectionError$"):
        writer.put([(b"k", b"secret", None)])
