"""Loopback ports that nobody else will take."""

from __future__ import annotations

import random
import socket

_BELOW_EPHEMERAL = range(20_000, 32_000)
"""Linux hands out ports from 32,768 to outgoing connections: a server there can lose its port while it is down, and a
client that keeps trying to reach it can end up connected to itself."""


def free_port() -> int:
    """A TCP port of 127.0.0.1 for a server of this process or of a child; no other that asks gets it before this ends.

    Raises:
        OSError: two hundred tries found none.
    """
    return free_row(1)


def free_row(n: int) -> int:
    """The first of `n` such ports in a row.

    Each stays bound here, and nothing listens on it. Who asks for a port must be alone with it, and so does not find
    it free; the server allows others beside it (SO_REUSEADDR, as servers do), and so can bind it, and again after it
    was down.

    Raises:
        OSError: two hundred tries found none.
    """
    for _ in range(200):
        first = random.SystemRandom().choice(_BELOW_EPHEMERAL)
        row = [socket.socket() for _ in range(n)]
        try:
            for port, holder in enumerate(row, first):
                holder.bind(("127.0.0.1", port))
                holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        except OSError:
            for holder in row:
                holder.close()
            continue
        for holder in row:
            holder.detach()  # open until this process ends
        return first
    message = f"could not find {n} free loopback ports in a row between 20000 and 32000 in 200 tries"
    raise OSError(message)


def listening(port: int) -> bool:
    """Whether something accepts connections on this port of 127.0.0.1."""
    try:
        socket.create_connection(("127.0.0.1", port), 0.5).close()
    except OSError:
        return False
    return True
