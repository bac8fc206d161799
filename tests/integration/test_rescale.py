"""Slots come and go under load: 2, 1, 3 of them, and all of them replaced one after the other.

Each time nothing is lost or decided twice, in the order of the lane, and with what the lane remembered where it was
before: repeats are marked, and each decision has counted all of its entity's decisions before it.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from console.kafka_server import KafkaServer
from console.retirement import Retirement
from console.roster import Group as Members
from console.topics import topics_of
from operators.membership import Membership
from tests.integration.launched import LANES, Launched, committed, launched, wait
from tests.integration.steady import Console, Load, all_lanes, assert_decided, counting_pipeline
from tests.integration.test_lanes import Group, assert_exact

pytestmark = pytest.mark.ci

SESSION_SECONDS = 10.0
"""The default of `penstock run`."""
DRAIN_SECONDS = 5.0
"""SIGTERM to the end of the launcher: 0.6 to 1.2 s were measured, on a machine with ten times more work than cores."""


@pytest.fixture
def group(kafka: KafkaServer, unique: Callable[[str], str], tmp_path: Path) -> Iterator[Group]:
    group = Group(kafka, unique("count"), tmp_path)
    yield group
    for process in group.slots.values():
        process.kill()
        process.wait()


def drained(run: Launched) -> float:
    """End it with SIGTERM; seconds until it has ended well."""
    began = time.monotonic()
    run.process.send_signal(signal.SIGTERM)
    assert run.ends() == 0, run.said()[-3000:]
    assert run.said().count("stopped; everything that was begun is finished") == run.slots
    return time.monotonic() - began


def test_two_slots_then_one_then_three_and_another_version_of_all(
    kafka: KafkaServer, unique: Callable[[str], str], tmp_path: Path
) -> None:
    """The second slot ends for good and is retired; two others come with a new policy; then the first is replaced."""
    name = unique("rescale")
    file, pipeline = counting_pipeline(name, tmp_path)
    newer, _ = counting_pipeline(name, tmp_path / "newer", version="2")
    kafka.create_topics(topics_of(pipeline, LANES))
    slots, load = Console(file, kafka.bootstrap), Load(kafka.bootstrap, pipeline)

    def more(events: int, run: Launched) -> None:
        enough = len(load.sent) + events
        wait(lambda: len(load.sent) >= enough, 20, run, "given some events")

    with launched(file, kafka.bootstrap, tmp_path) as first:
        with launched(file, kafka.bootstrap, tmp_path, SLOT="1") as second:
            first.until_ready()
            second.until_ready()
            wait(lambda: sorted(map(len, slots.lanes().values())) == [2, 2], 20, first, "to share its lanes")
            load.start()
            more(400, first)
            took = [drained(second)]
        began = time.monotonic()
        assert slots("retire", "1").exit_code == 0
        moved = time.monotonic() - began
        assert slots.lanes() == {0: list(range(LANES))}
        assert moved < 0.8 * SESSION_SECONDS, "by themselves they would have moved when its session had ended"
        with launched(newer, kafka.bootstrap, tmp_path, slots=2, SLOT="1") as others:
            others.until_ready()
            wait(lambda: set(slots.lanes()) == {0, 1, 2}, 20, others, "to share its lanes")
            assert all_lanes(slots.lanes()) == list(range(LANES))
            more(200, others)
            took.append(drained(first))
            with launched(newer, kafka.bootstrap, tmp_path) as replaced:
                replaced.until_ready()
                more(200, others)
                events = load.stop()
                wait(lambda: sum(committed(kafka.bootstrap, pipeline).values()) == events, 40, others, "to decide all")
                took += [drained(replaced), drained(others)]
    print(f"{events} events; drained in {max(took):.2f} s at most; lanes of the retired slot moved in {moved:.2f} s")
    by_version = assert_decided(kafka.bootstrap, pipeline, load.sent)

    assert max(took) < DRAIN_SECONDS
    assert set(by_version) == {"1", "2"}, "both decided"


def test_a_slot_killed_at_the_moments_of_a_rebalance(group: Group, until: Callable[..., None]) -> None:
    """Up to two slots and down to one, twice; the one that gives lanes or the one that gets them is killed at that."""
    group.start(0)
    until(lambda: group.send(b"first") or group.committed(), "a first commit")

    def killed(slot: int, at: str, because: Callable[[], None]) -> None:
        log = group.logs / f"slot-{slot}.log"
        before = log.read_text().count(at) if log.exists() else 0
        because()
        until(
            lambda: group.send(b"key-%d" % (group.sent % 20)) or log.read_text().count(at) > before,
            f"{at} in slot {slot}",
        )
        group.kill(slot)
        group.start(slot)
        until(lambda: group.committed() == group.sent, "every event to be committed", timeout=40)

    killed(0, "revoked", lambda: group.start(1))
    killed(0, "assigned", lambda: gone_for_good(group, 1))
    killed(1, "assigned", lambda: group.start(1))

    assert group.stop() == {0: 0, 1: 0}
    assert_exact(group)


def gone_for_good(group: Group, slot: int) -> None:
    """Kill a slot and retire it, as `penstock slots retire` does; these slots have no admissions topic."""
    group.kill(slot)
    connection = {"bootstrap.servers": group.bootstrap}
    membership = Membership(group.name, slot, f"{group.name}.events", f"{group.name}.state", {})
    work = Retirement(connection, membership, Members(connection, group.name, membership.events), None, print)
    work.fence()
    work.leave()
