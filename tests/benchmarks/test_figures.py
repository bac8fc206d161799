"""The benchmark's own arithmetic: a wrong figure would not be noticed otherwise."""

import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from tests.benchmarks import compare, measure

DECISION: dict[str, Any] = {
    "kind": "decision",
    "event_id": "CL-1",
    "entity": "PH-1",
    "outcome": "approve",
    "reasons": [],
    "scores": {"severity": {"score": 1.0, "release": "1"}},
    "features": {"claims_1d": 1.0, "is_home": 0.0},
    "degraded": [],
}


def test_differences_are_none_for_equal_records_decided_at_other_times() -> None:
    assert (
        compare.differences({(0, 1): {**DECISION, "decided_at": "a"}}, {(0, 1): {**DECISION, "decided_at": "b"}}) == []
    )


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({**DECISION, "outcome": "flag"}, "1 events: decision: outcome"),
        ({**DECISION, "features": {"claims_1d": 2.0, "is_home": 0.0}}, "1 events: decision: features (claims_1d)"),
        ({**DECISION, "scores": {}}, "1 events: decision: scores (severity)"),
        ({**DECISION, "kind": "duplicate"}, "1 events: decision in one, duplicate in the other"),
    ],
)
def test_differences_say_what_differs_and_quote_no_value(other: dict[str, Any], said: str) -> None:
    assert compare.differences({(0, 1): DECISION}, {(0, 1): other}) == [said]


def test_differences_count_events_that_one_of_them_lost() -> None:
    assert compare.differences({(0, 1): DECISION}, {}) == ["1 events: no first record in one of them"]


def test_cpu_seconds_of_a_tree_include_its_children() -> None:
    spin = "import time\nwhile time.process_time() < 0.5: pass\n"
    child = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {spin!r}])\nprint(flush=True)\ninput()"
    with subprocess.Popen([sys.executable, "-c", child], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        parent.stdout.readline()
        spent = measure.cpu_seconds(parent.pid)
        parent.communicate(b"\n")

    assert spent >= 0.5


def test_tree_has_the_process_and_its_children() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        found = measure.tree(os.getpid())
        child.communicate(b"\n")

    assert found[0] == os.getpid()
    assert child.pid in found


def test_brokers_are_found_in_a_tree(until: Callable[..., None]) -> None:
    java = [sys.executable, "-c", "input()", "kafka.Kafka"]
    with subprocess.Popen(java, stdin=subprocess.PIPE, executable=sys.executable) as child:
        assert measure.brokers(child.pid) == []  # what names the class and is no Java, such as its watcher
        child.communicate(b"\n")
    with subprocess.Popen(["java", *java[1:]], stdin=subprocess.PIPE, executable=sys.executable) as child:
        until(lambda: measure.brokers(child.pid) == [child.pid], "its command line to be there")
        child.communicate(b"\n")


def test_percentile_and_spread() -> None:
    values = [float(n) for n in range(100, 0, -1)]

    assert measure.percentile(values, 0.99) == 100.0
    assert measure.percentile(values, 0.5) == 51.0
    assert str(measure.Spread.of([1.0, 3.0, 2.0])) == "2.00 (1.00-3.00)"
    assert measure.Spread.of_ratios([2.0, 9.0, 4.0], [1.0, 3.0, 4.0]) == measure.Spread(2.0, 1.0, 3.0)


def test_sigterm_ends_what_was_started_before_it_ends_a_benchmark() -> None:
    """The engine is a process of its own, in a group of its own; nothing else would end it."""
    script = (
        "import subprocess, time\nfrom tests.benchmarks.measure import leave_on_sigterm\nleave_on_sigterm()\n"
        "engine = subprocess.Popen(['sleep', '60'], process_group=0)\n"
        "try:\n    print(engine.pid, flush=True)\n    time.sleep(60)\nfinally:\n    engine.terminate(); engine.wait()\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as bench:
        assert bench.stdout is not None
        engine = int(bench.stdout.readline())
        bench.terminate()
        bench.wait(20)

    with pytest.raises(ProcessLookupError):
        os.kill(engine, 0)
