"""What Feast 0.67 wrote, read without Feast: every type as Feast reads it, both formats of keys, and how old it is."""

from __future__ import annotations

import base64
import gzip
import json
import math
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest
import redis

from console.parts import PartMissing
from console.redis_server import RedisServer
from dataflows.pipeline import loads
from dataflows.stages import views_of
from operators.batch import Batch
from operators.enrich import Enricher
from state.feast import FeastView
from state.features import FeatureStore
from state.views import Lack, Row
from tests.feast.project import JOIN_KEYS, NUMBERS, STRINGS, TTL, Answer, answers_of, environment, materialise, view_of
from tests.feast.record import NOW, RECORDED, ROWS

FEATURES = dict.fromkeys(NUMBERS, "number") | dict.fromkeys(STRINGS, "string")


@pytest.fixture(params=(2, 3), ids=("v2", "v3"), scope="module")
def recorded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    """A Redis with what Feast wrote into one, what Feast read back from it, and the format of the keys."""
    part = json.loads(gzip.decompress(RECORDED.read_bytes()))[str(request.param)]
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        client = redis.Redis.from_url(server.url)
        raw = base64.b64decode
        for key, fields in part["hashes"].items():
            client.hset(raw(key), mapping={raw(field): raw(value) for field, value in fields.items()})
        yield client, answers_of(part["answers"]), request.param
        client.close()


def read(client: redis.Redis, view: FeastView, keys: Sequence[str]) -> list[Row | Lack]:
    with client.pipeline(transaction=False) as pipe:
        for key in keys:
            pipe.hmget(view.redis_key(key), view.fields)
        return [view.row(stored) for stored in pipe.execute()]


def differences(client: redis.Redis, answers: Sequence[Answer], key_version: int) -> list[str]:
    """Where Penstock reads something else than Feast does."""
    found = []
    for name in JOIN_KEYS:
        view, here = view_of(name, FEATURES, key_version), [answer for answer in answers if answer.view == name]
        for answer, row in zip(here, read(client, view, [answer.key for answer in here]), strict=True):
            expected = [answer.time, *map(answer.number, NUMBERS), *map(answer.text, STRINGS)]
            if isinstance(row, Lack) or len(row) != len(expected):
                found.append(f"{name} {answer.key}: {row}")
                continue
            columns = ("time", *FEATURES)
            found += [
                f"{name} {answer.key} {column}: {ours} for {theirs}"
                for column, ours, theirs in zip(columns, row, expected, strict=True)
                if not (ours == theirs and type(ours) is type(theirs)) and not (isnan(ours) and isnan(theirs))
            ]
    return found


def isnan(value: object) -> bool:
    return isinstance(value, float) and math.isnan(value)


def test_every_type_and_null_is_read_as_feast_reads_it(recorded):
    client, answers, version = recorded

    assert len(answers) == ROWS * len(JOIN_KEYS)
    assert {answer.values[name][0] for answer in answers for name in FEATURES if name != "a_null"} >= {
        "int32_val",
        "int64_val",
        "float_val",
        "double_val",
        "bool_val",
        "unix_timestamp_val",
        "decimal_val",
        "string_val",
        "uuid_val",
        "json_val",
        None,
    }
    assert differences(client, answers, version) == []


def test_bytes_are_text_where_they_are_utf_8_and_cannot_be_read_where_they_are_not(recorded):
    client, answers, version = recorded
    here = [answer for answer in answers if answer.view == "stats"]
    rows = read(client, view_of("stats", {"some_bytes": "string"}, version), [answer.key for answer in here])
    wrong = 0
    for answer, row in zip(here, rows, strict=True):
        raw = answer.raw("some_bytes")
        try:
            assert row == (answer.time, None if raw is None else raw.decode())
        except UnicodeDecodeError:
            assert row is Lack.UNREADABLE
            wrong += 1

    assert 0 < wrong < len(here)


@pytest.mark.parametrize(
    "feature, kind", [("a_list", "number"), ("a_list", "string"), ("a_string", "number"), ("a_double", "string")]
)
def test_what_a_column_cannot_hold_is_unreadable_and_null_is_not(recorded, feature, kind):
    client, answers, version = recorded
    here = [answer for answer in answers if answer.view == "stats"]
    rows = read(client, view_of("stats", {feature: kind}, version), [answer.key for answer in here])

    for answer, row in zip(here, rows, strict=True):
        assert (row is Lack.UNREADABLE) == (answer.values[feature][1] is not None)


def test_a_feature_that_the_view_does_not_have_is_unreadable_and_an_unknown_key_or_view_is_missing(recorded):
    client, answers, version = recorded
    known = answers[0].key

    assert read(client, view_of("stats", {"an_int64": "number", "typo": "number"}, version), [known]) == [
        Lack.UNREADABLE
    ]
    assert (
        read(client, view_of("stats", FEATURES, version), ["999999", "12x", "", "9" * 30, "\ud800"])
        == [Lack.MISSING] * 5
    )
    other = FeastView("stats", (("an_int64", "number"),), "demo", "stats_v2", "driver_id", "int64", version)
    assert read(client, other, [known]) == [Lack.MISSING]


def test_keys_of_one_format_are_not_found_in_the_other(recorded):
    client, answers, version = recorded

    assert read(client, view_of("stats", FEATURES, 5 - version), [answers[0].key]) == [Lack.MISSING]


