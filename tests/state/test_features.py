"""Reading views: one round trip, nothing misread, and nothing that is cached outlives its age or its change."""

import numpy as np
import pytest

from state.cache import AgingCache
from state.features import FeatureStore
from state.link import MemoryLink
from state.views import Lack, LoadedView, redis_keys

HOLDER = LoadedView("holder", (("claims_3y", "number"), ("segment", "string")))
DEVICE = LoadedView("device", (("seen_days", "number"),))


class CountingLink(MemoryLink):
    """Holds values, counts round trips, tells of changes, and breaks when told to."""

    def __init__(self):
        self.values, self.trips, self.told, self.breaks = {}, [], (), False
        super().__init__(self.values)

    def ask(self, names, commands=()):
        self.trips.append(list(names))
        return ([Lack.UNAVAILABLE] * len(names), []) if self.breaks else super().ask(names, commands)

    def changed(self):
        told, self.told = self.told, ()
        return told


class Clock:
    at = 50.0

    def __call__(self):
        return self.at


@pytest.fixture
def link():
    link = CountingLink()
    put(link, HOLDER, "PH-1", 1_500, [2, "gold"])
    put(link, HOLDER, "PH-2", 2_000, [None, None])
    put(link, DEVICE, "D", 3_000, [4.5])
    return link


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def store(link, clock):
    return FeatureStore(link, "claims", cache=AgingCache(100, 1.0), now=clock)


def put(link, view, key, time_ms, values):
    link.values[redis_keys("claims", view.name, [key])[0]] = view.pack(time_ms, values)


def first_number(store, view, keys):
    found = store.read({view: keys})[view]
    return view.values(found.kept, found.rows, np.zeros(len(keys), np.int64)).numbers[0].tolist()


def test_all_views_and_keys_take_one_round_trip_and_then_the_cache(store, link, clock):
    wanted = {HOLDER: ["PH-1", "PH-2", "PH-1", None, "PH-3"], DEVICE: ["D", "D", "D", "D", "D"]}
    first = store.read(wanted)
    second = store.read(wanted)
    clock.at += 1.0
    store.read(wanted)

    assert first[HOLDER].rows.tolist() == [0, 1, 0, -1, 2]
    assert first[HOLDER].kept[2:] == [Lack.MISSING, Lack.MISSING]
    assert first[HOLDER].kept == second[HOLDER].kept
    assert (first[HOLDER].hits, first[HOLDER].misses) == (0, 3)
    assert (second[HOLDER].hits, second[HOLDER].misses) == (3, 0)
    assert [len(names) for names in link.trips] == [4, 4]
    assert link.trips[0][0] == b"penstock:claims:holder:PH-1"


def test_only_what_the_cache_does_not_know_is_asked_for(store, link):
    assert first_number(store, HOLDER, ["PH-1"]) == [2.0]
    put(link, HOLDER, "PH-2", 3_000, [7, None])

    assert first_number(store, HOLDER, ["PH-2", "PH-1"]) == [7.0, 2.0]
    assert [len(names) for names in link.trips] == [1, 1]


def test_a_key_that_changed_is_read_again_and_no_other(store, link):
    first_number(store, HOLDER, ["PH-1", "PH-2"])
    put(link, HOLDER, "PH-1", 9_000, [3, "gold"])
    link.told = [b"penstock:claims:holder:PH-1"]

    assert first_number(store, HOLDER, ["PH-1", "PH-2"])[0] == 3.0
    assert link.trips[1:] == [[b"penstock:claims:holder:PH-1"]]


def test_when_anything_may_have_changed_all_is_read_again(store, link):
    first_number(store, HOLDER, ["PH-1", "PH-2"])
    link.told = None
    first_number(store, HOLDER, ["PH-1", "PH-2"])

    assert [len(names) for names in link.trips] == [2, 2]


def test_what_could_not_be_had_is_asked_for_again_at_once(store, link):
    link.breaks = True
    first = store.read({DEVICE: ["D"]})[DEVICE].kept
    link.breaks = False

    assert first == [Lack.UNAVAILABLE, Lack.MISSING]
    assert first_number(store, DEVICE, ["D"]) == [4.5]


def test_without_a_redis_every_key_is_unavailable():
    store = FeatureStore.connect(None, "claims")

    assert store.read({DEVICE: ["D"]})[DEVICE].kept[0] is Lack.UNAVAILABLE


def test_nothing_that_is_printed_shows_the_password(caplog):
    store = FeatureStore.connect("redis://:hunter2@127.0.0.1:1/0", "claims")

    assert store.read({DEVICE: ["D"]})[DEVICE].kept[0] is Lack.UNAVAILABLE
    assert "hunter" not in repr(store) + caplog.text
    store.close()
