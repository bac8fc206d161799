"""A steady load with repeats, and what must have come of it: told from what was sent, with nothing of the engine.

The oracle: in the order of its lane each event has one first record; an id seen before in the lane gives a duplicate
mark that names the first one's decision, any other id a decision that has counted the entity's decisions before it.
"""

from __future__ import annotations

import json
import threading
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from confluent_kafka import Producer, TopicPartition
from typer.testing import CliRunner, Result

from console.cli import app
from dataflows.pipeline import Pipeline, load
from tests.integration.launched import LANES, _read, small_pipeline

_RULES = "  rules:\n"
_REPEAT_EVERY, _REPEAT_AFTER = 10, 200
_ENTITIES = 7


def counting_pipeline(called: str, folder: Path, *, version: str = "1") -> tuple[Path, Pipeline]:
    """A small pipeline whose decisions carry how many events of the entity the lane has decided before."""
    folder.mkdir(exist_ok=True)
    file = small_pipeline(called, folder, "recall: { features: { seen: { function: count, window: 1d } } }")
    rule = '    - { name: never, when: "seen < 0", outcome: review, reason: NEVER }\n'
    text = file.read_text().replace(_RULES, _RULES + rule).replace('version: "1"', f'version: "{version}"')
    file.write_text(text)
    return file, load(file)


class Console:
    """`penstock slots` for one pipeline."""

    def __init__(self, file: Path, bootstrap: str) -> None:
        self._environment = {"PENSTOCK_FILE": str(file), "PENSTOCK_BOOTSTRAP": bootstrap}

    def __call__(self, *arguments: str) -> Result:
        return CliRunner().invoke(app, ["slots", *arguments], env=self._environment)

    def rows(self) -> dict[int, dict[str, Any]]:
        listed = json.loads(self("list", "--json").stdout)
        assert listed["state"] in {"stable", "preparing_rebalancing", "completing_rebalancing", "empty", "dead"}
        return {row["slot"]: row for row in listed["slots"]}

    def lanes(self) -> dict[int, list[int]]:
        return {slot: row["lanes"] for slot, row in self.rows().items() if row["lanes"]}


def all_lanes(lanes: dict[int, list[int]]) -> list[int]:
    return sorted(lane for owned in lanes.values() for lane in owned)


class Load(threading.Thread):
    """Sends `rate` events a second, over all lanes, until `stop`; each tenth is one of 200 events ago again."""

    def __init__(self, bootstrap: str, pipeline: Pipeline, rate: int = 300) -> None:
        super().__init__(daemon=True)
        self._topic, self._rate = pipeline.topic("events"), rate
        self._producer = Producer({"bootstrap.servers": bootstrap, "linger.ms": 2, "log_level": 0})
        self._ending = threading.Event()
        self.sent: dict[tuple[int, int], tuple[str, str]] = {}
        """Origin to event id and entity."""

    def run(self) -> None:
        began, number = time.monotonic(), 0
        while not self._ending.is_set():
            self._send(number)
            number += 1
            while (ahead := began + number / self._rate - time.monotonic()) > 0:
                self._producer.poll(ahead)

    def stop(self) -> int:
        """How many events there are."""
        self._ending.set()
        self.join()
        assert self._producer.flush(30) == 0
        return len(self.sent)

    def _send(self, number: int) -> None:
        again = number % _REPEAT_EVERY == 0 and number >= _REPEAT_AFTER
        name, entity = f"E-{number - _REPEAT_AFTER * again}", f"W-{number % _ENTITIES}"
        at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        body = {"id": name, "who": entity, "at": at, "amount": number % 200}

        def delivered(error: object, message: Any) -> None:
            assert error is None, error
            self.sent[message.partition(), message.offset()] = name, entity

        self._producer.produce(self._topic, json.dumps(body), partition=number % LANES, on_delivery=delivered)
        self._producer.poll(0)


def assert_decided(bootstrap: str, pipeline: Pipeline, sent: dict[tuple[int, int], tuple[str, str]]) -> Counter[str]:
    """Hold the topics against the oracle; gives how many decisions each policy version made."""
    found: dict[tuple[int, int], list[dict[str, Any]]] = defaultdict(list)
    last: dict[tuple[str, int], int] = {}
    for role in ("decisions", "duplicates", "rejected", "quarantine"):
        for message in _read(bootstrap, [TopicPartition(pipeline.topic(role), lane, 0) for lane in range(LANES)]):
            body = json.loads(message.value())
            lane, offset = body["origin"]["partition"], body["origin"]["offset"]
            assert offset > last.get((role, lane), -1), f"{role} of lane {lane}: {offset} is out of order"
            last[role, lane] = offset
            found[lane, offset].append(body)

    assert sent.keys() - found.keys() == set(), "every event has a first record"
    assert {origin: len(bodies) for origin, bodies in found.items() if len(bodies) != 1} == {}, "and only one"
    assert found.keys() - sent.keys() == set()
    seen: Counter[tuple[int, str]] = Counter()
    firsts: dict[tuple[int, str], str] = {}
    for (lane, offset), (name, entity) in sorted(sent.items()):
        [body] = found[lane, offset]
        if (lane, name) in firsts:
            assert (body["kind"], body["first"]) == ("duplicate", firsts[lane, name]), f"lane {lane} offset {offset}"
            continue
        assert (body["kind"], body["event_id"]) == ("decision", name), f"lane {lane} offset {offset}"
        assert body["features"]["seen"] == seen[lane, entity], f"lane {lane} offset {offset}: what it remembers"
        seen[lane, entity] += 1
        firsts[lane, name] = body["decision_id"]
    return Counter(body["policy"]["version"] for [body] in found.values() if body["kind"] == "decision")
