"""`penstock slots`: who decides which lanes, and what to do about a slot that will not come back."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from console.models import Bootstrap, ClientConfig
from console.run import give_up, load_or_exit

if TYPE_CHECKING:
    from console.registry import Registry
    from console.roster import Group, Roster, Seat
    from dataflows.jobs import Job
    from dataflows.pipeline import Pipeline

File = Annotated[Path, typer.Argument(envvar="PENSTOCK_FILE", help="The pipeline file.")]
GroupName = Annotated[
    str,
    typer.Option(
        "--group", envvar="PENSTOCK_GROUP", show_envvar=True, help="Consumer group; by default the pipeline's name."
    ),
]
JobName = Annotated[
    str, typer.Option("--job", envvar="PENSTOCK_JOB", show_envvar=True, help="Which of the pipeline's jobs.")
]

_STATES = {"stable": "stable", "empty": "empty", "dead": "empty"}
"""Kafka calls a group without members and offsets dead."""


def list_slots(  # noqa: PLR0917 -- typer makes options of them
    file: File,
    bootstrap: Bootstrap,
    job: JobName = "decisions",
    group: GroupName = "",
    client_config: ClientConfig = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show the slots of a job's group: lanes, lag, where each runs, and when it was last heard.

    A slot that died stays a member, with its lanes, until its session ends or it is retired. Only slots that decide
    send heartbeats.
    """
    with _asked(file, bootstrap, job, group, client_config) as asked:
        roster = asked.roster()
    rows = [_row(seat, time.time() * 1000, beats=asked.job.beats) for seat in roster.seats]
    if as_json:
        print(
            json.dumps({"group": roster.group, "state": roster.state, "slots": rows, "lanes_of_nobody": roster.nobodys})
        )
        return
    _print_table(rows)
    print(
        f"group {roster.group} is {_STATES.get(roster.state, 'rebalancing')}; {sum(roster.lags.values())} events wait"
    )
    if roster.nobodys:
        waiting = sum(roster.lags[lane] for lane in roster.nobodys)
        print(f"lanes {_lanes(roster.nobodys)} have no slot; {waiting} events wait in them")


def retire(  # noqa: PLR0917 -- typer makes options of them
    slot: Annotated[int, typer.Argument(min=0, help="Number of the slot.")],
    file: File,
    bootstrap: Bootstrap,
    job: JobName = "decisions",
    group: GroupName = "",
    client_config: ClientConfig = None,
    force: Annotated[bool, typer.Option("--force", help="Also where it may be alive.")] = False,
    timeout: Annotated[float, typer.Option("--timeout", help="Seconds to wait for its lanes to move.")] = 60.0,
) -> None:
    """Retire a slot that will not come back: end its open transaction, and have others take its lanes at once.

    Otherwise its lanes wait until its session ends. Do it too after a slot was stopped for good.

    The exit code is 1 where it is alive or its lanes have not moved in time, 2 where the cluster cannot be asked.
    """
    from console.registry import RegistryUnreachable
    from console.retirement import Retirement, RetirementFailed, SlotAlive
    from console.roster import RosterUnreadable
    from operators.membership import Membership

    with _asked(file, bootstrap, job, group, client_config) as asked:
        if not asked.job.beats and not force:
            give_up(
                f"slots of {job} send no heartbeats, so nobody can hear whether slot {slot} lives. End it first "
                "(SIGTERM to its launcher), and retire it with --force"
            )
        events, *_ = asked.job.reads
        read, state = (asked.pipeline.topic(role) for role in (events, asked.job.state or events))
        membership = Membership(asked.group.name, slot, read, state, {})
        work = Retirement(asked.connection, membership, asked.group, asked.registry, print, beats=asked.job.beats)
        try:
            if not force:
                work.listen()
            before = asked.roster().seat(slot)
            after = work.retire(timeout)
        except (SlotAlive, RetirementFailed) as no:
            print(no, file=sys.stderr)
            raise typer.Exit(1) from None
        except (RosterUnreadable, RegistryUnreachable) as unreachable:
            give_up(str(unreachable))
    _say_where(before, after)


def _say_where(before: Seat | None, after: Roster) -> None:
    moved = before.lanes if before is not None else ()
    if not moved:
        print("it had no lanes")
        return
    if not any(seat.member for seat in after.seats):
        print(f"its lanes {_lanes(moved)} wait: no other slot is in group {after.group}")
        return
    for seat in after.seats:
        if taken := sorted({*moved} & {*seat.lanes}):
            print(f"lanes {_lanes(taken)} are slot {seat.slot}'s now")


@dataclass(frozen=True, slots=True)
class _Asked:
    """What the two commands ask."""

    pipeline: Pipeline
    job: Job
    connection: dict[str, Any]
    group: Group
    registry: Registry

    def roster(self) -> Roster:
        from console.roster import RosterUnreadable

        try:
            return self.group.roster(self.registry.answers.heard())
        except RosterUnreadable as wrong:
            give_up(str(wrong))


@contextmanager
def _asked(file: Path, bootstrap: str, name: str, group: str, client_config: Path | None) -> Iterator[_Asked]:
    from console.registry import Registry, RegistryUnreachable
    from console.roster import Group
    from dataflows.jobs import JobUnknown, job_of
    from dataflows.settings import Settings, SettingsInvalid

    pipeline = load_or_exit(file)
    try:
        job = job_of(pipeline, name, group)
        connection = Settings(file=file, bootstrap=bootstrap, client_config=client_config).connection()
        with Registry(pipeline, connection) as registry:
            asked = Group(connection, job.group, pipeline.topic(job.reads[0]))
            yield _Asked(pipeline, job, connection, asked, registry)
    except (JobUnknown, SettingsInvalid, RegistryUnreachable) as wrong:
        give_up(str(wrong))


def _row(seat: Seat, now_ms: float, *, beats: bool) -> dict[str, Any]:
    """By this machine's clock, since nobody else may be there to tell the time by."""
    from models.acceptance import HEARTBEAT_LIMIT_MS

    alive = seat.heard_ms is not None and now_ms - seat.heard_ms <= HEARTBEAT_LIMIT_MS
    member = "alive" if alive else "silent" if beats else "in the group"
    return {
        "slot": seat.slot,
        "state": member if seat.member else "not in the group",
        "lanes": list(seat.lanes),
        "lag": seat.lag,
        "client": seat.client,
        "host": seat.host,
        "heard_seconds_ago": None if seat.heard_ms is None else round(max(now_ms - seat.heard_ms, 0.0) / 1000, 1),
    }


def _print_table(rows: list[dict[str, Any]]) -> None:
    from console.tables import print_table

    cells = []
    for row in rows:
        ago = row["heard_seconds_ago"]
        heard = "" if ago is None else f"{ago:.0f} s ago"
        cells.append((
            row["slot"], row["state"], _lanes(row["lanes"]), row["lag"], row["client"], row["host"], heard
        ))  # fmt: skip
    print_table(["slot", "state", "lanes", "lag", "client", "host", "heard"], cells)


def _lanes(lanes: Any) -> str:
    """Name lanes briefly: 0-3, 7."""
    runs: list[list[int]] = []
    for lane in lanes:
        if runs and lane == runs[-1][-1] + 1:
            runs[-1][1:] = [lane]
        else:
            runs.append([lane])
    return ", ".join("-".join(map(str, run)) for run in runs)
