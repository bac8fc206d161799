"""The keys of a view: when they go, what is refused, what a changed view keeps, and how exact `distinct` is."""

import pytest

from state import distinct, entities
from state.entries import StateUnreadable
from state.key_windows import KeyWindows, key_of
from state.lateness import Lateness
from state.packed import Origins, origins_of
from state.view_reader import ViewReader
from state.view_windows import ViewWindows
from state.window_spec import DAY_MS, Feature
from tests.state.keyed import FEATURES, PANE, T, event, observe, spec, store
from tests.state.on_disk import Disk


def test_keys_idle_longer_than_the_longest_window_are_deleted_a_few_per_row():
    windows, stored = KeyWindows(spec()), {}
    observe(windows, [event(f"idle-{i}", T + i) for i in range(10)], [0] * 10)
    store(windows, stored)
    before = len(stored)
    observe(windows, [event("awake", T + 27 * PANE)], [0])
    store(windows, stored)
    after_one = len(stored)
    for i in range(4):
        observe(windows, [event("awake", T + (28 + i) * PANE)], [0])
        store(windows, stored)

    assert (before, after_one) == (12, 12 + 1 - 4)
    assert {key_of(name) for name in stored} == {"awake", None}
    assert len(windows) == 1


@pytest.mark.parametrize("together", [True, False])
def test_a_key_that_has_expired_is_gone_before_it_is_deleted(monkeypatch, together):
    monkeypatch.setattr(entities, "EXPIRED_PER_ROW", 0)
    windows, reader = KeyWindows(spec()), ViewReader(spec())
    keys = [f"idle-{i}" for i in range(10)]
    events = [*(event(key, T) for key in keys), event("awake", T + 26 * PANE), event("idle-3", T + 2 * PANE)]
    behind = [*[0] * 11, 24 * PANE]
    for part in [slice(0, 12)] if together else [slice(0, 10), slice(10, 11), slice(11, 12)]:
        observe(windows, events[part], behind[part])
    tally = observe(windows, [event("new", T)], [26 * PANE])

    assert len(windows) == 11
    assert [key for key in keys if windows.read([key]) != [None]] == ["idle-3"]
    assert reader.evaluate(windows.read(["idle-3"])[0], T + 3 * PANE)[1] == 1.0
    assert (tally.too_late, windows.read(["new"])) == (1, [None])


def test_on_disk_idle_keys_are_swept_and_only_those_of_late_are_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(entities, "_SWEEP", 4)
    monkeypatch.setattr(entities, "HOT", 5)
    disk, windows = Disk(tmp_path / "lane-0", "view-device"), KeyWindows(spec())
    windows.restore(disk.entries)
    for i in range(60):
        observe(windows, [event(f"idle-{i}", T + i), event("busy", T + i)], [0, 0])
        disk.hold(windows.changes())
    disk.commit()
    in_memory = len(windows)
    for i in range(40):
        observe(windows, [event("busy", T + 27 * PANE + i)] * 2, [0, 0])
        disk.hold(windows.changes())
        disk.commit()

    assert in_memory <= 10
    assert {key_of(name) for name, _ in disk.entries.scan(b"")} == {"busy", None}


def test_a_lane_that_lags_holds_up_expiry_but_for_a_day_at_most():
    windows, reader = KeyWindows(spec()), ViewReader(spec())
    observe(windows, [event("a", T, lane=1), event("b", T + DAY_MS, lane=0)], [0, 0])
    kept = windows.read(["a"])
    observe(windows, [event("b", T + DAY_MS + 27 * PANE, lane=0)], [0])

    assert reader.evaluate(kept[0], T + PANE)[0] == 1.0
    assert windows.read(["a"]) == [None]


