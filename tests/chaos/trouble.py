"""Makes the plan happen: kills, naps, zombies and outages, while a supervisor starts again what has ended."""

from __future__ import annotations

import bisect
import contextlib
import math
import random
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from tests.chaos.crash_points import TAKEN
from tests.chaos.engine import Slots, signal_to
from tests.chaos.history import Kill, Outage, Span
from tests.chaos.load import Load
from tests.chaos.plan import Incident
from tests.chaos.stand import Stand
from tests.chaos.verdict import Origin
from tests.chaos.visitor import visit
from tests.chaos.zombies import Zombies

_GAP, _AFTER_OUTAGE = 0.5, 3.0
_AGE = 5.5
"""Younger slots are spared where there are older ones: the template waits before it starts one that died quickly."""
_AHEAD_SECONDS = 5.0
"""How far the load may be ahead of an incident that waits for a slot to strike."""
_CALM_SECONDS, _STUCK_SECONDS = 9.0, 8.0
"""How long an incident waits at most for readers to catch up, or for any sign of life since the one before it. Without
the second, a machine on which a launcher starts slower than incidents follow each other decides nothing all along."""
_RECOVERY_SECONDS = 60.0
"""How long all slots may take to be ready after the last incident."""
_OBEY = {"commit": 3.0, "nap": 3.0, "zombie": 3.0, "change": 10.0}
"""Seconds after which an order that nobody has taken is carried out from outside, or for a zombie taken back."""


