"""One wrong clock makes no other event late, nor takes what its key has from it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from state.key_windows import KeyWindows
from state.lateness import Lateness, most_ahead
from state.view_reader import ViewReader
from state.window_spec import DAY_MS
from tests.state.keyed import PANE, T, event, observe, spec

MINUTE = 60_000
WRONG = st.sampled_from([-DAY_MS, -1, 0, 0, 0, 1, MINUTE, MINUTE + 1, 10 * MINUTE, 10 * MINUTE + 1, DAY_MS])
STEPS = st.lists(st.tuples(st.integers(0, 5 * MINUTE), WRONG), max_size=40)


@given(steps=STEPS, lateness=st.sampled_from([0, 5_000, MINUTE, 10 * MINUTE, 2 * DAY_MS]))
def test_an_event_dated_when_it_is_appended_is_behind_by_no_more_than_others_may_be_ahead(steps, lateness):
    clock, appended, latest = Lateness(bound := most_ahead([lateness])), T, None
    for passes, wrong in steps:
        appended += passes
        [behind] = clock.behind([appended + wrong], [appended])
        if wrong > max(lateness, MINUTE):
            assert behind is None
            continue
        assert behind == max(0, (latest or 0) - appended - wrong)
        latest = max(latest or 0, appended + wrong)
        assert wrong < 0 or behind <= bound


def test_the_least_that_any_view_allows_is_what_counts_but_a_minute_is_free():
    assert most_ahead([10 * MINUTE, 2 * MINUTE]) == 2 * MINUTE
    assert most_ahead([10 * MINUTE, 0]) == most_ahead([5_000]) == MINUTE


def test_a_history_has_no_brokers_time_and_nothing_in_it_is_ahead():
    assert Lateness(MINUTE).behind([T, T + 99 * DAY_MS, T + DAY_MS], [0, 0, -1]) == [0, 0, 98 * DAY_MS]


@pytest.mark.parametrize("wrong", [5 * MINUTE, DAY_MS - 1])
def test_the_keys_of_a_lane_have_their_windows_whatever_one_clock_says(wrong):
    view = spec(lateness_ms=2 * MINUTE, include_late=False)
    clock, windows, reader = Lateness(most_ahead([view.lateness_ms])), KeyWindows(view), ViewReader(view)
    rows = [event("a", T), event("terminal", T + wrong), event("b", T + PANE), event("a", T + PANE)]
    behind = clock.behind([row["time"] for row in rows], [T, T, T + PANE, T + PANE])
    taken = [row for row, by in zip(rows, behind, strict=True) if by is not None]
    tally = observe(windows, taken, [by for by in behind if by is not None])

    assert behind == [0, None, 0, 0]
    assert (tally.ignored, tally.too_late) == (0, 0)
    assert [reader.evaluate(windows.read([key])[0], T + 2 * PANE)[0] for key in ("a", "b")] == [2.0, 1.0]
