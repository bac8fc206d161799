"""How a restore tells of itself. The real broker is in tests/integration."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from itertools import islice
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import OFFSET_INVALID, KafkaError, KafkaException

from operators import lane_state, metrics
from operators.lane_state import Restore


class Log:
    """A state partition of `size` records, one key each, as a consumer and an admin client show it."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._records: Iterator[Any] = (self._record(n) for n in range(size))

    def list_topics(self, *_: object, **__: object) -> None: ...

    def incremental_assign(self, *_: object) -> None: ...

    def incremental_unassign(self, *_: object) -> None: ...

    def list_offsets(self, request: Any, **_: object) -> Any:
        return {part: SimpleNamespace(result=lambda _: SimpleNamespace(offset=self.size)) for part in request}

    def consume(self, most: int, _seconds: float) -> list[Any]:
        return list(islice(self._records, most))

    def poll(self, _seconds: float) -> Any:
        return self._record(self.size, KafkaError(KafkaError._PARTITION_EOF))

    def _record(self, offset: int, error: KafkaError | None = None) -> Any:
        return SimpleNamespace(
            partition=lambda: 3,
            offset=lambda: offset,
            error=lambda: error,
            key=lambda: b"recall\0e%d" % offset,
            value=lambda: b"v",
        )


@pytest.fixture
def restore(monkeypatch: pytest.MonkeyPatch) -> Restore:
    log = Log(10_000)
    monkeypatch.setattr(lane_state, "Consumer", lambda _: log)
    return Restore({}, log, "claims.state", "claims")  # type: ignore[arg-type]


def remaining() -> list[str]:
    return [line for line in metrics.expose().decode().splitlines() if line.startswith("penstock_restore_remaining_")]


def test_a_restore_shows_how_far_it_is_and_a_lane_that_is_open_shows_nothing(restore: Restore) -> None:
    restore.begin([3])

    assert restore.share(3) < 0.001
    assert restore.poll(0) == []
    assert restore.share(3) == pytest.approx(2000 / 10_000)
    assert remaining() == ['penstock_restore_remaining_records{lane="3"} 8000.0']
    assert "penstock_restore_records 2000.0" in metrics.expose().decode()
    [opened] = [lane for _ in range(6) for lane in restore.poll(0)]

    assert len(opened.entries["recall"]) == 10_000
    assert (restore.share(3), remaining(), restore.busy()) == (1.0, [], False)


def test_a_restore_that_takes_long_says_so_now_and_then(
    restore: Restore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = [0.0]
    monkeypatch.setattr(lane_state.time, "monotonic", lambda: now[0])
    caplog.set_level(logging.INFO, "operators.lane_state")
    restore.begin([3])
    for _ in range(4):
        now[0] += 1.0
        restore.poll(0)

    assert [record.message for record in caplog.records] == [
        "reading back the state of lanes [3]: 4000 records so far, 40 % of their log, 2000 records/s",
        "reading back the state of lanes [3]: 8000 records so far, 80 % of their log, 2000 records/s",
    ]


def test_a_broker_that_is_away_for_a_moment_does_not_end_a_restore(
    restore: Restore, monkeypatch: pytest.MonkeyPatch
) -> None:
    restore.begin([3])
    log: Any = restore._consumer
    away = log._record(-1, KafkaError(KafkaError._ALL_BROKERS_DOWN))
    with monkeypatch.context() as patch:
        patch.setattr(log, "consume", lambda *_: [away])
        assert restore.poll(0) == []
    [opened] = [lane for _ in range(6) for lane in restore.poll(0)]

    assert len(opened.entries["recall"]) == 10_000


def test_a_lane_that_is_dropped_is_not_shown_any_more(restore: Restore) -> None:
    restore.begin([3])
    restore.poll(0)
    restore.drop([3])

    assert (remaining(), restore.busy(), restore.share(3)) == ([], False, 1.0)


def test_an_end_that_was_not_told_in_time_is_no_empty_lane(monkeypatch: pytest.MonkeyPatch) -> None:
    log = Log(OFFSET_INVALID)
    monkeypatch.setattr(lane_state, "Consumer", lambda _: log)

    with pytest.raises(KafkaException, match="_TIMED_OUT"):
        Restore({}, log, "claims.state", "claims").begin([3])  # type: ignore[arg-type]
