"""Loopback ports that nobody else will take."""

from __future__ import annotations

import random
import socket

_BELOW_EPHEMERAL = range(20_000, 32_000)
"""Linux hands out ports from 32,768 to outgoing connections: a server there can lose its port while it is down, and a
client that keeps trying to reach it can end up connected to itself."""


def free_port() -> int:
    """A TCP port of 127.0.0.1 on which nothing listens now.

    Raises:
        OSError: two hundred tries found none.
    """
    for _ in range(200):
        port = random.SystemRandom().choice(_BELOW_EPHEMERAL)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    message = "could not find a free loopback port between 20000 and 32000 in 200 tries"
    raise OSError(message)


def listening(port: int) -> bool:
    """Whether something accepts connections on this port of 127.0.0.1."""
    try:
        socket.create_connection(("127.0.0.1", port), 0.5).close()
    except OSError:
        return False
    return True
