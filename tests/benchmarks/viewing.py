"""What the jobs that compute views cost: CPU for each event, and memory and time to open with 1,000,000 keys.

One slot of a job at a time, by the engine's own flow, works off a topic that was filled while nothing ran. What counts
is the CPU time of its process (user and system, all threads) from the moment at which its lanes are open to the commit
of the last event. Three views: one of the entity, in the job `features`, and two of a device, in `by-device`.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import measure
from confluent_kafka import Producer

from console.embedded import KafkaServer, create_topics
from console.topics import topics_of
from dataflows.pipeline import Pipeline, load
from dataflows.view_stages import measures_of, view_windows
from operators.prefix import KEY, STEP, prefix
from operators.record_producer import state_key
from operators.window import step_of
from state.key_windows import KeyWindows

KEYS, LANES = 1_000_000, 4
_QUIET_SECONDS = 3.0
"""So long after the last commit that moved on, there is nothing left to do."""
_PIPELINE = """
pipeline: viewed
contract:
  format: json
  event_id: id
  entity: who
  event_time: at
  fields:
    { id: { type: string }, who: { type: string }, at: { type: datetime }, device: { type: string },
      card: { type: string }, amount: { type: number } }
guard: { default: allow, headers: allow }
views:
  own:
    key: who
    pane: 1m
    windows:
      n_1h: { function: count, window: 1h }
      spent_1h: { function: sum, of: amount, window: 1h }
    on_missing: review
  device:
    key: device
    pane: 1m
    windows: { cards_1h: { function: distinct, of: card, window: 1h }, n_1h: { function: count, window: 1h } }
    on_missing: review
  large:
    key: device
    pane: 1m
    where: "amount > 20"
    windows: { most_1h: { function: max, of: amount, window: 1h }, mean_1h: { function: mean, of: amount, window: 1h } }
    on_missing: review
policy: { version: "1", outcomes: [approve, review], default: approve, on_unknown: review }
"""


def bench(folder: Path, events: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Fill, compute, restore."""
    file = folder / "pipeline.yaml"
    file.write_text(_PIPELINE)
    pipeline = load(file)
    found: dict[str, Any] = {"events": events, "keys": KEYS, "machine": measure.machine()}
    with KafkaServer(folder / "kafka", heap_mb=1024) as kafka:
        create_topics(kafka.bootstrap, topics_of(pipeline, LANES))
        say(f"sending {events:,} events")
        _send(kafka.bootstrap, pipeline.topic("events"), events)
        for job in ("features", "by-device"):
            say(f"job {job}")
            found[job] = _slot(file, kafka.bootstrap, job)
    with KafkaServer(folder / "kafka-of-keys", heap_mb=1024) as kafka:
        create_topics(kafka.bootstrap, topics_of(pipeline, 1))
        say(f"writing {KEYS:,} keys")
        _fill(kafka.bootstrap, pipeline)
        for name, more in (("in memory", {}), ("on disk, first", _store(folder)), ("on disk, again", _store(folder))):
            say(f"opening them: {name}")
            found[name] = _slot(file, kafka.bootstrap, "features", more)
    return found


def _store(folder: Path) -> dict[str, str]:
    return {"PENSTOCK_LANE_STORE": str(folder / "store")}


def _send(bootstrap: str, topic: str, events: int) -> None:
    """Events of one hour, 20 of each device and 10 of each person, in order of time."""
    chance, began = random.Random(1), time.time() - 3600
    producer = _producer(bootstrap)
    for n in range(events):
        at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(began + 3600 * n / events))
        who = f"W-{chance.randrange(events // 10)}"
        card, amount = f"C-{chance.randrange(events // 5)}", round(chance.lognormvariate(3, 1), 2)
        body = {
            "id": f"E-{n}",
            "who": who,
            "at": at,
            "device": f"D-{n % (events // 20)}",
            "card": card,
            "amount": amount,
        }
        producer.produce(topic, json.dumps(body), who)
        if not n % 10_000:
            producer.poll(0)
    if producer.flush(120):
        raise TimeoutError("could not send the events within 120 s")


def _fill(bootstrap: str, pipeline: Pipeline) -> None:
    """Write the state of the one lane as slots write it."""
    producer = _producer(bootstrap)
    for step, key, value in _entries(pipeline):
        producer.produce(pipeline.topic("features"), value, state_key(step, key), 0)
    if producer.flush(120):
        raise TimeoutError("could not write the state within 120 s")