@pytest.fixture
def stage():
    """Makes the enrich stage of `PIPELINE` on a Redis and at a time."""
    stores = []

    def make(url: str, key_version: int, now: float) -> Enricher:
        pipeline = loads(PIPELINE.replace("source: feast", f"source: {{ feast: {{ key_version: {key_version} }} }}"))
        stores.append(FeatureStore.connect(url, pipeline.pipeline, timeout=5.0))
        return Enricher(stores[-1], views_of(pipeline), now=lambda: now)

    yield make
    for store in stores:
        store.close()


PIPELINE = f"""
pipeline: demo
contract:
  format: json
  event_id: trip
  entity: trip
  event_time: at
  fields: {{ trip: {{ type: string }}, at: {{ type: datetime }}, driver_id: {{ type: integer }} }}
guard: {{ default: allow }}
views:
  stats:
    key: driver_id
    source: feast
    features: {{ {", ".join(f"{name}: {kind}" for name, kind in FEATURES.items())} }}
    max_age: 2h
    defaults: {{ {", ".join(f"{name}: null" for name in FEATURES)} }}
  loaded:
    key: trip
    features: {{ distance: number }}
    defaults: {{ distance: 1 }}
policy: {{ version: "1", outcomes: [go, stop], default: go, on_unknown: stop }}
"""


def batch(answers: Sequence[Answer]) -> Batch:
    n = len(answers)
    zeros = np.zeros(n, np.int64)
    drivers = np.array([float(answer.key) for answer in answers])
    return Batch(
        "demo.events", zeros, np.arange(n), zeros, [None] * n, [b""] * n, [[]] * n,
        columns={"driver_id": drivers, "trip": ["none"] * n}, event_ms=zeros, degraded=[()] * n,
    )  # fmt: skip


def expired(enricher: Enricher, answers: Sequence[Answer], now: float) -> int:
    """Enrich rows and say how many are stale, which is to be those whose ttl has passed, and no others."""
    stale = 0
    for start in range(0, len(answers), 256):
        part = answers[start : start + 256]
        done = enricher.work(batch(part))
        old = [now - answer.time > TTL for answer in part]
        stale += sum(old)

        assert done.degraded == [(*["view:stats:stale"] * each, "view:loaded:missing") for each in old]
        np.testing.assert_array_equal(done.ages["stats"], [now - answer.time for answer in part])
        for name in NUMBERS:
            np.testing.assert_array_equal(done.columns[f"stats_{name}"], [answer.number(name) for answer in part])
        for name in STRINGS:
            assert done.columns[f"stats_{name}"] == [answer.text(name) for answer in part]
    return stale


def test_one_line_makes_a_view_feasts_and_what_is_past_its_ttl_is_stale(recorded, stage):
    """Of 24 rows, ten minutes apart, those more than two hours old; the loaded view is in the same round trip."""
    client, answers, version = recorded
    here = [answer for answer in answers if answer.view == "stats"]
    where = client.connection_pool.connection_kwargs
    enricher = stage(f"redis://{where['host']}:{where['port']}/0", version, NOW)

    enricher.work(batch(here[:1]))  # connects
    before = client.info("commandstats")
    assert expired(enricher, here, NOW) == ROWS // 2 - 1
    after = client.info("commandstats")
    assert after["cmdstat_hmget"]["calls"] - before["cmdstat_hmget"]["calls"] == ROWS - 1  # one was cached


def test_a_user_needs_the_documented_rights_to_read_feasts_keys(recorded, stage):
    client, answers, version = recorded
    here = [answer for answer in answers if answer.view == "stats"][:3]
    where = client.connection_pool.connection_kwargs
    row = re.search(r"\| `decisions` \| `(.+?)`.*`source: feast` also `(.+?)`", Path("state/FEATURES.md").read_text())
    rights = row[1].replace("\\|", "|").split()

    def degraded(*rights):
        client.execute_command("ACL", "SETUSER", "reader", "reset", "on", ">reads", *rights)
        url = f"redis://reader:reads@{where['host']}:{where['port']}/0"
        return stage(url, version, NOW).work(batch(here)).degraded

    assert degraded(*rights) == [("view:stats:unavailable", "view:loaded:missing")] * len(here)
    assert degraded(*rights, row[2].replace("<project>", "demo")) == [("view:loaded:missing",)] * len(here)
    client.execute_command("ACL", "DELUSER", "reader")


@pytest.mark.long  # installs Feast (446 MB) and materialises 15,000 rows: two minutes
@pytest.mark.timeout(900)
@pytest.mark.parametrize("version", [2, 3])
def test_five_thousand_rows_of_a_real_feast(tmp_path: Path, absent: Callable[[str], NoReturn], stage, version):
    try:
        environment()
    except PartMissing as missing:
        absent(str(missing))
    with RedisServer(tmp_path / "redis") as server:
        now = time.time()
        answers = materialise(tmp_path / "feast", server.url, key_version=version, rows=5000, now=now)
        client = redis.Redis.from_url(server.url)
        here = [answer for answer in answers if answer.view == "stats"]

        assert (len(answers), len(here)) == (15_000, 5_000)
        assert differences(client, answers, version) == []
        client.close()
        stale = expired(stage(server.url, version, now), here, now)
        print(f"key version {version}: {len(answers)} rows of {len(FEATURES)} features equal, {stale} of 5000 stale")
        assert 2_400 < stale < 2_600
