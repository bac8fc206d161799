"""What a run was asked for, what it did, what was found, and whether that says anything."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from tests.chaos.history import Kill, Outage
from tests.chaos.plan import KILLS, Incident
from tests.chaos.stand import FIRSTS
from tests.chaos.verdict import Verdict

STALL_SECONDS = 5.0
"""A reader that waits longer than this, although launcher and broker were there, waits for a dead slot's transaction.
A new life ends it in about a second; without one it lasts for the session, 6 s, and until the broker looks again."""


@dataclass(frozen=True, slots=True)
class Form:
    """How much of everything."""

    events: int
    kills: int
    outages: int
    seed: int
    slots: int = 3
    rate: float = 180.0
    mutant: str = ""
    naps: int | None = None
    zombies: int | None = None
    calm: bool = False
    """Whether what happens waits until readers have caught up, for some seconds at most, and until no zombie sleeps."""
    store: bool = False
    """Lane state on disk."""


@dataclass(slots=True)
class Account:
    """What a run did, and what was found."""

    form: Form
    verdict: Verdict
    unlike: list[str]
    """Where decisions differ from those of the undisturbed run, in words."""
    kills: list[Kill]
    naps: int
    visits: int
    """Visitors that were given lanes."""
    overtaken: int
    """Zombies that went on after all that they held had been decided."""
    refused: Counter[str]
    """The broker's answers to their offsets."""
    outages: list[Outage]
    latencies: list[float]
    """Seconds from an event's append to its first record at a reader, in order."""
    slowest: str
    """Which event waited longest, in words, to be looked for in the log of the slots."""
    stall: float
    """Longest wait of a committed reader for an open transaction, in seconds, while launcher and broker live."""
    longest: float
    """The longest of all such waits."""
    seconds: float
    caught: dict[str, int] = field(default_factory=dict)
    """What was wrong to the number of kills after which it was."""
    hollow: list[str] = field(default_factory=list)
    """Why a clean run would say nothing, in words."""

    @property
    def proven(self) -> bool:
        """Whether the promise was kept, and was in danger."""
        return self.clean and not self.hollow

    @property
    def clean(self) -> bool:
        """Whether the promise was kept."""
        return self.verdict.clean and not self.unlike and self.stall <= STALL_SECONDS


def hollow(account: Account, planned: Sequence[Incident], looks: int) -> list[str]:
    """Say which of the planned troubles did not happen, or hit nothing, so that it is no wonder that nothing is wrong.

    Args:
        account: of the run.
        planned: what was to happen.
        looks: how often it was looked whether readers wait for an open transaction.
    """
    plan = Counter(incident.kind for incident in planned)
    kills, idle = sum(plan[kind] for kind in KILLS), sum(kill.idle for kill in account.kills)
    aimed, met = plan["commit"] + plan["change"], sum(bool(kill.point) for kill in account.kills)
    unfelt = sum(not outage.events for outage in account.outages)
    decided = sum(n for topic, n in account.verdict.roles.items() if topic.endswith(f".{FIRSTS[0]}"))
    found = {
        f"{len(account.kills)} of {kills} kills happened": len(account.kills) < kills,
        f"{idle} of {kills} kills came when there was nothing to decide": idle * 10 > kills,
        f"{met} of {aimed} aimed kills met their point": met * 3 < aimed,
        f"{len(account.outages)} of {plan['outage']} outages happened": len(account.outages) < plan["outage"],
        f"{unfelt} of {plan['outage']} outages came when nothing was sent": unfelt * 10 > plan["outage"],
        f"{account.naps} of {plan['nap']} naps happened": account.naps < plan["nap"],
        f"{account.overtaken} of {plan['zombie']} zombies were overtaken": account.overtaken * 2 < plan["zombie"],
        f"{account.visits} of {plan['change']} visitors were given lanes": account.visits * 4 < plan["change"],
        f"{looks} looks at open transactions in {account.seconds:.0f} s": looks < account.seconds / 10,
        f"{decided} decisions": not decided,
    }
    if not account.form.mutant:
        found["no zombie's offsets were refused"] = bool(account.overtaken) and not account.refused
    return [why for why, so in found.items() if so]
