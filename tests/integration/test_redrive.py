"""Deciding again, on a real broker: rejected claims once the contract is mended, and a range with another policy.

The reader knows topics and JSON only. The engine has ended before anything is decided again; `-s` shows the figures.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import KafkaException, Producer
from typer.testing import CliRunner

from console.accounting import account
from console.cli import app
from console.demo_releases import Releases
from console.embedded import KafkaServer
from console.scenery import topics_to_read
from console.topics import Topic
from deploy.pipelines.claims import claims
from operators.batch import Record
from operators.revision_writer import RevisionsRefused, RevisionWriter
from operators.topic_ranges import TopicRanges, TopicUnreadable
from tests.integration.engine import PIPELINES, ROOT, First, Running, running

pytestmark = pytest.mark.ci

SEED, EVENTS, EVERY, LANES, HUGE = 20261123, 600, 6, 4, 20_000_000
DIES = """
import os, signal, sys
import console.mending, console.redrive
from console.cli import app
from operators.revision_writer import RevisionWriter

class Dying(RevisionWriter):
    left = 3
    def write(self, records):
        self.left -= 1
        if self.left:
            return super().write(records)
        self._producer.begin_transaction()
        for record in records:
            self._put(record)
        assert self._producer.flush(10) == 0
        os.kill(os.getpid(), signal.SIGKILL)

