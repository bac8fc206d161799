"""The promise, on a real broker and a real Redis: 20,000 claims, two slots, a release in the middle, ten SIGKILLs.

The reader shares nothing with the engine: it knows topics, JSON and the rule for recalled windows. It takes a minute;
`-s` shows the figures.
"""

from __future__ import annotations

import json
import math
import os
import random
import signal
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, Producer

from console.demo_releases import Releases
from console.embedded import KafkaServer
from console.scenery import Engine, Servers, load_features, seal_key
from console.topics import topics_of
from dataflows.pipeline import Pipeline, load
from deploy.pipelines.claims import claims
from tests.operators.recall_oracle import recompute

ROOT = Path(__file__).resolve().parents[2]
HOME = ROOT / "deploy" / "pipelines" / "claims"
LANES, EVENTS, RATE, KILLS, SEED = 8, 20_000, 600, 10, 20261123
FIRST_RECORDS = ("decisions", "rejected", "quarantine", "duplicates")
EVERY_WINDOW = """
    - {{ name: seen_{name}, when: "{name} < 0", outcome: approve, reason: NEVER }}"""


@dataclass
class Seen:
    """What a committed reader got, in the order in which it got it."""

    firsts: dict[int, list[tuple[int, str, Any, float]]] = field(default_factory=lambda: defaultdict(list))
    """Lane to (offset of the event, role, body, seconds after produce)."""
    produced: dict[tuple[int, int], float] = field(default_factory=dict)
    count: int = 0


class Reader(threading.Thread):
    """Reads all first records, read_committed, and the wall clock at which each could be read."""

    def __init__(self, bootstrap: str, pipeline: Pipeline) -> None:
        super().__init__(daemon=True)
        self.seen, self.ending = Seen(), threading.Event()
        self._roles = {pipeline.topic(role): role for role in FIRST_RECORDS}
        settings = {"bootstrap.servers": bootstrap, "isolation.level": "read_committed", "fetch.wait.max.ms": 5}
        self._consumer = Consumer(
            {**settings, "group.id": f"{pipeline.pipeline}-reader", "auto.offset.reset": "earliest"}
        )
        self._consumer.subscribe(list(self._roles))

    def run(self) -> None:
        while not self.ending.is_set():
            for message in self._consumer.consume(500, 0.01):
                assert message.error() is None, message.error()
                now, body = time.time(), json.loads(message.value())
                origin = body["origin"]
                assert origin["partition"] == message.partition(), "a first record is in the lane of its event"
                took = now - message.timestamp()[1] / 1000
                row = (origin["offset"], self._roles[message.topic()], body, took)
                self.seen.firsts[origin["partition"]].append((*row[:3], now))
                self.seen.count += 1
        self._consumer.close()


@pytest.fixture
def pipeline(tmp_path: Path, unique: Callable[[str], str]) -> tuple[Path, Pipeline]:
    """The claims pipeline under a name of its own, with every recalled window in a rule, so that all are logged."""
    text = (HOME / "pipeline.yaml").read_text()
    name = unique("claims").replace("-", "_")
    text = text.replace("pipeline: claims", f"pipeline: {name}", 1)
    text += f"\ntopics: {{ registry: {name}.registry, admissions: {name}.admissions }}\n"
    windows = load(HOME / "pipeline.yaml").recall.features
    at = text.index("  rules:") + len("  rules:")
    text = text[:at] + "".join(EVERY_WINDOW.format(name=window) for window in windows) + text[at:]
    file = tmp_path / "pipeline.yaml"
    file.write_text(text)
    return file, load(file)


def produce(bootstrap: str, topic: str, at: dict[int, Callable[[], None]]) -> dict[tuple[int, int], tuple[float, Any]]:
    """Send the claims at `RATE` as any producer would; `at` has what to do before the n-th. Origin to (time, event)."""
    sent: dict[tuple[int, int], tuple[float, Any]] = {}
    producer = Producer({"bootstrap.servers": bootstrap, "partitioner": "murmur2_random", "linger.ms": 2})
    began = time.time()
    for n, planned in enumerate(claims.stream(SEED, EVENTS)):
        while (ahead := began + n / RATE - time.time()) > 0:
            producer.poll(min(ahead, 0.02))
        if n in at:
            at[n]()
        moment = time.time()

        def delivered(error: object, message: Any, moment: float = moment, planned: Any = planned) -> None:
            assert error is None, error
            sent[message.partition(), message.offset()] = (message.timestamp()[1] / 1000, planned)

        producer.produce(topic, planned.value, planned.key, headers=list(planned.headers), on_delivery=delivered)
        producer.poll(0)
    assert producer.flush(30) == 0
    return sent


