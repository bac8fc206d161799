"""The HTTP side of a process: `/metrics`, `/healthz`, `/readyz`; in the launcher also `/slots` and one scrape for all.

A thread answers each request, at most `MOST_REQUESTS` at a time, none longer than `PATIENCE` seconds without a byte.
Nothing can be changed through it: it answers GET and HEAD only, and shows no event, key or value.
"""

from __future__ import annotations

import contextlib
import http.client
import socket
import threading
import urllib.request
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, TypeAlias

import orjson
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from operators import metrics as counted

Verdict: TypeAlias = "tuple[bool, str]"
"""Whether it is so, and why, in plain words."""

MOST_REQUESTS = 16
PATIENCE = 5.0
"""Seconds a client may keep a connection without sending or taking a byte."""
SLOT_PATIENCE = 1.0
"""Seconds a slot gets for its scrape: well inside Prometheus' own 10."""
MOST_BYTES = 8 * 2**20
"""Bytes read from one slot's page; some 200 kB are normal."""

_TEXT = "text/plain; version=0.0.4; charset=utf-8"
_PLAIN = "text/plain; charset=utf-8"
_JSON = "application/json"


class Api:
    """A small HTTP server in threads of its own.

    Args:
        host: address to listen on, such as `127.0.0.1`.
        port: TCP port; 0 takes a free one, which `port` then tells.
        metrics: gives the page of `/metrics`.
        health: whether the process is alive; `/healthz` answers 503 when not, and an orchestrator should restart it.
        ready: whether it does its work; `/readyz` answers 503 when not, and it should be left alone.
        slots: what `/slots` shows as JSON; without it there is no such page.

    Raises:
        OSError: the address cannot be listened on.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        metrics: Callable[[], bytes] = counted.expose,
        health: Callable[[], Verdict],
        ready: Callable[[], Verdict],
        slots: Callable[[], Any] | None = None,
    ) -> None:
        routes: dict[str, Callable[[], tuple[int, str, bytes]]] = {
            "/metrics": lambda: (HTTPStatus.OK, _TEXT, metrics()),
            "/healthz": lambda: _verdict(health()),
            "/readyz": lambda: _verdict(ready()),
        }
        if slots is not None:
            routes["/slots"] = lambda: (HTTPStatus.OK, _JSON, orjson.dumps(slots()))
        handler = type("Handler", (_Handler,), {"routes": routes})
        try:
            self._server = _Server((host, port), handler)
        except OSError as error:
            why = error.strerror or "unknown reason"
            raise OSError(
                error.errno, f"could not listen on {host}:{port} ({why}); choose another --metrics-port"
            ) from None
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.1,), name="http", daemon=True)

    def start(self) -> Api:
        """Begin to answer."""
        self._thread.start()
        return self

    def close(self) -> None:
        """Stop answering and free the port."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join(PATIENCE)
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 32

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self._places = threading.Semaphore(MOST_REQUESTS)
        super().__init__(address, handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._places.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)  # full: an honest refusal instead of one thread more

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing when a client goes away in the middle."""


class _Handler(BaseHTTPRequestHandler):
    timeout = PATIENCE
    routes: Mapping[str, Callable[[], tuple[int, str, bytes]]] = {}

    def do_GET(self) -> None:
        """Answer with the page, or say which pages there are."""
        route = self.routes.get(self.path.partition("?")[0])
        if route is None:
            self._answer(HTTPStatus.NOT_FOUND, _PLAIN, f"no such page; there are {' '.join(self.routes)}\n".encode())
            return
        try:
            status, kind, body = route()
        except Exception as error:  # a page that cannot be made must not look missing or empty
            status, kind = HTTPStatus.INTERNAL_SERVER_ERROR, _PLAIN
            body = f"could not make this page: {type(error).__name__}\n".encode()
        self._answer(status, kind, body)

    do_HEAD = do_GET  # noqa: N815 - http.server looks for this name

    def _answer(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def version_string(self) -> str:
        """Name the program and no versions."""
        return "penstock"

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - http.server's name
        """Log no requests: probes and scrapes come every few seconds."""


def _verdict(verdict: Verdict) -> tuple[int, str, bytes]:
    well, why = verdict
    return (HTTPStatus.OK if well else HTTPStatus.SERVICE_UNAVAILABLE), _PLAIN, f"{why}\n".encode()


def polling(bound: float, since_poll: Callable[[], float] = counted.seconds_since_poll) -> Callable[[], Verdict]:
    """Make the health of a slot: it is alive while its source polled within `bound` seconds."""

    def health() -> Verdict:
        seconds = since_poll()
        if seconds <= bound:
            return True, "alive"
        return False, f"the source has not polled for {seconds:.0f} s, longer than {bound:g} s"

    return health


class SlotsPage:
    """One `/metrics` for all: every slot's page with a `slot` label added, and the launcher's own metrics.

    Slots are asked side by side, and one that is dead or hangs costs `patience` seconds and its own figures, no
    others'. `penstock_slot_up` says which answered.
    """

    def __init__(
        self, ports: Callable[[], Mapping[int, int]], host: str = "127.0.0.1", patience: float = SLOT_PATIENCE
    ) -> None:
        """`ports` tells, at each scrape, slot number to the port of its own `/metrics`."""
        self._ports, self._host, self._patience = ports, host, patience

    def __call__(self) -> bytes:
        """Scrape all slots now and give one page."""
        ports = dict(self._ports())
        with ThreadPoolExecutor(max(1, min(len(ports), 16)), "scrape") as pool:
            pages = dict(zip(ports, pool.map(self._page, ports.values()), strict=True))
        counted.set_slots_up({slot: page is not None for slot, page in pages.items()})
        return merged({slot: page for slot, page in pages.items() if page is not None}) + counted.expose(
            counted.LAUNCHER
        )

    def _page(self, port: int) -> str | None:
        url = f"http://{self._host}:{port}/metrics"
        try:
            with _direct.open(url, timeout=self._patience) as answer:
                return str(answer.read(MOST_BYTES).decode())
        except (OSError, ValueError, http.client.HTTPException):  # refused, timed out, cut, or not HTTP or UTF-8
            return None


_direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""Slots are on this machine: a proxy named in the environment must not be asked for them."""


class _Families(Collector):
    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


def merged(pages: Mapping[int, str]) -> bytes:
    """Make one page of the pages of several slots; each sample gets its `slot` label, each family one heading.

    A page that cannot be parsed to its end (a slot that died while it wrote) gives what came before.
    """
    families: dict[str, Metric] = {}
    for slot, page in sorted(pages.items()):
        with contextlib.suppress(ValueError):
            for family in text_string_to_metric_families(page):
                whole = families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
                for sample in family.samples:
                    whole.samples.append(sample._replace(labels={**sample.labels, "slot": str(slot)}))
    registry = CollectorRegistry()
    registry.register(_Families(families.values()))
    return generate_latest(registry)
