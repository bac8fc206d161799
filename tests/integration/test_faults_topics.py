"""Topics that are deleted, made again or grown under a running engine, and slots that are started twice."""

from __future__ import annotations

import os
import signal
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient, NewPartitions
from typer.testing import CliRunner

from console.cli import app
from console.embedded import KafkaServer
from console.topics import topics_of
from dataflows.pipeline import Pipeline
from tests.integration.launched import LANES, Launched, committed, firsts, launched, send, small_on, wait

pytestmark = pytest.mark.ci

LONG = os.environ.get("PENSTOCK_LONG") == "1"
QUICK = {"SESSION_TIMEOUT": "6"}


def decided(run: Launched, kafka: KafkaServer, pipeline: Pipeline, events: int, lanes: int = LANES) -> None:
    wait(
        lambda: sum(committed(kafka.bootstrap, pipeline, lanes).values()) >= events,
        30,
        run,
        f"to commit {events} events",
    )


def says(run: Launched, text: str, timeout: float = 30.0) -> None:
    wait(lambda: text in run.said(), timeout, run, f"to say {text!r}")


def why_not_ready(run: Launched, slot: int = 0) -> str:
    """What a slot's own page says while it answers 503."""
    try:
        urllib.request.urlopen(f"http://127.0.0.1:{run.port + 1 + slot}/readyz", timeout=3).close()
    except urllib.error.HTTPError as refusal:
        return refusal.read().decode()
    except OSError:
        pass
    return ""


def settled(asked: dict[str, Any]) -> None:
    for answer in asked.values():
        answer.result(20)


def grow(admin: AdminClient, topics: list[str], lanes: int) -> None:
    settled(admin.create_partitions([NewPartitions(topic, lanes) for topic in topics]))


def skip(kafka: KafkaServer, file: Path, lane: int, *options: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["lanes", "skip", str(file), str(lane), "--bootstrap", kafka.bootstrap, *options])
    return done.exit_code, done.output


def stopped(run: Launched) -> None:
    run.process.send_signal(signal.SIGTERM)
    assert run.ends() == 0


def test_lanes_that_were_added_stop_the_pipeline_until_somebody_accepts_them(
    kafka: KafkaServer, unique: Callable[[str], str], tmp_path: Path
) -> None:
    """Two partitions more under load: nothing is decided in 6 lanes with the memory of 4 until all topics have 6."""
    file, pipeline = small_on(kafka, unique("grown"), tmp_path)
    admin, events = AdminClient({"bootstrap.servers": kafka.bootstrap}), pipeline.topic("events")
    with launched(file, kafka.bootstrap, tmp_path, **QUICK) as run:
        run.until_ready()
        send(kafka.bootstrap, pipeline, 400)
        decided(run, kafka, pipeline, 400)
        grow(admin, [events], 6)
        says(run, f"leaving: TopicsUnfit: topic {events} has 6 partitions and had 4 when this slot began", 15)
        wait(lambda: 'penstock_standing_by{slot="0",why="topics"} 1.0' in run.page("/metrics"), 15, run, "to show it")
        told = why_not_ready(run)
        send(kafka.bootstrap, pipeline, 600, first=400, lanes=6)

        assert f"topic {pipeline.topic('state')}: it has 4 partitions and {events} has 6; they must be equal" in told
        assert "with more partitions of the events, entities move to other lanes, away from their memory" in told
        assert not run.page("/readyz")
        assert sum(committed(kafka.bootstrap, pipeline, 6).values()) == 400, "nobody went on as if nothing were"

        with launched(file, kafka.bootstrap, tmp_path, **QUICK) as another:
            assert another.ends(40) == 2, "refused at the start, too"
            assert "they must be equal" in another.said()

        topics = topics_of(pipeline, 6)
        grow(admin, [name for name, topic in topics.items() if topic.partitions == 6 and name != events], 6)
        says(run, "standing by no longer")
        decided(run, kafka, pipeline, 1000, lanes=6)
        wait(lambda: run.page("/readyz"), 20, run, "to be ready")
        stopped(run)
    origins, upto = firsts(kafka.bootstrap, pipeline, 6), committed(kafka.bootstrap, pipeline, 6)

    assert sum(upto.values()) == 1000
    assert origins == {(lane, offset): 1 for lane, end in upto.items() for offset in range(end)}


