"""A TCP relay in front of a broker's advertised listener, which can be slow, or be cut off.

`broker_behind_relay(folder)` gives a broker that tells its clients the relay's address, so everything they say to it
goes through here. Loopback only; at most `MOST` connections; nothing is held back but one chunk for each direction.
"""

from __future__ import annotations

import contextlib
import select
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from console.embedded import KafkaServer
from console.ports import free_port

MOST, CHUNK = 256, 65_536


class Relay:
    """Forwards every connection to `port` on to `target`, both of this machine."""

    def __init__(self, port: int, target: int) -> None:
        self.delay = 0.0
        """Seconds that each chunk waits, in each direction."""
        self.rate = float("inf")
        """Bytes a second of one direction of one connection."""
        self.drips = False
        """Whether answers come 64 bytes at a time, 20 ms apart."""
        self.port = port
        self._target, self._open = target, threading.Event()
        self._open.set()
        self._pairs: set[socket.socket] = set()
        self._ending = threading.Event()
        self._places = threading.Semaphore(MOST)
        self._listener = socket.create_server(("127.0.0.1", port))
        threading.Thread(target=self._accept, name="relay", daemon=True).start()

    def cut(self) -> None:
        """Drop every connection, and each new one at once, as when no broker can be reached."""
        self._open.clear()
        for side in list(self._pairs):
            with contextlib.suppress(OSError):
                side.shutdown(socket.SHUT_RDWR)

    def mend(self) -> None:
        """Let connections through again, at full speed."""
        self.delay, self.rate, self.drips = 0.0, float("inf"), False
        self._open.set()

    def close(self) -> None:
        self._ending.set()
        self.cut()
        self._listener.close()

    def _accept(self) -> None:
        while not self._ending.is_set():
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if not self._open.is_set() or not self._places.acquire(blocking=False):
                client.close()
                continue
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with self._places_given_back(), client, contextlib.suppress(OSError), self._to_broker() as broker:
            self._pairs |= {client, broker}
            other = threading.Thread(target=self._pump, args=(broker, client), kwargs={"answers": True}, daemon=True)
            other.start()
            self._pump(client, broker)
            other.join()
            self._pairs -= {client, broker}

    def _to_broker(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self._target), 5)

    @contextmanager
    def _places_given_back(self) -> Iterator[None]:
        try:
            yield
        finally:
            self._places.release()

    def _pump(self, source: socket.socket, sink: socket.socket, *, answers: bool = False) -> None:
        with contextlib.suppress(OSError):
            while not self._ending.is_set():
                if not select.select([source], [], [], 0.5)[0]:
                    continue
                if not (chunk := source.recv(CHUNK)):
                    break
                time.sleep(self.delay + len(chunk) / self.rate)
                size, pause = (64, 0.02) if answers and self.drips else (CHUNK, 0)
                for at in range(0, len(chunk), size):
                    time.sleep(pause)
                    sink.sendall(chunk[at : at + size])
        for side in (source, sink):
            with contextlib.suppress(OSError):
                side.shutdown(socket.SHUT_RDWR)


@contextmanager
def broker_behind_relay(folder: Path) -> Iterator[tuple[KafkaServer, Relay]]:
    """A broker of one's own whose clients all come through a relay."""
    door = free_port()
    server = KafkaServer(folder, settings={"advertised.listeners": f"PLAINTEXT://127.0.0.1:{door}"})
    relay = Relay(door, server.port)
    try:
        with server:
            yield server, relay
    finally:
        relay.close()


def java(server: KafkaServer) -> int:
    """The broker's own process, below its watcher."""
    assert server._child is not None
    watcher = server._child._watcher.pid
    return int(Path(f"/proc/{watcher}/task/{watcher}/children").read_text().split()[0])
