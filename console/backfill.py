"""`penstock features backfill`: the windowed views of past events, for training."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import typer

from console.feature_options import PipelineFile
from console.features import SHOWN
from console.run import give_up, load_or_exit
from console.steps import Steps

if TYPE_CHECKING:
    import polars as pl

    from console.feature_file import Refused
    from console.history_file import Row
    from dataflows.backfill import Backfill, Filled
    from dataflows.pipeline import Pipeline

ROWS = 4096
"""Read, computed and written at a time; of all rows, only what windows still hold is in memory."""


def backfill(  # noqa: PLR0917 -- typer makes options of them
    history: Annotated[
        Path, typer.Argument(help="Parquet or CSV, in the order of arrival: a column for each contract field needed.")
    ],
    pipeline: PipelineFile,
    out: Annotated[Path, typer.Option(help="Parquet: a row for each event, with its id, entity, time and values.")],
    view: Annotated[list[str] | None, typer.Option(help="Only this windowed view; may be given again.")] = None,
    lanes: Annotated[
        int, typer.Option(min=1, max=10_000, help="Partitions of the events' topic; an event is late within its own.")
    ] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Compute windowed views for each event of a history, as a decision about it would have read them.

    The code is that of serving, with a writer that is never behind. Rows that break the contract are named by line (in
    Parquet by row) and left out, as is an event id that comes again. A datetime without a zone is UTC. The guard is not
    run: rows are taken as they stand.

    The exit code is 1 where rows broke the contract, 2 where a file or the pipeline cannot be used.
    """
    from console.feature_file import FileUnusable
    from console.history_file import in_batches, length_of
    from console.lineage import recorded
    from dataflows.backfill import Backfill
    from dataflows.lineage import backfill_of

    spec = load_or_exit(pipeline)
    views = _windowed(spec, view)
    if out.suffix.lower() != ".parquet":
        give_up(f"--out {out}: what is written is Parquet; give it a name that ends with .parquet")
    filler = Backfill(spec, views, lanes=lanes)
    done = _Done()
    try:
        with recorded(lambda: backfill_of(spec, views, history, out)) as run, _parts(out) as write, Steps() as steps:
            run.rows = done.rows
            write(_frame(spec, done.take(filler, ())))  # the columns, also of a history without rows
            steps.begin(history.name, length_of(history))
            for rows in in_batches(history, filler.contract, ROWS, steps.reach):
                write(_frame(spec, done.take(filler, rows)))
    except FileUnusable as unusable:
        give_up(str(unusable))
    except OSError as error:
        give_up(f"could not write {out}: {error.strerror or error}")
    late = {name: asdict(tally) for name, tally in filler.late.items()}
    done.tell(late, as_json=as_json)
    if done.refused:
        raise typer.Exit(1)


@dataclass(slots=True)
class _Done:
    """What has become of the rows so far."""

    written: int = 0
    repeats: int = 0
    refused: int = 0
    named: list[Refused] = field(default_factory=list)

    def take(self, filler: Backfill, rows: Sequence[Row]) -> Filled:
        """Fill the rows that could be read."""
        from console.feature_file import Refused

        lines = [line for line, row in rows if not isinstance(row, Refused)]
        mistakes = [row for _, row in rows if isinstance(row, Refused)]
        events = [row for _, row in rows if not isinstance(row, Refused)]
        filled = filler.take(events)
        mistakes += [
            Refused(lines[row], name, f"breaks the contract ({reason.value})")
            for row, (reason, name) in filled.faults.items()
        ]
        self.written, self.repeats = self.written + len(filled.event_ids), self.repeats + filled.repeats
        self.refused += len(mistakes)
        self.named += sorted(mistakes, key=lambda refused: refused.line)[: SHOWN - len(self.named)]
        return filled

    def rows(self) -> int:
        """Read so far."""
        return self.written + self.repeats + self.refused

    def tell(self, late: Mapping[str, Mapping[str, int]], *, as_json: bool) -> None:
        """Print the summary; `late` is view to what became of late events."""
        if as_json:
            counts = {"written": self.written, "repeats": self.repeats, "refused": self.refused, "late": late}
            print(json.dumps({**counts, "mistakes": [asdict(row) for row in self.named]}))
            return
        for row in self.named:
            print(row, file=sys.stderr)
        if self.refused > len(self.named):
            print(f"and {self.refused - len(self.named)} more", file=sys.stderr)
        print(f"{self.written} events written, {self.repeats} repeats left out, {self.refused} rows refused")
        for view, tally in late.items():
            if any(tally.values()):
                print(f"view {view}: " + ", ".join(f"{n} {_SAID[what]}" for what, n in tally.items() if n))
            if 2 * tally["too_late"] > self.written:
                why = "are rows out of order, or is one dated far ahead of the others?"
                print(f"view {view}: most events were too late for any window; {why}", file=sys.stderr)


_SAID = {
    "included": "late events included",
    "ignored": "late events ignored",
    "too_late": "events too late for any window",
    "overfull": "times a key had more panes than a record may hold",
}


def _windowed(pipeline: Pipeline, names: Sequence[str] | None) -> list[str]:
    from dataflows.view_stages import windowed_views

    windowed = windowed_views(pipeline)
    for name in names or ():
        if name not in windowed:
            give_up(f"the pipeline has no windowed view '{name}'; expected one of: {', '.join(windowed) or '(none)'}")
    if not windowed:
        give_up("the pipeline declares no view with windows, so there is nothing to compute")
    return list(names) if names else windowed


def _frame(pipeline: Pipeline, filled: Filled) -> pl.DataFrame:
    """One row for each event: id, entity, time (UTC) and features; what is unknown is null."""
    import polars as pl

    contract = pipeline.contract
    names = (contract.event_id, contract.entity, contract.event_time)
    return pl.DataFrame(
        [
            pl.Series(names[0], filled.event_ids, pl.String),
            pl.Series(names[1], filled.entities, pl.String),
            pl.Series(names[2], filled.event_ms).cast(pl.Datetime("ms", "UTC")),
            *(pl.Series(name, column, nan_to_null=True) for name, column in filled.features.items()),
        ]
    )


@contextmanager
def _parts(out: Path) -> Iterator[Callable[[pl.DataFrame], None]]:
    """Take frames, and put them into one Parquet file at the end, so that no unfinished one is ever there."""
    import polars as pl

    with TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as folder:
        parts: list[Path] = []

        def write(frame: pl.DataFrame) -> None:
            parts.append(Path(folder) / f"{len(parts):09}.parquet")
            frame.write_parquet(parts[-1])

        yield write
        if parts:
            pl.scan_parquet(parts).sink_parquet(Path(folder) / "whole.parquet")
            (Path(folder) / "whole.parquet").replace(out)
