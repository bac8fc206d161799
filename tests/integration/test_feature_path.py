"""The whole path of a windowed view, as a new user walks it: declare, create topics, start the jobs, decide, compare.

All jobs run as `penstock run` on a real Kafka and a real Redis. What decisions hold is computed here by hand from the
written rule: the events of earlier panes, and none of the event's own.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import redis
from confluent_kafka import Producer, TopicPartition
from typer.testing import CliRunner

from console.cli import app
from dataflows.pipeline import Pipeline, load
from state.tides import Mark, tides_key
from tests.integration.launched import Launched, _read, launched, wait

LANES = 2
MAX_AGE = 6.0
TEXT = """
pipeline: {name}
contract:
  format: json
  event_id: id
  entity: card
  event_time: at
  fields:
    id: {{ type: string }}
    card: {{ type: string }}
    device: {{ type: string }}
    at: {{ type: datetime }}
    amount: {{ type: number }}
guard: {{ default: allow, headers: allow }}
views:
  card:
    key: card
    pane: 1s
    windows:
      payments_1m: {{ function: count, window: 1m }}
      spent_1m: {{ function: sum, of: "amount * 2", window: 1m, where: "amount > 1" }}
    max_age: {max_age}s
    defaults: {{ payments_1m: -1, spent_1m: -1 }}
  device:
    key: device
    pane: 1s
    windows:
      cards_1h: {{ function: distinct, of: card, window: 1h }}
      last_1h: {{ function: last, of: amount, window: 1h }}
    max_age: {max_age}s
    on_stale: review
    defaults: {{ cards_1h: -1, last_1h: -1 }}
enrich: {{ timeout: 2s }} # what is asked here is what views say, not how long a busy machine may take
policy:
  version: "1"
  outcomes: [approve, review]
  default: approve
  on_unknown: review
  rules:
    - {{ name: many, when: "card_payments_1m + card_spent_1m + device_cards_1h + device_last_1h > 1e9",
        outcome: review, reason: MANY }}
topics: {{ registry: {name}.registry, admissions: {name}.admissions }}
"""
JOBS = ("features", "by-device", "views", "decisions")


class Shop:
    """Sends payments, and reads what became of them."""

    def __init__(self, bootstrap: str, pipeline: Pipeline) -> None:
        self._bootstrap, self._pipeline = bootstrap, pipeline
        self._producer = Producer({"bootstrap.servers": bootstrap, "partitioner": "murmur2_random"})

    def pay(self, number: str, card: str, device: str, amount: float, at_ms: int) -> None:
        at = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(at_ms // 1000)) + f".{at_ms % 1000:03}Z"
        event = {"id": number, "card": card, "device": device, "at": at, "amount": amount}
        self._producer.produce(self._pipeline.topic("events"), json.dumps(event), card)

    def sent(self) -> None:
        assert self._producer.flush(20) == 0

    def decisions(self) -> dict[str, Any]:
        """Event id to decision, as a committed reader sees them now."""
        parts = [TopicPartition(self._pipeline.topic("decisions"), lane, 0) for lane in range(LANES)]
        bodies = (json.loads(message.value()) for message in _read(self._bootstrap, parts))
        return {body["event_id"]: body for body in bodies}


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as each:
        yield each


def command(*words: str) -> tuple[int, str]:
    """Exit status and standard output of a `penstock` command."""
    done = CliRunner().invoke(app, list(words))
    return done.exit_code, done.stdout


def tides(client: redis.Redis, name: str) -> list[int]:
    """Every lane's tide of both views in Redis, Unix milliseconds; 0 for one that is not there."""
    found = []
    for view in ("card", "device"):
        fields: dict[bytes, bytes] = client.hgetall(tides_key(name, view))
        marks = [Mark.read(fields.get(b"%d" % lane, b"")) for lane in range(LANES)]
        found += [mark.tide_ms if mark is not None else 0 for mark in marks]
    return found


