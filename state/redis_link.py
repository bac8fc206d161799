"""One connection to a Redis server: a pipelined round trip within a time, whatever the server does.

redis-py connects (TLS, users, Sentinel); the round trip itself is made here on the socket with hiredis, since a
time-out of redis-py is one of each read, and a server that answers drop by drop would take many of them. Connecting is
a thread's work, so a handshake may take longer than a batch may wait, and a batch never waits for one after the other.

A link never raises. What could not be had is `Lack.UNAVAILABLE`.
"""

from __future__ import annotations

import logging
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from socket import socket
from typing import Any

import hiredis
import redis
from redis.connection import AbstractConnection

from state.breaker import Breaker
from state.redis_address import Connect
from state.retry_budget import RetryBudget
from state.views import Command, Lack

log = logging.getLogger(__name__)

CONNECT_SECONDS = 1.0
"""For a connection to be made and greeted."""
_PAUSES = (0.05, 0.1, 0.2, 0.5)
"""Seconds between tries to connect; the last one from then on."""
_NOT_YET = object()
_BROKEN = (redis.RedisError, OSError, hiredis.HiredisError)


@dataclass(slots=True)
class Sent:
    """Commands on their way."""

    request: bytes
    expected: int
    deadline: float
    out: bool = False
    refused: bool = False
    """By the circuit breaker."""
    may_retry: bool = False
    """Whether it was a connection that broke; where there was none, there is no use in another try."""


def read_errors(replies: list[Any]) -> list[Any]:
    """Errors as lacks: a server that answers with nothing else cannot be used, one that does could not read a key."""
    if replies and all(isinstance(reply, hiredis.ReplyError) and _is_failure(reply) for reply in replies):
        return [Lack.UNAVAILABLE] * len(replies)
    return [Lack.UNREADABLE if isinstance(reply, hiredis.ReplyError) else reply for reply in replies]


def _is_failure(error: hiredis.ReplyError) -> bool:
    """Whether it is about the server; another type at a key is not, nor a slot of a cluster that has moved."""
    return not str(error).startswith(("WRONGTYPE", "MOVED", "ASK"))


