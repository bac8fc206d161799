"""The protocol, searched: no reachable state loses or repeats, and a protocol that is broken in one place has one."""

from __future__ import annotations

import pytest

from tests.chaos.search import search

BROKEN = {
    "offsets-outside": "decided twice",
    "state-outside": "decided with the memory of",
    "store-first": "decided with the memory of",
    "stranger": "decided twice",
}


@pytest.mark.parametrize(
    ("form", "lanes", "events", "faults", "states"),
    [("as it is", 1, 2, 2, 87_993), ("with a store", 1, 2, 1, 10_872), ("as it is", 2, 1, 1, 58_508)],
)
def test_no_reachable_state_loses_or_repeats(form: str, lanes: int, events: int, faults: int, states: int) -> None:
    """The number of states is held, so that a change of the model that closes some of them off is seen."""
    found = search(form, lanes=lanes, events=events, faults=faults)

    assert (found.wrong, found.trace) == ("", [])
    assert found.states == states


@pytest.mark.parametrize("form", BROKEN)
def test_a_broken_protocol_is_found_with_one_fault(form: str) -> None:
    found = search(form, lanes=1, events=2, faults=1)

    assert BROKEN[form] in found.wrong
    assert any("session" in step or "killed" in step for step in found.trace)
