"""An event that a pipeline's generator planned, with the truth about it.

A generator is a module named like its pipeline with two functions: `stream(seed, n)` gives `Planned` events, and
`view_rows(seed, n)` what the pipeline's feature views hold before the first of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

Kind: TypeAlias = Literal["clean", "pii", "broken", "duplicate", "late"]


@dataclass(frozen=True, slots=True)
class Planned:
    """One record to produce, and what is true of it."""

    key: bytes
    """The entity, so that all of its events are in one lane."""
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...]
    kind: Kind
    detail: str = ""
    """For `broken` the reason code that is expected, for `pii` the type of personal data."""


@dataclass(frozen=True, slots=True)
class ViewRow:
    """One row of a feature view, as an offline job would have written it."""

    view: str
    key: str
    values: Mapping[str, float]
    as_of: float
    """Event time of the values, Unix seconds."""
