"""`penstock run --lane-store` on a real broker: real processes, real SIGKILLs, and nothing is lost, twice or wrong."""

from __future__ import annotations

import contextlib
import json
import math
import os
import random
import re
import shutil
import signal
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer, TopicPartition

from console.embedded import KafkaServer
from console.topics import topics_of
from dataflows.pipeline import Pipeline, load
from tests.integration.launched import (
    FIRSTS,
    LANES,
    SMALL,
    Launched,
    _read,
    committed,
    launched,
    small_pipeline,
    wait,
)
from tests.operators.recall_oracle import recompute

EVENTS, ENTITIES, KILLS, SEED = 6_000, 500, 6, 20261123
HOUR = 3_600_000
FEATURES = {"seen": ("count", HOUR, None), "total": ("sum", HOUR, "amount"), "previous": ("last", HOUR, "amount")}
WINDOWS = """
dedupe: { window: 1h }
recall:
  features:
    seen: { function: count, window: 1h }
    total: { function: sum, window: 1h, of: amount }
    previous: { function: last, window: 1h, of: amount }
"""
NEVER = '    - { name: never, when: "seen < 0 OR total < 0 OR previous < 0", outcome: approve, reason: NEVER }\n'


def remembering_pipeline(kafka: KafkaServer, called: str, folder: Path) -> tuple[Path, Pipeline]:
    """A pipeline whose decisions show what it remembers, with its topics."""
    assert "topics:" in SMALL
    file = small_pipeline(called, folder, WINDOWS)
    file.write_text(file.read_text().replace("topics:", NEVER + "topics:"))
    pipeline = load(file)
    kafka.create_topics(topics_of(pipeline, LANES))
    return file, pipeline


class Sender:
    """Sends events, one in ten of them again, and knows what was sent."""

    def __init__(self, bootstrap: str, topic: str) -> None:
        self._producer = Producer({"bootstrap.servers": bootstrap, "linger.ms": 2, "log_level": 0})
        self._topic, self._dice, self._began = topic, random.Random(SEED), time.time() - 600
        self.lanes: dict[int, list[dict[str, Any]]] = defaultdict(list)
        self._sent = 0

    def send(self, events: int) -> None:
        for _ in range(events):
            self._sent += 1
            lane = self._dice.randrange(LANES)
            if self._dice.random() < 0.1 and self.lanes[lane]:
                body = self._dice.choice(self.lanes[lane])
            else:
                at = self._began + self._sent / 100
                moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(at)) + f".{int(at * 1000) % 1000:03}Z"
                who = f"W-{lane}-{self._dice.randrange(ENTITIES)}"
                body = {"id": f"E-{self._sent}", "who": who, "at": moment, "amount": float(self._dice.randrange(100))}
            self.lanes[lane].append(body)
            self._producer.produce(self._topic, json.dumps(body), partition=lane)
            self._producer.poll(0)
        assert self._producer.flush(30) == 0

    @property
    def sent(self) -> int:
        return self._sent