console.mending.ROWS = 16
console.redrive.RevisionWriter = Dying
app(["rejected", "replay"])
"""
"""Ends with SIGKILL when its third transaction is on the broker and not committed."""


@dataclass
class Scene:
    """Claims that were decided, and some that were rejected since their limit was thought impossible."""

    engine: Running
    firsts: dict[tuple[int, int], First]
    sent: dict[tuple[int, int], bytes]
    huge: list[tuple[int, int]]
    """Rejected, and good by the mended contract."""
    again: tuple[int, int]
    """Rejected like them; its producer has sent it again with a smaller limit."""
    mended: Path
    """The pipeline with the mended contract."""
    began: str

    @property
    def environment(self) -> dict[str, str]:
        servers = self.engine.servers
        return {
            "PENSTOCK_FILE": str(self.mended),
            "PENSTOCK_BOOTSTRAP": servers.bootstrap,
            "PENSTOCK_REDIS": servers.redis,
            "PENSTOCK_SEAL_KEY": self.engine.key,
            "PENSTOCK_ARTEFACTS": str(self.mended.parent / "artefacts"),
        }

    def penstock(self, *arguments: str) -> Any:
        told = CliRunner().invoke(app, [*arguments, "--json"], env=self.environment)
        assert told.exit_code == 0, told.output
        return json.loads(told.stdout)

    def compared(self, *more: str) -> Any:
        return self.penstock("replay", "--from", self.began, "--to", "2100-01-01T00:00:00Z", *more)

    def records(self, *roles: str) -> list[tuple[str, Any]]:
        """Role and body of everything that a committed reader finds on these topics."""
        found = []
        with TopicRanges(self.engine.servers.connection) as reader:
            for role in roles:
                topic = self.engine.pipeline.topic(role)
                for messages in reader.read(topic, reader.bounds(topic)):
                    found += [(role, json.loads(message.value())) for message in messages]
        return found


def claim_id(value: bytes | None) -> str | None:
    try:
        body = json.loads(value or b"")
        return str(body.get("data", body)["claim_id"])
    except (ValueError, KeyError, AttributeError):
        return None


def changed(value: bytes | None, **fields: Any) -> bytes:
    body = json.loads(value or b"")
    body.get("data", body).update(fields)
    return json.dumps(body).encode()


@pytest.fixture(scope="module")
def scene(kafka: KafkaServer, redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    folder, began = (
        tmp_path_factory.mktemp("redrive"),
        time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - 60)),
    )
    events = [[e.key, e.value, e.headers, e.kind] for e in claims.stream(SEED, EVENTS)]
    ids = Counter(claim_id(event[1]) for event in events)
    clean = [at for at, event in enumerate(events) if event[3] == "clean" and ids[claim_id(event[1])] == 1][::EVERY]
    for at in clean:
        events[at][1] = changed(events[at][1], policy_limit=HUGE)
    events.append([*events[clean[0]][:1], changed(events[clean[0]][1], policy_limit=1000), *events[clean[0]][2:]])
    with running("claims", kafka, redis_url, f"redrive_{os.getpid()}", folder, seed=SEED, events=EVENTS) as engine:
        origins = engine.send((key, value, headers) for key, value, headers, _ in events)
        firsts = {origin: found[0] for origin, found in engine.first_records(len(events)).items()}
        mended = folder / "mended.yaml"
        text = (folder / "pipeline.yaml").read_text()
        assert text.count("le: 10000000 }") == 1
        mended.write_text(text.replace("le: 10000000 }", "le: 100000000 }"))
        huge = [origins[at] for at in clean[1:]]
        assert {firsts[origin].body["reason"] for origin in (*huge, origins[clean[0]])} == {"constraint"}
        sent = {origin: event[1] or b"" for origin, event in zip(origins, events, strict=True)}
        yield Scene(engine, firsts, sent, huge, origins[clean[0]], mended, began)


def test_rejections_are_counted_and_shown(scene: Scene) -> None:
    reasons = Counter(first.body["reason"] for first in scene.firsts.values() if first.role == "rejected")
    listed = scene.penstock("rejected", "list", "--limit", "3")
    only = scene.penstock("rejected", "list", "--reason", "constraint", "--lane", "1", "--limit", "1000")
    lane, offset = scene.huge[0]
    shown = scene.penstock("rejected", "show", f"{lane}:{offset}")
    opened = scene.penstock("rejected", "show", shown["decision_id"], "--reveal")["original"]

    assert len(reasons) > 2
    assert Counter({group["reason"]: 0 for group in listed["by"]}) == dict.fromkeys(reasons, 0)
    assert sum(group["count"] for group in listed["by"]) == reasons.total()
    assert len(listed["rejected"]) == 3
    assert {row["reason"] for row in only["rejected"]} == {"constraint"}
    assert len(only["rejected"]) == sum(lane == 1 for lane, _ in (*scene.huge, scene.again))
    assert (shown["reason"], shown["field"], shown["stage"]) == ("constraint", "policy_limit", "decode")
    assert "original" not in shown
    assert opened["value"].encode() == scene.sent[lane, offset]


def test_rejected_events_are_decided_once_when_the_contract_is_mended(scene: Scene) -> None:
    """A dry run writes nothing; a run that is killed in a transaction and the next one write each record once."""
    dry = scene.penstock("rejected", "replay", "--dry-run")
    assert scene.penstock("rejected", "list")["count"] == dry["selected"]
    assert sum(dry["decided"].values()) == len(scene.huge)
    assert not [body for _, body in scene.records("decisions", "duplicates", "quarantine") if body["revision"]]

    environment = {**os.environ, **scene.environment}
    killed = subprocess.run(
        [sys.executable, "-c", DIES], cwd=ROOT, env=environment, capture_output=True, timeout=60, check=False
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()[-3000:]
    second = scene.penstock("rejected", "replay")
    third = scene.penstock("rejected", "replay")

    made = [(role, body) for role, body in scene.records("decisions", "duplicates", "quarantine") if body["revision"]]
    print(f"seed {SEED}: dry {dry}; after the kill {second}")
    assert 0 < second["already"] <= 32, "two transactions of 16 rejections were committed"
    assert third["already"] == len(made) == len(scene.huge) + 1
    assert (third["decided"], third["duplicates"]) == ({}, 0)
    assert second["rejected"] == third["rejected"] == dry["rejected"] != {}
    by_origin = Counter((body["origin"]["partition"], body["origin"]["offset"]) for _, body in made)
    assert by_origin == dict.fromkeys([*scene.huge, scene.again], 1)
    for role, body in made:
        assert (body["revision"], body["supersedes"]) == (1, {"kind": "rejection", "revision": 0})
        if role == "decisions":
            assert "recall:replayed" in body["degraded"]
            assert body["scores"]["severity"]["release"] == "1"
    [mark] = [body for role, body in made if role == "duplicates"]
    resent = next(o for o, first in scene.firsts.items() if first.body.get("decision_id") == mark["first"])
    assert scene.firsts[resent].body["event_id"] == mark["event_id"]


def test_the_account_takes_revisions_as_what_they_are(scene: Scene) -> None:
    engine = scene.engine
    found = account(engine.servers.connection, topics_to_read(engine.pipeline))

    assert found.right
    assert (found.revisions, found.repeated_revisions) == (len(scene.huge) + 1, 0)
    assert found.decisions == sum(first.role == "decisions" for first in scene.firsts.values())


def test_the_same_policy_and_releases_change_nothing(scene: Scene) -> None:
    found = scene.compared()
    decided = sum(first.role == "decisions" for first in scene.firsts.values())

    assert (found["events"], found["compared"]) == (len(scene.sent), decided + len(scene.huge))
    assert found["changed"] == 0
    assert found["lacking"] == {}
    assert {model: score["differ"] for model, score in found["scores"].items()} == {
        "severity": 0, "severity_online": 0,
    }  # fmt: skip
    assert {pair["before"] for pair in found["outcomes"]} >= {"approve", "review"}
    assert all(pair["before"] == pair["after"] for pair in found["outcomes"])


def test_a_range_of_offsets_is_read_and_no_more(scene: Scene) -> None:
    found = scene.penstock("replay", "--from", "2:10", "--to", "2:30")
    offsets = [offset for lane, offset in scene.sent if lane == 2 and 10 <= offset < 30]

    assert found["events"] == len(offsets)
    assert found["changed"] == 0


def test_another_policy_changes_exactly_what_it_says_and_is_written_once(scene: Scene) -> None:
    text = scene.mended.read_text()
    other = scene.mended.with_name("other.yaml")
    assert text.count("severity > 30000") == 1
    other.write_text(text.replace("severity > 30000", "severity > 5000").replace('version: "1"\n', 'version: "2"\n'))
    latest: dict[str, Any] = {}
    for _, body in scene.records("decisions"):
        if body["decision_id"] not in latest or body["revision"] > latest[body["decision_id"]]["revision"]:
            latest[body["decision_id"]] = body
    expected = {
        name for name, body in latest.items()
        if 5_000 < body["scores"]["severity"]["score"] <= 30_000 and "SEVERITY_HIGH" not in body["reasons"]
    }  # fmt: skip
    worse = {name for name in expected if latest[name]["outcome"] == "approve"}
    compared = scene.compared("--policy", str(other), "--list", "1000")
    before = len(scene.records("decisions"))

    assert len(expected) > 10 < len(worse)
    assert {each["decision_id"] for each in compared["decisions"]} == expected
    assert compared["changed"] == len(expected)
    moved = {(p["before"], p["after"]): p["count"] for p in compared["outcomes"] if p["before"] != p["after"]}
    assert moved == {("approve", "review"): len(worse)}

    scene.compared("--policy", str(other), "--write")
    again = scene.compared("--policy", str(other), "--write")
    bodies = [body for _, body in scene.records("decisions")]
    assert again["changed"] == 0
    assert len(bodies) == before + len(expected)
    for body in bodies:
        if body["policy"]["version"] == "2":
            assert body["decision_id"] in expected
            assert body["revision"] == latest[body["decision_id"]]["revision"] + 1
            assert body["supersedes"] == {"kind": "decision", "revision": body["revision"] - 1}
    assert len({(body["decision_id"], body["revision"]) for body in bodies}) == len(bodies)


def test_a_named_release_scores_all(scene: Scene) -> None:
    engine, folder = scene.engine, scene.mended.parent
    Releases(PIPELINES / "claims" / "models", engine.pipeline, engine.servers.connection, folder / "artefacts").publish(
        "2"
    )
    found = scene.compared("--release", "severity=2")

    assert found["scores"]["severity"]["differ"] == found["compared"] == found["changed"]
    assert found["scores"]["severity_online"]["differ"] == 0
    told = CliRunner().invoke(
        app, ["replay", "--from", "0:0", "--to", "0:1", "--release", "severity=9"], env=scene.environment
    )
    assert told.exit_code == 2
    assert "it has 1, 2" in told.output


def test_of_two_that_write_revisions_the_first_is_fenced(kafka: KafkaServer, topic_name: str) -> None:
    """Also one that is in the middle of a transaction: nothing of that is there."""
    kafka.create_topics({topic_name: Topic(1)})
    connection = {"bootstrap.servers": kafka.bootstrap}
    one, other = (RevisionWriter(connection, topic_name, {"decisions": topic_name}) for _ in range(2))
    with TopicRanges(connection, patience=4.0) as reader:  # less than the time-out of a transaction
        with one:
            one.write([Record("decisions", 0, b"k", b"one", (("h", b"v"),))])
            one._producer.begin_transaction()
            one._put(Record("decisions", 0, b"k", b"lost"))
            assert one._producer.flush(10) == 0
            with other:
                seen = [m.value() for some in reader.read(topic_name, reader.bounds(topic_name)) for m in some]
                assert seen == [b"one"], "what it had committed can be read at once"
                other.write([Record("decisions", 0, b"k", b"other")])
                with pytest.raises(KafkaException):
                    one._producer.commit_transaction(10)
            with pytest.raises(RevisionsRefused, match="another run"):
                one.write([Record("decisions", 0, b"k", b"late")])
        found = [m.value() for some in reader.read(topic_name, reader.bounds(topic_name)) for m in some]
    assert found == [b"one", b"other"]


def test_what_is_behind_an_open_transaction_is_waited_for(kafka: KafkaServer, topic_name: str) -> None:
    """A revision may be committed behind another producer's open transaction, where no committed reader sees it yet."""
    kafka.create_topics({topic_name: Topic(1)})
    connection = {"bootstrap.servers": kafka.bootstrap}
    first, second = (Producer({**connection, "transactional.id": f"{topic_name}-{n}"}) for n in (1, 2))
    for producer in (first, second):
        producer.init_transactions(20)
        producer.begin_transaction()
        producer.produce(topic_name, b"open" if producer is first else b"done", partition=0)
        assert producer.flush(10) == 0
    second.commit_transaction(20)

    with TopicRanges(connection, patience=1.0) as reader:
        bounds = reader.bounds(topic_name)
        assert bounds == {0: (0, 3)}
        with pytest.raises(TopicUnreadable, match="transaction still open"):
            list(reader.read(topic_name, bounds))
        first.abort_transaction(20)
        for _ in range(2):  # a range may be read again
            assert [m.value() for some in reader.read(topic_name, bounds) for m in some] == [b"done"]
