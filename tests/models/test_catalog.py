"""The catalog of a slot: models are loaded when they are needed, kept while they are, and dropped after."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from models.admission import Accepted, Place, Refused
from models.artefacts import ArtefactStore
from models.catalog import KEPT_SECONDS, Catalog, ReleaseUnavailable
from models.history import Entry
from models.release import ActivationRecord, Format, PromotionRecord, RefusalReason, ReleaseRecord, ReleaseRole
from tests.models import onnx_files

DELAY = 1_000


class Shop:
    """A catalog, its store, its log and its clock."""

    def __init__(self, folder: Path) -> None:
        self.store = ArtefactStore(str(folder))
        self.at = 0.0
        places = [Place("severity", ("a", "b")), Place("mirrored", ("b", "a")), Place("three", ("a", "b", "c"))]
        self.catalog = Catalog("claims", places, self.store, delay_ms=DELAY, now=lambda: self.at)
        self.offset = 0

    def publish(self, version: str, weight: float, *, activated_ms: int | None, role: ReleaseRole = "champion") -> None:
        self.publish_file(version, onnx_files.linear([weight, weight]), activated_ms=activated_ms, role=role)

    def publish_file(
        self,
        version: str,
        data: bytes,
        *,
        activated_ms: int | None = 0,
        role: ReleaseRole = "champion",
        model: str = "severity",
        inputs: tuple[str, ...] = ("a", "b"),
        kind: Format = "onnx",
    ) -> None:
        record = ReleaseRecord(
            pipeline="claims",
            model=model,
            version=version,
            role=role,
            format=kind,
            sha256=hashlib.sha256(data).hexdigest(),
            size=len(data),
            uri=self.store.put(data, ".onnx"),
            inputs=inputs,
        )
        self.append(record, 0)
        if activated_ms is not None:
            self.append(ActivationRecord(pipeline="claims", of=self.offset - 1), activated_ms)

    def append(self, record: ReleaseRecord | PromotionRecord | ActivationRecord, at_ms: int) -> None:
        self.catalog.follow([Entry(self.offset, at_ms, record.to_bytes())])
        self.offset += 1


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path / "store")


def test_catalog_loads_a_release_of_old_when_an_old_event_needs_it(shop: Shop) -> None:
    shop.publish("1", 1, activated_ms=0)
    shop.publish("2", 2, activated_ms=10_000)
    assert [release.version for release in shop.catalog.needed(20_000)] == ["2"]

    old = shop.catalog.in_force("severity", 5_000).champion

    assert old is not None
    assert not shop.catalog.has(old)
    assert shop.catalog.model(old).score(np.ones((1, 2), np.float32)).tolist() == [2.0]
    assert shop.catalog.has(old)


def test_catalog_never_decides_with_something_else(shop: Shop) -> None:
    shop.publish("1", 1, activated_ms=0)
    release = shop.catalog.in_force("severity", 5_000).champion
    assert release is not None
    (Path(shop.store.root) / release.record.uri).write_bytes(b"changed")

    with pytest.raises(ReleaseUnavailable, match="sha256"):
        shop.catalog.model(release)


def test_catalog_needs_what_is_and_what_will_be_in_force(shop: Shop) -> None:
    shop.publish("1", 1, activated_ms=0)
    shop.publish("2", 2, activated_ms=10_000)
    shop.publish("3", 3, activated_ms=20_000)
    shop.publish("4", 4, activated_ms=None)

    def needed(at_ms: int) -> list[str]:
        return [release.version for release in shop.catalog.needed(at_ms)]

    assert needed(0) == ["1", "2", "3"]
    assert needed(15_000) == ["2", "3"]
    assert needed(21_000) == ["3"]


def test_catalog_keeps_only_models_that_passed(shop: Shop) -> None:
    shop.publish("1", float("nan"), activated_ms=None)
    (change,) = shop.catalog.history.pending()
    release = shop.catalog.history.release_of(change)

    answer = shop.catalog.admit(release)

    assert isinstance(answer, Refused)
    assert answer.reason == RefusalReason.NOT_FINITE
    assert not shop.catalog.has(release)


def test_catalog_unloads_what_nobody_needs(shop: Shop) -> None:
    shop.publish("1", 1, activated_ms=0)
    shop.publish("2", 2, activated_ms=10_000)
    shop.publish("3", 3, activated_ms=None)
    history = shop.catalog.history
    first, second, pending = (history.releases["severity", version] for version in "123")
    for release in (first, second, pending):
        assert isinstance(shop.catalog.admit(release), Accepted)

    shop.at = KEPT_SECONDS
    assert shop.catalog.unload(20_000) == 0
    shop.at += 1

    assert shop.catalog.unload(20_000) == 1
    assert [shop.catalog.has(release) for release in (first, second, pending)] == [False, True, True]


def test_catalog_loads_one_file_for_each_place_that_it_fills(shop: Shop) -> None:
    data = onnx_files.named(["b", "a"])  # b - a, whatever the order in which a place gives them
    shop.publish_file("1", data)
    shop.publish_file("1", data, model="mirrored", inputs=("b", "a"))
    shop.publish_file("1", data, model="three", inputs=("a", "b", "c"))
    plain, mirrored, three = (
        release
        for name in ("severity", "mirrored", "three")
        if (release := shop.catalog.in_force(name, 5_000).champion)
    )

    assert shop.catalog.model(plain).score(np.array([[1, 10]], np.float32)).tolist() == [9.0]
    assert not shop.catalog.has(mirrored)
    assert not shop.catalog.has(three)
    assert shop.catalog.model(mirrored).score(np.array([[10, 1]], np.float32)).tolist() == [9.0]
    with pytest.raises(ReleaseUnavailable, match="input_names"):
        shop.catalog.model(three)


def test_catalog_says_unavailable_whatever_a_file_raises(shop: Shop) -> None:
    shop.publish_file("1", b"[" * 200_000 + b"\n", kind="river")
    release = shop.catalog.in_force("severity", 5_000).champion
    assert release is not None

    with pytest.raises(ReleaseUnavailable, match="RecursionError"):
        shop.catalog.model(release)


def test_catalog_never_loads_a_shadow_while_the_flow_waits(shop: Shop) -> None:
    shop.publish("1", 1, activated_ms=0)
    shop.publish("2", 2, activated_ms=0, role="shadow")
    (shadow,) = shop.catalog.in_force("severity", 5_000).shadows

    assert [release.version for release in shop.catalog.needed(5_000)] == ["1"]
    assert [release.version for release in shop.catalog.optional(5_000)] == ["2"]
    assert shop.catalog.loaded(shadow) is None
    assert not shop.catalog.has(shadow)

    shop.catalog.admit(shadow)

    assert shop.catalog.loaded(shadow) is shop.catalog.model(shadow)


def test_catalog_wants_a_shadow_of_old_for_as_long_as_old_events_ask_for_it(shop: Shop) -> None:
    shop.publish("1", 1, activated_ms=0, role="shadow")
    shop.publish("2", 2, activated_ms=10_000)
    (shadow,) = shop.catalog.in_force("severity", 5_000).shadows
    retired = PromotionRecord(pipeline="claims", model="severity", version="1", role="retired")
    shop.append(retired, 20_000)
    shop.append(ActivationRecord(pipeline="claims", of=shop.offset - 1), 20_000)
    assert shop.catalog.optional(30_000) == []

    shop.catalog.loaded(shadow)

    assert shop.catalog.optional(30_000) == [shadow]
    shop.at += KEPT_SECONDS + 1
    assert shop.catalog.optional(30_000) == []


def test_catalog_keeps_a_shadow_in_force(shop: Shop) -> None:
    shop.publish("1", 1, activated_ms=0, role="shadow")
    (shadow,) = shop.catalog.in_force("severity", 5_000).shadows
    shop.catalog.admit(shadow)

    shop.at = KEPT_SECONDS + 1

    assert shop.catalog.unload(20_000) == 0
