"""What a slice of keys must give: the same as the windows give when all is well, and something else when it is not."""

import math
import random
from dataclasses import replace

import pytest

from state.key_windows import KeyWindows
from state.lateness import Lateness
from state.parity import KeySlice, matches
from state.view_reader import ViewReader
from state.view_windows import ViewWindows
from state.window_spec import Feature

SEED = 20261123
BEGAN = 1_768_479_900_000  # 12:25 UTC
MINUTE, HOUR = 60_000, 3_600_000
SPEC = ViewWindows(
    "device",
    "device_id",
    (
        Feature("events", "count", HOUR),
        Feature("paid", "count", HOUR, "amount"),
        Feature("spent", "sum", HOUR, "amount"),
        Feature("mean", "mean", HOUR, "amount"),
        Feature("least", "min", HOUR, "amount"),
        Feature("most", "max", HOUR, "amount"),
        Feature("spread", "stddev", HOUR, "amount"),
        Feature("first", "first", HOUR, "amount"),
        Feature("last", "last", 10 * MINUTE, "amount"),
        Feature("cards", "distinct", HOUR, "card"),
        Feature("pace", "rate", 10 * MINUTE),
        Feature("since", "seconds_since_last", HOUR),
        Feature("today", "count", HOUR, kind="tumbling"),
    ),
    pane_ms=MINUTE,
    lateness_ms=10 * MINUTE,
)


def events(n, seed=SEED):
    """Two hours of events of fifty keys in two lanes, out of order, a twentieth of them late."""
    draw = random.Random(seed)
    print(f"seed {seed}")
    lateness = [Lateness(SPEC.lateness_ms), Lateness(SPEC.lateness_ms)]
    for i in range(n):
        append = BEGAN + i * 2 * HOUR // n
        time = append - draw.randrange(30_000) - (draw.randrange(20 * MINUTE) if draw.random() < 0.05 else 0)
        lane = draw.randrange(2)
        (behind,) = lateness[lane].behind([time], [append])
        amount = draw.choice([math.nan, round(draw.lognormvariate(3, 1), 2)])
        yield f"dev_{draw.randrange(50)}", append, time, behind, lane, i, amount, f"card_{draw.randrange(400)}"


def fill(rows, *, taken=None, spec=SPEC, share=1.0, most=1_000_000):
    """The slice of all rows, and the windows of those before `taken`."""
    slice_, windows = KeySlice(spec, share, most=most), KeyWindows(spec)
    for at in range(0, len(rows), 100):
        keys, append, time, behind, _, _, amount, card = zip(*rows[at : at + 100], strict=True)
        slice_.take(keys, append, time, behind, {"amount": amount, "card": card})
    for at in range(0, len(rows[:taken]), 100):
        keys, _, time, behind, lanes, offsets, amount, card = zip(
            *rows[at : min(at + 100, taken or len(rows))], strict=True
        )
        windows.observe(
            keys, time, behind_ms=behind, values={"amount": amount, "card": card}, lanes=lanes, offsets=offsets
        )
    return slice_, windows


def wrong(slice_, windows, tide):
    """(key, feature) of what is served and must not be; keys that were compared."""
    found, compared, reader = set(), 0, ViewReader(SPEC)
    for key, expected in slice_.expected(lambda _: tide):
        if expected is None:
            continue
        compared += 1
        served = reader.evaluate(windows.read([key])[0], expected.at_ms)
        for feature, value, may in zip(SPEC.features, served, expected.features, strict=True):
            if not matches(value, may):
                found.add((key, feature.name))
    return found, compared


def test_windows_give_what_the_slice_expects():
    slice_, windows = fill(list(events(3_000)))

    assert wrong(slice_, windows, tide=BEGAN + 3 * HOUR) == (set(), 50)


def test_events_under_way_are_no_mismatch_and_do_not_hide_one():
    rows = list(events(3_000))
    slice_, windows = fill(rows, taken=2_900)

    found, compared = wrong(slice_, windows, tide=rows[2_850][1])
    assert (found, compared > 30) == (set(), True)
    found, _ = wrong(slice_, windows, tide=BEGAN + 3 * HOUR)  # a tide that promises what was not taken
    assert {name for _, name in found} >= {"events", "paid", "spent", "pace", "since", "today"}


def lost(rows):
    del rows[2_500]


