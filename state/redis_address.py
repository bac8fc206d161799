"""The address of Redis: one server, a Sentinel's master or a cluster, with TLS, users and passwords.

    redis://user:password@host:6379/0                      rediss://…?ssl_ca_certs=/etc/redis/ca.pem
    unix:///run/redis.sock?db=0
    redis+sentinel://user:password@host1:26379,host2/master/0?sentinel_username=…&sentinel_password=…
    redis+cluster://user:password@host1:6379,host2:6379    rediss+cluster://… and rediss+sentinel://…

What follows `?` are redis-py's own options of a connection, such as ssl_ca_certs, ssl_certfile and ssl_keyfile. An
address holds the password, so no message and no repr quotes it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias
from urllib.parse import urlsplit

import redis
from redis.backoff import NoBackoff
from redis.connection import AbstractConnection, Connection, parse_url
from redis.maint_notifications import MaintNotificationsConfig
from redis.retry import Retry
from redis.sentinel import Sentinel

SCHEMES = (
    "redis://",
    "rediss://",
    "unix://",
    "redis+sentinel://",
    "rediss+sentinel://",
    "redis+cluster://",
    "rediss+cluster://",
)
Connect: TypeAlias = "Callable[[int], AbstractConnection]"
"""Version of the protocol to a connection that is made and greeted. Raises `redis.RedisError` or `OSError`."""
_SENTINEL_PORT = 26379
_REDIS_PORT = 6379


@dataclass(frozen=True)
class Address:
    """Where Redis is and how to get in."""

    kind: Literal["server", "sentinel", "cluster"]
    hosts: tuple[tuple[str, int], ...] = field(repr=False)
    """Of the server, the Sentinels, or some nodes of the cluster."""
    options: Mapping[str, Any] = field(repr=False)
    """Of a connection to a server, with `connection_class`; without host and port."""
    master: str = ""
    """Name by which the Sentinels know it."""
    of_sentinels: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """Options of a connection to a Sentinel."""

    @classmethod
    def parse(cls, url: str) -> Address:
        """Read a URL.

        Raises:
            ValueError: it is none of the above; the message does not quote it.
        """
        scheme = next((scheme for scheme in SCHEMES if url.startswith(scheme)), None)
        if scheme is None:
            raise ValueError(f"expected a URL that begins with {', '.join(SCHEMES)}")
        secure, _, kind = scheme.removesuffix("://").partition("+")
        places, rest = _places(url, kind)
        try:
            options: dict[str, Any] = parse_url(f"{secure}:{rest}")  # type: ignore[no-untyped-call]
            hosts = tuple(_host(place, _SENTINEL_PORT if kind == "sentinel" else _REDIS_PORT) for place in places)
        except ValueError:  # its message may quote a part of the password
            raise ValueError("expected a URL such as redis://host:6379/0, whose port is a number up to 65535") from None
        given = options.pop("host", "localhost"), options.pop("port", _REDIS_PORT)
        of_sentinels = {
            name.removeprefix("sentinel_"): options.pop(name) for name in list(options) if name.startswith("sentinel_")
        }
        if not kind:
            return cls("server", (given,), options)
        if kind == "cluster":
            return cls("cluster", hosts, {**options, "db": 0})
        _, master, *db = [*urlsplit(rest).path.split("/"), ""]
        if not master:
            raise ValueError("expected redis+sentinel://host1,host2/NAME-OF-THE-MASTER/0")
        options["db"] = int(db[0]) if db[0].isdigit() else 0
        return cls("sentinel", hosts, options, master, of_sentinels)

    def connect(self, timeout: float) -> Connect:
        """What makes a connection to the server, or to the master that the Sentinels name; `timeout` in seconds."""
        if self.kind == "sentinel":
            return lambda protocol: self.open(self._ask_sentinels(timeout), timeout, protocol)
        return lambda protocol: self.open(self.hosts[0], timeout, protocol)

    def open(self, host: tuple[str, int], timeout: float, protocol: int = 2) -> AbstractConnection:
        """Connect to one server and greet it.

        Raises:
            redis.RedisError: it cannot be reached, or does not let us in.
        """
        options = dict(self.options)
        made = options.pop("connection_class", Connection)
        if "path" not in options:
            options["host"], options["port"] = host
        connection: AbstractConnection = made(**options, **self._plainly(timeout), protocol=protocol)
        connection.connect()  # type: ignore[no-untyped-call]
        return connection

    def client(self, timeout: float) -> redis.Redis | redis.RedisCluster:
        """A client for commands, which waits `timeout` seconds for each; for writers and tools, not for decisions."""
        plainly: dict[str, Any] = self._plainly(timeout) | {"protocol": 2}
        options = dict(self.options)
        made = options.pop("connection_class", Connection)
        if self.kind == "cluster":
            options.pop("db", None)
            secure = issubclass(made, redis.SSLConnection)
            nodes = [redis.cluster.ClusterNode(*each) for each in self.hosts]  # type: ignore[no-untyped-call]
            return redis.RedisCluster(startup_nodes=nodes, ssl=secure, **options, **plainly)
        if self.kind == "sentinel":
            secure = issubclass(made, redis.SSLConnection)
            master: redis.Redis = self._sentinel(timeout).master_for(self.master, ssl=secure, **options, **plainly)
            return master
        if "path" not in options:
            options["host"], options["port"] = self.hosts[0]
        pool = redis.ConnectionPool(connection_class=made, **options, **plainly)
        return redis.Redis.from_pool(pool)

    def _ask_sentinels(self, timeout: float) -> tuple[str, int]:
        host, port = self._sentinel(timeout).discover_master(self.master)
        return str(host), int(port)

    def _sentinel(self, timeout: float) -> Any:
        secure = issubclass(self.options.get("connection_class", Connection), redis.SSLConnection)
        tls = {name: value for name, value in self.options.items() if name.startswith("ssl_")} | {"ssl": secure}
        return Sentinel(  # type: ignore[no-untyped-call]
            list(self.hosts),
            sentinel_kwargs={**(tls if secure else {}), **self.of_sentinels, **self._plainly(timeout), "protocol": 2},
        )

    @staticmethod
    def _plainly(timeout: float) -> dict[str, Any]:
        """No retries and no announcements: a new connection answers sooner, and who asks decides on another try."""
        return {
            "socket_timeout": timeout,
            "socket_connect_timeout": timeout,
            "retry": Retry(NoBackoff(), 0),
            "driver_info": None,
            "maint_notifications_config": MaintNotificationsConfig(enabled=False),
        }


def _places(url: str, kind: str) -> tuple[list[str], str]:
    """The hosts of a list, and the rest as a URL without scheme and list, which redis-py can read."""
    _, _, rest = url.partition("://")
    if not kind:
        return [], f"//{rest}"
    end = next((at for at, letter in enumerate(rest) if letter in "/?#"), len(rest))
    user, at, hosts = rest[:end].rpartition("@")
    return hosts.split(","), f"//{user}{at}localhost{rest[end:]}"


def _host(place: str, port: int) -> tuple[str, int]:
    parsed = urlsplit(f"//{place}")
    if not parsed.hostname:
        raise ValueError
    return parsed.hostname, parsed.port or port


def nodes_of(slots: Sequence[Any], asked: str) -> list[tuple[int, int, tuple[str, int]]]:
    """(first slot, last slot, (host, port) of the master) from the answer to CLUSTER SLOTS of the host `asked`."""
    return [
        (int(first), int(last), (master[0].decode() if master[0] else asked, int(master[1])))
        for first, last, master, *_ in slots
    ]
