"""What the commands of `penstock features` share: their options, Redis for as long as they need it, and the view."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Protocol, Self, TypeVar

import typer

from console.run import give_up

if TYPE_CHECKING:
    from dataflows.pipeline import Pipeline
    from state.feast import FeastView
    from state.feature_writer import FeatureWriter
    from state.views import LoadedView
    from state.windowed_view import WindowedView

TIMEOUT = 5.0
"""Seconds for one answer of Redis; a command may wait longer than a decision."""
AWAY = f"could not use Redis within {TIMEOUT:.0f} s; is it reachable? does it let you in?"

PipelineFile = Annotated[
    Path,
    typer.Option(
        "--pipeline", envvar="PENSTOCK_FILE", show_envvar=True, help="The pipeline file that declares the view."
    ),
]
RedisUrl = Annotated[
    str,
    typer.Option(
        "--redis",
        envvar="PENSTOCK_REDIS",
        show_envvar=True,
        help="Such as redis://localhost:6379/0. One with a password: only by PENSTOCK_REDIS.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


class _Opens(Protocol):
    @classmethod
    def connect(cls, url: str, pipeline: str, *, timeout: float) -> Self: ...

    def close(self) -> None: ...


_Opened = TypeVar("_Opened", bound=_Opens)


@contextmanager
def opened(what: type[_Opened], pipeline: Pipeline, url: str) -> Iterator[_Opened]:
    """A reader or a writer of the pipeline's views, until the end of the block."""
    try:
        it = what.connect(url, pipeline.pipeline, timeout=TIMEOUT)
    except ValueError as wrong:
        give_up(f"could not use the address of Redis: {wrong}")
    try:
        yield it
    finally:
        it.close()


@contextmanager
def writing(pipeline: Pipeline, url: str) -> Iterator[FeatureWriter]:
    """A writer; the command ends where Redis does not take what is written."""
    from state.feature_writer import FeatureWriter, RedisFailed

    try:
        with opened(FeatureWriter, pipeline, url) as writer:
            yield writer
    except RedisFailed as failure:
        give_up(f"{AWAY} ({failure})")


def declared(pipeline: Pipeline, name: str | None) -> LoadedView | FeastView | WindowedView:
    """The view of that name, or the only one where none was named."""
    from dataflows.views import view_of

    views = pipeline.views
    if name is None and len(views) == 1:
        name = next(iter(views))
    if name is None or name not in views:
        asked = "no view was named" if name is None else f"the pipeline has no view '{name}'"
        give_up(f"{asked}; expected one of: {', '.join(views) or '(it declares none)'}")
    return view_of(pipeline, name)


def has_whole_key(pipeline: Pipeline, view: str) -> bool:
    """Whether the keys of a view are whole numbers, which are looked up as their digits."""
    field = pipeline.contract.fields.get(pipeline.views[view].key)
    return field is not None and field.type == "integer"


def looked_up(pipeline: Pipeline, view: str, key: str) -> str:
    """A key as a decision looks it up."""
    from console.feature_file import whole

    if not has_whole_key(pipeline, view):
        return key
    if (digits := whole(key)) is None:
        give_up(f"the keys of '{view}' are whole numbers of at most 18 digits")
    return digits


def loadable(pipeline: Pipeline, name: str | None) -> LoadedView:
    """The same, if values are put into it from outside."""
    from state.feast import FeastView
    from state.views import LoadedView

    view = declared(pipeline, name)
    if not isinstance(view, LoadedView):
        feast = isinstance(view, FeastView)
        who = "its source is feast, so `feast materialize` writes it" if feast else "it is computed from the events"
        give_up(f"nothing is loaded into '{view.name}': {who}")
    return view
