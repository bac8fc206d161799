"""Writing values of views to Redis: a newer one replaces an older one, whoever comes later.

The comparison is made in Redis by a script, so that any number of writers, slow ones, and the same one once more do no
harm. The rule for what was deleted: its place keeps the version of the deletion until any older value would have
expired (`state/view_writer.py`), so a slow writer cannot bring it back.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

import redis
from redis.exceptions import RedisClusterException

from state.redis_address import Address
from state.tides import MOVE, Mark, marks, tides_key
from state.versions import OLDER, SIZE
from state.views import LoadedView, redis_keys

Client: TypeAlias = "redis.Redis | redis.RedisCluster"

NEWER = f"""{OLDER}
local written = 0
for at, key in ipairs(KEYS) do
  local value = ARGV[2 * at - 1]
  local kind = redis.call('TYPE', key).ok
  local old = kind == 'string' and redis.call('GETRANGE', key, 0, {SIZE - 1}) or ''
  if (kind == 'none' or kind == 'string') and older(old, value) then
    local expires = ARGV[2 * at]
    if expires == '' then redis.call('SET', key, value) else redis.call('SET', key, value, 'PXAT', expires) end
    written = written + 1
  end
end
return written
"""
"""Sets each key that is absent or a string of an older version. ARGV: value, and Unix milliseconds of its end or ''.

What is of another type is somebody else's: it stays, and holds up no other key.
"""
_AT_ONCE = 100
"""Keys of one call of the script: Redis does nothing else for some 0.2 ms. In a cluster one, as they are anywhere."""

Entry: TypeAlias = "tuple[bytes, bytes, int | None]"
"""Redis key, value, Unix milliseconds at which it expires or None."""
Move: TypeAlias = "tuple[str, int, int, Mark, bytes]"
"""View, lane, number of lanes, how far it goes now, and the version that is known to be there or nothing."""


class RedisFailed(Exception):
    """Redis cannot be reached or refuses; the message names the kind of failure and no value."""


class FeatureWriter:
    """Writes values of one pipeline's views. What reads or writes them raises `RedisFailed` where Redis does not."""

    def __init__(self, client: Client, pipeline: str) -> None:
        """Write through `client`."""
        self._client = client
        self.pipeline = pipeline
        self._at_once = 1 if isinstance(client, redis.RedisCluster) else _AT_ONCE

    @classmethod
    def connect(cls, url: str, pipeline: str, *, timeout: float = 5.0) -> FeatureWriter:
        """Prepare a connection; the first write makes it, but for a cluster, whose nodes are asked for at once.

        Raises:
            ValueError: the URL is none of Redis.
            RedisFailed: the cluster cannot be reached.
        """
        address = Address.parse(url)
        with _failing():
            return cls(address.client(timeout), pipeline)

    def __repr__(self) -> str:
        return f"FeatureWriter(pipeline={self.pipeline!r})"

    def load(self, view: LoadedView, rows: Iterable[tuple[str, int, Sequence[float | str | None]]]) -> int:
        """Write (key, event time in Unix milliseconds, values in the view's order); of two of one time, the later row.

        Returns:
            How many were written; for the others Redis had a newer one, or something that is no value.
        """
        rows, now = list(rows), time.time_ns() // 1_000
        keys = redis_keys(self.pipeline, view.name, (key for key, _, _ in rows))
        moments = range(now, now + len(rows))
        return self.put(
            (key, view.pack(at, values, moment), None)
            for key, (_, at, values), moment in zip(keys, rows, moments, strict=True)
        )

    def put(self, entries: Iterable[Entry]) -> int:
        """Write packed values where they are newer, all in one round trip; say how many were."""
        entries = list(entries)
        if not entries:
            return 0
        with _failing(), self._client.pipeline(transaction=False) as pipeline:
            for at in range(0, len(entries), self._at_once):
                part = entries[at : at + self._at_once]
                words: list[Any] = [key for key, _, _ in part]
                words += [word for _, value, expires in part for word in (value, "" if expires is None else expires)]
                pipeline.execute_command("EVAL", NEWER, len(part), *words)  # EVALSHA: a new master may not know it
            return sum(pipeline.execute())

    def move(self, moves: Sequence[Move]) -> list[bool]:
        """Move the tides of lanes on, in one round trip; say of each whether Redis still had what it had before."""
        if not moves:
            return []
        with _failing(), self._client.pipeline(transaction=False) as pipeline:
            for view, lane, lanes, mark, known in moves:
                words = tides_key(self.pipeline, view), lane, lanes, mark.pack(), known
                pipeline.execute_command("EVAL", MOVE, 1, *words)
            return [lost is None for lost in pipeline.execute()]

    def marks(self, view: str) -> dict[int, Mark]:
        """Lane to how far the view goes in Redis."""
        with _failing():
            found: Any = self._client.hgetall(tides_key(self.pipeline, view))
        return marks(found)

    def count(self, view: str) -> int:
        """How many keys a view has, deleted ones that have not expired among them; reads the names of all of Redis."""
        prefix = f"penstock:{self.pipeline}:{view}:"  # names of pipelines and views have nothing special in them
        with _failing():
            return sum(1 for _ in self._client.scan_iter(f"{prefix}*", 1000))

    def evicts(self) -> str | None:
        """The policy by which Redis throws values away when memory is short; None where it does not, or does not say.

        A windowed view must not lose values that way: what is not there counts as nothing.
        """
        try:
            with _failing():
                policy: Any = self._client.config_get("maxmemory-policy")
        except RedisFailed:
            return None  # not allowed, as managed services have it
        found = str(policy.get("maxmemory-policy", "noeviction"))
        return None if found == "noeviction" else found

    def close(self) -> None:
        """Give the connection back."""
        self._client.close()

    def drop(self) -> None:
        """Forget connections, so that the next call looks anew where Redis is."""
        if isinstance(self._client, redis.Redis):
            self._client.connection_pool.disconnect()


@contextmanager
def _failing() -> Iterator[None]:
    try:
        yield
    except (redis.RedisError, RedisClusterException, OSError) as failure:  # its message quotes commands, and so values
        raise RedisFailed(type(failure).__name__) from None
