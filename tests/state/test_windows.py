"""`EntityWindows` equals a recomputation from the log, bit by bit, whatever the batches and the crashes."""

import importlib.util
import itertools
import math
import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from state import entities
from state.entries import StateUnreadable
from state.window_spec import DAY_MS, Feature, WindowSpec
from state.windows import EntityWindows
from tests.state.on_disk import Disk

_oracle = importlib.util.spec_from_file_location(
    "recall_oracle", Path(__file__).parents[1] / "operators" / "recall_oracle.py"
)
recall_oracle = importlib.util.module_from_spec(_oracle)
_oracle.loader.exec_module(recall_oracle)

PANE = 1_000
AHEAD = 60_001
"""Further ahead of the broker's time than a minute."""
FEATURES = {
    "events_4": ("count", 4 * PANE, None),
    "events_20": ("count", 20 * PANE, None),
    "values_20": ("count", 20 * PANE, "amount"),
    "sum_4": ("sum", 4 * PANE, "amount"),
    "sum_20": ("sum", 20 * PANE, "amount"),
    "mean_20": ("mean", 20 * PANE, "amount"),
    "last_4": ("last", 4 * PANE, "amount"),
    "other_20": ("last", 20 * PANE, "other"),
    "since": ("seconds_since_last", 20 * PANE, None),
}
SPEC = WindowSpec(tuple(Feature(n, f, w, of) for n, (f, w, of) in FEATURES.items()), PANE, 5 * PANE)
AMOUNT = st.one_of(st.none(), st.floats(-1e6, 1e6), st.sampled_from([0.1, 1e300, -1e300, 1.7e308, math.inf]))
EVENT = st.tuples(st.sampled_from(["a", "b", "ü"]), st.integers(-30 * PANE, 9 * PANE), AMOUNT, AMOUNT)


def as_events(steps):
    """Event times as drift plus jumps: mostly in order, some late, some too late."""
    base, events = 10**12, []
    for i, (entity, jump, amount, other) in enumerate(steps):
        base += 700
        ahead = AHEAD if i % 17 == 16 else 0
        time = base + ahead + (jump if jump > 0 or i % 3 == 0 else 0)
        events.append({"entity": entity, "event_ms": time, "append_ms": base, "amount": amount, "other": other})
        base = max(base, time - ahead)
    return events


def feed(windows, batch):
    values = {of: [math.nan if e[of] is None else e[of] for e in batch] for of in ("amount", "other")}
    rows = [[e[name] for e in batch] for name in ("entity", "event_ms", "append_ms")]
    return windows.observe(*rows, values)


def store(windows, stored):
    for key, value in windows.changes():
        if value is None:
            stored.pop(key, None)
        else:
            stored[key] = value


def same(found, expected):
    return all(
        repr(found[name][row]) == repr(float(expected[row][name])) for name in found for row in range(len(expected))
    )


@given(steps=st.lists(EVENT, max_size=60), cuts=st.lists(st.integers(1, 9)), late=st.booleans(), crash=st.booleans())
def test_features_equal_a_recomputation_whatever_the_batching_and_the_crashes(steps, cuts, late, crash):
    events, stored, found = as_events(steps), {}, {name: [] for name in FEATURES}
    spec = WindowSpec(SPEC.features, SPEC.pane_ms, SPEC.lateness_ms, include_late=late)
    windows = EntityWindows(spec)
    rest, sizes = iter(events), itertools.chain(cuts, itertools.repeat(4))
    while batch := list(itertools.islice(rest, next(sizes))):
        if crash:
            windows = EntityWindows(spec)
            windows.restore(stored)
        features, _ = feed(windows, batch)
        store(windows, stored)
        for name, column in features.items():
            found[name] += column

    expected = recall_oracle.recompute(events, FEATURES, pane_ms=PANE, lateness_ms=5 * PANE, include_late=late)

    assert same(found, expected)


