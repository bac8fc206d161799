"""A slot whose stage hangs, whose memory runs out, or whose clock jumps: its lanes go on, exactly once."""

from __future__ import annotations

import json
import os
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path

from confluent_kafka import Producer, TopicPartition

from console.embedded import KafkaServer
from dataflows.pipeline import Pipeline
from tests.integration.launched import LANES, _read, firsts, launched, send, small_on, wait
from tests.integration.test_faults_topics import QUICK, decided, says, stopped

HANG = '''
import importlib.abc, importlib.util, os, sys, time

class Hang(importlib.abc.MetaPathFinder):
    """Makes the stage `emit` wait for as long as the file {flag} is there."""

    def find_spec(self, name, path, target=None):
        if name != "operators.emit":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        load = spec.loader.exec_module

        def exec_module(module):
            load(module)
            work = module.Encoder.work
            def waits(self, batch):
                while os.path.exists("{flag}"):
                    time.sleep(0.05)
                return work(self, batch)
            module.Encoder.work = waits

        spec.loader.exec_module = exec_module
        return spec

sys.meta_path.insert(0, Hang())
'''

JUMPS = """
import time
def shifted(ask, unit):
    return lambda: ask() + int(open({file!r}).read()) * unit
time.time, time.time_ns = shifted(time.time, 1), shifted(time.time_ns, 10**9)
"""
"""The clock that the slot's own code asks for the time of day. Not libfaketime: 0.9.10 shifts `clock_gettime` and
leaves `timespec_get` alone, from which librdkafka makes its deadlines, so each of its timed waits returns at once."""


@contextmanager
def environment(**added: str) -> Iterator[None]:
    """Start children with these variables."""
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]


def test_a_stage_that_hangs_ends_its_slot_and_the_next_life_decides(
    kafka: KafkaServer, unique: Callable[[str], str], tmp_path: Path
) -> None:
    """The watchdog is set to 3 s; what hung is told by a line for each thread."""
    file, pipeline = small_on(kafka, unique("hang"), tmp_path)
    flag = tmp_path / "hangs"
    (tmp_path / "sitecustomize.py").write_text(HANG.format(flag=flag))
    with environment(PYTHONPATH=str(tmp_path)), launched(file, kafka.bootstrap, tmp_path, WATCHDOG="3", **QUICK) as run:
        run.until_ready()
        send(kafka.bootstrap, pipeline, 400)
        decided(run, kafka, pipeline, 400)
        flag.touch()
        send(kafka.bootstrap, pipeline, 400, first=400)
        says(run, "leaving: no poll, or one commit, for ", 25)
        flag.unlink()
        wait(lambda: "in waits" in run.said(), 10, run, "to say where it hung")
        wait(lambda: 'penstock_slot_restarts_total{slot="0"} 1.0' in run.page("/metrics"), 15, run, "to count it")
        decided(run, kafka, pipeline, 800)
        assert "slot 0 ended (exit status 70)" in run.said()
        stopped(run)
    assert_once(kafka, pipeline, 800)


def test_a_slot_without_memory_dies_and_the_next_life_decides(
    kafka: KafkaServer, unique: Callable[[str], str], tmp_path: Path
) -> None:
    """Its address space may not grow from one moment on, when 60 events of 200 kB come at once."""
    file, pipeline = small_on(kafka, unique("memory"), tmp_path)
    with launched(file, kafka.bootstrap, tmp_path, **QUICK) as run:
        run.until_ready()
        send(kafka.bootstrap, pipeline, 400)
        decided(run, kafka, pipeline, 400)
        pid = int(run.table()[0]["pid"])
        now = 4096 * int(Path(f"/proc/{pid}/statm").read_text().split()[0])
        resource.prlimit(pid, resource.RLIMIT_AS, (now, now))
        large = Producer({"bootstrap.servers": kafka.bootstrap, "log_level": 0})
        for n in range(60):
            large.produce(pipeline.topic("events"), os.urandom(100_000).hex(), partition=n % LANES)
        assert large.flush(20) == 0
        says(run, "slot 0 ended (", 30)
        wait(lambda: 'penstock_slot_restarts_total{slot="0"} ' in run.page("/metrics"), 15, run, "to count it")
        decided(run, kafka, pipeline, 460)
        assert run.table()[0]["pid"] != pid
        print(*[line for line in run.said().splitlines() if "ended" in line or "leaving" in line], sep="\n")
        stopped(run)
    assert_once(kafka, pipeline, 460)


def test_a_clock_that_jumps_changes_what_is_written_of_time_and_nothing_else(
    kafka: KafkaServer, unique: Callable[[str], str], tmp_path: Path
) -> None:
    """A slot's wall clock goes an hour ahead, then two hours back: `decided_at` shows it, nothing else does."""
    file, pipeline = small_on(kafka, unique("clock"), tmp_path)
    clock = tmp_path / "clock"
    (tmp_path / "sitecustomize.py").write_text(JUMPS.format(file=str(clock)))
    jumps = [0, 3600, -3600]
    clock.write_text(str(jumps[0]))
    with environment(PYTHONPATH=str(tmp_path)), launched(file, kafka.bootstrap, tmp_path, **QUICK) as run:
        run.until_ready()
        for n, jump in enumerate(jumps):
            clock.write_text(str(jump))
            send(kafka.bootstrap, pipeline, 400, first=400 * n)
            decided(run, kafka, pipeline, 400 * (n + 1))
            assert run.page("/readyz"), "ready all the time"
        assert "leaving: " not in run.said()
        stopped(run)
    assert_once(kafka, pipeline, 1200)
    assert_times(kafka, pipeline)


def assert_times(kafka: KafkaServer, pipeline: Pipeline) -> None:
    now = datetime.now().astimezone()
    parts = [TopicPartition(pipeline.topic("decisions"), lane, 0) for lane in range(LANES)]
    off = [datetime.fromisoformat(json.loads(m.value())["decided_at"]) - now for m in _read(kafka.bootstrap, parts)]
    hour, slack = timedelta(hours=1), timedelta(minutes=3)
    for jump in (-hour, timedelta(0), hour):
        assert sum(abs(difference - jump) < slack for difference in off) == 400


def assert_once(kafka: KafkaServer, pipeline: Pipeline, events: int) -> None:
    assert firsts(kafka.bootstrap, pipeline) == {
        (lane, offset): 1 for lane in range(LANES) for offset in range(events // LANES)
    }
