"""A windowed value is what the windows are at the row's event time, and as old as its lane's tide."""

import numpy as np
import pytest

from state.cache import AgingCache
from state.features import FeatureStore
from state.key_windows import KeyWindows
from state.link import MemoryLink
from state.murmur2 import lanes_of
from state.tides import Mark, tides_key
from state.versions import version
from state.view_windows import ViewWindows
from state.views import Lack, redis_keys
from state.window_spec import Feature
from state.windowed_view import WindowedView

PANE = 10_000
T = 1_795_393_800_000 // PANE * PANE
WINDOWS = ViewWindows(
    "device",
    "device_id",
    (Feature("payments", "count", 6 * PANE), Feature("spent", "sum", 3 * PANE, "amount")),
    PANE,
)
VIEW = WindowedView(WINDOWS)
LANES = 4


def panes(*events):
    """What a key's events (event ms, amount) are packed to."""
    keys = KeyWindows(WINDOWS)
    keys.restore({})
    times = [at for at, _ in events]
    n, amounts = len(times), [x for _, x in events]
    keys.observe(["k"] * n, times, behind_ms=[0] * n, values={"amount": amounts}, lanes=[0] * n, offsets=range(n))
    return keys.read(["k"])[0]


def redis_with(values, tides):
    """Redis with panes by key and tides (ms) by lane."""
    names = redis_keys("p", "device", values)
    held = {name: version(1, 1) + (value or b"") for name, value in zip(names, values.values(), strict=True)}
    fields = {str(lane).encode(): Mark(1, 1, tide).pack() for lane, tide in tides.items()}
    if fields:
        held[b"HGETALL", tides_key("p", "device")] = {b"lanes": str(LANES).encode()} | fields
    return FeatureStore(MemoryLink(held), "p", cache=AgingCache(100, 1.0))


def read(store, keys, at_ms, view=VIEW):
    found = store.read({view: keys})[view]
    return view.values(found.kept, found.rows, np.array(at_ms, np.int64))


ALL = dict.fromkeys(range(LANES), T)


@pytest.fixture(scope="module")
def two_events():
    return panes((T - 2 * PANE, 5.0), (T - PANE, 7.0))


def test_each_row_has_the_windows_of_its_own_event_time(two_events):
    at = [T, T - PANE, T + 2 * PANE, T + 4 * PANE, T + 9 * PANE]
    values = read(redis_with({"k": two_events}, ALL), ["k"] * 5, at)

    assert values.numbers.tolist() == [[2, 1, 2, 2, 0], [12, 5, 7, 0, 0]]
    assert values.as_of.tolist() == [T / 1000] * 5
    assert values.lacks == {}


def test_a_key_that_is_not_there_or_deleted_is_known_to_be_empty(two_events):
    values = read(redis_with({"k": two_events, "deleted": None}, ALL), ["new", "deleted"], [T, T])

    assert values.numbers.tolist() == [[0, 0], [0, 0]]
    assert values.as_of.tolist() == [T / 1000] * 2
    assert values.lacks == {}


def test_without_tides_nothing_is_known(two_events):
    assert read(redis_with({"k": two_events}, {}), ["k", "new", None], [T] * 3).lacks == dict.fromkeys(
        range(3), Lack.MISSING
    )


def test_each_key_is_as_old_as_the_tide_of_its_own_lane():
    keys = [f"D-{n}" for n in range(20)]
    tides = {0: T, 1: T - 1_000, 2: T - 2_000}
    values = read(redis_with({}, tides), keys, [T] * 20)
    lanes = lanes_of([key.encode() for key in keys], LANES).tolist()

    assert len(set(lanes)) == LANES
    assert values.as_of.tolist() == pytest.approx([tides.get(lane, np.nan) / 1000 for lane in lanes], nan_ok=True)
    assert values.lacks == {row: Lack.MISSING for row, lane in enumerate(lanes) if lane == 3}


def test_where_the_lane_of_a_key_cannot_be_told_it_is_as_old_as_the_one_furthest_behind():
    keys, view = [f"token-{n}" for n in range(20)], WindowedView(WINDOWS, any_lane=True)
    tides = {0: T, 1: T - 1_000, 2: T - 60_000, 3: T - 2_000}
    values = read(redis_with({}, tides), keys, [T] * 20, view)
    some = read(redis_with({}, {0: T, 1: T}), keys, [T] * 20, view)

    assert set(values.as_of.tolist()) == {(T - 60_000) / 1000}
    assert values.lacks == {}
    assert some.lacks == dict.fromkeys(range(20), Lack.MISSING)


def test_what_is_no_value_of_the_view_is_unreadable(two_events):
    values = read(redis_with({"k": two_events[:-1], "other": b"x" * 90}, ALL), ["k", "other", "new"], [T] * 3)

    assert values.lacks == {0: Lack.UNREADABLE, 1: Lack.UNREADABLE}
    assert np.isnan(values.numbers[:, :2]).all()


def test_what_is_cached_keeps_the_tide_that_was_read_with_it(two_events):
    fields = {b"lanes": b"1", b"0": Mark(1, 1, T).pack()}
    held = {
        (b"HGETALL", tides_key("p", "device")): fields,
        redis_keys("p", "device", ["k"])[0]: version(1, 1) + two_events,
    }
    store = FeatureStore(MemoryLink(held), "p", cache=AgingCache(100, 1.0))
    read(store, ["k"], [T])
    held[b"HGETALL", tides_key("p", "device")] = {b"lanes": b"1", b"0": Mark(1, 2, T + 250).pack()}

    assert read(store, ["k", "new"], [T, T]).as_of.tolist() == [T / 1000, (T + 250) / 1000]