@pytest.mark.timeout(400)
def test_every_claim_is_decided_once_and_in_order_whatever_is_killed(
    kafka: KafkaServer, redis_url: str, pipeline: tuple[Path, Pipeline], tmp_path: Path, until: Callable[..., None]
) -> None:
    """Ten times one of the two slots is killed with SIGKILL at a random moment, with all stages on."""
    file, spec = pipeline
    rng = random.Random(SEED)
    kafka.create_topics(topics_of(spec, LANES))
    servers = Servers("kafka", "exactly_once", "the test's", kafka.bootstrap, redis_url)
    load_features(servers, spec, claims, SEED, EVENTS)
    artefacts = tmp_path / "artefacts"
    artefacts.mkdir()
    engine = Engine(file, servers, slots=2, key=seal_key(), artefacts=artefacts, folder=tmp_path)
    engine.start()
    reader = Reader(kafka.bootstrap, spec)
    kills: list[tuple[float, int, list[int]]] = []

    def kill() -> None:
        while not (alive := [row for row in engine.slots() if row["pid"] and row["lanes"]]):
            time.sleep(0.01)  # both are on their way back from a kill
        victim = rng.choice(alive)
        os.kill(victim["pid"], signal.SIGKILL)
        kills.append((time.time(), victim["slot"], victim["lanes"]))

    try:
        releases = Releases(HOME / "models", spec, servers.connection, artefacts)
        releases.publish("1")
        engine.wait_until_ready()
        releases.wait_until_in_force()
        reader.start()
        moments = sorted(rng.sample(range(EVENTS // 20, EVENTS - EVENTS // 20), KILLS))
        doings: dict[int, Callable[[], None]] = dict.fromkeys(moments, kill)
        doings[EVENTS // 2] = lambda: str(releases.publish("2"))
        sent = produce(kafka.bootstrap, spec.topic("events"), doings)
        until(lambda: reader.seen.count >= len(sent), "a first record of every claim", timeout=60)
        time.sleep(0.5)  # a second first record, if there were one, would be here by now
    finally:
        reader.ending.set()
        engine.stop()
        print((tmp_path / "engine.log").read_text()[-3000:])

    firsts = reader.seen.firsts
    print(f"seed {SEED}: {len(sent)} claims, {len(kills)} kills; {_latencies(firsts, sent, kills)}")
    assert Counter((lane, row[0]) for lane, rows in firsts.items() for row in rows) == dict.fromkeys(sent, 1)
    for rows in firsts.values():
        decided = [offset for offset, role, _, _ in rows if role == "decisions"]
        assert decided == sorted(decided), "in lane order"
    assert_windows(spec, firsts, sent)
    used = Counter(
        row[2]["scores"]["severity"]["release"] for rows in firsts.values() for row in rows if row[1] == "decisions"
    )
    assert set(used) == {"1", "2"}, "both releases decided"


def assert_windows(spec: Pipeline, firsts: dict[int, Any], sent: dict[tuple[int, int], tuple[float, Any]]) -> None:
    """Every recalled feature of every decision equals a recomputation from the lane's decided events."""
    recall = spec.recall
    windows = {n: (f.function, round(f.window.total_seconds() * 1000), f.of) for n, f in recall.features.items()}
    for lane, rows in firsts.items():
        decided = sorted((row for row in rows if row[1] == "decisions"), key=lambda row: row[0])
        events = []
        for offset, _, body, _ in decided:
            data = json.loads(sent[lane, offset][1].value)
            fields = data.get("data", data)
            events.append(
                {
                    "entity": body["entity"],
                    "event_ms": _ms(fields["noticed_at"]),
                    "append_ms": round(sent[lane, offset][0] * 1000),
                    "policy_limit": float(fields["policy_limit"]),
                }
            )
        expected = recompute(
            events,
            windows,
            pane_ms=round(recall.pane.total_seconds() * 1000),
            lateness_ms=round(recall.allowed_lateness.total_seconds() * 1000),
            include_late=recall.on_late == "include",
        )
        for (offset, _, body, _), features in zip(decided, expected, strict=True):
            got = {name: math.nan if body["features"][name] is None else body["features"][name] for name in windows}
            assert got == pytest.approx(features, nan_ok=True, abs=0), f"lane {lane} offset {offset}"


def _ms(text: str) -> int:
    from datetime import datetime

    return math.floor(datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp() * 1000 + 1e-6)


def _latencies(
    firsts: dict[int, Any], sent: dict[tuple[int, int], Any], kills: list[tuple[float, int, list[int]]]
) -> str:
    took = {(lane, row[0]): row[3] - sent[lane, row[0]][0] for lane, rows in firsts.items() for row in rows}
    lines = [f"worst event latency {max(took.values()):.2f} s"]
    for (at, slot, lanes), until in zip(kills, [k[0] for k in kills[1:]] + [math.inf], strict=True):
        near = {origin: s for origin, s in took.items() if at - 1 < sent[origin][0] < min(at + 5, until)}
        own = max((s for (lane, _), s in near.items() if lane in lanes), default=0.0)
        # Lanes of the other slot may still be waiting because of a kill of their own.
        waiting = {lane for before, _, dead in kills if at - 3 < before <= at for lane in dead}
        others = [s for (lane, _), s in near.items() if lane not in waiting]
        paused = f"the others {max(others):.2f} s" if others else "the others were killed, too"
        lines.append(f"slot {slot} killed: its lanes {own:.2f} s, {paused}")
    return "; ".join(lines)
