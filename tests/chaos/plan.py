"""What will happen in a run, from its seed alone: which process dies when and where, and when the broker is away.

Moments are counted in events sent, so that there is load whenever something happens. What the processes happen to be
doing at that moment is not in anybody's hands, so two runs of one seed have the same troubles and not the same states.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

CALLS = (
    "begin_transaction-before",
    "begin_transaction-after",
    "produce-before",
    "send_offsets_to_transaction-before",
    "send_offsets_to_transaction-after",
    "commit_transaction-before",
    "commit_transaction-during",
    "commit_transaction-after",
)
"""Points inside a commit: around the client's calls that make one."""
STORE = ("store-before", "store-after")
"""Points around the write of a lane's store on disk, which follows the commit."""
ZOMBIES = ("begin_transaction-before", "begin_transaction-after")
"""Points at which a slot has a commit at hand of which the broker knows nothing, so that no time-out ends it."""
CHANGES = (
    "init_transactions-before",
    "init_transactions-after",
    "assigned-before",
    "assigned-after",
    "open-before",
    "open-after",
    "revoked-before",
    "revoked-after",
    "abort_transaction-before",
    "abort_transaction-after",
)
"""Points around a change of lanes: of a new life, of a member whose lanes come or go, of a commit that met one."""
DELIVERY_SECONDS = 6.0
"""Session, transaction and delivery time-out of the slots under test: the least that `penstock run` takes."""
_SHORT, _LONG, _VERY_LONG = (0.5, 3.0), (DELIVERY_SECONDS + 1, DELIVERY_SECONDS + 3), (16.0, 18.0)
"""Seconds of an outage; the longest is longer than any client call of a slot waits (`operators/patience.py`)."""


KILLS = ("slot", "commit", "change", "launcher", "template")
"""Kinds of incidents that end in a SIGKILL."""


@dataclass(frozen=True, slots=True)
class Incident:
    """One thing that happens."""

    at: int
    """Events sent before it."""
    kind: str
    """Those of `KILLS`; `nap` stops a slot for longer than its session, inside a commit; `zombie` stops one at the
    beginning of a commit until others have decided all that it holds; `outage` takes the broker away."""
    point: str = ""
    """Where the slot dies or stops, or how the broker goes: `kill` or `pause`."""
    seconds: float = 0.0
    """How long a nap or an outage lasts."""


def plan(
    seed: int,
    events: int,
    kills: int,
    outages: int,
    *,
    naps: int | None = None,
    zombies: int | None = None,
    points: Sequence[str] = CALLS,
) -> list[Incident]:
    """Draw what happens while `events` are sent, in order.

    A nap or a zombie for ten kills, half of them zombies, where nothing else is said; `points` are those in a commit.
    """
    rng = random.Random(seed)
    stops = (kills + 9) // 10
    zombies = stops // 2 if zombies is None else zombies
    naps = max(stops - zombies, 0) if naps is None else naps
    launcher, template = max(1, round(kills * 0.04)) if kills > 1 else 0, round(kills * 0.02)
    commit, change = round(kills * 0.4), round(kills * 0.15)
    what = [
        *(("launcher", "", 0.0) for _ in range(launcher)),
        *(("template", "", 0.0) for _ in range(template)),
        *(("commit", point, 0.0) for point in _turns(rng, points, commit)),
        *(("change", point, 0.0) for point in _turns(rng, CHANGES, change)),
        *(("slot", "", 0.0) for _ in range(kills - launcher - template - commit - change)),
        *(("nap", point, rng.uniform(9.0, 12.0)) for point in _turns(rng, CALLS[:3], naps)),
        *(("zombie", point, 0.0) for point in _turns(rng, ZOMBIES, zombies)),
        *(("outage", *how) for how in _outages(rng, outages)),
    ]
    rng.shuffle(what)
    # Not in the first and last twentieth: something is at work before, and recovers under load after.
    step = events * 0.9 / max(len(what), 1)
    return [Incident(int(events / 20 + (i + rng.random()) * step), *how) for i, how in enumerate(what)]


def _turns(rng: random.Random, points: Sequence[str], n: int) -> Iterator[str]:
    """Give `n` points, each as often as every other, in a drawn order."""
    return itertools.islice(itertools.cycle(rng.sample(points, len(points))), n) if n else iter(())


def _outages(rng: random.Random, n: int) -> Iterator[tuple[str, float]]:
    """Half of them kill and half pause; a third is longer than the delivery time-out, one in ten than any call."""
    for i in range(n):
        length = _VERY_LONG if i % 10 == 9 else _LONG if i % 3 == 1 else _SHORT
        yield ("kill", "pause")[i % 2], rng.uniform(*length)
