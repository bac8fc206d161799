"""`penstock features put, get, list` on a real Redis: ages, idempotence, windows as they are now, and lineage."""

import json
import time
from pathlib import Path

import pytest
import redis
from typer.testing import CliRunner

from console.cli import app
from dataflows.pipeline import load
from dataflows.views import view_of
from state.feature_writer import FeatureWriter
from state.key_windows import KeyWindows
from state.murmur2 import lanes_of
from state.tides import Mark, tides_key
from state.versions import version
from state.views import redis_keys

VIEWS = """
  holder:
    key: card_id
    features: { claims_3y: number, segment: string }
    max_age: 30d
    owner: claims desk
    defaults: { claims_3y: 0, segment: null }
  lately:
    key: card_id
    max_age: 5s
    defaults: { claims_1h: 0, since: null }
    windows: { claims_1h: { function: count, window: 1h }, since: { function: seconds_since_last, window: 1h } }
"""


@pytest.fixture
def file(tmp_path, unique):
    """A pipeline whose name nobody else uses, with a loaded view and one with windows."""
    text = Path("deploy/pipelines/payments/pipeline.yaml").read_text()
    name = unique("look").replace("-", "_")
    lines = [f"pipeline: {name}" if line.startswith("pipeline:") else line for line in text.splitlines()]
    path = tmp_path / "pipeline.yaml"
    path.write_text("\n".join(lines).replace("\nviews:", "\nviews:" + VIEWS, 1))
    return path


@pytest.fixture
def run(file, redis_url):
    def call(*arguments):
        return CliRunner().invoke(app, ["features", *arguments, "--pipeline", str(file), "--redis", redis_url])

    return call


def test_a_whole_number_is_a_key_by_its_digits(file, run):
    file.write_text(file.read_text().replace("  holder:\n    key: card_id", "  holder:\n    key: seat", 1))
    file.write_text(file.read_text().replace("  fields:\n", "  fields:\n    seat: { type: integer }\n", 1))
    stored = run("put", "holder", "007", "claims_3y=2", "segment=x")
    found = run("get", "holder", "+7", "--json")
    refused = [run("put", "holder", "seven", "claims_3y=2", "segment=x"), run("get", "holder", "seven")]

    assert stored.exit_code == 0, stored.output
    assert json.loads(found.stdout)["claims_3y"] == 2.0
    assert [result.exit_code for result in refused] == [2, 2]
    assert all("whole number" in result.output for result in refused)


def test_a_value_steers_no_terminal_and_is_given_once(run):
    assert run("put", "holder", "ESC", "claims_3y=2", "segment=\x1b[2J").exit_code == 0
    twice = run("put", "holder", "K", "claims_3y=2", "claims_3y=3", "segment=")
    bare = run("put", "holder", "K", "claims_3y=2", "segment")

    assert "\x1b" not in run("get", "holder", "ESC").stdout
    assert (twice.exit_code, bare.exit_code) == (2, 2)
    assert "more than once" in twice.output
    assert "'segment' has no value" in bare.output


def test_a_value_that_was_put_is_got_and_an_older_one_changes_nothing(run):
    assert run("put", "holder", "K", "claims_3y=2", "segment=gold", "--time", "2026-01-31T12:00:00Z").exit_code == 0
    older = run("put", "holder", "K", "claims_3y=9", "segment=", "--time", "2026-01-31T11:59:59Z", "--json")
    found = json.loads(run("get", "holder", "K", "--json").stdout)

    assert (older.exit_code, json.loads(older.stdout)) == (1, {"view": "holder", "written": 0})
    assert (found["claims_3y"], found["segment"], found["stale"]) == (2.0, "gold", True)
    assert found["event_time"] == "2026-01-31T12:00:00+00:00"
    assert run("put", "holder", "K", "claims_3y=", "segment=").exit_code == 0
    assert json.loads(run("get", "holder", "K", "--json").stdout)["claims_3y"] is None
    assert "segment              -" in run("get", "holder", "K").stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["holder", "K", "claims_3y=1"], "segment: is missing"),
        (["holder", "K", "claims_3y=x", "segment="], "claims_3y: expected a finite number"),
        (["holder", "K", "claims=1", "segment="], "no feature 'claims'; expected claims_3y, segment"),
        (["holder", "K", "claims_3y=1", "segment=", "--time", "noon"], "time: expected a time such as"),
        (["lately", "K", "claims_1h=1"], "nothing is loaded into 'lately': it is computed from the events"),
    ],
)
def test_what_cannot_be_put_is_said(run, arguments, says):
    refused = run("put", *arguments)

    assert refused.exit_code == 2
    assert says in refused.output


def test_windows_are_shown_as_they_are_now_with_their_tide_and_lineage(run, file, redis_url):
    pipeline, now = load(file), round(time.time() * 1000)
    windows = view_of(pipeline, "lately").windows
    keys = KeyWindows(windows)
    keys.restore({})
    at = [now - 60_000, now - 30_000, now - 2 * 3_600_000]
    keys.observe(["K"] * 3, at, behind_ms=[0, 0, 0], values={}, lanes=[3] * 3, offsets=[40, 41, 42])
    lane = int(lanes_of([b"K"], 4)[0])
    writer = FeatureWriter.connect(redis_url, pipeline.pipeline)
    writer.put([(redis_keys(pipeline.pipeline, "lately", ["K"])[0], version(now, 7) + keys.read(["K"])[0], None)])
    assert run("get", "lately", "K", "--json").exit_code == 1, "without a tide nothing is known"
    writer.move([("lately", each, 4, Mark(now, 8, now - 1000 * (each == lane)), b"") for each in range(4)])
    found = json.loads(run("get", "lately", "K", "--json").stdout)
    listed = {view["view"]: view for view in json.loads(run("list", "--count", "--json").stdout)}
    writer.close()

    assert found["claims_1h"] == 2.0
    assert 29 < found["since"] < 45
    assert 1.0 <= found["age_seconds"] < 15
    assert found["source"] == {"topic": f"{pipeline.pipeline}.events", "lane": 3, "first": 40, "last": 41}
    assert (found["changelog"]["topic"], found["changelog"]["offset"]) == (f"{pipeline.pipeline}.features", 7)
    assert found["view_digest"] == windows.digest.hex()
    assert (listed["lately"]["kind"], listed["lately"]["lanes"], listed["lately"]["values"]) == ("windows", 4, 1)
    assert listed["lately"]["age_seconds"] >= 1.0
    assert (listed["holder"]["kind"], listed["holder"]["owner"], listed["holder"]["max_age_seconds"]) == (
        "loaded", "claims desk", 30 * 86_400.0
    )  # fmt: skip
    assert "claims desk" in run("list").stdout

    with redis.Redis.from_url(redis_url) as client:
        client.delete(redis_keys(pipeline.pipeline, "lately", ["K"])[0])
    assert json.loads(run("get", "lately", "K", "--json").stdout)["claims_1h"] == 0.0, (
        "an absent key is known to be empty"
    )
    with redis.Redis.from_url(redis_url) as client:
        client.delete(tides_key(pipeline.pipeline, "lately"))
