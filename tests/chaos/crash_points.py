"""Where a slot can be told to die or to stop: around each of its client's calls, and around changes of its lanes.

Told by a file: a slot that reaches point `p` tries to rename `<its pid>.p`, or `any.p`, in the orders' folder. Whoever
succeeds has the order, once, and dies (`kill`) or stops (`stop`) on the spot. A slot whose offsets the broker refuses
leaves a file there, too. Runs in the processes under test.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from confluent_kafka import KafkaException

ORDERS = "PENSTOCK_CHAOS_ORDERS"
"""Environment variable with the orders' folder."""
TAKEN, REFUSED = "taken", "refused"
_LATE_SECONDS = 0.5
_CALLS = ("begin_transaction", "produce", "send_offsets_to_transaction", "commit_transaction", "abort_transaction")


class Watched:
    """A producer whose calls are points."""

    def __init__(self, client: Any, orders: Orders) -> None:
        self._client = client
        for name in (*_CALLS, "init_transactions"):
            setattr(self, name, _around(getattr(client, name), name, orders.reach))
        self.send_offsets_to_transaction = _telling(self.send_offsets_to_transaction, orders.refused)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)


class Orders:
    """The folder, as a slot sees it."""

    def __init__(self, folder: Path) -> None:
        self._folder = str(folder)

    def reach(self, point: str) -> None:
        """Be at a point."""
        me = os.getpid()
        for whose in (me, "any"):
            order = f"{self._folder}/{whose}.{point}"
            try:
                words = Path(order).read_text()
                os.rename(order, f"{self._folder}/{TAKEN}.{me}.{point}")
            except FileNotFoundError:
                continue
            word, _, seconds = words.partition(" ")
            if float(seconds):  # in the middle of the call that follows
                threading.Timer(float(seconds), os.kill, (me, signal.SIGKILL)).start()
            elif word == "kill":
                os.kill(me, signal.SIGKILL)
            else:  # of this thread: sent to the process, it may reach another one first, and this one goes on a little
                signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)

    def refused(self, answer: str) -> None:
        """Leave word of the broker's answer to this slot's offsets."""
        Path(f"{self._folder}/{REFUSED}.{os.getpid()}.{answer}").touch()


def install() -> None:
    """Make points of the calls of the slot's own producer of what follows them, and of the lanes' changes."""
    if not (folder := os.environ.get(ORDERS)):
        return
    from operators import delivery, lanes
    from operators.lane_stores import LaneStores
    from operators.transaction import Transactions

    orders = Orders(Path(folder))
    producer: Any = delivery.Producer
    delivery.Producer = lambda *given, **more: Watched(producer(*given, **more), orders)  # type: ignore[misc, assignment]
    places: list[tuple[type, str, str]] = [(LaneStores, "write", "store")]
    places += [(lanes.Lanes, f"_{name}", name) for name in ("assigned", "open", "revoked")]
    for place, method, point in places:
        setattr(place, method, _around(getattr(place, method), point, orders.reach))
    # A slot that wakes up learns at once that it lost its lanes, or that its commit took too long, and leaves. Nothing
    # may depend on that being soon.
    lanes.Lanes._lost = _late(lanes.Lanes._lost)  # type: ignore[method-assign]
    Transactions.busy_seconds = _late(Transactions.busy_seconds)  # type: ignore[method-assign]


def _late(learn: Callable[..., Any]) -> Callable[..., Any]:
    def later(*given: Any) -> Any:
        time.sleep(_LATE_SECONDS)
        return learn(*given)

    return later


def _telling(send: Callable[..., Any], tell: Callable[[str], None]) -> Callable[..., Any]:
    def told(*given: Any) -> Any:
        try:
            return send(*given)
        except KafkaException as failure:
            if failure.args[0].code() > 0:  # the broker's, not the client's own
                tell(failure.args[0].name())
            raise

    return told


def _around(call: Callable[..., Any], name: str, reach: Callable[[str], None]) -> Callable[..., Any]:
    before, during, after = f"{name}-before", f"{name}-during", f"{name}-after"

    def watched(*given: Any, **more: Any) -> Any:
        reach(before)
        reach(during)
        answer = call(*given, **more)
        reach(after)
        return answer

    return watched
