"""Kafka and Redis in a program of their own, which `penstock demo --keep` leaves running. SIGTERM ends it and both."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

from console.parts import PartFailed, PartMissing
from console.scenery import Servers, servers_up

_START_SECONDS = 120.0
"""The first start may fetch Kafka."""


class Kept:
    """The program, as the demo that starts it sees it. A context manager that ends it, unless `keep` was called."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._keep = False
        self.pid = 0

    def __enter__(self) -> Servers:
        """Start it and wait until both servers are up.

        Raises:
            PartFailed: it ended, or took longer than two minutes.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        told, log = self._folder / "servers.json", self._folder / "servers.log"
        told.unlink(missing_ok=True)
        with log.open("ab") as out:
            program = subprocess.Popen(
                [sys.executable, "-m", "console.kept", str(self._folder)],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,  # neither Ctrl-C nor the end of the terminal reaches it
                cwd=Path(__file__).resolve().parents[1],
            )
        self._program, self.pid = program, program.pid
        deadline = time.monotonic() + _START_SECONDS
        try:
            while not told.exists():
                if program.poll() is not None or time.monotonic() > deadline:
                    raise PartFailed(f"Kafka and Redis did not start; the log says:\n{log.read_text()[-2000:]}")
                time.sleep(0.02)
        except BaseException:
            self._end()
            raise
        return Servers(**json.loads(told.read_text()))

    def __exit__(self, *_: object) -> None:
        if not self._keep:
            self._end()

    def keep(self) -> None:
        """Leave it running."""
        self._keep = True

    def _end(self) -> None:
        self._program.terminate()
        try:
            self._program.wait(40.0)
        except subprocess.TimeoutExpired:
            self._program.kill()  # the servers' own watchers see it and end them
            self._program.wait()


def main(folder: Path) -> int:
    """Start both, tell where they are in `servers.json`, and wait for SIGTERM."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        with servers_up(folder, print) as servers:
            half = folder / "servers.json.half"
            half.write_text(json.dumps(asdict(servers)))
            half.rename(folder / "servers.json")
            while True:
                signal.pause()
    except (PartMissing, PartFailed) as problem:
        print(problem, flush=True)
        return 1


if __name__ == "__main__":
    os.umask(0o077)
    sys.exit(main(Path(sys.argv[1])))
