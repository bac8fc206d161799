"""Views in a Redis Cluster, behind Sentinels, and behind TLS and a user of its own: read, written, failed over."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis

from console.kafka_security import _write_certificates
from console.parts import PartFailed
from console.ports import free_port
from console.redis_server import RedisServer
from state.feature_writer import FeatureWriter, RedisFailed
from state.features import FeatureStore
from state.tides import Mark
from tests.integration.enriching import KEYS, PIPELINE, batch, enricher_of, fill, is_whole, is_without, lacking, timed
from tests.integration.redis_kinds import Absent, behind_sentinel, cluster_of, server

TIMEOUT = 0.25


@contextmanager
def reading(url: str, **more: Any) -> Iterator[FeatureStore]:
    """Short breaker and no cache, so that what Redis does shows at once."""
    store = FeatureStore.connect(url, PIPELINE, timeout=TIMEOUT, reset=0.3, **({"max_age": 0.0} | more))
    try:
        yield store
    finally:
        store.close()


# --- Cluster ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def cluster(tmp_path: Path, absent: Absent, until: Callable[..., None]) -> Iterator[list[RedisServer]]:
    with cluster_of(tmp_path, absent, until) as nodes:
        yield nodes


def test_a_cluster_is_read_by_node_and_a_node_that_died_is_taken_over(
    cluster: list[RedisServer], until: Callable[..., None]
) -> None:
    url = "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in cluster[1:3])
    fill(url)
    with reading(url) as store:
        enricher = enricher_of(store)
        until(lambda: is_whole(enricher.work(batch())), "all nodes are read", timeout=5)
        writer = FeatureWriter.connect(url, PIPELINE)
        assert writer.move([("holder", lane, 4, Mark(1, 7, 9), b"") for lane in range(4)]) == [True] * 4
        assert writer.marks("holder")[3] == Mark(1, 7, 9)

        with redis.RedisCluster.from_url(f"redis://127.0.0.1:{cluster[1].port}") as client:
            first = [
                key for key in KEYS if client.get_node_from_key(f"penstock:claims:holder:{key}").port == cluster[0].port
            ]
        assert 0 < len(first) < len(KEYS)
        cluster[0].kill()
        killed = time.monotonic()
        assert lacking(enricher.work(batch())) == first
        until(lambda: is_whole(enricher.work(batch())), "the replica is read", timeout=5)
        print(f"read again {time.monotonic() - killed:.2f} s after its node was killed")
        writer.close()


def test_a_node_that_hangs_takes_no_answer_of_the_others_with_it(
    cluster: list[RedisServer], until: Callable[..., None]
) -> None:
    """It is the first to be waited for, until the time is over."""
    url = f"redis+cluster://127.0.0.1:{cluster[0].port}"
    fill(url)
    with reading(url) as store, redis.RedisCluster.from_url(f"redis://127.0.0.1:{cluster[1].port}") as client:
        enricher = enricher_of(store)
        until(lambda: is_whole(enricher.work(batch())), "all nodes are read", timeout=5)
        node = {key: client.get_node_from_key(f"penstock:claims:holder:{key}").port for key in KEYS}
        with redis.Redis(port=node[KEYS[0]]) as first:
            pid = first.info("server")["process_id"]
        os.kill(pid, signal.SIGSTOP)
        try:
            done = enricher.work(batch())
        finally:
            os.kill(pid, signal.SIGCONT)

    assert lacking(done) == [key for key in KEYS if node[key] == node[KEYS[0]]]


def test_who_writes_to_a_cluster_that_is_gone_learns_it_as_of_any_redis(cluster: list[RedisServer]) -> None:
    """By `RedisFailed`, for which the job `views` waits, also where the client's own error is none of Redis'."""
    writer = FeatureWriter.connect(f"redis+cluster://127.0.0.1:{cluster[0].port}", PIPELINE, timeout=1.0)
    move: Any = [("holder", 0, 4, Mark(1, 7, 9), b"")]
    assert writer.move(move) == [True]
    for node in cluster:
        node.kill()
    for call in (lambda: writer.move(move), lambda: writer.marks("holder"), lambda: writer.count("holder")):
        with pytest.raises(RedisFailed):
            call()
    writer.close()


def test_nobody_waits_for_a_cluster_of_which_no_node_answers(until: Callable[..., None]) -> None:
    with reading(f"redis+cluster://127.0.0.1:{free_port()}") as store:
        until(lambda: store._link._away, "it has asked all nodes", timeout=5)
        done, seconds = timed(enricher_of(store))

    assert is_without(done)
    assert seconds < TIMEOUT


def test_a_slot_that_moved_is_found(cluster: list[RedisServer], until: Callable[..., None]) -> None:
    url = f"redis+cluster://127.0.0.1:{cluster[0].port}"
    fill(url)
    with reading(url, entries=100, max_age=60.0) as store, ExitStack() as stack:
        enricher = enricher_of(store)
        until(lambda: is_whole(enricher.work(batch())), "all nodes are read", timeout=5)
        nodes = [stack.enter_context(redis.Redis.from_url(node.url)) for node in cluster[:3]]
        name = f"penstock:claims:holder:{KEYS[5]}"
        slot = nodes[0].cluster("keyslot", name)
        source = next(n for n, client in enumerate(nodes) if client.cluster("getkeysinslot", slot, 1))
        target = (source + 1) % 3
        ids = [client.execute_command("CLUSTER MYID") for client in nodes]
        nodes[target].execute_command("CLUSTER SETSLOT", slot, "IMPORTING", ids[source])
        nodes[source].execute_command("CLUSTER SETSLOT", slot, "MIGRATING", ids[target])
        nodes[source].execute_command("MIGRATE", "127.0.0.1", cluster[target].port, name, 0, 5000)
        store._cache.clear()
        assert is_whole(enricher.work(batch())), "while it moves, it is asked for where it is (ASK)"
        for client in nodes:
            client.execute_command("CLUSTER SETSLOT", slot, "NODE", ids[target])
        store._cache.clear()
        assert is_whole(enricher.work(batch())), "and when it has moved (MOVED)"


# --- Sentinel --------------------------------------------------------------------------------------------------------


def test_sentinels_tell_who_the_master_is(tmp_path: Path, absent: Absent, until: Callable[..., None]) -> None:
    with behind_sentinel(tmp_path, absent, until) as (master, replica, url), ExitStack() as stack:
        fill(url)
        until(lambda: _keys(replica) == len(KEYS), "the replica has them", timeout=5)
        store = stack.enter_context(reading(url))
        enricher = enricher_of(store)
        until(lambda: is_whole(enricher.work(batch())), "the master is read", timeout=5)
        master.kill()
        assert is_without(enricher.work(batch()))
        killed = time.monotonic()
        until(lambda: is_whole(enricher.work(batch())), "the new master is read", timeout=10)
        print(f"read again {time.monotonic() - killed:.2f} s after the master was killed")
        until(lambda: _quietly(lambda: fill(url) is None), "the new master takes values", timeout=5)


def _quietly(ask: Callable[[], bool]) -> bool:
    try:
        return ask()
    except (redis.RedisError, RedisFailed):
        return False


def _keys(server: RedisServer) -> int:
    with redis.Redis.from_url(server.url) as client:
        return int(client.dbsize())  # type: ignore[arg-type]


# --- TLS and users ---------------------------------------------------------------------------------------------------

READER = "on >reads resetkeys ~penstock:* -@all +mget +get +hgetall +hmget +client|tracking"
WRITER = "on >writes resetkeys ~penstock:* -@all +eval +type +getrange +set +hget +hset +hgetall"


@pytest.fixture
def secured(tmp_path: Path, absent: Absent) -> Iterator[Callable[[str, str], str]]:
    """A server with TLS and two users who may do no more than what Penstock needs; gives their addresses."""
    ca, node, port = tmp_path / "ca.pem", tmp_path / "node.pem", free_port()
    _write_certificates(ca, node)
    tls = f"--tls-port {port} --tls-cert-file {node} --tls-key-file {node} --tls-ca-cert-file {ca}"
    users = f"--user reader {READER} --user writer {WRITER} --user default off"
    made = server(tmp_path / "redis", absent, *tls.split(), *users.split())
    try:
        with made:
            us = f"ssl_certfile={node}&ssl_keyfile={node}"  # a client shows a certificate, too
            yield lambda user, password: f"rediss://{user}:{password}@localhost:{port}/0?{us}&ssl_ca_certs={ca}"
    except PartFailed as failed:
        if "Bad directive" not in str(failed):
            raise
        absent("this Redis was built without TLS")


def test_tls_and_users_with_as_little_as_is_needed(
    secured: Callable[[str, str], str], until: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    fill(secured("writer", "writes"))
    with reading(secured("reader", "reads"), entries=1000, max_age=60.0) as store:
        enricher = enricher_of(store)
        until(lambda: is_whole(enricher.work(batch())), "it is read", timeout=5)
        assert "CLIENT TRACKING" not in caplog.text, "the user may be told what has changed"
    with reading(secured("reader", "hunter2")) as store:
        assert is_without(enricher_of(store).work(batch()))
        until(lambda: "could not connect to Redis (AuthenticationError)" in caplog.text, "it is said", timeout=5)
    with reading(secured("reader", "reads").partition("&ssl_ca")[0]) as store:
        assert is_without(enricher_of(store).work(batch())), "whose certificate nobody vouches for is not talked to"
    writer = FeatureWriter.connect(secured("reader", "reads"), PIPELINE)
    with pytest.raises(RedisFailed, match=r"^NoPermissionError$"):
        writer.put([(b"penstock:claims:holder:x", b"v" * 16, None)])
    writer.close()
    assert "hunter" not in caplog.text