def test_a_deleted_topic_is_loud_and_its_successor_is_not_taken_for_it(
    kafka: KafkaServer, unique: Callable[[str], str], tmp_path: Path, until: Callable[..., None]
) -> None:
    file, pipeline = small_on(kafka, unique("gone"), tmp_path)
    admin, events = AdminClient({"bootstrap.servers": kafka.bootstrap}), pipeline.topic("events")
    with launched(file, kafka.bootstrap, tmp_path, **QUICK) as run:
        run.until_ready()
        send(kafka.bootstrap, pipeline, 400)
        decided(run, kafka, pipeline, 400)
        settled(admin.delete_topics([events]))
        says(run, "leaving: ", 15)
        says(run, f"standing by: error: topic {events}: it does not exist", 15)
        wait(lambda: "it does not exist" in why_not_ready(run), 10, run, "to say so on its page")
        assert f"`penstock topics {file} --bootstrap {kafka.bootstrap}` creates" in why_not_ready(run)
        assert 'penstock_standing_by{slot="0",why="topics"} 1.0' in run.page("/metrics")

        made_again(kafka, pipeline, events)
        send(kafka.bootstrap, pipeline, 600, first=1000)  # more than before: the old offsets exist here, too
        says(run, "lane 3: the topic of the events was deleted and made again: offset 100 of its state")
        wait(
            lambda: 'penstock_lane_closed{lane="3",slot="0",why="state"} 1.0' in run.page("/metrics"), 10, run, "closed"
        )
        assert "members: " in skip(kafka, file, 0, "--to", "earliest")[1], "refused while a slot may commit"
        stopped(run)
    if not LONG:
        return
    for lane in range(LANES):
        until(lambda n=lane: skip(kafka, file, n, "--to", "earliest", "--anew")[0] == 0, "its session to end")
    with launched(file, kafka.bootstrap, tmp_path, **QUICK) as run:
        decided(run, kafka, pipeline, 600)
        run.until_ready()
        stopped(run)
    origins = firsts(kafka.bootstrap, pipeline)

    assert sum(origins.values()) == 400 + 600
    assert set(origins) == {(lane, offset) for lane in range(LANES) for offset in range(150)}


def made_again(kafka: KafkaServer, pipeline: Pipeline, topic: str) -> None:
    """A topic of a name that is still being deleted cannot be made at once."""
    for _ in range(50):
        try:
            kafka.create_topics({topic: topics_of(pipeline, LANES)[topic]})
            return
        except KafkaException:
            time.sleep(0.1)


@pytest.mark.long  # 30 s; tests/operators/test_prefix.py has the rule
def test_lost_state_is_not_taken_for_an_empty_memory(
    kafka: KafkaServer, unique: Callable[[str], str], tmp_path: Path, until: Callable[..., None]
) -> None:
    """The state topic is deleted and made again; the ids that dedupe knew are gone, so nobody decides on."""
    file, pipeline = small_on(kafka, unique("lost"), tmp_path)
    admin, state = AdminClient({"bootstrap.servers": kafka.bootstrap}), pipeline.topic("state")
    with launched(file, kafka.bootstrap, tmp_path, **QUICK) as run:
        run.until_ready()
        send(kafka.bootstrap, pipeline, 400)
        decided(run, kafka, pipeline, 400)
        settled(admin.delete_topics([state]))
        says(run, f"standing by: error: topic {state}: it does not exist")
        made_again(kafka, pipeline, state)
        send(kafka.bootstrap, pipeline, 400, first=400)
        says(run, "lane 2: the group has decided it up to offset 100, and it has no state")
        assert sum(committed(kafka.bootstrap, pipeline).values()) == 400
        stopped(run)
    for lane in range(LANES):
        until(lambda n=lane: skip(kafka, file, n, "--to", "100")[0] == 0, "its session to end")
    with launched(file, kafka.bootstrap, tmp_path, **QUICK) as run:
        decided(run, kafka, pipeline, 800)
        stopped(run)
    assert firsts(kafka.bootstrap, pipeline) == {(lane, o): 1 for lane in range(LANES) for o in range(200)}


def test_of_two_launchers_with_one_slot_the_older_stands_by(
    kafka: KafkaServer, unique: Callable[[str], str], tmp_path: Path
) -> None:
    """They do not fight: the newer goes on, the older names it, and takes over when it is gone."""
    file, pipeline = small_on(kafka, unique("twice"), tmp_path)
    with launched(file, kafka.bootstrap, tmp_path, **QUICK) as older:
        older.until_ready()
        send(kafka.bootstrap, pipeline, 400)
        with launched(file, kafka.bootstrap, tmp_path, **QUICK) as newer:
            says(older, "standing by: another process (")
            wait(lambda: "has become slot 0 of this group" in why_not_ready(older), 10, older, "to say so on its page")
            assert 'penstock_standing_by{slot="0",why="rival"} 1.0' in older.page("/metrics")
            newer.until_ready()
            send(kafka.bootstrap, pipeline, 400, first=400)
            decided(newer, kafka, pipeline, 800)
            assert newer.said().count("leaving: ") <= 2, "then the newer one is left in peace"
            fenced = older.said().count("leaving: ")
        send(kafka.bootstrap, pipeline, 400, first=800)
        says(older, "standing by no longer")
        decided(older, kafka, pipeline, 1200)
        assert older.said().count("leaving: ") == fenced <= 3
        stopped(older)
    assert firsts(kafka.bootstrap, pipeline) == {(lane, o): 1 for lane in range(LANES) for o in range(300)}
