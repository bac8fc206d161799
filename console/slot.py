"""The life of one slot: a process that runs the dataflow until it is told to stop, or until it must leave."""

from __future__ import annotations

import faulthandler
import logging
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

from confluent_kafka import KafkaError, KafkaException

from console.api import Api, polling
from console.leaving import EXIT_FAILED, EXIT_FENCED, EXIT_HUNG, EXIT_UNFIT
from console.permissions import REFUSALS, explain
from console.standing_by import StandingBy
from dataflows.jobs import job_of
from dataflows.pipeline import Pipeline, PipelineInvalid
from dataflows.running import Opener, Running
from dataflows.settings import Settings, SettingsInvalid
from operators import metrics
from operators.job_metrics import set_job
from operators.lanes import LanesLost
from operators.prefix import LaneBroken
from operators.topic_watch import TopicsUnfit
from operators.transaction import CommitFailed
from state.entries import LaneStoreFailed, StateUnreadable

log = logging.getLogger(__name__)

_GRACE_SECONDS = 5.0
"""How long a commit may outlive its transaction. When a coordinator is killed the client can hang in one and forget its
time-out (librdkafka issues 5511 and 5456): about every second time in forty tries."""
SWITCH_SECONDS = 0.0005
"""How long a thread that wants the interpreter waits for one that computes. A commit is four client calls, each of
which wants it back: four calls of 0.5 ms beside a thread that computes take 23 ms with Python's 5, and 4.8 so."""
_SPEAKING = (
    CommitFailed,
    LaneBroken,
    LanesLost,
    TopicsUnfit,
    KafkaException,
    LaneStoreFailed,
    StateUnreadable,
    SettingsInvalid,
    PipelineInvalid,
    OSError,
)
"""Whose words are ours, the client's or the system's; any other message may quote an event."""
_FENCED = (
    KafkaError._FENCED,
    KafkaError.FENCED_INSTANCE_ID,
    KafkaError.INVALID_PRODUCER_EPOCH,
    KafkaError.PRODUCER_FENCED,
)
_NO_TOPIC = (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC, KafkaError._UNKNOWN_PARTITION)


def run_slot(settings: Settings, pipeline: Pipeline, opener: Opener, look_first: int = 0) -> None:
    """Do the job until SIGTERM; never returns, the process ends here. `look_first`: see `StandingBy`.

    There is no clean-up on failure: whatever happened, the next life starts at the committed offsets. One path of
    recovery, used all the time, is one that works.
    """
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    sys.setswitchinterval(SWITCH_SECONDS)
    code = EXIT_FAILED
    try:
        if look_first:
            _stand_by(settings, pipeline, look_first, stop)
        if stop.is_set():
            code = 0
            return
        set_job(settings.job)
        running = opener(settings, stop.is_set)
        api = _serve(settings, running)
        _watch(running, settings)
        log.info("running; metrics on port %d", api.port)
        running.run()
        running.close()
        code = 0
        log.info("stopped; everything that was begun is finished")
    except BaseException as failure:  # Bytewax panics are no Exceptions
        log.error("leaving: %s", " <- ".join(_causes(failure)) + _hint(failure, settings, pipeline))
        log.debug("the whole story", exc_info=failure)
        code = _status(failure)
    finally:
        logging.shutdown()
        sys.stdout.flush()
        os._exit(code)


def _stand_by(settings: Settings, pipeline: Pipeline, look_first: int, stop: threading.Event) -> None:
    standing = StandingBy(settings, pipeline, look_first)
    api = Api(
        settings.host,
        settings.metrics_port + 1 + settings.slot,
        health=polling(settings.watchdog),
        ready=lambda: (False, standing.trouble or "looking whether this slot may begin"),
        slots=lambda: [{"slot": settings.slot, "pid": os.getpid(), "lanes": []}],
    ).start()
    standing.wait(stop.is_set)
    api.close()


def _serve(settings: Settings, running: Running) -> Api:
    return Api(
        settings.host,
        settings.metrics_port + 1 + settings.slot,
        health=polling(settings.watchdog),
        ready=running.ready,
        slots=lambda: [{"slot": settings.slot, "pid": os.getpid(), "lanes": running.owned()}],
    ).start()


def _watch(running: Running, settings: Settings) -> None:
    """End this process when it has not polled, or been at one commit, for long; the launcher starts a new life."""
    # The session is also the transaction's time-out: after that the broker itself has ended it.
    commit_seconds = min(settings.watchdog, settings.session_timeout + _GRACE_SECONDS)

    metrics.polled(time.monotonic())

    def look() -> None:
        while True:
            time.sleep(1.0)
            metrics.set_ready(running.ready()[0])
            silent, busy = metrics.seconds_since_poll(), running.busy_seconds()
            if silent > settings.watchdog or busy > commit_seconds:
                longest = max(silent, busy)
                log.error("leaving: no poll, or one commit, for %.0f s; where every thread stands follows", longest)
                faulthandler.dump_traceback()
                os._exit(EXIT_HUNG)

    threading.Thread(target=look, name="watchdog", daemon=True).start()


def _chain(failure: BaseException) -> list[BaseException]:
    chain: list[BaseException] = []
    link: BaseException | None = failure
    while link is not None and len(chain) < 8:
        chain.append(link)
        link = link.__cause__ or link.__context__
    return chain


def _errors(failure: BaseException) -> list[KafkaError]:
    return [link.args[0] for link in _chain(failure) if isinstance(link, KafkaException)]


def _is_fenced(failure: BaseException) -> bool:
    return any(error.code() in _FENCED or "fenced" in error.str() for error in _errors(failure))  # fatal: only said


def _status(failure: BaseException) -> int:
    """How to leave, which tells the next life what to look at first."""
    if _is_fenced(failure):
        return EXIT_FENCED
    unfit = any(isinstance(link, TopicsUnfit) for link in _chain(failure))
    unfit |= any(error.code() in _NO_TOPIC or error.code() in REFUSALS for error in _errors(failure))
    return EXIT_UNFIT if unfit else EXIT_FAILED


def _hint(failure: BaseException, settings: Settings, pipeline: Pipeline) -> str:
    """What to do about it, where that is known."""
    if _is_fenced(failure):
        return (
            f". Another process has become slot {settings.slot} of this group: give each launcher of a group its own "
            "--slot"
        )
    if refusals := [error for error in _errors(failure) if error.code() in REFUSALS]:
        job = job_of(pipeline, settings.job, settings.group)
        return "".join(
            f". {line}" for line in explain(refusals[0], pipeline, job, settings.slot, settings.connection())
        )
    if any(isinstance(link, MemoryError) for link in _chain(failure)):
        return ". Memory ran out: give the process more, or each slot fewer lanes, or dedupe and recall shorter windows"
    return ""


def _causes(failure: BaseException) -> Iterator[str]:
    """From the cause at the bottom to what it led to; Bytewax wraps two deep."""
    for link in reversed(_chain(failure)):
        text = str(link).strip().splitlines() if isinstance(link, _SPEAKING) else []
        where = traceback.extract_tb(link.__traceback__)[-1:]
        place = "".join(f" at {Path(frame.filename).name}:{frame.lineno}" for frame in where)
        yield f"{type(link).__name__}: {text[0]}" if text else type(link).__name__ + place