def _entries(pipeline: Pipeline) -> Iterator[tuple[str, bytes, bytes]]:
    """A key's value with one pane."""
    now, spec = time.time_ns() // 1_000_000, pipeline.views["own"]
    windows = KeyWindows(view_windows("own", spec))
    values = {each.name: [1.5] for each in measures_of(spec)}
    windows.observe(["W"], [now], behind_ms=[0], values=values, lanes=[0], offsets=[0])
    entries = {key: value for key, value in windows.changes() if value is not None}
    value = entries.pop(b"eW")
    yield from ((step_of("own"), key, other) for key, other in entries.items())
    yield from ((step_of("own"), b"eW-%07d" % n, value) for n in range(KEYS))
    yield STEP, KEY, prefix(f"{pipeline.pipeline}.features", 0)


def _producer(bootstrap: str) -> Producer:
    return Producer(
        {"bootstrap.servers": bootstrap, "linger.ms": 20, "compression.type": "lz4", "enable.idempotence": True,
         "partitioner": "murmur2_random", "queue.buffering.max.messages": 2_000_000}
    )  # fmt: skip


def _slot(file: Path, bootstrap: str, job: str, more: dict[str, str] | None = None) -> dict[str, Any]:
    environment = {
        "PENSTOCK_FILE": str(file),
        "PENSTOCK_BOOTSTRAP": bootstrap,
        "PENSTOCK_JOB": job,
        "PENSTOCK_SEAL_KEY": "A" * 43 + "=",
        "POLARS_MAX_THREADS": "1",
        **(more or {}),
    }
    done = subprocess.run(
        [sys.executable, __file__], env={**os.environ, **environment}, stdout=subprocess.PIPE, timeout=500, check=True
    )
    return dict(json.loads(done.stdout.splitlines()[-1]))


def slot() -> None:
    """Be the slot: until nothing has moved on for a while, then print what was seen."""
    import gc

    from dataflows.settings import Settings
    from dataflows.wiring import opener

    settings = Settings.from_environment()
    pipeline = load(settings.file)
    opens = opener(settings, pipeline)
    gc.collect()
    gc.freeze()  # as the template does
    sys.setswitchinterval(0.0005)  # as a slot does
    seen: list[tuple[float, float, int, int]] = []
    """Of each look that differs from the one before: wall and CPU seconds, open lanes, and offsets committed."""
    memory: dict[str, float] = {}
    idle: list[float] = []

    def done() -> bool:
        if not _is_done(seen):
            return False
        memory.update(_memory())  # before the flow ends, and with it what its lanes remember
        idle.append((time.process_time() - seen[-1][1]) / (time.monotonic() - seen[-1][0]))
        return True

    running: Any = opens(settings, done)
    lanes, empty = running.lanes, measure.memory_mb(os.getpid())["rss"]
    tick = lanes.tick

    def ticked() -> None:
        now = len(lanes.owned()), sum(lanes.transactions.committed.values())
        if not seen or seen[-1][2:] != now:
            seen.append((time.monotonic(), time.process_time(), *now))
        tick()

    lanes.tick = ticked
    running.run()
    began = next(look for look in seen if look[2] == lanes.count)
    print(json.dumps({
        "open_seconds": round(began[0] - seen[0][0], 2),
        "cpu_seconds": round(seen[-1][1] - began[1], 2),
        "seconds": round(seen[-1][0] - began[0], 2),
        "idle_cores": round(idle[-1], 4),
        "rss_mb": {"empty": empty, **memory},
    }), flush=True)  # fmt: skip
    os._exit(0)


def _is_done(seen: list[tuple[float, float, int, int]]) -> bool:
    return bool(seen) and seen[-1][2] > 0 and time.monotonic() - seen[-1][0] > _QUIET_SECONDS


def _memory() -> dict[str, float]:
    status = Path("/proc/self/status").read_text()
    return {
        name: round(int(status.partition(field)[2].split()[0]) / 1024, 1)
        for name, field in (("peak", "VmHWM:"), ("open", "VmRSS:"))
    }


def show(found: dict[str, Any]) -> None:
    """Print for people."""
    events = found["events"]
    print(f"\n{events:,} events; CPU of the slot's process, all threads")
    for job in ("features", "by-device"):
        cpu = found[job]["cpu_seconds"]
        cost = f"{cpu / events * 1e6:>8.1f} us an event{events / cpu:>12,.0f} events per core-second"
        print(f"{job:<12}{cost}; idle {found[job]['idle_cores']:.1%} of a core")
    print(f"\na lane with {found['keys']:,} keys")
    for name in ("in memory", "on disk, first", "on disk, again"):
        memory = ", ".join(f"{what} {mb:.0f} MB" for what, mb in found[name]["rss_mb"].items())
        print(f"{name:<16}open after {found[name]['open_seconds']} s; memory (RSS) {memory}")
    print("\n" + ", ".join(f"{name} {value}" for name, value in found["machine"].items()))


if __name__ == "__main__":
    slot()