def test_events_out_of_time_are_counted():
    lateness, windows = Lateness(60_000), KeyWindows(spec())
    times = [T, T - 5 * PANE, T - 5 * PANE - 1, T - 40 * PANE, T + 60_001, T + 1]
    behind = lateness.behind(times, [T] * 6)
    taken = [event("a", time) for time, by in zip(times, behind, strict=True) if by is not None]
    tally = observe(windows, taken, [by for by in behind if by is not None])
    ignored = observe(KeyWindows(spec(include_late=False)), taken, [0, 5 * PANE, 5 * PANE + 1, 40 * PANE, 0])

    assert behind == [0, 5 * PANE, 5 * PANE + 1, 40 * PANE, None, 0]
    assert (tally.included, tally.ignored, tally.too_late) == (1, 0, 1)
    assert (ignored.included, ignored.ignored, ignored.too_late) == (0, 2, 0)
    assert Lateness(0, lateness.pack()).latest_ms == T + 1


def test_of_equal_times_the_first_and_the_last_taken_count():
    windows = KeyWindows(spec())
    observe(windows, [event("a", T, 1.0), event("a", T, 2.0), event("a", T, 3.0)], [0] * 3)
    found = dict(zip(FEATURES, ViewReader(spec()).evaluate(windows.read(["a"])[0], T + PANE), strict=True))

    assert (found["first"], found["last"]) == (1.0, 3.0)


def test_a_value_says_where_its_latest_change_came_from():
    windows = KeyWindows(spec())
    observe(windows, [event("a", T, offset=5), event("b", T, offset=6), event("a", T, offset=9)], [0] * 3)
    first = origins_of(windows.read(["a"])[0])
    observe(windows, [event("a", T, offset=2, lane=3)], [0])

    assert first == Origins(0, 5, 9)
    assert origins_of(windows.read(["a"])[0]) == Origins(3, 2, 2)


def test_the_range_of_a_change_has_all_of_its_lane_whatever_other_lanes_came_between():
    windows = KeyWindows(spec())
    places = [(0, 1), (1, 5), (0, 2)]
    observe(windows, [event("a", T, lane=lane, offset=offset) for lane, offset in places], [0] * 3)

    assert origins_of(windows.read(["a"])[0]) == Origins(0, 1, 2)


def test_a_view_declared_in_another_way_fills_anew_and_deletes_what_was_stored(caplog):
    windows, stored = KeyWindows(spec()), {}
    observe(windows, [event("a", T), event("b", T)], [0, 0])
    store(windows, stored)
    other = spec(pane_ms=2 * PANE, lateness_ms=4 * PANE)
    later = KeyWindows(other)
    later.restore(stored)
    assert later.read(["a"]) == [None]
    assert not ViewReader(other).readable(stored[b"ea"])
    observe(later, [event("c", T)], [0])
    store(later, stored)

    assert {key_of(name) for name in stored} == {"c", None}
    assert "its windows fill anew" in caplog.text


def declared(*features):
    return ViewWindows("device", "device_id", tuple(Feature(*feature) for feature in features), PANE, 5 * PANE)


BEFORE = declared(
    ("n", "count", 9 * PANE), ("cards", "distinct", 9 * PANE, "card"), ("old", "distinct", 9 * PANE, "amount")
)
AFTER = declared(
    ("spent", "sum", 9 * PANE, "amount"), ("amounts", "distinct", 9 * PANE, "amount"), ("n", "count", 4 * PANE),
    ("new", "distinct", 9 * PANE, "other"), ("cards", "distinct", 9 * PANE, "card"),
)  # fmt: skip


