"""What is cached is dropped as soon as a real Redis says that it has changed; where it does not, at its age."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import redis

from state.feature_writer import FeatureWriter
from state.features import FeatureStore
from state.views import LoadedView

VIEW = LoadedView("holder", (("claims", "number"),))
HOUR = 3600.0


@pytest.fixture
def pipeline(unique: Callable[[str], str]) -> str:
    return unique("tracked")


@pytest.fixture
def writer(redis_url: str, pipeline: str) -> Iterator[FeatureWriter]:
    writer = FeatureWriter.connect(redis_url, pipeline)
    yield writer
    writer.close()


@pytest.fixture
def store(redis_url: str, pipeline: str) -> Iterator[FeatureStore]:
    store = FeatureStore.connect(redis_url, pipeline, timeout=2.0, max_age=HOUR)
    yield store
    store.close()


def read(store: FeatureStore, *keys: str) -> tuple[list[float | None], int]:
    """Values of keys, and how many of them were in the cache."""
    found = store.read({VIEW: keys})[VIEW]
    values = VIEW.values(found.kept, found.rows, np.zeros(len(keys), np.int64)).numbers[0].tolist()
    return [None if math.isnan(value) else value for value in values], found.hits


def test_a_value_that_changed_is_read_again_and_the_others_are_not(
    store: FeatureStore, writer: FeatureWriter, until: Callable[..., None]
) -> None:
    writer.load(VIEW, [("a", 1, [1.0]), ("b", 1, [2.0])])
    assert read(store, "a", "b", "c") == ([1.0, 2.0, None], 0)
    assert read(store, "a", "b", "c") == ([1.0, 2.0, None], 3)
    writer.load(VIEW, [("a", 2, [7.0])])
    until(lambda: read(store, "a")[0] == [7.0], "the change is heard of", timeout=2)
    assert read(store, "a", "b", "c") == ([7.0, 2.0, None], 3)
    writer.load(VIEW, [("c", 2, [9.0])])
    until(lambda: read(store, "c")[0] == [9.0], "a value that was not there", timeout=2)


def test_a_connection_that_is_lost_empties_the_cache(
    store: FeatureStore, writer: FeatureWriter, redis_url: str, until: Callable[..., None]
) -> None:
    writer.load(VIEW, [("a", 1, [1.0])])
    read(store, "a")
    with redis.Redis.from_url(redis_url) as client:
        tracked = [each for each in client.client_list() if "t" in each["flags"]]
        assert tracked, "the server tracks the reader"
        for each in tracked:
            client.client_kill_filter(_id=each["id"])
    writer.load(VIEW, [("a", 2, [5.0])])  # of which nobody tells the reader
    until(lambda: read(store, "a")[0] == [5.0], "it is read again", timeout=2)


def test_where_the_server_does_not_tell_the_age_bounds_it_and_it_is_said_once(
    redis_url: str, pipeline: str, writer: FeatureWriter, caplog: pytest.LogCaptureFixture, until: Callable[..., None]
) -> None:
    user = f"reader-{pipeline}"
    with redis.Redis.from_url(redis_url) as client:
        client.execute_command("ACL SETUSER", user, "on", ">secret", "~*", "-@all", "+mget")
        store = FeatureStore.connect(redis_url.replace("://", f"://{user}:secret@"), pipeline, timeout=2.0, max_age=0.5)
        writer.load(VIEW, [("a", 1, [1.0])])
        until(lambda: read(store, "a")[0] == [1.0], "it is read", timeout=5)
        writer.load(VIEW, [("a", 2, [5.0])])
        began = time.monotonic()
        until(lambda: read(store, "a")[0] == [5.0], "it is read again", timeout=2)
        took = time.monotonic() - began
        store.close()
        client.execute_command("ACL DELUSER", user)

    assert took <= 0.6
    assert [record.message for record in caplog.records].count(
        "Redis does not say which keys have changed (CLIENT TRACKING); cached values live until max_age"
    ) == 1
