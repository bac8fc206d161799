"""What has happened to slots, launcher and broker in a run."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(slots=True)
class Kill:
    """A SIGKILL that has happened."""

    moment: float
    """Unix seconds."""
    kind: str
    point: str
    """Where it was; empty for one from outside."""
    idle: bool = False
    """Whether there was nothing to decide."""


@dataclass(frozen=True, slots=True)
class Outage:
    """A time without the broker."""

    seconds: float
    events: int
    """How many were sent meanwhile."""


@dataclass(slots=True)
class Span:
    """A time in which readers may have to wait longer than for a slot's new life."""

    begin: float
    why: str
    recovers: float = math.inf
    """When the cause was gone."""
    end: float = math.inf
    """When all slots were ready after that. Unix seconds, all of them."""
