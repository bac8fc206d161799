"""The history is a pure fold: what is in force depends on the log and the event's time, and on nothing else."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.history import Entry, History, Timeline

DELAY = 2_000
EMPTY = History("claims", DELAY)


def release(version: str, role: str = "champion", model: str = "severity", **more: object) -> dict[str, object]:
    return {
        "kind": "release",
        "pipeline": "claims",
        "model": model,
        "version": version,
        "role": role,
        "format": "onnx",
        "sha256": "ab" * 32,
        "size": 10,
        "uri": "x.onnx",
        "inputs": ["a", "b"],
        **more,
    }


def promotion(version: str, role: str, **more: object) -> dict[str, object]:
    return {"kind": "promotion", "pipeline": "claims", "model": "severity", "version": version, "role": role, **more}


def activation(of: int) -> dict[str, object]:
    return {"kind": "activation", "pipeline": "claims", "of": of}


def log(*records: tuple[int, dict[str, object]]) -> list[Entry]:
    return [Entry(offset, at, json.dumps(record).encode()) for offset, (at, record) in enumerate(records)]


def champion(history: History, at_ms: int) -> str | None:
    found = history.in_force("severity", at_ms).champion
    return None if found is None else found.version


def test_history_puts_nothing_in_force_without_an_activation() -> None:
    history = EMPTY.then(log((1_000, release("1"))))

    assert champion(history, 10**15) is None
    assert [change.offset for change in history.pending()] == [0]


def test_history_puts_a_release_in_force_one_delay_after_its_activation() -> None:
    history = EMPTY.then(log((1_000, release("1")), (5_000, activation(0))))

    assert champion(history, 6_999) is None
    assert champion(history, 7_000) == "1"
    assert history.pending() == ()


def test_history_lets_the_first_activation_win() -> None:
    history = EMPTY.then(
        log((1_000, release("1")), (5_000, activation(0)), (1_000, activation(0)), (9_000, activation(0)))
    )

    assert history.timelines["severity"].starts == (7_000,)
    assert history.ignored == 2


def test_history_waits_for_valid_from() -> None:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    ms = round(at.timestamp() * 1000)
    history = EMPTY.then(log((1_000, release("1", valid_from=at.isoformat())), (5_000, activation(0))))

    assert champion(history, ms - 1) is None
    assert champion(history, ms) == "1"


def test_history_takes_changes_in_the_order_in_which_they_come_into_force() -> None:
    history = EMPTY.then(
        log(
            (0, release("late", valid_from="1970-01-01T00:01:00Z")),
            (1_000, activation(0)),
            (2_000, release("early")),
            (3_000, activation(2)),
        ),
    )

    assert [champion(history, at) for at in (4_999, 5_000, 59_999, 60_000)] == [None, "early", "early", "late"]


def test_history_replaces_the_champion_and_still_knows_who_it_was() -> None:
    history = EMPTY.then(
        log((0, release("1")), (1_000, activation(0)), (10_000, release("2")), (20_000, activation(2))),
    )

    assert [champion(history, at) for at in (2_999, 3_000, 21_999, 22_000)] == [None, "1", "1", "2"]


def test_history_promotes_a_shadow_and_retires_by_promotion() -> None:
    history = EMPTY.then(
        log(
            (0, release("1")),
            (1_000, activation(0)),
            (2_000, release("2", "shadow")),
            (3_000, activation(2)),
            (10_000, promotion("2", "champion")),
            (11_000, activation(4)),
            (20_000, promotion("2", "retired")),
            (21_000, activation(6)),
        ),
    )

    shadowed = history.in_force("severity", 5_000)
    assert shadowed.champion is not None
    assert shadowed.champion.version == "1"
    assert [shadow.version for shadow in shadowed.shadows] == ["2"]
    assert history.in_force("severity", 13_000).shadows == ()
    assert champion(history, 13_000) == "2"
    assert champion(history, 23_000) is None


def test_history_ignores_a_second_release_of_a_version() -> None:
    history = EMPTY.then(
        log((0, release("1")), (1, release("1", sha256="cd" * 32)), (1_000, activation(1)), (1_000, activation(0)))
    )

    found = history.in_force("severity", 10_000).champion
    assert found is not None
    assert found.record.sha256 == "ab" * 32
    assert history.ignored == 2


def test_history_does_not_let_an_overtaken_release_push_out_a_newer_one() -> None:
    history = EMPTY.then(log((0, release("1")), (1, release("2")), (1_000, activation(1)), (9_000, activation(0))))

    assert champion(history, 10**9) == "2"
    assert history.pending() == ()


def test_history_lets_no_shadow_overtake_a_champion_of_another_version() -> None:
    history = EMPTY.then(log((0, release("1")), (1, release("2", "shadow")), (1_000, activation(1))))
    assert [change.version for change in history.pending()] == ["1"]

    history = history.then([Entry(3, 9_000, json.dumps(activation(0)).encode())])

    assert champion(history, 10**9) == "1"
    assert [shadow.version for shadow in history.in_force("severity", 10**9).shadows] == ["2"]


def test_history_lets_a_later_change_of_a_version_overtake_an_earlier_one() -> None:
    history = EMPTY.then(
        log(
            (0, release("1", "shadow")),
            (1, promotion("1", "champion")),
            (2, promotion("1", "retired")),
            (1_000, activation(2)),
            (2_000, activation(1)),
            (2_000, activation(0)),
        )
    )

    assert history.timelines["severity"].starts == (3_000,)
    assert history.pending() == ()
    assert history.ignored == 2


def test_history_keeps_an_overtaken_change_overtaken_when_an_older_one_is_activated() -> None:
    """A shadow that came later does not overtake; its own activation must not bring back what a champion overtook."""
    history = EMPTY.then(
        log(
            (0, release("1")),
            (1, release("2", "shadow")),
            (2, release("3")),
            (1_000, activation(2)),
            (2_000, activation(1)),
            (3_000, activation(0)),
        )
    )

    assert champion(history, 10**9) == "3"
    assert history.pending() == ()


@pytest.mark.parametrize(
    "value",
    [
        None,
        b"",
        b"{",
        b"[]",
        b'{"kind":"policy","pipeline":"claims"}',
        b'{"kind":"activation","pipeline":"claims","of":0,"v":2}',
    ],
)
def test_history_counts_and_skips_what_it_does_not_know(value: bytes | None) -> None:
    history = EMPTY.then([*log((0, release("1"))), Entry(1, 0, value), Entry(2, 0, json.dumps(activation(0)).encode())])

    assert champion(history, 10_000) == "1"
    assert history.ignored == 1


def test_history_leaves_other_pipelines_alone() -> None:
    history = EMPTY.then(
        log((0, {**release("1"), "pipeline": "payments"}), (0, {**activation(0), "pipeline": "payments"}))
    )

    assert not history.changes
    assert history.ignored == 0
    assert history.next_offset == 2


def test_history_splits_a_batch_that_spans_a_switch() -> None:
    history = EMPTY.then(log((0, release("1")), (1_000, activation(0)), (2_000, release("2")), (8_000, activation(2))))
    append_ms = np.array([9_999, 10_000, 1_000, 5_000, 10_001], np.int64)

    parts = history.parts("severity", append_ms)

    by_version = {
        None if part.in_force.champion is None else part.in_force.champion.version: np.arange(5)[part.rows].tolist()
        for part in parts
    }
    assert by_version == {None: [2], "1": [0, 3], "2": [1, 4]}


def test_history_takes_a_batch_under_one_release_whole() -> None:
    history = EMPTY.then(log((0, release("1")), (1_000, activation(0))))

    assert [part.rows for part in history.parts("severity", np.array([5_000, 4_000], np.int64))] == [slice(0, 2)]
    assert [part.rows for part in history.parts("unheard_of", np.array([5_000, 4_000], np.int64))] == [slice(0, 2)]
    assert history.parts("severity", np.empty(0, np.int64)) == []


RECORDS = st.one_of(
    st.builds(
        release,
        st.sampled_from("1234"),
        st.sampled_from(["champion", "shadow"]),
        st.sampled_from(["severity", "fraud"]),
    ),
    st.builds(promotion, st.sampled_from("1234"), st.sampled_from(["champion", "shadow", "retired"])),
    st.builds(activation, st.integers(0, 20)),
    st.just({"kind": "policy", "pipeline": "claims"}),
)
LOGS = st.lists(st.tuples(st.integers(0, 20_000), RECORDS), max_size=25).map(lambda records: log(*records))


@given(LOGS, st.lists(st.tuples(st.integers(0, 25), st.integers(0, 25)), max_size=8))
def test_history_is_the_same_however_the_log_is_cut_and_repeated(
    entries: list[Entry], cuts: list[tuple[int, int]]
) -> None:
    history = EMPTY
    reached = 0
    for back, forward in cuts:
        history = history.then(entries[max(0, reached - back) : reached + forward])
        reached = max(reached, min(len(entries), reached + forward))
    history = history.then(entries[max(0, reached - 5) :])

    assert history == EMPTY.then(entries)


@given(LOGS, st.integers(0, 25))
def test_history_never_changes_its_mind_about_the_past(entries: list[Entry], seen: int) -> None:
    """What a slot answered with a prefix of the log stays true: an activation counts one delay after its append."""
    before, after = EMPTY.then(entries[:seen]), EMPTY.then(entries)
    horizon = min((entry.append_ms + DELAY for entry in entries[seen:]), default=10**9)

    for model in ("severity", "fraud"):
        for at in {horizon - 1, *(start for start in after.timelines.get(model, Timeline()).starts if start < horizon)}:
            assert before.in_force(model, at) == after.in_force(model, at)


@given(LOGS, st.lists(st.integers(0, 30_000), max_size=20))
def test_history_parts_agree_with_single_look_ups(entries: list[Entry], times: list[int]) -> None:
    history = EMPTY.then(entries)
    append_ms = np.array(times, np.int64)
    found: dict[int, object] = {}
    for part in history.parts("severity", append_ms):
        found |= {int(row): part.in_force for row in np.arange(len(times))[part.rows]}

    assert found == {row: history.in_force("severity", at) for row, at in enumerate(times)}


def test_history_reads_a_long_log_quickly() -> None:
    records = [
        (at, release(str(n)) if at % 2 == 0 else activation(at - 1)) for n in range(3_000) for at in (2 * n, 2 * n + 1)
    ]
    began = time.process_time()

    history = EMPTY.then(log(*records))

    assert champion(history, 10**9) == "2999"
    assert time.process_time() - began < 2, "rebuilding what is in force after each record would take minutes"
