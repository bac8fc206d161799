"""The windows of a view equal a recomputation from the log, at any moment, whatever the batches and the crashes."""

import importlib.util
import itertools
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from state import entities
from state.key_windows import KeyWindows
from state.lateness import Lateness, most_ahead
from state.view_reader import ViewReader
from tests.state.keyed import FEATURES, PANE, T, event, observe, spec, store
from tests.state.on_disk import Disk

_oracle = importlib.util.spec_from_file_location("view_oracle", Path(__file__).with_name("view_oracle.py"))
view_oracle = importlib.util.module_from_spec(_oracle)
_oracle.loader.exec_module(view_oracle)

EXACT = {name for name, (function, *_) in FEATURES.items() if function not in ("sum", "mean", "stddev")}


AMOUNT = st.one_of(st.none(), st.floats(-1e6, 1e6), st.sampled_from([0.0, 0.1, 3.0, 1e9, math.inf, math.nan]))
EVENT = st.fixed_dictionaries({
    "key": st.sampled_from(["a", "b", "ü", None]),
    "lane": st.sampled_from([0, 0, 1]),
    "wrong": st.sampled_from([*[0] * 12, 50_000, 60_001, 10**8]),
    "jump": st.integers(-30 * PANE, 9 * PANE),
    "amount": AMOUNT,
    "card": st.sampled_from([None, "", "x", "y", "z"]),
})  # fmt: skip
STEPS = st.lists(EVENT, max_size=60)


def as_events(steps):
    """Event times as drift plus jumps: mostly in order, some late, some too late, some by a wrong clock."""
    base, events = T, []
    for i, step in enumerate(steps):
        base += 700
        time = base + (step["jump"] if step["jump"] > 0 or i % 3 == 0 else 0)
        events.append({**step, "time": time + step["wrong"], "append": base, "offset": i})
        base = max(base, time)
    return events


def check(reader, windows, log, at):
    """Compare every feature of every key, read together at several moments."""
    keys = ["a", "b", "ü", "never"]
    moments = [at - 12 * PANE, at, at + 1, at + 3 * PANE, at + 14 * PANE]
    asked = list(itertools.product(keys, moments))
    rows = np.array([keys.index(key) for key, _ in asked])
    found = reader.evaluate_many(windows.read(keys), np.array([moment for _, moment in asked]), rows)
    for name, feature in FEATURES.items():
        for row, (key, moment) in enumerate(asked):
            expected = log.read(key, moment, feature)
            value = found[name][row]
            if name in EXACT:
                assert repr(value.item()) == repr(float(expected)), (name, key, moment)
            else:
                assert value == pytest.approx(expected, rel=1e-9, abs=1e-6, nan_ok=True), (name, key, moment)


@settings(deadline=None)
@given(steps=STEPS, cuts=st.lists(st.integers(1, 9)), late=st.booleans(), crash=st.booleans())
def test_features_equal_a_recomputation_whatever_the_batching_and_the_crashes(steps, cuts, late, crash):
    view, stored = spec(include_late=late), {}
    windows, reader, log = KeyWindows(view), ViewReader(view), oracle(view)
    clocks = [Lateness(most_ahead([view.lateness_ms])) for _ in range(2)]
    rest, sizes = iter(as_events(steps)), itertools.chain(cuts, itertools.repeat(4))
    while batch := list(itertools.islice(rest, next(sizes))):
        if crash:
            windows = KeyWindows(view)
            windows.restore(stored)
        at = batch[-1]["append"]
        found = [clocks[each["lane"]].behind([each["time"]], [each["append"]])[0] for each in batch]
        batch, behind = taken_by(log, batch)
        assert [by for by in found if by is not None] == behind
        observe(windows, batch, behind)
        store(windows, stored)
        check(reader, windows, log, at)


@settings(max_examples=40, deadline=None)
@given(
    steps=STEPS,
    cuts=st.lists(st.integers(1, 9)),
    late=st.booleans(),
    what=st.lists(st.sampled_from(["hold", "commit", "crash"]), min_size=1, max_size=9),
)
def test_values_are_the_same_with_the_keys_on_disk(tmp_path_factory, steps, cuts, late, what):
    view = spec(include_late=late)
    path = tmp_path_factory.mktemp("lane")
    disk, windows, memory, log = Disk(path / "lane-0", "view-device"), KeyWindows(view), KeyWindows(view), oracle(view)
    windows.restore(disk.entries)
    rest, sizes, what = iter(as_events(steps)), itertools.chain(cuts, itertools.repeat(4)), itertools.cycle(what)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(entities, "HOT", 1)
        patch.setattr(entities, "_SWEEP", 3)
        while batch := list(itertools.islice(rest, next(sizes))):
            if (now := next(what)) != "hold":
                disk.commit()
            if now == "crash":
                observe(windows, [event("a", T + 10**9)], [0])
                disk.hold(windows.changes())
                disk.crash()
                windows = KeyWindows(view)
                windows.restore(disk.entries)
            batch, behind = taken_by(log, batch)
            observe(windows, batch, behind)
            observe(memory, batch, behind)
            disk.hold(windows.changes())
            memory.changes()
            assert windows.read(["a", "b", "ü", "never"]) == memory.read(["a", "b", "ü", "never"])
    disk.store.close()
    shutil.rmtree(path)


def taken_by(log, batch):
    taken, behind = [], []
    for each in batch:
        if (by := log.behind(each)) is not None:
            taken.append(each)
            behind.append(by)
            log.take(each)
    return taken, behind


def oracle(view):
    return view_oracle.Log(
        pane_ms=view.pane_ms, lateness_ms=view.lateness_ms, include_late=view.include_late, longest_ms=20 * PANE
    )