def read_firsts(bootstrap: str, pipeline: Pipeline) -> dict[int, dict[int, list[tuple[str, Any]]]]:
    """Lane to offset to its first records, as (role, body)."""
    roles = {pipeline.topic(role): role for role in FIRSTS}
    found: dict[int, dict[int, list[tuple[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for message in _read(bootstrap, [TopicPartition(topic, lane, 0) for topic in roles for lane in range(LANES)]):
        body = json.loads(message.value())
        found[message.partition()][body["origin"]["offset"]].append((roles[message.topic()], body))
    return found


def milliseconds(moment: str) -> int:
    whole, _, rest = moment.rstrip("Z").partition(".")
    seconds = time.mktime(time.strptime(whole, "%Y-%m-%dT%H:%M:%S")) - time.timezone
    return round(seconds * 1000) + int(rest)


def check(sender: Sender, found: dict[int, dict[int, list[tuple[str, Any]]]]) -> None:
    """Every event has one first record; repeats are marked; every window is that of the oracle."""
    for lane, sent in sender.lanes.items():
        assert {offset: len(firsts) for offset, firsts in found[lane].items()} == dict.fromkeys(range(len(sent)), 1)
        first_of: dict[str, int] = {}
        fresh = [first_of.setdefault(body["id"], offset) == offset for offset, body in enumerate(sent)]
        assert [found[lane][offset][0][0] == "decisions" for offset in range(len(sent))] == fresh
        events = [
            {"entity": body["who"], "event_ms": milliseconds(body["at"]), "append_ms": 0, "amount": body["amount"]}
            for body, is_fresh in zip(sent, fresh, strict=True)
            if is_fresh
        ]
        expected = iter(recompute(events, FEATURES))
        for offset, is_fresh in enumerate(fresh):
            if is_fresh:
                given, right = found[lane][offset][0][1]["features"], next(expected)
                for name, value in right.items():
                    assert given[name] == (None if math.isnan(value) else value), (lane, offset, name)


def tails(said: str) -> list[tuple[int, int]]:
    """(state records read, offset on disk) of each lane that was restored from a store."""
    found = re.findall(r"restored: (\d+) state records in \S+ s, after those on disk to offset (\d+)", said)
    return [(int(read), int(offset)) for read, offset in found]


def kill_a_slot(run: Launched, dice: random.Random) -> None:
    pids = [row["pid"] for row in run.table() if row["pid"]]
    if pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(dice.choice(pids), signal.SIGKILL)


@pytest.mark.ci
def test_kills_and_restarts_with_the_state_on_disk(
    kafka: KafkaServer, unique: Callable[[str], str], tmp_path: Path
) -> None:
    """Two slots, killed while they decide; then all stopped and started again; then without their folder."""
    print(f"seed {SEED}")
    file, pipeline = remembering_pipeline(kafka, unique("kept"), tmp_path)
    sender, dice, stores = Sender(kafka.bootstrap, pipeline.topic("events")), random.Random(SEED), tmp_path / "stores"

    def done() -> int:
        return sum(committed(kafka.bootstrap, pipeline).values())

    def decided() -> bool:
        return done() >= sender.sent

    settings = {"LANE_STORE": str(stores), "SESSION_TIMEOUT": "45"}  # lanes wait for their slots, however slow
    with launched(file, kafka.bootstrap, tmp_path, slots=2, **settings) as run:
        run.until_ready()
        for _ in range(KILLS):
            before = sender.sent
            sender.send(EVENTS // KILLS)
            wait(lambda before=before: done() > before, 60, run, "to be at work on the next events")
            kill_a_slot(run, dice)
        wait(decided, 60, run, "to decide all")
        check(sender, read_firsts(kafka.bootstrap, pipeline))
        run.process.terminate()
        assert run.ends() == 0
        assert tails(run.said()), "a killed slot has read the tail of its lanes"
    with launched(file, kafka.bootstrap, tmp_path, slots=2, **settings) as run:
        run.until_ready()
        after = tails(run.said())
        assert len(after) == LANES, run.said()
        assert [read for read, _ in after] == [0] * LANES, "all was written at the stop"
        sender.send(400)
        wait(decided, 30, run, "to decide what came after the restart")
        for slot in run.table():
            os.kill(slot["pid"], signal.SIGKILL)
        sender.send(100)
        wait(decided, 60, run, "to decide what came after the kills")
        again = tails(run.said())[LANES:]
        assert len(again) >= LANES
        assert all(read < 600 for read, _ in again), f"not the tail alone: {again}"
        run.process.terminate()
        assert run.ends() == 0
    shutil.rmtree(stores)
    with launched(file, kafka.bootstrap, tmp_path, slots=2, **settings) as run:
        run.until_ready()
        assert not tails(run.said()), "there was nothing on disk"
        sender.send(200)
        wait(decided, 30, run, "to decide with a store filled anew")
    check(sender, read_firsts(kafka.bootstrap, pipeline))
