"""The short form of `make chaos`, and a mutant: is the promise kept, and would these tests see it broken?

`-s` shows the figures. `make chaos` and `make chaos ARGS=--mutants` are the long forms.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

from console.parts import PartMissing
from tests.chaos.account import Account, Form
from tests.chaos.plan import Incident
from tests.chaos.run import text
from tests.chaos.trial import chaos

SEED = 20261123


def run(
    form: Form, folder: Path, absent: Callable[[str], NoReturn], incidents: list[Incident] | None = None
) -> Account:
    try:
        account = chaos(form, folder / "chaos", print, incidents)
    except PartMissing as missing:
        absent(f"chaos needs it: {missing}")
    print(text(account))
    return account


@pytest.mark.ci
@pytest.mark.timeout(600)
def test_nothing_is_lost_or_done_twice_whatever_is_killed(tmp_path: Path, absent: Callable[[str], NoReturn]) -> None:
    form = Form(events=12_000, kills=20, outages=3, seed=SEED, rate=350, zombies=0)  # zombies take long
    account = run(form, tmp_path, absent)

    assert account.clean, f"{text(account)}\n{(tmp_path / 'chaos' / 'disturbed.log').read_text()[-6000:]}"
    assert len(account.kills) >= 20
    assert any(kill.point for kill in account.kills), "kills at chosen points"
    assert len(account.outages) == 3
    assert any(outage.events for outage in account.outages), "outages under load"
    assert sum(account.verdict.roles.values()) >= 12_000


@pytest.mark.ci
@pytest.mark.timeout(400)
def test_a_mutant_is_caught(tmp_path: Path, absent: Callable[[str], NoReturn]) -> None:
    """Offsets outside of the transaction; its slots die after the first of two. The others are for the long form.

    Of all mutants this one needs least luck: whatever was decided in the commit at hand is decided again, or the
    next life refuses its lanes. State that is lost shows only where a policyholder comes again within a day.
    """
    kills = [Incident(at, "commit", "commit_transaction-after") for at in range(500, 2200, 200)]
    form = Form(2_400, len(kills), 0, SEED, slots=2, rate=300, mutant="offsets-outside")
    account = run(form, tmp_path, absent, kills)

    assert not account.clean
    assert {"twice", "missing"} & account.caught.keys()
