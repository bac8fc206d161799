"""Every kill of the plan happens, however slow the machine is."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tests.chaos.plan import Incident
from tests.chaos.trouble import Trouble


def test_an_order_waits_until_the_one_before_it_of_the_same_name_is_taken(tmp_path: Path) -> None:
    slots: Any = SimpleNamespace(slots=lambda: {4711: 100.0})
    load: Any = SimpleNamespace(seed=7, acked=[])
    trouble = Trouble(SimpleNamespace(), slots, load, tmp_path, [], decided={})  # type: ignore[arg-type]
    incident = Incident(0, "commit", "send_offsets-before")

    assert trouble._commit(incident)
    assert not trouble._commit(incident), "two orders in one file would be one kill"
    assert [order.name for order in tmp_path.iterdir()] == ["4711.send_offsets-before"]