class Link:
    """Keeps one connection, and makes it again when it breaks."""

    def __init__(
        self,
        connect: Connect,
        *,
        timeout: float,
        breaker: Breaker,
        track: bool = False,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin to connect.

        Args:
            connect: makes a connection; called by a thread of the link's own.
            timeout: seconds that a round trip may take in all, waiting for a connection and a retry included.
            breaker: in front of the server.
            track: whether the server shall tell which of the keys that were read have changed since.
            now: monotonic seconds.
        """
        self._connect, self._timeout, self._now = connect, timeout, now
        self._breaker, self._retries = breaker, RetryBudget()
        self._track = track
        self._connection: AbstractConnection | None = None
        self._ready = threading.Event()
        self._away = False
        """Whether the last try to connect failed; then nobody waits for the next one."""
        self._closed = threading.Event()
        self._reader = hiredis.Reader()
        self._socket: socket | None = None
        self._buffer = bytearray(65536)
        self._changed: list[bytes] | None = []
        self._connect_in_background()

    @property
    def is_open(self) -> bool:
        """Whether the circuit breaker lets nothing through."""
        return self._breaker.is_open

    def ask(self, names: Sequence[bytes], commands: Sequence[Command] = ()) -> tuple[list[Any], list[Any]]:
        """See `Asks.ask`."""
        words = [*commands, (b"MGET", *names)] if names else list(commands)
        replies = read_errors(self.receive(self.send(words, self._now() + self._timeout)))
        if not names:
            return [], replies
        values = replies.pop()
        return (values if isinstance(values, list) else [values] * len(names)), replies

    def send(self, commands: Sequence[Command], deadline: float) -> Sent:
        """Send commands whose answers must be here at `deadline`, by the link's clock."""
        request = b"".join([hiredis.pack_command(command) for command in commands])  # type: ignore[arg-type] # any length
        sent = Sent(request, len(commands), deadline)
        sent.refused = not self._breaker.allows()
        if not sent.refused:
            try:
                self._write(sent)
            except _BROKEN as broken:
                sent.may_retry = self._drop(broken)
        return sent

    def receive(self, sent: Sent) -> list[Any]:
        """The answers to what was sent; instead of those that could not be had, `Lack.UNAVAILABLE`."""
        if sent.refused:
            return [Lack.UNAVAILABLE] * sent.expected
        while True:
            try:
                if not sent.out:
                    if not (sent.may_retry and self._now() < sent.deadline and self._retries.take()):
                        break
                    self._write(sent)  # the server had closed an old connection: a new one is made at once
                replies = self._read(sent)
            except _BROKEN as broken:
                sent.out, sent.may_retry = False, self._drop(broken)
                continue
            self._retries.earn()
            failed = all(isinstance(reply, hiredis.ReplyError) and _is_failure(reply) for reply in replies)
            (self._breaker.failed if failed else self._breaker.succeeded)()
            return replies
        self._breaker.failed()
        return [Lack.UNAVAILABLE] * sent.expected

    def changed(self) -> Iterable[bytes] | None:
        """See `Asks.changed`. Takes 1 µs where nothing was said."""
        if self._connection is not None and self._track:
            try:
                self._listen()
            except _BROKEN as broken:
                self._drop(broken)
        told, self._changed = self._changed, []
        return told

    def close(self) -> None:
        """Let go."""
        self._closed.set()
        self._forget_connection()

    def _write(self, sent: Sent) -> None:
        channel = self._channel(sent.deadline)
        channel.settimeout(self._left(sent.deadline))
        channel.sendall(sent.request)
        sent.out = True

    def _read(self, sent: Sent) -> list[Any]:
        channel = self._socket  # another thread may close the link at any moment
        if channel is None:
            raise redis.ConnectionError("the connection was closed")
        replies, late = list[Any](), False
        while len(replies) < sent.expected:
            reply = self._next()
            if reply is _NOT_YET:
                # Past the deadline one look is free: a node of a cluster that was waited for in vain must not take with
                # it what the others have answered long since.
                left = max(sent.deadline - self._now(), 0.0)
                if late and not left:
                    raise redis.TimeoutError("out of time")
                late = not left
                channel.settimeout(left)
                self._receive(channel)
            else:
                replies.append(reply)
        return replies

    def _channel(self, deadline: float) -> socket:
        """The socket of the connection, for which it waits until the deadline."""
        channel = self._socket
        if channel is None:
            if not self._ready.wait(0 if self._away else self._left(deadline)):
                raise redis.TimeoutError("no connection yet")
            connection = self._connection
            if connection is not None:
                channel = connection._get_socket()  # noqa: SLF001 -- redis-py lends its socket to nobody else
            if channel is None:
                raise redis.ConnectionError("the connection was closed")
            self._socket, self._reader = channel, hiredis.Reader(notEnoughData=_NOT_YET)
        return channel

    def _left(self, deadline: float) -> float:
        left = deadline - self._now()
        if left <= 0:
            raise redis.TimeoutError("out of time")
        return left

    def _next(self) -> Any:
        """The next answer that has come; what the server says unasked is put aside."""
        while isinstance(reply := self._reader.gets(), hiredis.PushNotification):
            self._note(reply)
        return reply

    def _receive(self, channel: socket) -> None:
        received = channel.recv_into(self._buffer)
        if not received:
            raise redis.ConnectionError("the server closed the connection")
        self._reader.feed(self._buffer, 0, received)  # type: ignore[arg-type] # it takes any buffer

    def _listen(self) -> None:
        """Take what the server has said unasked."""
        channel = self._channel(self._now() + 1.0)
        channel.settimeout(0)
        try:
            while True:
                self._receive(channel)
        except (BlockingIOError, InterruptedError, ssl.SSLWantReadError):
            pass
        if self._next() is not _NOT_YET:
            raise redis.ConnectionError("an answer to nothing")

    def _note(self, push: Any) -> None:
        if not push or push[0] != b"invalidate":
            return
        if push[1] is None:  # all keys were flushed
            self._changed = None
        elif self._changed is not None:
            self._changed += push[1]

    def _drop(self, broken: BaseException) -> bool:
        """Give a broken connection up, since what still comes from it belongs to no question, and make a new one."""
        if self._connection is None:
            return False  # one is being made
        log.info("the connection to Redis broke (%s); making a new one", type(broken).__name__)
        self._forget_connection()
        self._connect_in_background()
        return True

    def _forget_connection(self) -> None:
        connection, self._connection = self._connection, None
        self._socket = None
        self._ready.clear()
        if self._track:
            self._changed = None
        if connection is not None:
            connection.disconnect()  # type: ignore[no-untyped-call]

    def _connect_in_background(self) -> None:
        threading.Thread(target=self._keep_connecting, name="redis-connect", daemon=True).start()

    def _keep_connecting(self) -> None:
        tries = 0
        while not self._closed.is_set():
            try:
                connection = self._greeted()
            except Exception as broken:  # redis-py raises anything where a proxy answers HELLO in a way of its own
                self._away = True
                if tries == 0:
                    log.warning("could not connect to Redis (%s); trying again until it answers", type(broken).__name__)
                self._closed.wait(_PAUSES[min(tries, len(_PAUSES) - 1)])
                tries += 1
                continue
            if tries:
                log.info("connected to Redis again")
                self._breaker.try_soon()
            self._connection, self._away = connection, False
            self._ready.set()
            if self._closed.is_set():
                self._forget_connection()
            return

    def _greeted(self) -> AbstractConnection:
        """A connection that has answered, on which the server tells of changed keys where it can and should."""
        try:
            connection = self._connect(3 if self._track else 2)
        except redis.ResponseError:  # no HELLO: older than Redis 6, or a proxy
            self._cannot_track()
            connection = self._connect(2)
        try:
            connection.send_command(*(("CLIENT", "TRACKING", "ON") if self._track else ("PING",)))  # type: ignore[no-untyped-call]
            connection.read_response()
        except redis.ResponseError:  # an answer, too: the user may not ask for that
            if self._track:
                self._cannot_track()
        return connection

    def _cannot_track(self) -> None:
        self._track = False
        log.warning("Redis does not say which keys have changed (CLIENT TRACKING); cached values live until max_age")