def twice(rows):
    rows.insert(2_500, rows[2_500])


def strayed(rows):
    rows[2_500] = ("dev_0" if rows[2_500][0] != "dev_0" else "dev_1", *rows[2_500][1:])


def changed(rows):
    at = next(at for at in range(2_500, 3_000) if not math.isnan(rows[at][6]))
    rows[at] = (*rows[at][:6], rows[at][6] + 0.01, rows[at][7])


def of_another_time(rows):
    key, append, time, *rest = rows[2_500]
    rows[2_500] = (key, append, time - 2 * HOUR, *rest)


@pytest.mark.parametrize("fault", [lost, twice, strayed, changed, of_another_time])
def test_one_event_that_was_taken_wrongly_is_found(fault):
    rows = list(events(3_000))
    slice_, _ = fill(rows)
    fault(rows)
    _, windows = fill(rows)

    found, compared = wrong(slice_, windows, tide=BEGAN + 3 * HOUR)

    assert compared == 50
    assert 1 <= len({key for key, _ in found}) <= 2


def test_an_old_value_is_found():
    rows = list(events(3_000))
    slice_, now = fill(rows)
    _, before = fill(rows[:2_950])

    assert wrong(slice_, now, tide=BEGAN + 3 * HOUR)[0] == set()
    assert {name for _, name in wrong(slice_, before, tide=BEGAN + 3 * HOUR)[0]} >= {"events", "pace", "since"}


def test_late_events_are_ignored_where_the_view_ignores_them():
    spec = replace(SPEC, include_late=False)
    slice_, windows = fill(list(events(3_000)), spec=spec)
    _, including = fill(list(events(3_000)))

    assert wrong(slice_, windows, tide=BEGAN + 3 * HOUR) == (set(), 50)
    assert wrong(slice_, including, tide=BEGAN + 3 * HOUR)[0] != set()


def test_what_the_log_has_no_more_is_not_compared():
    slice_, windows = fill(list(events(3_000)))
    slice_.begin(BEGAN + HOUR - 2 * MINUTE)
    assert wrong(slice_, windows, tide=BEGAN + 3 * HOUR)[1] == 50
    slice_.begin(BEGAN + HOUR + 2 * MINUTE)
    assert wrong(slice_, windows, tide=BEGAN + 3 * HOUR)[1] == 0


def test_a_key_without_a_tide_is_not_compared():
    slice_, _ = fill(list(events(600)))

    assert {expected for _, expected in slice_.expected(lambda _: None)} == {None}


def test_a_slice_is_a_share_of_the_keys_and_takes_whole_keys():
    rows = list(events(3_000))
    slice_, windows = fill(rows, share=0.2)

    found, compared = wrong(slice_, windows, tide=BEGAN + 3 * HOUR)
    assert (found, 3 <= compared <= 20) == (set(), True)


def test_memory_is_bounded_by_a_smaller_slice():
    rows = list(events(3_000))
    slice_, windows = fill(rows, most=1_000)

    assert len(slice_) <= 1_000
    assert slice_.share < 1
    found, compared = wrong(slice_, windows, tide=BEGAN + 3 * HOUR)
    assert (found, compared > 0) == (set(), True)


def test_events_that_no_window_can_have_are_forgotten():
    rows = [(f"dev_{i % 50}", BEGAN + i * MINUTE, BEGAN + i * MINUTE, 0, 0, i, 1.0, "card") for i in range(5_000)]
    slice_, _ = fill(rows, most=600)

    assert slice_.share == 1
    assert len(slice_) <= 600


def test_one_key_that_is_hotter_than_the_bound_ends_the_search():
    rows = [("dev_1", BEGAN + i, BEGAN + i, 0, 0, i, 1.0, "card") for i in range(500)]
    slice_, _ = fill(rows, most=100)

    assert len(slice_) == 0


@pytest.mark.parametrize("amounts", [(1.7e308, 1.7e308), (1e200, -1e200)])
def test_numbers_whose_sum_or_square_no_double_holds_are_no_mismatch(amounts):
    rows = [("dev_1", BEGAN + i, BEGAN + i, -HOUR, 0, i, amount, "card_1") for i, amount in enumerate((*amounts, 1.0))]
    slice_, windows = fill(rows)

    assert wrong(slice_, windows, tide=BEGAN + 10 * MINUTE) == (set(), 1)
