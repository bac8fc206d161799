"""How long a lane with much state takes to open, and what the slot's other lanes feel of it meanwhile.

One slot, two lanes. Lane 0 has a state of 1,000,000 entries (windows of `recall`, one pane each) and 500,000 event ids,
as many as dedupe keeps by default. Lane 1 has none and gets 500 events a second. The slot is the engine's own flow;
only the time of each poll is noted.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import measure
from confluent_kafka import Producer

from console.embedded import KafkaServer, create_topics
from console.topics import topics_of
from dataflows.pipeline import Pipeline, load
from dataflows.stages import windows_of
from operators.prefix import KEY, STEP, prefix
from operators.record_producer import state_key
from state.dedupe import SeenIds
from state.id_chunks import LARGE
from state.windows import EntityWindows

ENTRIES, IDS = 1_000_000, 500_000
RATE = 500
_AFTER_SECONDS = 5.0
_PIPELINE = """
pipeline: restored
contract:
  format: json
  event_id: id
  entity: who
  event_time: at
  fields: { id: { type: string }, who: { type: string }, at: { type: datetime }, amount: { type: number } }
guard: { default: allow, headers: allow }
recall: { features: { seen: { function: count, window: 1d }, paid: { function: sum, of: amount, window: 1d } } }
policy:
  version: "1"
  outcomes: [approve, review]
  default: approve
  on_unknown: review
  rules:
    - { name: large, when: "amount > 100 AND paid > 1000 AND seen > 10", outcome: review, reason: LARGE }
