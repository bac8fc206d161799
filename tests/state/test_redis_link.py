"""Connections to a Redis that answers as none does, and that are closed while a batch waits for them."""

from __future__ import annotations

import errno
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from state.breaker import Breaker
from state.cluster_link import ClusterLink
from state.redis_address import Address
from state.redis_link import Link
from state.views import Lack


class Proxy:
    """Answers each command as it is told, however wrong that is."""

    def __init__(self, answers: dict[bytes, bytes]) -> None:
        self.answers = answers
        self.asked: list[bytes] = []
        """Names of commands."""
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                channel, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(channel,), daemon=True).start()

    def _serve(self, channel: socket.socket) -> None:
        with channel:
            while request := channel.recv(4096):
                name = request.split(b"\r\n")[2].upper()
                self.asked.append(name)
                channel.sendall(self.answers.get(name, b"+OK\r\n"))


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    proxy = Proxy({b"MGET": b"*1\r\n$5\r\nvalue\r\n", b"GET": b"$5\r\nvalue\r\n"})
    yield proxy
    proxy.close()


def breaker() -> Breaker:
    return Breaker(1000, 0.01, time.monotonic)


def nodes(proxy: Proxy) -> bytes:
    """The answer to CLUSTER SLOTS: it has all of them."""
    return b"*1\r\n*3\r\n:0\r\n:16383\r\n*2\r\n$9\r\n127.0.0.1\r\n:%d\r\n" % proxy.port


GREETED = b"%1\r\n$5\r\nproto\r\n:3\r\n"


@pytest.mark.parametrize(
    "wrong", [b"+OK secret\r\n", b"*2\r\n$5\r\nproto\r\n:3\r\n", b":7\r\n"], ids=["text", "array", "number"]
)
def test_a_proxy_that_greets_wrongly_is_tried_until_it_does_not(
    wrong: bytes, proxy: Proxy, until: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    proxy.answers[b"HELLO"] = wrong
    link = Link(
        Address.parse(f"redis://127.0.0.1:{proxy.port}").connect(1.0), timeout=0.05, breaker=breaker(), track=True
    )
    until(lambda: proxy.asked.count(b"HELLO") >= 2, "it is tried again", timeout=5)
    assert link.ask([b"k"]) == ([Lack.UNAVAILABLE], [])
    proxy.answers[b"HELLO"] = GREETED

    until(lambda: link.ask([b"k"]) == ([b"value"], []), "it is read", timeout=5)
    assert "could not connect to Redis (" in caplog.text
    assert "secret" not in caplog.text
    link.close()


@pytest.mark.parametrize("wrong", [b"+OK\r\n", b":7\r\n", b"*1\r\n:7\r\n"], ids=["text", "number", "array"])
def test_a_cluster_that_names_its_nodes_wrongly_is_asked_until_it_does_not(
    wrong: bytes, proxy: Proxy, until: Callable[..., None]
) -> None:
    proxy.answers[b"CLUSTER"] = wrong
    link = ClusterLink(Address.parse(f"redis+cluster://127.0.0.1:{proxy.port}"), timeout=0.05, breaker=breaker)
    until(lambda: proxy.asked.count(b"CLUSTER") >= 2, "it is asked again", timeout=5)
    assert link.ask([b"k"]) == ([Lack.UNAVAILABLE], [])
    proxy.answers[b"CLUSTER"] = nodes(proxy)

    until(lambda: link.ask([b"k"]) == ([b"value"], []), "it is read", timeout=5)
    link.close()


class Closing:
    """A connection and its socket, on which half an answer comes and the link is closed by somebody else."""

    def __init__(self) -> None:
        self.close: Callable[[], object] | None = None

    def _get_socket(self) -> Closing:
        return self

    def recv_into(self, buffer: bytearray) -> int:
        if self.close is None:
            raise OSError(errno.EBADF, "closed")
        self.close()
        self.close = None
        buffer[:2] = b"*1"
        return 2

    def nothing(self, *_: Any) -> None:
        """Every other call."""

    send_command = read_response = disconnect = settimeout = sendall = nothing


@pytest.mark.parametrize("at", ["while it waits for a connection", "within an answer"])
def test_a_link_that_is_closed_under_a_batch_lacks_its_values(at: str, monkeypatch: pytest.MonkeyPatch) -> None:
    connection: Any = Closing()
    link = Link(lambda _: connection, timeout=0.5, breaker=breaker())
    assert link._ready.wait(5)
    if at == "within an answer":
        connection.close = link.close
    else:
        monkeypatch.setattr(link._ready, "wait", lambda _: [True, link.close()][0])

    assert link.ask([b"k"]) == ([Lack.UNAVAILABLE], [])


def test_the_link_to_a_node_that_has_gone_is_closed_by_the_thread_that_asks(
    proxy: Proxy, until: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another thread would take the socket from under a read, and its number may be another connection's by then."""
    closed_by = []
    monkeypatch.setattr(Link, "close", lambda _: closed_by.append(threading.current_thread()))
    other = Proxy({b"GET": b"$5\r\nother\r\n"})
    proxy.answers[b"CLUSTER"] = nodes(proxy)
    link = ClusterLink(Address.parse(f"redis+cluster://127.0.0.1:{proxy.port}"), timeout=0.05, breaker=breaker)
    until(lambda: link.ask([b"k"]) == ([b"value"], []), "it is read", timeout=5)
    proxy.answers |= {b"CLUSTER": nodes(other), b"GET": b""}

    until(lambda: link.ask([b"k"]) == ([b"other"], []), "the other node is read", timeout=5)
    assert closed_by == [threading.current_thread()]
    link.close()
    other.close()