@settings(max_examples=60, deadline=None)
@given(
    steps=st.lists(EVENT, max_size=60),
    cuts=st.lists(st.integers(1, 9)),
    late=st.booleans(),
    what=st.lists(st.sampled_from(["hold", "commit", "crash"]), min_size=1, max_size=9),
)
def test_features_are_the_same_with_the_entities_on_disk(tmp_path_factory, steps, cuts, late, what):
    events, found = as_events(steps), {name: [] for name in FEATURES}
    spec = WindowSpec(SPEC.features, SPEC.pane_ms, SPEC.lateness_ms, include_late=late)
    path = tmp_path_factory.mktemp("lane")
    disk, windows = Disk(path / "lane-0", "recall"), EntityWindows(spec)
    windows.restore(disk.entries)
    rest, sizes, what = iter(events), itertools.chain(cuts, itertools.repeat(4)), itertools.cycle(what)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(entities, "HOT", 1)
        patch.setattr(entities, "_SWEEP", 3)
        while batch := list(itertools.islice(rest, next(sizes))):
            if (now := next(what)) != "hold":
                disk.commit()
            if now == "crash":
                feed(windows, [event("a", 10**13)])
                disk.hold(windows.changes())
                disk.crash()
                windows = EntityWindows(spec)
                windows.restore(disk.entries)
            features, _ = feed(windows, batch)
            disk.hold(windows.changes())
            for name, column in features.items():
                found[name] += column
    disk.store.close()
    shutil.rmtree(path)

    expected = recall_oracle.recompute(events, FEATURES, pane_ms=PANE, lateness_ms=5 * PANE, include_late=late)

    assert same(found, expected)


def test_on_disk_idle_entities_are_swept_and_active_ones_stay(tmp_path, monkeypatch):
    monkeypatch.setattr(entities, "_SWEEP", 4)
    disk, windows = Disk(tmp_path / "lane-0", "recall"), EntityWindows(SPEC)
    windows.restore(disk.entries)
    busy = [f"busy-{i:02}" for i in range(20)]  # more than one sweep looks at, and before the idle ones
    feed(windows, [event(f"idle-{i:02}", 10**12 + i) for i in range(20)] + [event(who, 10**12) for who in busy])
    disk.hold(windows.changes())
    disk.commit()
    for i in range(60):
        feed(windows, [event(who, 10**12 + 26 * PANE + i) for who in (busy[i % 20], busy[(i + 7) % 20])])
        disk.hold(windows.changes())
        disk.commit()

    assert {name for name, _ in disk.entries.scan(b"")} == {b"l", b"w", *(f"e{who}".encode() for who in busy)}
    assert len(windows) == 20


def test_on_disk_the_sweep_leaves_an_entity_whose_new_panes_are_not_written_yet(tmp_path, monkeypatch):
    monkeypatch.setattr(entities, "_SWEEP", 1)
    disk, windows = Disk(tmp_path / "lane-0", "recall"), EntityWindows(SPEC)
    windows.restore(disk.entries)
    feed(windows, [event("a", 10**12), event("b", 10**12)])
    disk.hold(windows.changes())
    disk.commit()
    feed(windows, [event("a", 10**12 + 26 * PANE)])
    disk.hold(windows.changes())
    found, _ = feed(windows, [event("a", 10**12 + 26 * PANE), event("b", 10**12 + 26 * PANE)])

    assert found["events_20"] == [1.0, 0.0]


def test_on_disk_only_entities_of_late_stay_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(entities, "HOT", 5)
    disk, windows = Disk(tmp_path / "lane-0", "recall"), EntityWindows(SPEC)
    windows.restore(disk.entries)
    for i in range(60):
        feed(windows, [event(f"e-{i}", 10**12 + i), event("hot", 10**12 + i)])
        disk.hold(windows.changes())
    disk.commit()

    assert len(windows) <= 10
    assert "hot" in windows._known
    assert feed(windows, [event("e-0", 10**12 + 60)])[0]["events_4"] == [1.0]


def event(entity, time, amount=1.0, append=0):
    return {"entity": entity, "event_ms": time, "append_ms": append, "amount": amount, "other": None}


def test_entities_idle_longer_than_the_longest_window_are_deleted_a_few_per_row():
    windows, stored = EntityWindows(SPEC), {}
    feed(windows, [event(f"idle-{i}", 10**12 + i) for i in range(10)])
    store(windows, stored)
    before = len(stored)
    feed(windows, [event("awake", 10**12 + 26 * PANE)])
    store(windows, stored)
    after_one = len(stored)
    for i in range(4):
        feed(windows, [event("awake", 10**12 + (27 + i) * PANE)])
        store(windows, stored)

    assert before == 12
    assert after_one == 12 + 1 - 4
    assert set(stored) == {b"l", b"w", b"eawake"}
    assert len(windows) == 1


