"""`penstock slots`: a slot that hangs is retired, and its lanes are decided by another long before its session ends."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from confluent_kafka import IsolationLevel, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from console.kafka_server import KafkaServer
from console.topics import topics_of
from dataflows.pipeline import Pipeline
from tests.integration.launched import LANES, Launched, committed, launched, wait
from tests.integration.steady import Console, Load, assert_decided, counting_pipeline

pytestmark = pytest.mark.ci

SESSION = "60"


def signal_all(run: Launched, number: int) -> None:
    for pid in run.pids():
        os.kill(pid, number)


def left_open(bootstrap: str, pipeline: Pipeline, slot: int, lane: int) -> Producer:
    """What a slot may leave behind: a transaction with a record, and nobody to end it."""
    settings = {"bootstrap.servers": bootstrap, "transaction.timeout.ms": int(SESSION) * 1000, "log_level": 0}
    producer = Producer({**settings, "transactional.id": f"{pipeline.pipeline}-{slot}"})
    producer.init_transactions(10)
    producer.begin_transaction()
    producer.produce(pipeline.topic("decisions"), b"{}", partition=lane)
    assert producer.flush(10) == 0
    return producer


def readers_wait(bootstrap: str, pipeline: Pipeline, lane: int) -> bool:
    """Whether there are decisions that a committed reader does not get yet."""
    admin, part = AdminClient({"bootstrap.servers": bootstrap}), TopicPartition(pipeline.topic("decisions"), lane)
    ends = [
        admin.list_offsets({part: OffsetSpec.latest()}, isolation_level=level)[part].result(10).offset
        for level in (IsolationLevel.READ_COMMITTED, IsolationLevel.READ_UNCOMMITTED)
    ]
    return ends[0] < ends[1]


def test_a_slot_that_hangs_is_retired_and_can_do_no_harm_when_it_wakes(
    kafka: KafkaServer, unique: Callable[[str], str], tmp_path: Path
) -> None:
    """SIGSTOP, retire, SIGCONT, under load: nothing is lost or twice, and readers do not wait for its transaction."""
    file, pipeline = counting_pipeline(unique("retire"), tmp_path)
    kafka.create_topics(topics_of(pipeline, LANES))
    slots = Console(file, kafka.bootstrap)
    with (
        launched(file, kafka.bootstrap, tmp_path, SESSION_TIMEOUT=SESSION) as first,
        launched(file, kafka.bootstrap, tmp_path, SESSION_TIMEOUT=SESSION, SLOT="1") as second,
    ):
        first.until_ready()
        second.until_ready()
        wait(lambda: set(slots.lanes()) == {0, 1}, 20, first, "to share its lanes")
        load = Load(kafka.bootstrap, pipeline)
        load.start()

        alive = slots("retire", "1")
        assert alive.exit_code == 1
        assert "slot 1 is alive: it sent a heartbeat just now. End it first" in alive.stderr
        table = slots("list").stdout
        assert re.search(r"(?m)^ *1 +alive +\S.* 127\.0\.0\.1 +\d s ago *$", table), table
        wait(lambda: len(load.sent) > 600, 20, first, "given some events")

        signal_all(second, signal.SIGSTOP)
        lane, *_ = slots.lanes()[1]
        unfinished = left_open(kafka.bootstrap, pipeline, 1, lane)
        assert readers_wait(kafka.bootstrap, pipeline, lane)
        began = time.monotonic()
        done = slots("retire", "1")
        took = time.monotonic() - began
        assert done.exit_code == 0, done.output
        assert "listening for 5 s" in done.stdout
        assert re.search(
            r"slot 1 is fenced in \d+\.\d+ s: its open transaction, if there was one, is aborted", done.stdout
        )
        assert re.search(r"lanes \S.* are slot 0's now", done.stdout), done.stdout
        assert slots.lanes() == {0: list(range(LANES))}
        wait(lambda: not readers_wait(kafka.bootstrap, pipeline, lane), 5, first, "free of what slot 1 left open")
        with pytest.raises(KafkaException, match="fenced"):
            unfinished.commit_transaction(10)
        assert took < 20, "it did not wait for the session"
        print(f"retired in {took:.1f} s, 5 of which it listened")

        signal_all(second, signal.SIGCONT)
        wait(lambda: "leaving: " in second.said(), 60, second, "to leave when it wakes")  # fenced, or its lanes lost
        wait(lambda: set(slots.lanes()) == {0, 1}, 60, second, "to be started again by its launcher")
        events = load.stop()
        wait(lambda: sum(committed(kafka.bootstrap, pipeline).values()) >= events, 30, first, "to decide everything")
        for run in (first, second):
            run.process.send_signal(signal.SIGTERM)
        assert [first.ends(), second.ends()] == [0, 0]
    assert_decided(kafka.bootstrap, pipeline, load.sent)
