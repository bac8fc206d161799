"""`make chaos`: is nothing lost and nothing decided twice, whatever is killed? And would these tests notice if it were?

The exit status is 0 only where nothing is wrong although what was planned did happen to slots at work; with `--mutant`
and `--mutants`, only where every mutant is caught and the engine as it is, under the same seed, is not.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.benchmarks.measure import percentile
from tests.chaos.account import STALL_SECONDS, Account, Form
from tests.chaos.mutants import MUTANTS, ON_DISK
from tests.chaos.plan import DELIVERY_SECONDS
from tests.chaos.protocol import SCRIPTS
from tests.chaos.search import show
from tests.chaos.trial import chaos
from tests.chaos.verdict import KINDS

CONTROL = "none"
"""The engine as it is, among the mutants."""
_MUTANT_FORM: dict[str, Any] = {
    "events": 9_000,
    "kills": 20,
    "outages": 0,
    "rate": 150.0,
    "naps": 2,
    "zombies": 4,
    "calm": True,
}


def main() -> int:
    """Run what was asked for; the exit status."""
    options = _options()
    if options.search:
        return show(options.search)
    if options.mutants or options.mutant:
        names = [CONTROL, *MUTANTS] if options.mutants else [options.mutant]
        accounts = {name: _mutant(name, options) for name in names}
        wrong = [name for name, account in accounts.items() if not _as_it_should(name, account)]
        _print_table(accounts, options)
        return 1 if wrong else 0
    rate = {"rate": options.rate} if options.rate else {}
    form = Form(
        options.events,
        options.kills,
        options.outages,
        options.seed,
        options.slots,
        zombies=options.zombies,
        store=options.lane_store,
        **rate,
    )
    account = _run(form, options)
    print(json.dumps(summary(account)) if options.json else text(account))
    return 0 if account.proven else 1


def summary(account: Account) -> dict[str, Any]:
    """Give the figures of a run."""
    form, late = account.form, account.latencies
    return {
        "seed": form.seed,
        "events": form.events,
        "slots": form.slots,
        "seconds": round(account.seconds),
        "kills": dict(Counter(kill.kind for kill in account.kills)),
        "points": dict(Counter(kill.point for kill in account.kills if kill.point)),
        "naps": account.naps,
        "zombies_overtaken": account.overtaken,
        "zombies_refused": dict(account.refused),
        "visitors": account.visits,
        "outages": len(account.outages),
        "outages_longer_than_delivery_timeout": sum(outage.seconds > DELIVERY_SECONDS for outage in account.outages),
        "records": dict(account.verdict.roles),
        "wrong": {kind: account.verdict.counts[kind] for kind in KINDS} | {"unlike undisturbed": account.unlike},
        "latency_s": {f"p{share:g}": round(percentile(late, share / 100), 3) for share in (50, 99, 100)}
        if late
        else {},
        "stall_s": round(account.stall, 2),
        "longest_stall_s": round(account.longest, 2),
        "caught": account.caught,
        "hollow": account.hollow,
    }


def text(account: Account) -> str:
    """Say the same to a person."""
    found = summary(account)
    kills, wrong, late = found["kills"], dict(found["wrong"]), found["latency_s"]
    unlike = wrong.pop("unlike undisturbed")
    compared = "not compared" if account.form.mutant else "; ".join(unlike) or "all equal"
    answers = ", ".join(f"{n} {answer}" for answer, n in found["zombies_refused"].items()) or "no refusal"
    return "\n".join(
        [
            f"seed {found['seed']}: {found['events']:,} events, {found['slots']} slots, lane state "
            f"{'on disk' if account.form.store else 'in memory'}, {found['seconds']} s",
            f"  {sum(kills.values())} SIGKILLs: " + ", ".join(f"{n} {kind}" for kind, n in sorted(kills.items())),
            f"  {sum(found['points'].values())} of them at a chosen point of a commit or of a change of lanes",
            f"  {found['outages']} broker outages, {found['outages_longer_than_delivery_timeout']} of them longer than "
            f"the delivery time-out of {DELIVERY_SECONDS:g} s; {found['naps']} slots stopped for longer than their "
            f"session; {found['visitors']} visitors that made lanes move",
            f"  {found['zombies_overtaken']} slots stopped before a commit until others had decided all of it; the "
            f"broker's answers when they went on: {answers}",
            "  first records: " + ", ".join(f"{n:,} {topic}" for topic, n in sorted(found["records"].items())),
            "  wrong: " + ", ".join(f"{n} {kind}" for kind, n in wrong.items()),
            f"  decisions against the undisturbed run: {compared}",
            "  seconds from an event's append to its first record at a reader: "
            + ", ".join(f"{name} {seconds:.2f}" for name, seconds in late.items())
            + f" ({account.slowest})",
            f"  longest wait of a reader for an open transaction: {found['stall_s']} s while launcher and broker were "
            f"there (bound {STALL_SECONDS:g}), {found['longest_stall_s']} s in all",
            *(f"  this run proves little: {why}" for why in account.hollow if account.clean),
            f"  {'nothing is lost, nothing is decided twice' if account.clean else 'THE PROMISE IS BROKEN'}",
        ]
    )


def _as_it_should(name: str, account: Account) -> bool:
    return account.proven if name == CONTROL else not account.clean


def _mutant(name: str, options: argparse.Namespace) -> Account:
    mutant = "" if name == CONTROL else name
    store = options.lane_store or name == ON_DISK
    return _run(Form(seed=options.seed, slots=options.slots, mutant=mutant, store=store, **_MUTANT_FORM), options)


def _print_table(accounts: dict[str, Account], options: argparse.Namespace) -> None:
    if options.json:
        print(json.dumps({name: summary(account) for name, account in accounts.items()}))
        return
    for name, account in accounts.items():
        print(f"\n{name}: {text(account)}")
    print(f"\nseed {options.seed}, {_MUTANT_FORM['kills']} kills\n")
    for name, account in accounts.items():
        how = ", ".join(
            f"{kind} after {n} kills" for kind, n in sorted(account.caught.items(), key=lambda item: item[1])
        )
        print(f"{name:<18}{'not caught' if account.clean else 'caught':<12}{how or '; '.join(account.hollow)}")


def _run(form: Form, options: argparse.Namespace) -> Account:
    folder = Path(tempfile.mkdtemp(prefix="penstock-chaos-"))
    began = time.monotonic()

    def say(what: str) -> None:
        print(f"{time.monotonic() - began:6.0f} s  {what}", file=sys.stderr, flush=True)

    say(f"seed {form.seed}: {form.events} events, {form.kills} kills, {form.outages} outages {form.mutant}")
    account = None
    try:
        account = chaos(form, folder, say)
    finally:
        if account is not None and account.clean != bool(form.mutant) and not options.keep:
            shutil.rmtree(folder, ignore_errors=True)
        else:
            say(f"logs and data are in {folder}")
    return account


def _options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make chaos", description=main.__doc__)
    parser.add_argument("--events", type=int, default=100_000)
    parser.add_argument("--kills", type=int, default=200, help="with SIGKILL: slots, their template, the launcher")
    parser.add_argument("--outages", type=int, default=20, help="of the broker: killed, or stopped for a while")
    parser.add_argument(
        "--zombies", type=int, help="slots stopped before a commit until others have decided all of it (1 for 20 kills)"
    )
    parser.add_argument("--seed", type=int, default=20261123)
    parser.add_argument("--slots", type=int, default=3)
    parser.add_argument("--rate", type=float, help="events a second (180)")
    parser.add_argument("--lane-store", action="store_true", help="lane state on disk, and kills around its writes")
    parser.add_argument("--keep", action="store_true", help="leave logs and data, also of a run as it should be")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument(
        "--mutant",
        choices=[CONTROL, *MUTANTS],
        help=f"break the protocol in this way; 20 kills must show it, and nothing in the engine as it is ({CONTROL})",
    )
    parser.add_argument("--mutants", action="store_true", help="each of them, and the engine as it is")
    parser.add_argument(
        "--search",
        nargs="?",
        const="as it is",
        choices=SCRIPTS,
        help="visit the states of the protocol's model instead",
    )
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
