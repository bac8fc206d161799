"""A slot that may not begin waits, says for what, and goes on by itself when it is mended.

Two things stand in a slot's way that no new life cures: topics that do not fit its lanes, and another process that is
the same slot. It would die of them again and again, and with a rival each of its lives would fence the other's.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from console.cluster import ClusterUnfit, check_cluster
from console.leaving import EXIT_FENCED, EXIT_UNFIT
from console.roster import members_of
from dataflows.pipeline import Pipeline
from dataflows.settings import Settings
from dataflows.wiring import member_of
from operators import metrics
from operators.membership import client_id

log = logging.getLogger(__name__)

_LOOK_SECONDS, _CALL_SECONDS = 1.0, 10.0


class StandingBy:
    """What a slot does first when its last life ended with one of the two statuses."""

    def __init__(self, settings: Settings, pipeline: Pipeline, look_first: int) -> None:
        """Prepare; `look_first` is the status with which this slot's last life ended: `EXIT_FENCED` or `EXIT_UNFIT`."""
        self._settings, self._pipeline = settings, pipeline
        looks: dict[int, tuple[str, Callable[[], str]]] = {
            EXIT_FENCED: ("rival", self._rival),
            EXIT_UNFIT: ("topics", self._topics),
        }
        self._why, self._look = looks[look_first]
        self.trouble = ""
        """What it waits for, in plain words; empty when it may begin."""

    def wait(self, stopping: Callable[[], bool]) -> None:
        """Return when nothing is in the way, or when told to stop."""
        while not stopping() and (found := self._look()):
            if found != self.trouble:
                log.error("standing by: %s", found)
            self.trouble = found
            metrics.set_standing_by(self._why)
            metrics.polled(time.monotonic())
            time.sleep(_LOOK_SECONDS)
        if self.trouble:
            log.info("standing by no longer")
        self.trouble = ""
        metrics.set_standing_by(None)

    def _topics(self) -> str:
        try:
            check_cluster(self._settings, self._pipeline, _CALL_SECONDS)
        except ClusterUnfit as unfit:
            return str(unfit)
        return ""

    def _rival(self) -> str:
        """Who else is this slot: this process has left the group, so a member of its name is another's.

        Or what is left of its own past life; its session ends soon, and the look goes on until it has.
        """
        mine = member_of(self._settings, self._pipeline)
        admin = AdminClient({**self._settings.connection(), "log_level": 0})
        try:
            rivals = [member for member in members_of(admin, mine.group) if member.group_instance_id == mine.name]
        except KafkaException as failure:
            return f"could not ask who is slot {mine.name}: {failure.args[0].str()}"
        if not rivals:
            return ""
        # A member that takes over a name is shown with the client and host of the one before it (Kafka 4.1).
        known = rivals[0].client_id != client_id(mine)
        who = f"{rivals[0].client_id} on {rivals[0].host.lstrip('/')}" if known else "started after this one"
        return (
            f"another process ({who}) has become slot {self._settings.slot} of this group, twice; this one takes over "
            "when that one's session has ended. Give each launcher of a group its own --slot"
        )
