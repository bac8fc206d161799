"""The section `views` of the pipeline file."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Literal, TypeAlias

from pydantic import BeforeValidator, Field

from dataflows.section import Delay, Duration, Name, Section, Span, Sql, whole

FeastName: TypeAlias = Annotated[str, Field(min_length=1, max_length=200)]


class WindowedSpec(Section):
    """One feature that is computed from the events of a key."""

    function: Literal[
        "count", "sum", "mean", "min", "max", "stddev", "distinct", "last", "first", "rate", "seconds_since_last"
    ]
    window: Span
    of: Sql | None = None
    """A contract field or an expression over them: a number, for `distinct` also a text."""
    kind: Literal["sliding", "tumbling"] = "sliding"
    where: Sql | None = None
    """Which events count; unknown (NULL) is no."""


class FeastSpec(Section):
    """Where Feast keeps a view; what is not said is called in Feast as it is here."""

    project: FeastName | None = None
    """The pipeline's name where it is not said."""
    view: FeastName | None = None
    """The feature view; with `_v<N>` where the registry has `enable_online_feature_view_versioning`."""
    join_key: FeastName | None = None
    """Of the feature view's entity, which has one; the name of the view's `key` where it is not said."""
    key_type: Literal["string", "int64", "int32", "bytes", "unix_timestamp"] | None = None
    """Type of the join key: `int64` for a contract's integer, else `string`, where it is not said."""
    key_version: Literal[2, 3] = 3
    """`entity_key_serialization_version` of `feature_store.yaml`."""


class SourceSpec(Section):
    """Who writes a view to Redis, where it is not Penstock."""

    feast: FeastSpec


def _source(value: object) -> object:
    """Take `feast` alone as Feast with every default."""
    if value == "feast":
        return {"feast": {}}
    if isinstance(value, str):
        raise ValueError("expected feast, or feast: with project, view, join_key, key_type, key_version")
    return value


class ViewSpec(Section):
    """A group of features of one key, kept in Redis: `features` that are loaded, or `windows` that are computed."""

    key: Name
    """The contract field whose value is looked up: a string or an integer that the guard leaves as it is."""
    source: Annotated[SourceSpec | None, BeforeValidator(_source)] = None
    """Who else writes the features; None for those that `penstock features load` writes."""
    features: dict[Name, Literal["number", "string"]] = {}
    windows: dict[Name, WindowedSpec] = {}
    pane: Span = timedelta(seconds=10)
    """Windows are exact to this."""
    allowed_lateness: Annotated[Delay, BeforeValidator(whole)] = timedelta(minutes=10)
    on_late: Literal["include", "ignore"] = "include"
    where: Sql | None = None
    """Which events the windows see at all; unknown (NULL) is no."""
    max_age: Duration | None = None
    on_missing: str = "default"
    """`default`, or an outcome of the policy that the decision then has at least."""
    on_stale: str = "last_known"
    """`default`, `last_known`, or an outcome of the policy."""
    defaults: dict[Name, float | int | str | None] = {}
    grants: dict[Name, Annotated[tuple[Name, ...], Field(max_length=100, strict=False)]] = {}
    """Feature to the only models whose releases may read it; a feature that is not named is open to all."""
    owner: str | None = None

    @property
    def kinds(self) -> dict[str, Literal["number", "string"]]:
        """Each feature, loaded or computed, and its type."""
        return {**self.features, **dict.fromkeys(self.windows, "number")}
