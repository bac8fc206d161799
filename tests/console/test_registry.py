"""What the console makes of a broker that has a record and cannot say where; the rest is in test_releases.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from console import registry
from dataflows.pipeline import load
from models.release import PromotionRecord


class Told:
    """A delivery report without an offset."""

    def offset(self) -> None:
        """Not known."""


class Forgetful:
    """A producer whose broker died after it had written, and before it had told where."""

    def __init__(self, _: Any) -> None:
        self._tell: Callable[..., None] = print

    def produce(self, *_: Any, on_delivery: Callable[..., None], **__: Any) -> None:
        self._tell = on_delivery

    def flush(self, _: float) -> None:
        self._tell(None, Told())


@pytest.fixture
def claims(monkeypatch: pytest.MonkeyPatch) -> registry.Registry:
    monkeypatch.setattr(registry, "Producer", Forgetful)
    return registry.Registry(load("deploy/pipelines/claims/pipeline.yaml"), {"bootstrap.servers": "127.0.0.1:1"})


def test_a_release_without_an_offset_is_not_taken_for_the_first_of_the_log(claims: registry.Registry) -> None:
    record = PromotionRecord(pipeline="claims", model="severity", version="2", role="champion")

    with pytest.raises(registry.RegistryUnreachable, match="it is not known at which offset"):
        claims.append(record)


def test_a_goodbye_needs_none(claims: registry.Registry) -> None:
    claims.say_goodbye_for("claims-1")