class Trouble:
    """Lets incidents happen to slots, launcher and broker."""

    def __init__(
        self,
        stand: Stand,
        slots: Slots,
        load: Load,
        orders: Path,
        incidents: Sequence[Incident],
        *,
        decided: Mapping[Origin, float],
        calm: bool = False,
        enough: Callable[[], bool] = lambda: False,
    ) -> None:
        """Prepare it.

        Args:
            stand: the broker.
            slots: what is killed.
            load: tells when an incident is due.
            orders: folder by which slots are told to die.
            incidents: in order.
            decided: events of which a reader has a first record.
            calm: whether each waits until readers have caught up, for some seconds at most, and for zombies.
            enough: says when nothing more need happen.
        """
        self._stand, self._slots, self._load, self._orders = stand, slots, load, orders
        self._incidents = list(incidents)
        self._decided, self._calm, self._enough = decided, calm, enough
        self.zombies = Zombies(orders, load.acked, decided)
        self._rng = random.Random(load.seed)
        self._later: list[tuple[float, Callable[[], None]]] = []
        self._ordered: dict[str, Incident] = {}
        """Order not yet taken to its incident."""
        self._napping: set[int] = set()
        self._not_before = self._since = self._start_at = 0.0
        self._decided_before = -1
        """First records that readers had at the incident before."""
        self._granted = 0.0
        """Events to send in any case, so that an incident for which the load has waited meets slots at work."""
        self._broker_away = False
        self.kills: list[Kill] = []
        self.spans: list[Span] = []
        self.naps = self.visits = 0
        self.outages: list[Outage] = []
        self._ready_at = 0.0
        self._ended = threading.Event()

    def run(self, say: Callable[[str], None]) -> None:
        """Go through the plan while events are sent; afterwards everything runs again."""
        threading.Thread(target=self._watch_readiness, name="readiness", daemon=True).start()
        told = 0
        while self._incidents or self._later or self._ordered or self.zombies.asleep or self._load.is_alive():
            self._serve()
            if self._enough():
                self._incidents.clear()
                self._load.stop()
            if self._load.sent * 20 // self._load.events > told:
                told = self._load.sent * 20 // self._load.events
                say(self._progress())
            time.sleep(0.01)
        deadline = time.monotonic() + _RECOVERY_SECONDS
        while any(span.end == math.inf for span in self.spans) and time.monotonic() < deadline:
            self._serve()
            time.sleep(0.05)

    def keep_running(self) -> None:
        """Be the supervisor of the launcher, as a service manager is."""
        if not self._slots.running and time.monotonic() >= self._start_at:
            self._start_at = time.monotonic() + 1.0
            self._slots.start()

    def close(self) -> None:
        """End the thread that looks whether slots are ready, and hear the last answers to zombies."""
        self._ended.set()
        self.zombies.look()

    def _serve(self) -> None:
        self._collect()
        self.keep_running()
        now = time.monotonic()
        due = [entry for entry in self._later if entry[0] <= now]
        self._later = [entry for entry in self._later if entry[0] > now]
        for _, action in due:
            action()
        for incident in self.zombies.look():
            self._again(incident, self._load.events // 20)
        for span in self.spans:
            if span.end == math.inf and self._ready_at > span.recovers:
                span.end = self._ready_at
        self._load.until = max(self._load_until(), self._granted)
        if self._incidents and self._load.sent >= self._incidents[0].at and now >= self._not_before:
            self._since = self._since or now
            if self._unquiet(now - self._since):
                return
            if getattr(self, f"_{self._incidents[0].kind}")(self._incidents[0]):
                self._incidents.pop(0)
                self._not_before, self._since = now + _GAP, 0.0
                self._decided_before = len(self._decided)

    def _load_until(self) -> float:
        """Events to send for now: not far ahead of what is to come, and a second's worth is kept for each of it."""
        kept = (len(self._ordered) + len(self._incidents)) * self._load.rate
        most = self._load.events - kept if kept else math.inf
        if not self._incidents:
            return most
        due = self._incidents[0].at
        return max(due + 1, min(due + _AHEAD_SECONDS * self._load.rate, most))

    def _progress(self) -> str:
        share = self._load.sent / self._load.events
        done = f"{len(self.kills)} kills, {len(self.outages)} outages, {len(self.zombies.overtaken)} zombies"
        return f"{share:4.0%}  {self._load.sent} events sent, {len(self._decided)} decided; {done}"

    def _unquiet(self, waited: float) -> bool:
        """Whether there is something to wait for."""
        ordered = any(incident.kind == "zombie" for incident in self._ordered.values())
        if self._calm and (self.zombies.asleep or ordered):
            return True
        if self._broker_away:
            return False
        if self._idle():
            self._granted = self._load.sent + self._load.rate
            return self._load.is_alive() and waited < _STUCK_SECONDS
        if len(self._decided) == self._decided_before:
            return waited < _STUCK_SECONDS
        behind = self._load.sent - len(self._decided)
        return self._calm and behind > self._load.rate and waited < _CALM_SECONDS

    def _again(self, incident: Incident, events: int = 0) -> None:
        """Let something that came to nothing happen `events` later, if there is still load for it."""
        at = self._load.sent + events
        if self._load.is_alive() and (not events or at < self._load.events * 0.95):
            bisect.insort(self._incidents, replace(incident, at=at), key=lambda each: each.at)

    def _slot(self, incident: Incident) -> bool:
        return (pid := self._victim()) is not None and self._kill(pid, incident.kind)

    def _commit(self, incident: Incident) -> bool:
        if (pid := self._victim()) is None or (name := f"{pid}.{incident.point}") in self._ordered:
            return False
        delay = self._rng.uniform(0.0005, 0.01) if incident.point.endswith("-during") else 0.0
        self._order(name, f"kill {delay}", incident, pid)
        return True

    def _change(self, incident: Incident) -> bool:
        """A visitor joins the group and leaves it, so lanes go and come; who reaches the point first dies."""
        if (name := f"any.{incident.point}") in self._ordered:
            return False
        self._order(name, "kill 0", incident, None)
        copy = self._stand.disturbed

        def come_and_go() -> None:
            self.visits += visit(self._stand.servers.bootstrap, copy.group, copy.pipeline.topic("events"))

        threading.Thread(target=come_and_go, name="visitor", daemon=True).start()
        return True

    def _nap(self, incident: Incident) -> bool:
        if (pid := self._victim()) is not None:
            self._napping.add(pid)
            self.naps += 1
            span = Span(time.time(), "nap")
            self.spans.append(span)
            self._order(f"{pid}.{incident.point}", "stop 0", incident, pid)

            def wake() -> None:
                self._napping.discard(pid)
                signal_to(pid, signal.SIGCONT)
                span.recovers = time.time()

            self._soon(incident.seconds, wake)
        return pid is not None

    def _zombie(self, incident: Incident) -> bool:
        if (pid := self._victim()) is not None:
            self._order(f"{pid}.{incident.point}", "stop 0", incident, pid)
        return pid is not None

    def _launcher(self, _: Incident) -> bool:
        if not self._slots.running:
            return False
        self._slots.kill_launcher()
        self._died("launcher")
        return True

    def _template(self, incident: Incident) -> bool:
        pid = self._slots.template()
        return pid is not None and self._kill(pid, incident.kind)

    def _outage(self, incident: Incident) -> bool:
        if self._broker_away:
            return False
        self._broker_away = True
        before = self._load.sent
        span = Span(time.time(), "outage")
        self.spans.append(span)
        if incident.point == "kill":
            self._stand.kafka.kill()
            end: Callable[[], object] = self._stand.kafka.start
        else:
            broker = self._stand.pause_broker()
            end = lambda: signal_to(broker, signal.SIGCONT)  # noqa: E731 -- the other half of what has just begun

        def back() -> None:
            self.outages.append(Outage(time.time() - span.begin, self._load.sent - before))
            end()
            span.recovers = time.time() + _AFTER_OUTAGE
            self._soon(_AFTER_OUTAGE, lambda: setattr(self, "_broker_away", False))

        self._soon(incident.seconds, back)
        return True

    def _victim(self) -> int | None:
        """A slot that has lived for a while, or any after two seconds of waiting for one; never one that naps."""
        spared = self._napping | self.zombies.spared()
        ages = {pid: age for pid, age in self._slots.slots().items() if pid not in spared}
        patient = time.monotonic() - self._since < 2.0
        fit = sorted(pid for pid, age in ages.items() if age > _AGE or not patient)
        return self._rng.choice(fit) if fit else None

    def _order(self, name: str, words: str, incident: Incident, pid: int | None) -> None:
        """Lay an order where a slot finds it, whole; carry it out from outside where nobody takes it in time."""
        written = self._orders / f"new.{name}"
        written.write_text(words)
        written.rename(self._orders / name)
        self._ordered[name] = incident
        kind = incident.kind

        def overdue() -> None:
            with contextlib.suppress(FileNotFoundError):
                (self._orders / name).unlink()
                del self._ordered[name]
                if kind == "zombie":
                    self._again(incident, self._load.events // 20)
                elif kind == "nap":
                    signal_to(pid or 0, signal.SIGSTOP)
                elif pid is None or not self._kill(pid, kind):
                    self._again(Incident(0, "slot"))

        self._soon(_OBEY[kind], overdue)

    def _collect(self) -> None:
        for taken in self._orders.glob(f"{TAKEN}.*"):
            _, pid, point = taken.name.split(".")
            names = (f"{pid}.{point}", f"any.{point}")
            incident = next(self._ordered.pop(name) for name in names if name in self._ordered)
            moment = taken.stat().st_ctime
            taken.unlink()
            if incident.kind == "zombie":
                self.zombies.stopped(int(pid), incident)
            elif incident.kind != "nap":
                self.kills.append(Kill(moment, incident.kind, point, self._idle()))

    def _idle(self) -> bool:
        return not self._load.sending and len(self._decided) >= self._load.sent

    def _kill(self, pid: int, kind: str) -> bool:
        done = signal_to(pid, signal.SIGKILL)
        if done:
            self._died(kind)
        return done

    def _died(self, kind: str) -> None:
        self.kills.append(Kill(time.time(), kind, "", self._idle()))
        if kind in ("launcher", "template"):
            self.spans.append(Span(time.time(), kind, recovers=time.time()))

    def _soon(self, seconds: float, action: Callable[[], None]) -> None:
        self._later.append((time.monotonic() + seconds, action))

    def _watch_readiness(self) -> None:
        while not self._ended.wait(0.2):
            asked = time.time()
            if self._slots.ready():
                self._ready_at = asked
