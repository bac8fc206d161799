"""A slot that is told to die at a point dies there, once; and the hook changes a template before it forks."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from confluent_kafka import KafkaError, KafkaException

from tests.chaos.crash_points import ORDERS, REFUSED, TAKEN, Orders, Watched
from tests.chaos.engine import INJECT, ROOT
from tests.chaos.mutants import MUTANT, MUTANTS

PATCHED = """
import console.slot
from operators import delivery, exactly_once
from tests.chaos import mutants
of_mutants = lambda place: [name for name, what in vars(place).items()
                            if getattr(what, "__module__", "") == "tests.chaos.mutants"]
print(*of_mutants(exactly_once.ExactlyOnce), delivery.Producer.__module__)
"""


@pytest.fixture
def killed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Signals that were sent, instead of sending them."""
    sent: list[int] = []
    monkeypatch.setattr(os, "kill", lambda _pid, number: sent.append(number))
    return sent


@pytest.mark.parametrize("anybody", [True, False])
def test_whoever_reaches_a_point_takes_its_order_and_dies_once(
    anybody: bool, tmp_path: Path, killed: list[int]
) -> None:
    whose = "any" if anybody else str(os.getpid())
    calls: list[str] = []
    names = ("begin_transaction", "produce", "send_offsets_to_transaction", "commit_transaction", "abort_transaction")
    client = SimpleNamespace(
        **{name: lambda name=name: calls.append(name) for name in (*names, "init_transactions")},
        flush=lambda: "flushed",
    )
    producer = Watched(client, Orders(tmp_path))
    (tmp_path / f"{whose}.begin_transaction-after").write_text("kill 0")
    (tmp_path / "1.produce-before").write_text("kill 0")  # somebody else's
    producer.begin_transaction()
    producer.begin_transaction()
    producer.produce()

    assert killed == [signal.SIGKILL]
    assert calls == ["begin_transaction", "begin_transaction", "produce"]
    assert [path.name for path in tmp_path.glob(f"{TAKEN}.*")] == [f"{TAKEN}.{os.getpid()}.begin_transaction-after"]
    assert producer.flush() == "flushed"


STOPPED = """
import sys, threading
from pathlib import Path
from tests.chaos.crash_points import Orders

def commit(folder, order):
    reach = Orders(folder).reach
    while order.exists():
        reach("here")
    (folder / "went on").touch()

(order := Path(sys.argv[1], "any.here")).write_text("stop 0")
committing = threading.Thread(target=commit, args=(order.parent, order))
committing.start()
committing.join()
"""
"""The thread that commits is not the first of its process."""


def test_who_is_told_to_stop_does_nothing_more_until_woken(tmp_path: Path, until: Callable[..., None]) -> None:
    with subprocess.Popen([sys.executable, "-c", STOPPED, str(tmp_path)], cwd=ROOT) as slot:
        stat = Path(f"/proc/{slot.pid}/stat")
        until(lambda: stat.read_text().rpartition(")")[2].split()[0] == "T", "it to stop")
        assert not (tmp_path / "went on").exists()
        slot.send_signal(signal.SIGCONT)
        assert slot.wait(20) == 0

    assert (tmp_path / "went on").exists()


class Refusing:
    """A producer of a slot that is no member any more."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        def call(*_: object) -> None:
            if name == "send_offsets_to_transaction":
                raise KafkaException(KafkaError(KafkaError.UNKNOWN_MEMBER_ID))

        return call


def test_a_refusal_of_offsets_is_left_in_writing_and_still_raised(tmp_path: Path) -> None:
    with pytest.raises(KafkaException):
        Watched(Refusing(), Orders(tmp_path)).send_offsets_to_transaction([], None)

    assert [path.name for path in tmp_path.iterdir()] == [f"{REFUSED}.{os.getpid()}.UNKNOWN_MEMBER_ID"]


def test_a_template_gets_crash_points_and_its_mutant_and_nothing_else_does() -> None:
    order = [sys.executable, "-c", PATCHED]
    settings = {**os.environ, "PYTHONPATH": str(INJECT), MUTANT: next(iter(MUTANTS)), ORDERS: str(ROOT)}
    told = subprocess.run(order, cwd=ROOT, env=settings, capture_output=True, text=True, timeout=100, check=False)

    assert told.stdout.split() == ["write", "tests.chaos.crash_points"], told.stderr
