"""When the source asks for events: the real broker is in tests/integration."""

from __future__ import annotations

from typing import Any, cast

import pytest

from operators.kafka_source import LaneSource
from tests.operators.test_tide import Row


class Lanes:
    """Lanes, and their transactions, that note in which order they are asked for what."""

    def __init__(self, rows: int, opening: dict[int, float]) -> None:
        self.asked: list[str] = []
        self.in_flight, self.transactions = 0, self
        self._rows, self._opening = rows, opening

    def start(self) -> None: ...
    def tick(self) -> None: ...
    def full(self) -> bool:
        return False

    def opening(self) -> dict[int, float]:
        return self._opening

    def settle(self, seconds: float) -> None:
        assert seconds <= 0.05, "the group has to be served meanwhile"
        self.asked.append("settle")

    def poll(self, most: int, seconds: float) -> tuple[list[Any], list[Any]]:
        self.asked.append("poll")
        return [], [Row()] * self._rows


@pytest.mark.parametrize(
    ("rows", "opening", "asked"),
    [
        (20, {}, ["settle", "poll", "settle", "poll"]),
        (1000, {}, ["settle", "poll", "poll"]),
        (20, {3: 0.5}, ["poll", "poll"]),
    ],
    ids=["a few events wait for the commit at hand", "many do not", "nor does a lane that is being restored"],
)
def test_what_little_there_is_waits_for_the_commit_at_hand(
    rows: int, opening: dict[int, float], asked: list[str]
) -> None:
    lanes = Lanes(rows, opening)
    poller = LaneSource(cast(Any, lanes)).build("events", 0, 1)
    for _ in range(2):
        lanes.in_flight = 0
        poller.next_batch()

    assert lanes.asked == asked
