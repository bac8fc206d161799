"""`penstock features load` and `put`: values into Redis, each one only where it is no older than what is there."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from console.feature_options import AsJson, PipelineFile, RedisUrl, has_whole_key, loadable, writing
from console.run import give_up, load_or_exit, refuse_password

if TYPE_CHECKING:
    from collections.abc import Callable

    from console.feature_file import Refused

ROWS_PER_WRITE = 1000
SHOWN = 20
"""Refused rows that are named; the others are counted."""


def load(  # noqa: PLR0917 -- typer makes options of them
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="CSV or JSON lines, also .gz: key, features and event time by name.")],
    pipeline: PipelineFile,
    redis: RedisUrl,
    view: Annotated[str | None, typer.Option(help="Which view; needed where the pipeline has several.")] = None,
    time_column: Annotated[str, typer.Option("--time", help="Column of the values' event time.")] = "event_time",
    as_json: AsJson = False,
) -> None:
    """Write feature values of a file to Redis.

    A value replaces one of the same key whose event time is not later; one that is more than a day ahead is refused.
    Rows that cannot be used are named by line and left out.

    The exit code is 1 where rows were left out, 2 where the file, the pipeline or Redis cannot be used.
    """
    from console.feature_file import Columns, FileUnusable, in_batches, read_rows

    refuse_password(context, redis)
    spec = load_or_exit(pipeline)
    target = loadable(spec, view)
    columns = Columns(spec.views[target.name].key, time_column, target.features, has_whole_key(spec, target.name))
    written = older = refused = 0
    named: list[Refused] = []
    with writing(spec, redis) as writer, _progress(file) as seen:
        try:
            for values, mistakes in in_batches(read_rows(file, columns, seen), ROWS_PER_WRITE):
                new = writer.load(target, [(value.key, value.time_ms, value.features) for value in values])
                written, older = written + new, older + len(values) - new
                refused += len(mistakes)
                named += mistakes[: SHOWN - len(named)]
        except FileUnusable as unusable:
            give_up(str(unusable))
    if as_json:
        mistakes_out = [{"line": row.line, "column": row.column, "what": row.what} for row in named]
        counts = {"written": written, "older": older, "refused": refused}
        print(json.dumps({"view": target.name, **counts, "mistakes": mistakes_out}))
    else:
        for row in named:
            print(row, file=sys.stderr)
        if refused > len(named):
            print(f"and {refused - len(named)} more", file=sys.stderr)
        left = f", {older} older than what is there" if older else ""
        print(f"{written} values of view {target.name} written{left}, {refused} rows refused")
    if refused:
        raise typer.Exit(1)


def put(  # noqa: PLR0917 -- typer makes options of them
    context: typer.Context,
    view: Annotated[str, typer.Argument(help="Name of the view.")],
    key: Annotated[str, typer.Argument(help="Key of the value.")],
    features: Annotated[list[str], typer.Argument(metavar="NAME=VALUE...", help="All features; NAME= is missing.")],
    pipeline: PipelineFile,
    redis: RedisUrl,
    time: Annotated[str | None, typer.Option(help="Event time, such as 2026-01-31T12:00:00Z; now by default.")] = None,
    as_json: AsJson = False,
) -> None:
    """Write one value to Redis, unless a later one is there.

    The exit code is 1 where a later one, or something else, is there, 2 where the value, the pipeline or Redis cannot
    be used.
    """
    from console.feature_file import Columns, Refused, read_row

    refuse_password(context, redis)
    spec = load_or_exit(pipeline)
    target = loadable(spec, view)
    if bare := [pair for pair in features if "=" not in pair]:
        give_up(f"'{bare[0]}' has no value; expected NAME=VALUE, or NAME= where it is missing")
    given = dict(pair.partition("=")[::2] for pair in features)
    if len(given) < len(features):
        give_up("a feature is given more than once; expected each as one NAME=VALUE")
    if unknown := given.keys() - dict(target.features).keys():
        names = ", ".join(name for name, _ in target.features)
        give_up(f"the view '{view}' has no feature '{min(unknown)}'; expected {names}, each as NAME=VALUE")
    row: dict[str, Any] = {name: value or None for name, value in given.items()}
    # Names that no feature can have.
    columns = Columns(".key", ".time", target.features, has_whole_key(spec, target.name))
    value = read_row({**row, ".key": key, ".time": time or datetime.now(UTC).isoformat()}, columns)
    if isinstance(value, Refused):
        give_up(f"{(value.column or '').lstrip('.')}: {value.what}")
    with writing(spec, redis) as writer:
        written = writer.load(target, [(value.key, value.time_ms, value.features)])
    if as_json:
        print(json.dumps({"view": target.name, "written": written}))
    else:
        print("written" if written else "not written: there is a value with a later event time, or none of this view's")
    if not written:
        raise typer.Exit(1)


@contextmanager
def _progress(file: Path) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal's standard error, moved by the bytes read."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    shown: tuple[Any, ...] = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
    )
    size = file.stat().st_size if file.exists() else None
    with Progress(*shown, console=Console(stderr=True), disable=not sys.stderr.isatty(), transient=True) as progress:
        task = progress.add_task(file.name, total=size)
        rows = 0

        def seen(position: int) -> None:
            nonlocal rows
            rows += 1
            if rows % ROWS_PER_WRITE == 0:
                progress.update(task, completed=position)

        yield seen
