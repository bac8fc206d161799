"""What can happen to a Redis, each as something that begins and ends."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import redis

from console.redis_server import RedisServer
from tests.integration.relay import Relay


@dataclass
class Place:
    """A Redis, reached through a relay, and how its views are filled."""

    server: RedisServer
    relay: Relay
    url: str
    fill: Callable[[str], None]
    keys: tuple[str, ...] = ()
    """Keys of Redis that something may happen to."""
    broken: set[str] = field(default_factory=set)

    def client(self) -> redis.Redis:
        return redis.Redis.from_url(self.server.url, socket_timeout=5)


Fault: TypeAlias = "Callable[[Place], Any]"


@contextmanager
def killed(place: Place) -> Iterator[None]:
    """Down, and back without what it held, which is loaded again."""
    place.server.kill()
    yield
    place.server.start()
    place.fill(place.server.url)


@contextmanager
def stopped(place: Place) -> Iterator[None]:
    """It hangs: connections are taken, and nothing is answered."""
    with place.client() as client:
        pid = client.info("server")["process_id"]
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@contextmanager
def slow(place: Place) -> Iterator[None]:
    """Every answer takes 0.4 s, more than a batch may wait."""
    place.relay.delay = 0.2
    yield
    place.relay.mend()


@contextmanager
def trickling(place: Place) -> Iterator[None]:
    """An answer begins at once and comes drop by drop: no single read takes long."""
    place.relay.drips = True
    yield
    place.relay.mend()


@contextmanager
def cut(place: Place) -> Iterator[None]:
    """Connections end, and new ones at once, too."""
    place.relay.cut()
    yield
    place.relay.mend()


@contextmanager
def full(place: Place) -> Iterator[None]:
    """Out of memory: what writes is refused, what reads goes on."""
    with place.client() as client:
        client.config_set("maxmemory-policy", "noeviction")
        client.config_set("maxmemory", "1")
        yield
        client.config_set("maxmemory", "0")


@contextmanager
def read_only(place: Place) -> Iterator[None]:
    """A replica whose master is away: it serves what it has."""
    with place.client() as client:
        client.replicaof("127.0.0.1", "1")
        yield
        client.replicaof("NO", "ONE")


@contextmanager
def wrong_type(place: Place) -> Iterator[None]:
    """Someone has put a list where values should be."""
    with place.client() as client:
        held = {key: client.dump(key) for key in place.keys}
        for key in place.keys:
            client.delete(key)
            client.rpush(key, "a list")
        yield
        for key, dumped in held.items():
            client.restore(key, 0, dumped, replace=True)


LACKING_ALL = (killed, stopped, slow, trickling, cut)
"""In these no value can be had."""
LACKING_NONE = (full, read_only)
