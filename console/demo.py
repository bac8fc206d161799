"""`penstock demo`: the whole engine on data from outside; what it needs is started and ended by this command."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

HEADLESS_EVENTS, LIVE_EVENTS = 5_000, 30_000
HEADLESS_RATE, LIVE_RATE = 500.0, 200.0
SHORTEST = 16.0
"""Seconds that the events take at least: the second release needs some to be admitted and activated while they flow."""


@dataclass(frozen=True, slots=True)
class Options:
    """What the demo was asked for."""

    pipeline: str = "claims"
    headless: bool = True
    events: int = HEADLESS_EVENTS
    rate: float = HEADLESS_RATE
    """Events per second; 0 is as fast as it goes."""
    slots: int = 2
    seed: int = 1
    keep: bool = False
    picture: Path | None = None
    """Where to write the live view; a slot is killed for it."""


def demo(
    *,
    pipeline: Annotated[str, typer.Option(help="Which of deploy/pipelines: claims or payments.")] = "claims",
    headless: Annotated[
        bool, typer.Option("--headless", help="No live view; the last line is a JSON summary.")
    ] = False,
    events: Annotated[int | None, typer.Option(min=1, help="How many events; 5,000 headless, else 30,000.")] = None,
    rate: Annotated[float | None, typer.Option(min=0, help="Events per second; 0 is as fast as it goes.")] = None,
    slots: Annotated[int, typer.Option(min=1, max=16, help="Processes that share the lanes.")] = 2,
    seed: Annotated[int, typer.Option(help="Of everything that is invented.")] = 1,
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave Kafka and Redis running, and say how to end them.")
    ] = False,
    picture: Annotated[Path | None, typer.Option(help="Kill a slot, and write the live view to this SVG.")] = None,
) -> None:
    """Replay claims through the whole engine and watch it decide.

    Without a terminal, or with --headless, it ends by itself.

    The exit code is 1 unless an independent reader of the topics finds exactly one first record for every event.
    """
    from console.story import run

    quiet = headless or picture is not None or not (sys.stdin.isatty() and sys.stdout.isatty())
    chosen = events or (HEADLESS_EVENTS if quiet else LIVE_EVENTS)
    usual = min(HEADLESS_RATE if quiet else LIVE_RATE, chosen / SHORTEST)
    options = Options(pipeline, quiet, chosen, usual if rate is None else rate, slots, seed, keep, picture)
    raise typer.Exit(run(options))


if __name__ == "__main__":
    typer.run(demo)