@pytest.mark.timeout(240)
def test_a_declared_view_is_in_decisions_compared_with_the_events_and_stale_when_its_writer_dies(
    kafka: Any, redis_url: str, unique: Callable[[str], str], tmp_path: Path, stack: ExitStack
) -> None:
    name = unique("path").replace("-", "_")
    file = tmp_path / "pipeline.yaml"
    file.write_text(TEXT.format(name=name, max_age=MAX_AGE))
    pipeline, client = load(file), stack.enter_context(redis.Redis.from_url(redis_url))
    status, said = command("topics", str(file), "--bootstrap", kafka.bootstrap, f"--lanes={LANES}", "--replicas=1")
    assert status == 0, said
    runs = {
        job: stack.enter_context(launched(file, kafka.bootstrap, tmp_path, REDIS=redis_url, JOB=job)) for job in JOBS
    }
    shop = Shop(kafka.bootstrap, pipeline)
    began = int(time.time()) * 1000 - 30_000
    for i in range(40):  # four a second, over ten seconds: of four cards on two devices
        shop.pay(f"P-{i}", f"C-{i % 4}", f"D-{i % 2}", float(i % 5), began + i * 250)
    shop.sent()
    sent_ms = round(time.time() * 1000)
    for run in runs.values():
        run.until_ready(120)
    wait(lambda: min(tides(client, name)) > sent_ms, 60, runs["views"], "to have all payments in Redis")

    at = began + 7_100  # in the pane of the payments 28 to 31, which are not in it
    for card in range(4):
        shop.pay(f"A-{card}", f"C-{card}", f"D-{card % 2}", 1.0, at)
    shop.pay("A-new", "C-new", "D-new", 1.0, at)
    shop.sent()
    decided = until_decided(shop, runs["decisions"], {f"A-{card}" for card in range(4)} | {"A-new"})
    for card in range(4):
        body = decided[f"A-{card}"]
        assert body["degraded"] == []
        mine = [i for i in range(28) if i % 4 == card]
        spent = sum(2.0 * (i % 5) for i in mine if i % 5 > 1)
        on_device = [i for i in range(28) if i % 2 == card % 2]
        assert body["features"]["card_payments_1m"] == len(mine)
        assert body["features"]["card_spent_1m"] == spent
        assert body["features"]["device_cards_1h"] == 2
        assert body["features"]["device_last_1h"] == on_device[-1] % 5
    new = decided["A-new"]["features"]
    assert (new["card_payments_1m"], new["card_spent_1m"], new["device_cards_1h"]) == (0, 0, 0)
    assert new["device_last_1h"] is None
    for body in decided.values():
        if body["event_id"].startswith("A-"):
            assert body["degraded"] == []
            assert all(0 <= body["ages"][view] < MAX_AGE for view in ("card", "device")), body["ages"]

    compare_with_the_events(file, kafka.bootstrap, redis_url, client, name)
    stale_when_the_writer_dies(shop, runs)


def until_decided(shop: Shop, run: Launched, ids: set[str]) -> dict[str, Any]:
    decided: dict[str, Any] = {}

    def all_there() -> bool:
        decided.update(shop.decisions())
        return ids <= decided.keys()

    wait(all_there, 30, run, f"to decide {sorted(ids)[:5]}")
    return decided


def compare_with_the_events(file: Path, bootstrap: str, redis_url: str, client: redis.Redis, name: str) -> None:
    """All is well; then one key's value is another's, and that is found."""
    words = ("features", "parity", "--pipeline", str(file), "--bootstrap", bootstrap, "--redis", redis_url)
    status, said = command(*words, "--share=1", "--json")
    views = {each["view"]: each for each in json.loads(said)}
    assert status == 0, said
    assert [(views[view]["keys"], views[view]["wrong"]) for view in ("card", "device")] == [(5, 0), (3, 0)]
    assert min(each["compared"] for each in views.values()) >= 2

    right = client.get(f"penstock:{name}:device:D-0")
    client.set(f"penstock:{name}:device:D-0", client.get(f"penstock:{name}:device:D-new") or b"")
    status, said = command(*words, "--share=1")
    assert status == 1, said
    assert "view device, all keys: 3 seen, 3 compared, 1 wrong" in said

    client.delete(f"penstock:{name}:device:D-0")  # lost, and written again from the changelog
    assert command(*("features", "rebuild"), *words[2:])[0] == 0
    assert client.get(f"penstock:{name}:device:D-0") == right
    status, said = command("features", "get", "device", "D-0", *words[2:4], "--redis", redis_url, "--json")
    assert (status, json.loads(said)["cards_1h"]) == (0, 2), said


def stale_when_the_writer_dies(shop: Shop, runs: dict[str, Launched]) -> None:
    """Within max_age and a second, every decision says so, and the view's own rule holds."""
    for pid in runs["views"].pids():
        os.kill(pid, signal.SIGKILL)
    killed, sent = time.time(), []
    while time.time() < killed + MAX_AGE + 2.5:
        sent.append(f"S-{len(sent)}")
        shop.pay(sent[-1], f"C-{len(sent) % 4}", "D-0", 1.0, round(time.time() * 1000))
        shop.sent()
        time.sleep(0.1)
    decided = until_decided(shop, runs["decisions"], set(sent))
    late = [body for number in sent if decided_at(body := decided[number]) > killed + MAX_AGE + 1]

    assert len(late) >= 5
    for body in late:
        assert {"view:card:stale", "view:device:stale"} <= set(body["degraded"]), body["degraded"]
        assert body["outcome"] == "review"
    fresh = [number for number in sent if not decided[number]["degraded"]]
    assert fresh, "some were decided before it was stale"


def decided_at(body: dict[str, Any]) -> float:
    """Unix seconds."""
    return datetime.fromisoformat(body["decided_at"]).timestamp()