def test_events_out_of_time_are_counted():
    windows = EntityWindows(SPEC)
    now = 10**12
    batch = [event("a", now), event("a", now - 6 * PANE), event("a", now - 40 * PANE)]
    batch.append(event("a", now + AHEAD, append=now))
    _, included = feed(windows, batch)
    _, ignored = feed(EntityWindows(WindowSpec(SPEC.features, PANE, 5 * PANE, include_late=False)), batch)

    assert (included.included, included.ignored, included.too_late, included.ahead) == (1, 0, 1, 1)
    assert (ignored.included, ignored.ignored, ignored.too_late, ignored.ahead) == (0, 1, 1, 1)


def test_an_event_that_is_not_taken_leaves_no_sums_behind():
    windows, now = EntityWindows(SPEC), 10**12
    ahead = event("a", now + AHEAD + 2 * PANE, append=now)
    near = event("a", now + AHEAD - 1, append=now)
    features, tally = feed(windows, [near, ahead, near, ahead])

    assert tally.ahead == 2
    assert features["sum_4"] == [0.0, 1.0, 1.0, 2.0]


@pytest.mark.parametrize("late", [True, False])
def test_one_wrong_clock_takes_nothing_from_the_other_entities_of_the_lane(late):
    windows, now, wrong = EntityWindows(WindowSpec(SPEC.features, PANE, 600_000, late)), 10**12, 23 * 3_600_000
    feed(windows, [event("a", now, append=now), event("terminal", now + wrong, append=now)])
    features, tally = feed(windows, [event("a", now + PANE, append=now + PANE), event("a", now, append=now + PANE)])

    assert features["events_20"] == [1.0, 1.0]
    assert (tally.included, tally.ignored, tally.too_late, len(windows)) == (0, 0, 0, 1)


def test_a_changed_set_of_features_keeps_what_it_can():
    windows, stored = EntityWindows(SPEC), {}
    feed(windows, [event("a", 10**12, 5.0)])
    store(windows, stored)
    spec = WindowSpec(
        (Feature("n", "count", PANE), Feature("sum", "sum", PANE, "amount"), Feature("new", "sum", PANE, "fresh")),
        PANE,
        5 * PANE,
    )
    later = EntityWindows(spec)
    later.restore(stored)
    features, _ = later.observe(["a", "a"], [10**12] * 2, [0, 0], {"amount": [1.0, 1.0], "fresh": [2.0, 2.0]})
    store(later, stored)
    again = EntityWindows(SPEC)
    again.restore(stored)

    assert features == {"n": [1.0, 2.0], "sum": [5.0, 6.0], "new": [0.0, 2.0]}
    assert feed(again, [event("a", 10**12)])[0]["sum_4"] == [7.0]


def test_another_size_of_pane_starts_empty_and_deletes_what_was_stored(caplog):
    windows, stored = EntityWindows(SPEC), {}
    feed(windows, [event("a", 10**12), event("b", 10**12)])
    store(windows, stored)
    later = EntityWindows(WindowSpec((Feature("n", "count", 4000),), 2000, 4000))
    later.restore(stored)
    features, _ = later.observe(["a"], [10**12], [0], {})
    store(later, stored)

    assert features == {"n": [0.0]}
    assert {key for key in stored if key[:1] == b"e"} == {b"ea"}
    assert "windows that are stored start empty" in caplog.text


@pytest.mark.parametrize(
    "entries",
    [
        {b"w": b"\x02" + bytes(8)},
        {b"w": b""},
        {b"l": b'{"v":2}'},
        {b"l": b"{"},
        {b"ea": bytes(9)},
        {b"ea": b"\xff\xff"},
    ],
)
def test_an_unknown_or_broken_entry_is_refused_by_name(entries):
    with pytest.raises(StateUnreadable, match="could not restore"):
        EntityWindows(SPEC).restore(entries)


@pytest.mark.parametrize(
    "feature",
    [
        Feature("x", "count", 1500),
        Feature("x", "sum", PANE),
        Feature("x", "count", 2 * DAY_MS),
        Feature("x", "max", PANE, "amount"),
        Feature("x", "count", PANE, None, "tumbling"),
    ],
)
def test_a_feature_that_cannot_be_kept_is_refused(feature):
    with pytest.raises(ValueError, match="recall feature x"):
        WindowSpec((feature,), PANE)
