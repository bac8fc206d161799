"""One trial: events through all stages while processes are killed and the broker goes away; then the account.

A reader that shares nothing with the engine looks for records that are missing, there twice, out of lane order or with
wrong windows, and every decision is compared with that of an undisturbed run over the same topic.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import orjson

from console.parts import PartFailed
from tests.benchmarks.compare import differences
from tests.chaos.account import STALL_SECONDS, Account, Form, hollow
from tests.chaos.history import Span
from tests.chaos.load import Load
from tests.chaos.plan import CALLS, STORE, Incident, plan
from tests.chaos.reader import LiveReader, Record, StallWatch, read_all
from tests.chaos.stand import FIRSTS, LANES, Copy, Stand
from tests.chaos.trouble import Trouble
from tests.chaos.verdict import Origin, Windows, judge, kills_before

_PATIENCE, _PATIENCE_WITH_MUTANTS, _PATIENCE_UNDISTURBED = 40.0, 12.0, 120.0
"""Seconds without a first record, after all was sent, before events count as missing. A mutant does lose some; the
undisturbed run loses none, and on a busy machine once took longer than 40 to begin."""


def chaos(form: Form, folder: Path, say: Callable[[str], None], incidents: Sequence[Incident] | None = None) -> Account:
    """Run one form of it in an empty folder; `incidents` instead of those that the seed gives."""
    began = time.monotonic()
    if incidents is None:
        points = (*CALLS, *STORE) if form.store else CALLS
        more = {"naps": form.naps, "zombies": form.zombies}
        incidents = plan(form.seed, form.events, form.kills, form.outages, points=points, **more)
    orders = folder / "orders"
    orders.mkdir(parents=True)
    with Stand(folder, form.seed, form.events) as stand:
        copy, bootstrap = stand.disturbed, stand.servers.bootstrap
        slots = stand.slots(copy, form.slots, orders=orders, mutant=form.mutant, store=form.store)
        firsts = [copy.pipeline.topic(role) for role in FIRSTS]
        load = Load(bootstrap, copy.pipeline.topic("events"), seed=form.seed, events=form.events, rate=form.rate)
        reader, stalls = LiveReader(bootstrap, firsts, LANES), StallWatch(bootstrap, firsts, LANES)

        def caught() -> bool:
            return bool(form.mutant and reader.again)

        trouble = Trouble(stand, slots, load, orders, incidents, decided=reader.decided, calm=form.calm, enough=caught)
        try:
            slots.start()
            stand.release(slots)
            for thread in (reader, stalls, load):
                thread.start()
            trouble.run(say)
            load.join()
            assert not load.failed, load.failed
            patience = _PATIENCE_WITH_MUTANTS if form.mutant else _PATIENCE
            _wait_for_all(reader, load.sent, trouble.keep_running, patience)
        finally:
            trouble.close()
            slots.stop()
        reader.end()
        stalls.end()
        say(f"{len(reader.decided)} of {load.sent} events have a first record; reading them again, and comparing")
        events = _events(bootstrap, copy)
        records = read_all(bootstrap, [*firsts, copy.pipeline.topic("reviews")], LANES)
        verdict, bodies = judge(events, records, copy.pipeline.topic("reviews"), _windows(copy), reader.arrived)
        unlike = [] if form.mutant else differences(bodies, _undisturbed(stand, len(events)))
    waits = [stall for stall in stalls.stalls if not _excused(*stall, trouble.spans)]
    moments = [kill.moment for kill in trouble.kills]
    since = dict(verdict.since)
    if too_long := [end for begin, end in waits if end - begin > STALL_SECONDS]:
        since["readers stall"] = min(too_long)
    waited = sorted(
        (at - events[origin].append_ms / 1000, origin) for origin, at in reader.decided.items() if origin in events
    )
    account = Account(
        form=form,
        verdict=verdict,
        unlike=unlike,
        kills=trouble.kills,
        naps=trouble.naps,
        visits=trouble.visits,
        overtaken=len(trouble.zombies.overtaken),
        refused=Counter(trouble.zombies.refused.values()),
        outages=trouble.outages,
        latencies=[seconds for seconds, _ in waited],
        slowest=_words(*waited[-1][1], events[waited[-1][1]]) if waited else "",
        stall=max((end - begin for begin, end in waits), default=0.0),
        longest=max((end - begin for begin, end in stalls.stalls), default=0.0),
        seconds=time.monotonic() - began,
        caught={kind: kills_before(kind, moment, moments) for kind, moment in since.items()},
    )
    account.hollow = hollow(account, incidents, stalls.looks)
    return account


def _wait_for_all(reader: LiveReader, events: int, keep_running: Callable[[], None], patience: float) -> None:
    seen, since = 0, time.monotonic()
    while len(reader.decided) < events and time.monotonic() - since < patience:
        keep_running()
        if len(reader.decided) > seen:
            seen, since = len(reader.decided), time.monotonic()
        time.sleep(0.05)
    time.sleep(1.0)  # a second first record of the last events, if there were one, would be here by now


def _undisturbed(stand: Stand, events: int) -> dict[Origin, Any]:
    """First records of the same events, decided by slots that nothing happens to.

    Raises:
        PartFailed: they did not decide all of them, so there is nothing to compare with.
    """
    copy, bootstrap = stand.undisturbed, stand.servers.bootstrap
    topics = [copy.pipeline.topic(role) for role in FIRSTS]
    slots, reader = stand.slots(copy, 2), LiveReader(bootstrap, topics, LANES)
    slots.start()
    reader.start()
    try:
        slots.wait_until_ready()
        _wait_for_all(reader, events, lambda: None, _PATIENCE_UNDISTURBED)
        if len(reader.decided) < events:
            why = f"slots that nothing happened to decided {len(reader.decided)} of {events} events; {slots.log} ends"
            raise PartFailed(f"{why} with:\n{slots.tail()}")
    finally:
        slots.stop()
        reader.end()
    bodies = [orjson.loads(record.value or b"null") for record in read_all(bootstrap, topics, LANES)]
    return {(body["origin"]["partition"], body["origin"]["offset"]): body for body in bodies}


def _events(bootstrap: str, copy: Copy) -> dict[Origin, Record]:
    return {record.place[1:]: record for record in read_all(bootstrap, [copy.pipeline.topic("events")], LANES)}


def _windows(copy: Copy) -> Windows:
    recall = copy.pipeline.recall
    return Windows(
        {n: (f.function, round(f.window.total_seconds() * 1000), f.of) for n, f in recall.features.items()},
        pane_ms=round(recall.pane.total_seconds() * 1000),
        lateness_ms=round(recall.allowed_lateness.total_seconds() * 1000),
        include_late=recall.on_late == "include",
    )


def _words(lane: int, offset: int, event: Record) -> str:
    at = time.strftime("%H:%M:%S", time.localtime(event.append_ms / 1000))
    return f"lane {lane}, offset {offset}, appended at {at}"


def _excused(begin: float, end: float, spans: list[Span]) -> bool:
    """Whether readers had another reason to wait: launcher or broker away, a slot that naps in its transaction."""
    return any(begin < span.end and end > span.begin for span in spans)
