"""Lanes that cannot go on: a record too large for its topic, and events deleted by retention before their decision."""

from __future__ import annotations

import json
import os
import random
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType

from console.embedded import KafkaServer
from console.topics import topics_of
from dataflows.pipeline import Pipeline, load
from tests.integration.launched import LANES, committed, firsts, launched, send, small_on, small_pipeline, wait
from tests.integration.test_faults_topics import QUICK, decided, says, settled, skip, stopped, why_not_ready

pytestmark = pytest.mark.ci

LIMIT = 3000


def send_large(kafka: KafkaServer, pipeline: Pipeline, lane: int, size: int) -> None:
    """An event whose decision is about as large: its id is in it, of characters that do not compress well."""
    name = "".join(random.Random(7).choices("0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ", k=size))
    body = {"id": name, "who": "W-large", "at": "2026-11-01T00:00:00Z", "amount": 1}
    producer = Producer({"bootstrap.servers": kafka.bootstrap, "log_level": 0})
    producer.produce(pipeline.topic("events"), json.dumps(body), partition=lane)
    assert producer.flush(10) == 0


def allow(admin: AdminClient, topic: str, size: int) -> None:
    change = ConfigEntry("max.message.bytes", str(size), incremental_operation=AlterConfigOpType.SET)
    settled(admin.incremental_alter_configs([ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[change])]))


def test_a_decision_that_its_topic_does_not_take_closes_its_lane_only(
    kafka: KafkaServer, unique: Callable[[str], str], tmp_path: Path
) -> None:
    """A topic for 3,000 bytes: many small decisions fit, one of 6,000 does not, until the topic takes more."""
    file = small_pipeline(unique("large"), tmp_path)
    file.write_text(file.read_text().replace("id: { type: string }", "id: { type: string, max_length: 10000 }"))
    pipeline = load(file)
    kafka.create_topics(topics_of(pipeline, LANES))
    admin, decisions = AdminClient({"bootstrap.servers": kafka.bootstrap}), pipeline.topic("decisions")
    allow(admin, decisions, LIMIT)
    with launched(file, kafka.bootstrap, tmp_path, **QUICK) as run:
        run.until_ready()
        send(kafka.bootstrap, pipeline, 800)
        decided(run, kafka, pipeline, 800)
        assert "leaving: " not in run.said(), "many small ones are no reason"

        send_large(kafka, pipeline, 1, 6000)
        send(kafka.bootstrap, pipeline, 800, first=800)
        says(run, "this lane is not read: lane 1: the record of event 1:200 (`--to 201` passes over it) has 6", 20)
        wait(
            lambda: 'penstock_lane_closed{lane="1",slot="0",why="too_large"} 1.0' in run.page("/metrics"), 10, run, "it"
        )
        wait(lambda: sum(committed(kafka.bootstrap, pipeline).values()) >= 1400, 20, run, "to decide the other lanes")
        advice = f"topic {decisions} takes {LIMIT}. Raise max.message.bytes of the topic"
        wait(lambda: advice in why_not_ready(run), 10, run, "to say what to do")
        assert committed(kafka.bootstrap, pipeline)[1] == 200
        assert "leaving: " not in run.said(), "the slot goes on"

        allow(admin, decisions, 1_000_000)
        os.kill(run.table()[0]["pid"], signal.SIGTERM)
        decided(run, kafka, pipeline, 1601)
        wait(lambda: run.page("/readyz"), 20, run, "to be ready")
        assert "penstock_lane_closed{" not in run.page("/metrics")
        stopped(run)
    origins, upto = firsts(kafka.bootstrap, pipeline), committed(kafka.bootstrap, pipeline)

    assert sum(upto.values()) == 1601
    assert origins == {(lane, offset): 1 for lane, end in upto.items() for offset in range(end)}


def test_events_that_retention_deleted_are_loud_and_passed_only_by_choice(
    kafka: KafkaServer, unique: Callable[[str], str], tmp_path: Path, until: Callable[..., None]
) -> None:
    file, pipeline = small_on(kafka, unique("late"), tmp_path)
    admin, events = AdminClient({"bootstrap.servers": kafka.bootstrap}), pipeline.topic("events")
    send(kafka.bootstrap, pipeline, 800)
    code, told = skip(kafka, file, 2, "--to", "100")  # as if the events before it had been decided
    assert code == 0, told
    settled(admin.delete_records([TopicPartition(events, 2, 130)]))
    with launched(file, kafka.bootstrap, tmp_path, **QUICK) as run:
        says(
            run, f"this lane is not read: lane 2: offset 100 no longer exists in {events}; retention has deleted events"
        )
        wait(lambda: sum(committed(kafka.bootstrap, pipeline).values()) >= 700, 20, run, "to decide the other lanes")
        wait(lambda: 'lane="2",slot="0",why="retention"} 1.0' in run.page("/metrics"), 10, run, "to show it")
        advice = "penstock lanes skip FILE 2 --to earliest"
        wait(lambda: advice in why_not_ready(run), 10, run, "to say what to do")
        code, told = skip(kafka, file, 2, "--to", "earliest")
        assert (code, f"{pipeline.pipeline}-0 on 127.0.0.1 has lanes [0, 1, 2, 3]. Stop all slots first" in told) == (
            2,
            True,
        )
        stopped(run)
    assert committed(kafka.bootstrap, pipeline)[2] == 100
    until(lambda: "has members" not in skip(kafka, file, 2, "--to", "999")[1], "its session to end")

    assert "expected earliest, latest, or an offset from 130 to 200" in skip(kafka, file, 2, "--to", "999")[1]
    assert "going back to 50 would decide them twice" in skip(kafka, file, 0, "--to", "50")[1]
    code, told = skip(kafka, file, 2, "--to", "earliest")
    assert code == 0
    assert "goes on at offset 130 instead of offset 100: 30 events are passed over" in told
    with launched(file, kafka.bootstrap, tmp_path, **QUICK) as run:
        decided(run, kafka, pipeline, 800)
        assert "lane 2: 30 events are passed over" in run.said()
        wait(
            lambda: 'penstock_passed_over_events_total{slot="0"} 30.0' in run.page("/metrics"), 10, run, "to count them"
        )
        stopped(run)
    expected = {(lane, offset): 1 for lane in range(LANES) for offset in range(200)}
    for offset in range(130):
        del expected[2, offset]
    assert firsts(kafka.bootstrap, pipeline) == expected