"""


def bench(folder: Path, say: Any) -> dict[str, Any]:
    """Fill, restore, measure."""
    file = folder / "pipeline.yaml"
    file.write_text(_PIPELINE)
    pipeline = load(file)
    with KafkaServer(folder / "kafka", heap_mb=1024) as kafka:
        create_topics(kafka.bootstrap, topics_of(pipeline, 2))
        say(f"writing {ENTRIES:,} entries")
        written = fill(kafka.bootstrap, pipeline)
        say("restoring them")
        ending = threading.Event()
        sender = threading.Thread(target=_send, args=(kafka.bootstrap, pipeline, ending))
        sender.start()
        try:
            found = _slot(file, kafka.bootstrap)
        finally:
            ending.set()
            sender.join()
    return {"records": written, **found, "machine": measure.machine()}


def fill(bootstrap: str, pipeline: Pipeline) -> int:
    """Write the state of lane 0 as slots write it; the number of its records."""
    producer = Producer(
        {"bootstrap.servers": bootstrap, "linger.ms": 20, "compression.type": "lz4", "enable.idempotence": True,
         "queue.buffering.max.messages": 2_000_000}
    )  # fmt: skip
    written = 0
    for step, key, value in _entries(pipeline):
        producer.produce(pipeline.topic("state"), value, state_key(step, key), 0)
        written += 1
    if producer.flush(120):
        raise TimeoutError("could not write the state within 120 s")
    return written


def _entries(pipeline: Pipeline) -> Iterator[tuple[str, bytes, bytes]]:
    now = time.time_ns() // 1_000_000
    windows = EntityWindows(windows_of(pipeline))
    windows.observe(["W"], [now], [now], {"amount": [1.0]})
    entries = {key: value for key, value in windows.changes() if value is not None}
    pane = entries.pop(b"eW")
    yield from (("recall", key, value) for key, value in entries.items())
    yield from (("recall", b"eW-%07d" % n, pane) for n in range(ENTRIES))
    seen = SeenIds(10**12, IDS)
    for at in range(0, IDS, LARGE):
        names, offsets = [f"E-{n}" for n in range(at, at + LARGE)], range(at, at + LARGE)
        seen.mark(names, offsets, [now] * LARGE)
        yield from (("dedupe", key, value) for key, value in seen.changes() if value is not None)
    yield STEP, KEY, prefix(pipeline.pipeline, 0)


def _send(bootstrap: str, pipeline: Pipeline, ending: threading.Event) -> None:
    producer = Producer({"bootstrap.servers": bootstrap, "linger.ms": 2, "log_level": 0})
    began, number = time.monotonic(), 0
    while not ending.is_set():
        at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        body = {"id": f"N-{number}", "who": f"W-{number % 1000}", "at": at, "amount": number % 200}
        producer.produce(pipeline.topic("events"), json.dumps(body), partition=1)
        number += 1
        while (ahead := began + number / RATE - time.monotonic()) > 0:
            producer.poll(ahead)
    producer.flush(10)


def _slot(file: Path, bootstrap: str) -> dict[str, Any]:
    environment = {
        "PENSTOCK_FILE": str(file),
        "PENSTOCK_BOOTSTRAP": bootstrap,
        "PENSTOCK_SEAL_KEY": "A" * 43 + "=",
        "POLARS_MAX_THREADS": "1",
    }
    done = subprocess.run(
        [sys.executable, __file__], env={**os.environ, **environment}, stdout=subprocess.PIPE, timeout=300, check=True
    )
    return dict(json.loads(done.stdout.splitlines()[-1]))


def slot() -> None:
    """Be the slot: until lane 0 has been open for some seconds, then print what was seen."""
    import gc
    import logging

    from bytewax.testing import run_main

    from dataflows import decisions
    from dataflows.wiring import open_from_environment

    logging.basicConfig(level="INFO", stream=sys.stderr)
    gc.collect()
    gc.freeze()  # as the template does
    sys.setswitchinterval(0.0005)  # as a slot does
    ports = open_from_environment()
    lanes, empty = ports.lanes, measure.memory_mb(os.getpid())["rss"]
    polls: list[tuple[float, bool, bool]] = []
    tick = lanes.tick

    def ticked() -> None:
        polls.append((time.monotonic(), 1 in lanes.owned(), 0 in lanes.owned()))
        tick()

    lanes.tick = ticked  # type: ignore[method-assign]
    ports.source.stopping = lambda: bool(polls) and polls[-1][2] and _open_for(polls) > _AFTER_SECONDS
    run_main(decisions.build(ports))
    print(json.dumps(_figures(polls) | {"rss_mb": {"empty": empty, **_memory()}}), flush=True)
    os._exit(0)


def _open_for(polls: list[tuple[float, bool, bool]]) -> float:
    return polls[-1][0] - next(at for at, _, both in polls if both)


def _figures(polls: list[tuple[float, bool, bool]]) -> dict[str, Any]:
    pairs = list(itertools.pairwise(polls))
    during = [(b[0] - a[0]) * 1e3 for a, b in pairs if a[1] and not a[2]]
    after = [(b[0] - a[0]) * 1e3 for a, b in pairs if a[2]]
    began = next(at for at, one, _ in polls if one)
    seconds = next(at for at, _, both in polls if both) - began
    return {
        "seconds": round(seconds, 2),
        "gap_ms": {name: _spread(gaps) for name, gaps in (("restoring", during), ("afterwards", after))},
    }


def _spread(values: list[float]) -> dict[str, float]:
    return {
        "p50": round(measure.percentile(values, 0.5), 1),
        "p99": round(measure.percentile(values, 0.99), 1),
        "max": round(max(values), 1),
    }


def _memory() -> dict[str, float]:
    status = Path("/proc/self/status").read_text()
    return {
        name: round(int(status.partition(field)[2].split()[0]) / 1024, 1)
        for name, field in (("peak", "VmHWM:"), ("open", "VmRSS:"))
    }


def show(found: dict[str, Any]) -> None:
    """Print for people."""
    rate = found["records"] / found["seconds"]
    print(f"\nlane of {found['records']:,} state records: open after {found['seconds']} s, {rate:,.0f} records/s")
    for name, gap in found["gap_ms"].items():
        print(f"gap between polls, {name:<11} p50 {gap['p50']} ms, p99 {gap['p99']} ms, longest {gap['max']} ms")
    print("memory (RSS)  " + ", ".join(f"{name} {mb:.0f} MB" for name, mb in found["rss_mb"].items()))
    print("\n" + ", ".join(f"{name} {value}" for name, value in found["machine"].items()))


if __name__ == "__main__":
    slot()
