"""What the follower says where a broker tells of records and gives none; the rest is in test_releases.py."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from models.artefacts import ArtefactStore
from models.catalog import Catalog
from operators.registry_follower import RegistryFollower


class Mute:
    """A consumer whose log has five records that never come, and a clock that each wait moves on."""

    def __init__(self) -> None:
        self.now = 100.0

    def get_watermark_offsets(self, *_: Any, **__: Any) -> tuple[int, int]:
        return 0, 5

    def poll(self, seconds: float = 0.0) -> None:
        self.now += seconds

    def produce(self, *_: Any, **__: Any) -> None:
        """The slot's heartbeat."""


def test_it_says_that_it_cannot_read_to_the_end(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    mute: Any = Mute()
    catalog = Catalog("claims", {}, ArtefactStore(str(tmp_path)), delay_ms=1000)
    follower = RegistryFollower(catalog, slot="s-0", connection={}, owns_lane_zero=bool, now=lambda: mute.now)
    follower._voice.begin(mute)
    with caplog.at_level(logging.WARNING):
        follower._tick(mute, mute)

    assert "the registry log ends at 5 and can be read to 0 only" in caplog.text
    assert "to 0 only" in (follower.trouble or "")
    assert not follower.covers(100.0)
