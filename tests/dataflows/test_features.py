"""The flows of the features, without servers: their step ids, and their values against pandas."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import orjson
import pytest
from bytewax.testing import TestingSink, TestingSource, run_main

from console.diagram import Undrawn
from dataflows import features
from dataflows.feature_stages import EventStages, RekeyedStages, ViewStages, build_event_stages, build_rekeyed_stages
from dataflows.pipeline import Pipeline, loads
from dataflows.view_stages import view_windows
from operators.batch import Batch, Close, Item, Open, Record
from operators.window import step_of
from state.key_windows import key_of
from state.murmur2 import lanes_of
from state.packed import origins_of
from state.tide import KEY, STEP, read_tide
from state.vault import Vault
from state.view_reader import ViewReader
from tests.dataflows import shop
from tests.dataflows.test_topology import BREAKING, every_id, steps_of

LANES = 3
VAULT = Vault.from_base64(Vault.generate())
HOUR = 3_600_000


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return loads(shop.SHOP)


@dataclass
class Log:
    """A topic of `LANES` partitions, and what a job on it has committed."""

    name: str
    rows: list[list[tuple[bytes | None, bytes | None, int]]] = field(default_factory=lambda: [[] for _ in range(LANES)])
    """Of each lane: key, value, append time in ms."""
    state: dict[tuple[int, str], dict[bytes, bytes]] = field(default_factory=lambda: defaultdict(dict))
    following: list[int] = field(default_factory=lambda: [0] * LANES)

    def polls(self, chance: random.Random) -> Iterator[Batch]:
        """All that is left, a few rows of some lanes at a time."""
        while any(self.following[lane] < len(self.rows[lane]) for lane in range(LANES)):
            part = {}
            for lane in chance.sample(range(LANES), chance.randint(1, LANES)):
                start = self.following[lane]
                self.following[lane] = min(start + chance.randint(0, 60), len(self.rows[lane]))
                part[lane] = range(start, self.following[lane])
            if any(part.values()):
                yield self.batch({lane: part[lane] for lane in sorted(part) if part[lane]})

    def batch(self, part: dict[int, range], **more: Any) -> Batch:
        places = [(lane, offset) for lane, offsets in part.items() for offset in offsets]
        rows = [self.rows[lane][offset] for lane, offset in places]
        return Batch(
            topic=self.name,
            lane=np.array([lane for lane, _ in places], np.int32),
            offset=np.array([offset for _, offset in places], np.int64),
            append_ms=np.array([append for *_, append in rows], np.int64),
            keys=[key for key, _, _ in rows],
            values=[value for _, value, _ in rows],
            headers=[[] for _ in rows],
            poll=1,
            progress={lane: offsets.stop for lane, offsets in part.items()},
            **more,
        )

    def work(self, flow: Callable[[Any, Any], Any], batches: Iterable[Batch]) -> list[Record]:
        """Run a life of a job that begins with what is committed; the records that it writes."""
        opened = [
            Open(lane, {step: dict(entries) for (of, step), entries in self.state.items() if of == lane})
            for lane in range(LANES)
        ]
        out: list[Item] = []
        run_main(flow(TestingSource([*opened, *batches, *(Close(lane) for lane in range(LANES))]), TestingSink(out)))
        records = []
        for item in out:
            if isinstance(item, Batch):
                records += item.records
                for change in item.changes:
                    entries = self.state[change.lane, change.step]
                    if change.value is None:
                        entries.pop(change.key, None)
                    else:
                        entries[change.key] = change.value
        return records


class Shop:
    """Both jobs over the same events, each in many lives."""

    def __init__(self, pipeline: Pipeline, seed: int, n: int = 1500) -> None:
        self.pipeline, self.chance = pipeline, random.Random(seed)
        self.events, self.by = Log("shop.events"), {key: Log(f"shop.by-{key}") for key in ("device", "card")}
        self.sent: list[tuple[int, int, bytes, int]] = []
        """Lane, offset, value and append time; some were appended long before the time that they bear."""
        sent = shop.events(n, seed)
        for event, lane in zip(sent, lanes_of([each.key for each in sent], LANES).tolist(), strict=True):
            append = event.sent_ms - self.chance.choice([0] * 30 + [600_000, 600_001, 2 * HOUR])
            self.sent.append((lane, len(self.events.rows[lane]), event.value, append))
            self.events.rows[lane].append((event.key, event.value, append))

    def run(self) -> None:
        for part in _lives(list(self.events.polls(self.chance))):
            self.take(self.events.work(self.over_events, part))
        for key, log in self.by.items():
            for part in _lives(list(log.polls(self.chance))):
                log.work(self.over_rekeyed(key), part)

    def take(self, records: Sequence[Record]) -> None:
        """Append what `features` wrote to the topics of the other jobs."""
        for record in records:
            assert record.partition is not None
            self.by[record.topic.removeprefix("by-")].rows[record.partition].append((record.key, record.value, 1))

    def over_events(self, source: Any, sink: Any) -> Any:
        stages = build_event_stages(self.pipeline, vault=VAULT, scanner=None, lanes=lambda: LANES)
        return features.over_events(source, stages, sink)

    def over_rekeyed(self, key: str) -> Callable[[Any, Any], Any]:
        stages = build_rekeyed_stages(self.pipeline, key, lanes=lambda: LANES)
        return lambda source, sink: features.over_rekeyed(source, stages, sink)

    def log_of(self, view: str) -> Log:
        return self.by.get(self.pipeline.views[view].key, self.events)

    def values(self, view: str, keys: Iterable[str], at_ms: int) -> dict[str, dict[str, float]]:
        """Key to feature to value, also of keys that are not stored."""
        stored, names = self.stored(view), list(keys)
        assert stored.keys() <= set(names)
        reader = ViewReader(view_windows(view, self.pipeline.views[view]))
        columns = reader.evaluate_many([stored.get(name) for name in names], np.full(len(names), at_ms))
        rows = zip(*(column.tolist() for column in columns.values()), strict=True)
        return {name: dict(zip(columns, row, strict=True)) for name, row in zip(names, rows, strict=True)}

    def stored(self, view: str) -> dict[str, bytes]:
        """Key to its packed value."""
        stored: dict[str, bytes] = {}
        for lane in range(LANES):
            for name, value in self.log_of(view).state[lane, step_of(view)].items():
                if (key := key_of(name)) is not None:
                    assert key not in stored, "a key is in one lane"
                    stored[key] = value
        return stored


def _lives(batches: list[Batch]) -> Iterator[list[Batch]]:
    return (batches[start : start + 5] for start in range(0, len(batches), 5))


def assert_as_pandas(both: Shop, frame: Any, at_ms: int) -> None:
    for view, keys in shop.expected(both.pipeline, frame, at_ms).items():
        found = both.values(view, keys, at_ms)
        for key, row in keys.items():
            assert found[key] == pytest.approx(row, rel=1e-9, nan_ok=True), (view, key, at_ms)


@pytest.mark.parametrize("seed", range(3))
def test_values_are_what_pandas_says_however_lanes_are_polled(pipeline: Pipeline, seed: int) -> None:
    """At the end of the events and when some of them have left their windows; each job lives many times."""
    both = Shop(pipeline, seed)
    both.run()
    frame = shop.table(both.sent, pipeline)
    end = int(frame["ms"].max())

    assert len(frame) < len(both.sent), "some are broken, repeated or ahead"
    assert (frame["behind"] > 600_000).sum() > 20, "some are late"
    for at_ms in (end + 60_000, end + 300_000, end + HOUR, end + 7 * HOUR, end + 30 * HOUR):
        assert_as_pandas(both, frame, at_ms)


def test_values_say_where_in_the_source_their_last_change_came_from(pipeline: Pipeline) -> None:
    both = Shop(pipeline, 4, 400)
    both.run()
    bodies = {(lane, offset): value for lane, offset, value, _ in both.sent}

    for view in ("own", "device", "card"):
        stored = both.stored(view)
        for key, value in stored.items():
            origins = origins_of(value)
            for offset in (origins.first, origins.last):
                event = orjson.loads(bodies[origins.lane, offset])
                assert str(event[pipeline.views[view].key]) == key
        assert len(stored) > 4


def test_only_what_other_keys_need_is_written_and_no_lane_says_who_it_was(pipeline: Pipeline) -> None:
    """Rejections, duplicates and fields that no view of the key asks for are not."""
    both = Shop(pipeline, 5, 200)
    records = both.events.work(both.over_events, both.events.polls(both.chance))

    assert {record.topic for record in records} == {"by-device", "by-card"}
    assert not any(b"W-" in (record.value or b"") or b'"E-' in (record.value or b"") for record in records)


def test_tides_pass_through_to_every_lane_of_the_other_jobs(pipeline: Pipeline) -> None:
    both = Shop(pipeline, 6, 60)
    tick = both.events.batch({lane: range(0) for lane in range(LANES)}, tides={0: {0: 500}, 1: {1: 600}})
    last = both.events.batch({2: range(0)}, tides={2: {2: 400}})
    both.take(both.events.work(both.over_events, [*both.events.polls(both.chance), tick, last]))
    for key, log in both.by.items():
        log.work(both.over_rekeyed(key), log.polls(both.chance))

    assert tides(both.events) == {0: 500, 1: 600, 2: 400}
    assert tides(both.by["device"]) == tides(both.by["card"]) == dict.fromkeys(range(LANES), 400)


def tides(log: Log) -> dict[int, int]:
    return {lane: read_tide(entries[KEY]) for (lane, step), entries in log.state.items() if step == STEP and entries}


def test_step_ids_are_what_they_were() -> None:
    undrawn: Any = Undrawn()
    views = ViewStages(undrawn, {"own": undrawn, "other": undrawn}, undrawn)

    flow = features.over_events(TestingSource([]), EventStages(*[undrawn] * 4, views, undrawn), TestingSink([]))
    assert steps_of(flow) == [
        f"features.{step}"
        for step in ("events", "decode", "guard", "measure", "by_lane", "dedupe", "lateness", "view-own", "view-other",
                     "together", "rekey", "tide", "records")
    ], BREAKING  # fmt: skip
    flow = features.over_rekeyed(TestingSource([]), RekeyedStages(undrawn, views), TestingSink([]))
    assert steps_of(flow) == [
        f"by_key.{step}"
        for step in ("rekeyed_events", "rekeyed", "measure", "by_lane", "view-own", "view-other", "together", "tide",
                     "records")
    ]  # fmt: skip
    assert "by_key.view-own.view-own" in {found for step in flow.substeps for found in every_id(step)}, BREAKING
