"""Every kill of the plan happens, and to slots that are at work, however slow the machine is."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.chaos.plan import Incident
from tests.chaos.trouble import Trouble


class StandIn:
    """Slots, launcher and load of which one knows what they do."""

    def __init__(self, events: int, sent: int) -> None:
        self.seed, self.rate, self.events, self.sent = 7, 100.0, events, sent
        self.until = 0.0
        self.acked: list[tuple[int, int]] = []
        self.sending = self.running = True
        self.launchers_killed = 0

    def slots(self) -> dict[int, float]:
        return {4711: 100.0}

    def kill_launcher(self) -> None:
        self.launchers_killed += 1

    def is_alive(self) -> bool:
        return True


def trouble(stand_in: Any, orders: Path, *incidents: Incident, decided: Any = None) -> Trouble:
    return Trouble(SimpleNamespace(), stand_in, stand_in, orders, incidents, decided=decided or {})  # type: ignore[arg-type]


def test_an_order_waits_until_the_one_before_it_of_the_same_name_is_taken(tmp_path: Path) -> None:
    incident = Incident(0, "commit", "send_offsets-before")
    runs = trouble(StandIn(10_000, 0), tmp_path)

    assert runs._commit(incident)
    assert not runs._commit(incident), "two orders in one file would be one kill"
    assert [order.name for order in tmp_path.iterdir()] == ["4711.send_offsets-before"]


@pytest.mark.parametrize(("events", "at"), [(10_000, 9_500), (1_000, 950), (100, 5)])
def test_the_load_reaches_what_is_to_come_and_does_not_end_before_it_has_come(
    tmp_path: Path, events: int, at: int
) -> None:
    load = StandIn(events, 0)
    trouble(load, tmp_path, Incident(at, "slot"), Incident(at, "slot"))._serve()

    assert at < load.until < events


def test_what_comes_next_waits_for_a_sign_of_life_but_not_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load, decided = StandIn(10_000, 5_000), {(0, 0): 1.0}
    runs = trouble(load, tmp_path, *[Incident(100, "launcher")] * 4, decided=decided)
    now = 1000.0
    monkeypatch.setattr("time.monotonic", lambda: now)

    def killed_after(seconds: float) -> int:
        nonlocal now
        for _ in range(2):
            now += seconds / 2
            runs._serve()
        return load.launchers_killed

    assert killed_after(0.6) == 1
    assert killed_after(6.0) == 1, "nothing has been decided since"
    decided[0, 1] = 2.0
    assert killed_after(0.6) == 2
    assert killed_after(6.0) == 2
    assert killed_after(6.0) == 3, "a slot that never comes back must not end the run's troubles"


def test_slots_get_something_to_do_before_they_are_struck(tmp_path: Path) -> None:
    load = StandIn(10_000, 5_000)
    load.sending = False
    runs = trouble(
        load, tmp_path, Incident(100, "launcher"), decided=dict.fromkeys(((0, i) for i in range(5_000)), 1.0)
    )
    for _ in range(2):
        runs._serve()
    assert (load.launchers_killed, load.until) == (0, 5_100), "the load waited, and everything was decided"

    load.sent, load.sending = 5_010, True
    runs._serve()
    assert load.launchers_killed == 1
