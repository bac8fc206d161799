"""Redis as a cluster, and behind Sentinels: real servers that find by themselves that one of them died."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NoReturn

import redis

from console.embedded import PartMissing
from console.ports import free_port
from console.redis_server import RedisServer
from console.tether import Child

Absent = Callable[[str], NoReturn]
AT_ONCE = ("--repl-diskless-sync-delay", "0")
"""A replica's first copy begins when it asks; by default 5 s later."""


def server(folder: Path, absent: Absent, *options: str) -> RedisServer:
    try:
        return RedisServer(folder, options=options)
    except PartMissing as missing:
        absent(f"a real Redis cannot be started: {missing}")


@contextmanager
def cluster_of(folder: Path, absent: Absent, until: Callable[..., None]) -> Iterator[list[RedisServer]]:
    """Three masters, and a replica of the first."""
    with ExitStack() as stack:
        options = ("--cluster-enabled", "yes", "--cluster-node-timeout", "500", *AT_ONCE)
        options += ("--cluster-require-full-coverage", "no")  # else all nodes refuse while one is away
        # Else it is the port plus 10,000: one that may have been handed out to an outgoing connection.
        buses = [str(free_port()) for _ in range(4)]
        nodes = [
            stack.enter_context(server(folder / str(n), absent, *options, "--cluster-port", bus))
            for n, bus in enumerate(buses)
        ]
        clients = [stack.enter_context(redis.Redis.from_url(node.url)) for node in nodes]
        for n, client in enumerate(clients):
            client.execute_command("CLUSTER SET-CONFIG-EPOCH", n + 1)
            if n < 3:
                client.execute_command("CLUSTER ADDSLOTSRANGE", n * 5461, 16383 if n == 2 else n * 5461 + 5460)
            if n:
                client.execute_command("CLUSTER MEET", "127.0.0.1", nodes[0].port, buses[0])
        until(
            lambda: all(len(client.cluster("nodes")) == 4 for client in clients),
            "all nodes know each other",
            timeout=10,
        )
        clients[3].execute_command("CLUSTER REPLICATE", clients[0].execute_command("CLUSTER MYID"))
        up = {"cluster_state": "ok"}.items()
        until(lambda: all(up <= client.cluster("info").items() for client in clients), "the cluster is up", timeout=10)
        until(
            lambda: clients[3].info("replication").get("master_link_status") == "up", "the replica follows", timeout=10
        )
        yield nodes


@contextmanager
def sentinel(folder: Path, master: RedisServer) -> Iterator[int]:
    """A Sentinel that finds a master dead after 300 ms; its port."""
    port, file = free_port(), folder / "sentinel.conf"
    file.write_text(
        f"port {port}\nbind 127.0.0.1\ndir {folder}\nsentinel monitor views 127.0.0.1 {master.port} 1\n"
        "sentinel down-after-milliseconds views 300\nsentinel failover-timeout views 1000\n"
    )
    child = Child("Sentinel", [master._program, str(file), "--sentinel"], folder / "sentinel.log")
    try:
        yield port
    finally:
        child.kill()


@contextmanager
def behind_sentinel(
    folder: Path, absent: Absent, until: Callable[..., None]
) -> Iterator[tuple[RedisServer, RedisServer, str]]:
    """A master, a replica that follows it, and the address by which a Sentinel that knows both tells the master."""
    with ExitStack() as stack:
        master = stack.enter_context(server(folder / "a", absent, *AT_ONCE))
        replica = stack.enter_context(server(folder / "b", absent, "--replicaof", "127.0.0.1", str(master.port)))
        port = stack.enter_context(sentinel(folder, master))

        def knows_both() -> bool:
            try:
                with redis.Redis(port=port) as client:
                    return len(client.sentinel_slaves("views")) == 1
            except redis.RedisError:
                return False

        until(knows_both, "the Sentinel knows both", timeout=10)
        yield master, replica, f"redis+sentinel://127.0.0.1:1,127.0.0.1:{port}/views/0"
