"""The jobs that compute views, on a real broker, killed and rescaled: their changelogs say what pandas says."""

from __future__ import annotations

import os
import random
import re
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer, TopicPartition

from console.topics import topics_of
from dataflows.pipeline import Pipeline, load
from deploy.pipelines.claims import claims
from deploy.pipelines.payments import payments
from deploy.pipelines.planned import Planned
from state import distinct
from tests.dataflows import shop
from tests.integration.changelogs import Changelogs
from tests.integration.launched import LANES, Launched, _read, launched, wait
from tests.integration.let_through import let_through

HOUR = 3_600_000


@dataclass
class Stand:
    """A pipeline on a broker, its jobs, and who reads what they publish."""

    bootstrap: str
    file: Path
    pipeline: Pipeline
    folder: Path
    stack: ExitStack
    runs: list[Launched] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.changelogs = Changelogs(self.bootstrap, self.pipeline, LANES)
        self.stack.callback(self.changelogs.close)

    def run(self, job: str, slot: int = 0, **settings: str) -> Launched:
        run = launched(self.file, self.bootstrap, self.folder, JOB=job, SLOT=str(slot), **settings)
        self.runs.append(self.stack.enter_context(run))
        return self.runs[-1]

    def send(self, events: Sequence[Planned]) -> None:
        producer = Producer({"bootstrap.servers": self.bootstrap, "partitioner": "murmur2_random", "linger.ms": 2})
        for each in events:
            while True:
                try:
                    producer.produce(self.pipeline.topic("events"), each.value, each.key, headers=list(each.headers))
                    break
                except BufferError:
                    producer.poll(0.1)
            producer.poll(0)
        assert producer.flush(60) == 0

    def disturb(self, events: Sequence[Planned], chance: random.Random, jobs: Sequence[Launched]) -> None:
        """Send the events while three slots are killed somewhere, and a second slot of `features` comes."""
        part = len(events) // 5
        self.send(events[:part])
        for run in jobs:
            run.until_ready(150)
        second = self.run("features", 1)
        for n in (1, 2, 3):
            half = part // 2 + part * n
            self.send(events[part * n : half])
            time.sleep(chance.random() * 0.3)
            kill(chance.choice(jobs), chance)
            self.send(events[half : part * (n + 1)])
        wait(lambda: lanes_of(second), 150, second, "to have some of the lanes")
        self.send(events[part * 4 :])

    def until_all_is_there(self, timeout: float) -> None:
        """By the word of the views themselves: their tides are beyond this moment."""
        sent_ms = time.time() * 1000

        def all_there() -> bool:
            self.changelogs.read()
            return min(self.changelogs.tides().values()) > sent_ms

        wait(all_there, timeout, self.runs[0], "to have all events in the views by their own word")

    def logged(self) -> Iterator[Any]:
        """Every record of the topic of the events."""
        return _read(self.bootstrap, [TopicPartition(self.pipeline.topic("events"), n, 0) for n in range(LANES)])

    def assert_as_pandas(self, frame: Any, beyond_ms: Sequence[int]) -> None:
        """At moments so long after the last event."""
        values = 0
        for at_ms in (int(frame["ms"].max()) + beyond for beyond in beyond_ms):
            for view, keys in shop.expected(self.pipeline, frame, at_ms).items():
                found = self.changelogs.values(view, keys, at_ms)
                windows = self.pipeline.views[view].windows
                for key, row in keys.items():
                    for name, value in row.items():
                        rough = windows[name].function == "distinct" and value > distinct.EXACT
                        wanted = pytest.approx(value, rel=5 * distinct.ERROR if rough else 1e-9, nan_ok=True)
                        assert found[key][name] == wanted, (view, key, name, at_ms)
                        values += 1
        print(f"{values} values of {len(frame)} events are what pandas says")


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as each:
        yield each


@pytest.fixture
def stand(kafka: Any, unique: Callable[[str], str], tmp_path: Path, stack: ExitStack) -> Callable[[str], Stand]:
    """From the text of a pipeline file to a stand that shares no topic with another."""

    def make(text: str) -> Stand:
        name = unique("views").replace("-", "_")
        file = tmp_path / "pipeline.yaml"
        text = re.sub(r"(?m)^pipeline: .*$", f"pipeline: {name}", text)
        file.write_text(f"{text}\ntopics: {{ registry: {name}.registry, admissions: {name}.admissions }}\n")
        pipeline = load(file)
        kafka.create_topics(topics_of(pipeline, LANES))
        return Stand(kafka.bootstrap, file, pipeline, tmp_path, stack)

    return make


def kill(run: Launched, chance: random.Random) -> None:
    """SIGKILL a slot that runs."""
    pids = [row["pid"] for row in run.table() if row["pid"]]
    if pids:
        os.kill(chance.choice(pids), signal.SIGKILL)


def lanes_of(run: Launched) -> list[int]:
    return [lane for row in run.table() for lane in row["lanes"]]


