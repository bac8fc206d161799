"""`penstock run`: checks what it was given, starts the template that forks the slots, and serves HTTP for all of them.

The launcher opens no client and imports no model; it may have threads, which the template may not.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import IO, Any, cast

from console.api import Api, SlotsPage
from dataflows.pipeline import Pipeline
from dataflows.settings import Settings
from operators import metrics

log = logging.getLogger(__name__)

STOP_SECONDS = 40.0
"""SIGTERM to SIGKILL: a batch, a commit, and some patience with a slow broker."""
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "POLARS_MAX_THREADS"), "1")
_NO_BACKTRACE = {"RUST_BACKTRACE": "0"}
"""Bytewax panics when a step raises; the slot says why in a line of its own."""
_ROOT = Path(__file__).resolve().parent.parent


class Launcher:
    """Template process, table of slots and HTTP of one `penstock run`."""

    def __init__(self, settings: Settings, pipeline: Pipeline) -> None:
        self._settings, self._pipeline = settings, pipeline
        self._wanted = range(settings.slot, settings.slot + settings.slots)
        self._slots: dict[int, dict[str, Any]] = {}
        self._template: subprocess.Popen[bytes] | None = None
        self._stop_at: float | None = None
        """`time.monotonic()` when patience with a stop ends."""
        self.page = SlotsPage(self._ports, settings.host)

    def run(self) -> int:
        """Run until SIGTERM or until the template ends; the exit status."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        api = Api(
            self._settings.host,
            self._settings.metrics_port,
            metrics=self.page,
            health=lambda: (True, "alive"),
            ready=self._ready,
            slots=self.slots,
        ).start()
        log.info("metrics, /healthz, /readyz and /slots on port %d", api.port)
        log.info("loading models and libraries (some seconds)")
        code = self._run_template()
        api.close()
        return code

    def slots(self) -> list[dict[str, Any]]:
        """The table of slots with their lanes, for `/slots`."""
        return [{**row, "lanes": self._lanes(number)} for number, row in sorted(self._slots.items())]

    def _run_template(self) -> int:
        status_read, status_write = os.pipe()
        self._template = template = subprocess.Popen(
            [sys.executable, "-m", "console.template", str(status_write)],
            stdin=subprocess.PIPE,
            pass_fds=[status_write],
            cwd=_ROOT,
            process_group=0,  # Ctrl-C is for the launcher, which asks the others
            env={**os.environ, **self._settings.to_environment(), **_ONE_THREAD, **_NO_BACKTRACE},
        )
        os.close(status_write)
        if self._stop_at is not None:
            template.terminate()
        with contextlib.suppress(BrokenPipeError), cast("IO[bytes]", template.stdin) as pipe:  # it was told to stop
            pickle.dump(self._pipeline, pipe)  # checked here, with its expressions; the template may not try them
        with os.fdopen(status_read, "rb") as status:
            threading.Thread(target=self._follow, args=(status,), name="slots", daemon=True).start()
            while template.poll() is None:
                if self._stop_at is not None and time.monotonic() > self._stop_at:
                    log.error("the slots did not end within %.0f s of the signal; they are killed", STOP_SECONDS)
                    template.kill()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    template.wait(0.5)
            return self._verdict(template.returncode)

    def _verdict(self, code: int) -> int:
        """Exit status for that of the template."""
        if code >= 0:
            return code
        if self._stop_at is not None and code == -signal.SIGTERM:  # told to stop before there were slots
            return 0
        log.error("the template process was killed (%s), and its slots with it", signal.Signals(-code).name)
        return 1

    def _follow(self, status: IO[bytes]) -> None:
        for line in status:
            row = json.loads(line)
            if row["restarts"] > self._slots.get(row["slot"], row)["restarts"]:
                metrics.count_restart(row["slot"])
            self._slots[row["slot"]] = row

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if self._stop_at is not None and self._template is not None:
            self._template.kill()  # asked twice: now
        self._stop_at = time.monotonic() + STOP_SECONDS
        if self._template is not None and self._template.poll() is None:
            self._template.terminate()

    def _ports(self) -> Mapping[int, int]:
        """Slot to port, for every slot that should be there: one that is down must be seen to be."""
        first = self._settings.metrics_port + 1
        return {number: first + number for number in self._wanted}

    def _lanes(self, slot: int) -> list[int]:
        page = self._ask(slot, "/slots")
        return list(json.loads(page)[0]["lanes"]) if page else []

    def _ready(self) -> tuple[bool, str]:
        waiting = [number for number in self._wanted if self._ask(number, "/readyz") is None]
        return not waiting, f"slots {waiting} are not ready" if waiting else "all slots are ready"

    def _ask(self, slot: int, path: str) -> bytes | None:
        port = self._ports()[slot]
        try:
            with _direct.open(f"http://{self._settings.host}:{port}{path}", timeout=1.0) as answer:
                return bytes(answer.read(1 << 20))
        except OSError:
            return None


_direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
