"""What every section of the pipeline file is made of: a frozen model, names, durations, SQL."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

_DURATION = re.compile(r"(\d{1,9}(?:\.\d{1,6})?)(ms|s|m|h|d)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def _duration(value: object) -> timedelta:
    if isinstance(value, timedelta):
        return value
    if isinstance(value, str) and (match := _DURATION.fullmatch(value)):
        return timedelta(seconds=float(match[1]) * _SECONDS[match[2]])
    raise ValueError("expected a duration such as 50ms, 10s, 5m, 1h or 30d")


def _positive(value: object) -> timedelta:
    duration = _duration(value)
    if not duration:
        raise ValueError("expected a duration longer than 0")
    return duration


def whole(value: object) -> timedelta:
    """Refuse a duration that is not whole milliseconds."""
    duration = _duration(value)
    if duration % timedelta(milliseconds=1):
        raise ValueError("expected a duration of whole milliseconds")
    return duration


Duration: TypeAlias = Annotated[timedelta, BeforeValidator(_positive)]
Delay: TypeAlias = Annotated[timedelta, BeforeValidator(_duration)]
"""A duration that may be 0."""
Span: TypeAlias = Annotated[Duration, BeforeValidator(whole)]
"""A duration of event or broker time, which is counted in milliseconds."""
Name: TypeAlias = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,63}$")]
"""Usable as a column in SQL without quotes."""
Sql: TypeAlias = Annotated[str, Field(min_length=1, max_length=4000)]


class Section(BaseModel):
    """A part of the pipeline file."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