@pytest.mark.ci
@pytest.mark.timeout(400)
def test_views_are_what_pandas_says_after_kills_and_a_change_of_slots(
    stand: Callable[[str], Stand], tmp_path: Path
) -> None:
    """Events out of order, repeated and broken; three SIGKILLs; one slot becomes two. Then tides move while idle."""
    seed = 11
    print(f"seed {seed}")
    text = shop.SHOP.replace(shop.SHOP[shop.SHOP.index("  card:\n    key") : shop.SHOP.index("policy:")], "")
    it = stand(text)
    jobs = [it.run("features"), it.run("by-device", LANE_STORE=str(tmp_path / "store"))]
    it.disturb([Planned(e.key, e.value, (), "clean") for e in shop.events(4500, seed)], random.Random(seed), jobs)
    it.until_all_is_there(150)
    frame = shop.table(
        [(record.partition(), record.offset(), record.value(), record.timestamp()[1]) for record in it.logged()],
        it.pipeline,
    )
    it.assert_as_pandas(frame, (60_000, HOUR, 7 * HOUR))

    before = it.changelogs.tides()

    def all_moved() -> bool:
        it.changelogs.read()
        return all(tide > before[part] for part, tide in it.changelogs.tides().items())

    wait(all_moved, 10, jobs[0], "to move the tides of idle lanes")
    behind = [time.time() * 1000 - tide for tide in it.changelogs.tides().values()]
    assert -100 < min(behind) <= max(behind) < 3000
    for run in it.runs:
        run.process.send_signal(signal.SIGTERM)
    assert [run.ends() for run in it.runs] == [0] * len(it.runs)


PAYMENTS = """
views:
  card:
    key: card_id
    pane: 1m
    windows:
      n_1h: { function: count, window: 1h }
      mean_1d: { function: mean, of: amount, window: 1d }
      spread_1d: { function: stddev, of: amount, window: 1d }
      last_1d: { function: last, of: amount, window: 1d }
      since: { function: seconds_since_last, window: 1d }
    on_missing: review
  device:
    key: device_id
    pane: 10s
    on_late: ignore
    allowed_lateness: 30s
    windows:
      n_1h: { function: count, window: 1h }
      today: { function: count, window: 1d, kind: tumbling }
      cards_6h: { function: distinct, of: card_id, window: 6h }
      spent_1h: { function: sum, of: amount, window: 1h, where: "amount > 50" }
    on_missing: review
  merchant:
    key: merchant_id
    pane: 1m
    where: "amount > 5"
    windows:
      most_6h: { function: max, of: amount, window: 6h }
      least_6h: { function: min, of: "amount / card_limit", window: 6h }
      rate_1h: { function: rate, window: 1h }
    on_missing: review
"""
CLAIMS = """
views:
  own:
    key: policyholder_id
    pane: 1m
    windows:
      n_1d: { function: count, window: 1d }
      limit_1d: { function: last, of: policy_limit, window: 1d }
    on_missing: review
  kind:
    key: claim_type
    pane: 10m
    on_late: ignore
    allowed_lateness: 1m
    windows:
      n_1d: { function: count, window: 1d }
      holders_1d: { function: distinct, of: policyholder_id, window: 1d }
      deductible_6h: { function: mean, of: deductible, window: 6h }
    on_missing: review
"""


def payments_events(n: int, chance: random.Random) -> list[Planned]:
    return out_of_order(list(payments.stream(chance.randrange(1000), n)), chance)


def claims_events(n: int, chance: random.Random) -> list[Planned]:
    """Dated one second after the other up to now."""
    began, seconds = datetime.now(UTC) - timedelta(seconds=n), iter(range(2 * n))
    stream = claims.stream(chance.randrange(1000), n, now=lambda: began + timedelta(seconds=next(seconds)))
    return out_of_order(list(stream), chance)


def out_of_order(events: list[Planned], chance: random.Random) -> list[Planned]:
    """Each up to 100 places from its own."""
    return [each for _, each in sorted(enumerate(events), key=lambda pair: pair[0] + chance.uniform(0, 100))]


@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    "name, views, make", [("payments", PAYMENTS, payments_events), ("claims", CLAIMS, claims_events)]
)
def test_views_of_100000_events_are_what_pandas_says(
    name: str, views: str, make: Callable[..., list[Planned]], stand: Callable[[str], Stand]
) -> None:
    """Of each pipeline in the repository; what its contract and its guard keep out is in no view."""
    n, seed = int(os.environ.get("PENSTOCK_EVENTS", "100000")), 21
    print(f"seed {seed}")
    chance = random.Random(seed)
    text = Path(f"deploy/pipelines/{name}/pipeline.yaml").read_text()
    it = stand(_with_views(text, views))
    jobs = [it.run(job) for job in ("features", *(f"by-{key}" for key in _other_keys(it.pipeline)))]
    began = time.monotonic()
    it.disturb(make(n, chance), chance, jobs)
    it.until_all_is_there(600)
    print(f"{name}: {n} events in {time.monotonic() - began:.0f} s")
    it.assert_as_pandas(let_through(it.pipeline, it.logged()), (60_000, HOUR, 7 * HOUR))


def _with_views(text: str, views: str) -> str:
    """The pipeline without models, features and rules, which need views of their own."""
    kept = re.split(r"(?m)^(?=[a-z_]+:)", text)
    gone = ("views", "features", "models", "policy", "recall", "enrich")
    policy = 'policy: { version: "1", outcomes: [approve, review], default: approve, on_unknown: review }\n'
    return "".join(part for part in kept if part.split(":")[0] not in gone) + views + policy


def _other_keys(pipeline: Pipeline) -> list[str]:
    from dataflows.jobs import other_keys

    return other_keys(pipeline)