@pytest.mark.parametrize("on_disk", [False, True])
def test_a_view_with_other_features_keeps_what_both_measure(tmp_path, on_disk):
    disk, windows = Disk(tmp_path / "lane-0", "view-device"), KeyWindows(BEFORE)
    windows.restore(disk.entries if on_disk else {})
    events = [event(f"k{i % 30}", T + i // 30 * PANE, amount=float(i % 2), card=f"c{i}") for i in range(90)]
    observe(windows, events, [0] * 90)
    stored = windows.changes()
    disk.hold(stored)
    disk.commit()
    later, reader = KeyWindows(AFTER), ViewReader(AFTER)
    later.restore(disk.entries if on_disk else dict(stored))
    kept = reader.evaluate(later.read(["k7"])[0], T + 3 * PANE)
    observe(later, [{**event("k7", T + 3 * PANE, 5.0, card="c7"), "other": 1.0}], [0], of=("amount", "card", "other"))

    assert kept == (0.0, 1.0, 3.0, 0.0, 3.0)
    assert reader.evaluate(later.read(["k7"])[0], T + 4 * PANE) == (5.0, 2.0, 4.0, 1.0, 3.0)


def test_values_of_an_earlier_declaration_are_written_again_a_few_per_row():
    windows = KeyWindows(BEFORE)
    observe(windows, [event(f"k{i}", T, card="c") for i in range(10)], [0] * 10)
    stored = dict(windows.changes())
    later, reader = KeyWindows(AFTER), ViewReader(AFTER)
    later.restore(stored)
    for _ in range(3):
        observe(later, [event(None, T)], [0], of=("amount", "card", "other"))
        store(later, stored)

    assert all(reader.readable(value) for name, value in stored.items() if key_of(name) is not None)
    again = KeyWindows(BEFORE)
    again.restore(stored)
    assert ViewReader(BEFORE).evaluate(again.read(["k3"])[0], T + PANE) == (1.0, 1.0, 1.0)


def test_another_window_over_the_same_panes_keeps_what_is_stored():
    windows, stored = KeyWindows(spec()), {}
    observe(windows, [event("a", T)], [0])
    store(windows, stored)
    more = (*spec().features, Feature("events_7", "count", 7 * PANE))
    later = ViewWindows("device", "device_id", more, PANE, 6 * PANE)

    assert ViewReader(later).evaluate(stored[b"ea"], T + PANE)[-1] == 1.0


def test_a_value_never_outgrows_a_record(monkeypatch):
    monkeypatch.setattr("state.open_key.MOST_BYTES", 2_000)
    windows, reader = KeyWindows(spec()), ViewReader(spec())
    tally = observe(windows, [event("a", T + i * PANE, card=f"{i}") for i in range(15)], [0] * 15)
    value = windows.read(["a"])[0]

    assert tally.overfull == 1
    assert 1_600 < len(value) <= 2_000 + 41
    assert 5 < reader.evaluate(value, T + 15 * PANE)[1] < 15


@pytest.mark.parametrize("n", [1, 150, 190, 1_000, 20_000])
def test_distinct_is_within_its_stated_error(n):
    windows, reader = KeyWindows(spec()), ViewReader(spec())
    events = [event("a", T + i % 6 * PANE, card=f"card-{i % n}") for i in range(max(n, 500))]
    observe(windows, events, [0] * len(events))
    place = list(FEATURES).index("cards")
    found = reader.evaluate(windows.read(["a"])[0], T + 8 * PANE)[place]

    assert found == n if n <= distinct.EXACT else abs(found - n) <= 3 * distinct.ERROR * n


@pytest.mark.parametrize(
    "name, value",
    [
        (b"l", b"{"),
        (b"l", b'{"v":2}'),
        (b"w", b"\x02"),
        (b"w", b"\x01abc"),
        (b"ea", b""),
        (b"ea", b"\x02" + bytes(60)),
        (b"ea", bytes(5)),
    ],
)
def test_an_unknown_or_broken_entry_is_refused(name, value):
    with pytest.raises(StateUnreadable, match="could not"):
        KeyWindows(spec()).restore({name: value})


def test_a_value_that_was_cut_is_not_readable():
    windows, reader = KeyWindows(spec()), ViewReader(spec())
    observe(windows, [event("a", T)], [0])
    value = windows.read(["a"])[0]

    assert reader.readable(value)
    assert not reader.readable(value[:-20])
    with pytest.raises(StateUnreadable, match="its length is wrong"):
        reader.evaluate(value[:-20], T)


@pytest.mark.parametrize(
    "feature, words",
    [
        (Feature("x", "count", 1500), "multiple of the pane"),
        (Feature("x", "stddev", PANE), "needs `of`"),
        (Feature("x", "count", 90 * DAY_MS), "choose a longer pane"),
    ],
)
def test_a_view_that_cannot_be_kept_is_refused(feature, words):
    with pytest.raises(ValueError, match=words):
        ViewWindows("device", "device_id", (feature,), PANE)
