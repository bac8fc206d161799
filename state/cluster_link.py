"""A Redis Cluster: a link to each master, asked all at once; what one node does not answer is lacking, and no more.

Which node has which slot is asked for in a thread, at the beginning and whenever something was not where it should be.
A key that has moved is asked for once more where it is now, within the same time.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, TypeAlias

import hiredis
from redis.crc import key_slot

from state.breaker import Breaker
from state.redis_address import Address, nodes_of
from state.redis_link import CONNECT_SECONDS, Link, read_errors
from state.views import Command, Lack

log = logging.getLogger(__name__)

Node: TypeAlias = "tuple[str, int]"
_SLOTS = 16384
_PAUSE = 0.25
"""Seconds between two times that the cluster is asked for its nodes."""


class ClusterLink:
    """Links to all masters."""

    def __init__(
        self,
        address: Address,
        *,
        timeout: float,
        breaker: Callable[[], Breaker],
        track: bool = False,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin to find the nodes. `breaker` makes one for each of them; for the others see `Link`."""
        self._address, self._timeout, self._breaker, self._track, self._now = address, timeout, breaker, track, now
        self._links: dict[Node, Link] = {}
        self._retired: list[Link] = []
        """Of nodes that are masters no more. The thread that asks closes them, for it may still wait for one."""
        self._slots: list[Node] = []
        self._found = threading.Event()
        self._away = False
        """Whether no node has answered yet although all were asked; then no batch waits for one."""
        self._asking = threading.Lock()
        self._ask_at = 0.0
        self._closed = threading.Event()
        self._moved = False
        self._find_nodes()

    @property
    def is_open(self) -> bool:
        """Whether the circuit breaker of any node lets nothing through."""
        return any(link.is_open for link in list(self._links.values()))

    def ask(self, names: Sequence[bytes], commands: Sequence[Command] = ()) -> tuple[list[Any], list[Any]]:
        """See `state.link.Asks.ask`."""
        self._close_retired()
        deadline = self._now() + self._timeout
        questions = [*commands, *((b"GET", name) for name in names)]
        replies: list[Any] = [Lack.UNAVAILABLE] * len(questions)
        if self._found.wait(0 if self._away else max(deadline - self._now(), 0)):
            slots = self._slots
            where = {at: (slots[key_slot(words[1])], False) for at, words in enumerate(questions)}
            moved = self._round_trip(questions, replies, where, deadline)
            if moved and self._now() < deadline:
                self._round_trip(questions, replies, moved, deadline)
            if moved or Lack.UNAVAILABLE in replies:
                self._find_nodes()
        replies = [None if _is(reply, "WRONGTYPE") else reply for reply in replies]
        replies = [read_errors([reply])[0] for reply in replies]
        return replies[len(commands) :], replies[: len(commands)]

    def changed(self) -> Iterable[bytes] | None:
        """See `state.link.Asks.changed`."""
        told = [link.changed() for link in list(self._links.values())]
        moved, self._moved = self._moved, False
        if moved or None in told:
            return None
        return [name for names in told for name in names or ()]

    def close(self) -> None:
        """Let go."""
        self._closed.set()
        self._close_retired()
        for link in list(self._links.values()):
            link.close()

    def _close_retired(self) -> None:
        while self._retired:
            self._retired.pop().close()

    def _round_trip(
        self, questions: Sequence[Command], replies: list[Any], where: dict[int, tuple[Node, bool]], deadline: float
    ) -> dict[int, tuple[Node, bool]]:
        """Ask each node its questions, and fill in the answers; question to where it is, for those that have moved."""
        by_node: dict[Node, list[int]] = defaultdict(list)
        for at, (node, _) in where.items():
            by_node[node].append(at)
        sent = []
        for node, places in by_node.items():
            link = self._link(node)
            words = [word for at in places for word in ((b"ASKING",), questions[at])[not where[at][1] :]]
            sent.append((link, places, link.send(words, deadline)))
        moved = {}
        for link, places, pending in sent:
            answers = iter(link.receive(pending))
            for at in places:
                if where[at][1]:
                    next(answers)  # to ASKING
                reply = replies[at] = next(answers)
                if _is(reply, "MOVED") or _is(reply, "ASK"):
                    kind, slot, place = str(reply).split(" ")[:3]
                    host, _, port = place.rpartition(":")
                    node = (host or self._address.hosts[0][0], int(port))
                    moved[at] = node, kind == "ASK"
                    self._moved = True
                    if kind == "MOVED":
                        self._slots[int(slot)] = node
        return moved

    def _link(self, node: Node) -> Link:
        link = self._links.get(node)  # looked up once: another thread may take it out
        if link is None:
            connect = partial(self._address.open, node, CONNECT_SECONDS)
            link = self._links[node] = Link(
                connect, timeout=self._timeout, breaker=self._breaker(), track=self._track, now=self._now
            )
        return link

    def _find_nodes(self) -> None:
        """Ask the cluster in a thread for its nodes, unless one is asking or has just asked."""
        if self._now() >= self._ask_at and self._asking.acquire(blocking=False):
            threading.Thread(target=self._ask_cluster, name="redis-cluster", daemon=True).start()

    def _ask_cluster(self) -> None:
        tries = 0
        try:
            while not self._closed.is_set():
                nodes = next(filter(None, map(self._nodes, [*self._links, *self._address.hosts])), None)
                if nodes:
                    self._take(nodes)
                    return
                self._away = True
                if not tries:
                    log.warning("no node of the Redis cluster answers; asking again until one does")
                tries += 1
                self._closed.wait(_PAUSE)
        finally:
            self._ask_at = self._now() + _PAUSE
            self._asking.release()

    def _nodes(self, node: Node) -> list[tuple[int, int, Node]] | None:
        """Which node has which slots, as one of them says; None where it does not."""
        try:
            connection = self._address.open(node, CONNECT_SECONDS)
            try:
                connection.send_command("CLUSTER", "SLOTS")  # type: ignore[no-untyped-call]
                return nodes_of(connection.read_response(), node[0])
            finally:
                connection.disconnect()  # type: ignore[no-untyped-call]
        except Exception:  # also where what answers is no cluster, and says something else than redis-py expects
            return None

    def _take(self, nodes: list[tuple[int, int, Node]]) -> None:
        slots = [nodes[0][2]] * _SLOTS
        for first, last, node in nodes:
            slots[first : last + 1] = [node] * (last + 1 - first)
        if slots != self._slots:
            self._moved = bool(self._slots)
            self._slots = slots
        for node in [node for node in list(self._links) if node not in slots]:
            self._retired.append(self._links.pop(node))
        for node in set(slots):
            self._link(node)  # which begins to connect
        self._found.set()


def _is(reply: Any, kind: str) -> bool:
    return isinstance(reply, hiredis.ReplyError) and str(reply).startswith(f"{kind} ")
