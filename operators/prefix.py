"""State is a fold over a lane's prefix and carries the prefix's length: written with every commit, compared at opening.

So state that belongs to another group, or to another offset than the group's, is found before an event meets it.
"""

from __future__ import annotations

import logging

import orjson

from operators import metrics
from operators.batch import Open

log = logging.getLogger(__name__)

STEP, KEY = "lane", b"prefix"
"""Where it is among the lane's state."""
_VERSION = 1


class LaneBroken(Exception):
    """A lane cannot be read on, and going on anyway would lose or repeat events."""


def prefix(group: str, following: int, topic_id: str = "", passed: int = 0) -> bytes:
    """Write that the lane's state is `group`'s and is a fold over the events before offset `following`.

    Args:
        group: the consumer group.
        following: the next offset.
        topic_id: Kafka's id of the topic of the events, where it is known: a topic made again has another one.
        passed: how many of the events before `following` somebody has chosen to pass over, just now.
    """
    more = ({"topic": topic_id} if topic_id else {}) | ({"passed": passed} if passed else {})
    return orjson.dumps({"v": _VERSION, "group": group, "next": following, **more})


def begin_at(opened: Open, committed: int, group: str, topic_id: str = "", *, exactly_once: bool) -> int:
    """Tell at which offset a lane begins; negative for its beginning.

    Args:
        opened: the lane and its restored state.
        committed: the group's offset, negative where it has none.
        group: the consumer group.
        topic_id: Kafka's id of the topic of the events; empty where it is not known.
        exactly_once: whether state and offset are always committed together; if not, state may be ahead.

    Raises:
        LaneBroken: the state is not that of this group and topic at this offset.
    """
    lane = opened.lane
    found = opened.entries.get(STEP, {}).get(KEY)
    if found is None:
        if committed > 0:
            raise LaneBroken(
                f"lane {lane}: the group has decided it up to offset {committed}, and it has no state; was the state "
                "topic deleted and made again? To go on with an empty memory, which knows no earlier event and no "
                f"duplicate, stop all slots and run `penstock lanes skip FILE {lane} --to {committed}`"
            )
        return committed
    owner, following, topic, passed = _read(lane, found)
    if owner != group:
        raise LaneBroken(
            f"lane {lane}: its state belongs to group {owner}, and this is {group}. Two groups on one state "
            "topic would mix their memories: give this one topics of its own (`topics:` in the pipeline file)"
        )
    if topic and topic_id and topic != topic_id:
        raise LaneBroken(
            f"lane {lane}: the topic of the events was deleted and made again: offset {following} of its state is not "
            f"an offset of this topic. To begin with what is in it now, stop all slots and run `penstock lanes skip "
            f"FILE {lane} --to earliest --anew`; the memory of dedupe and recall stays"
        )
    if passed:
        _pass_over(lane, passed)
    if committed < 0:
        log.warning("lane %d: the group's offset has expired; going on at %d, where its state ends", lane, following)
        return following
    if committed < following and exactly_once:
        raise LaneBroken(
            f"lane {lane}: the group's offset is {committed}, but its state has seen the events before "
            f"{following}, which would be decided twice. If somebody set it back, stop all slots, and set it to "
            f"{following}. If nobody did, the broker that coordinates the group goes by an old one (a fault of Kafka: "
            "dataflows/FAULTS.md); start that broker again, and then the slots"
        )
    if committed > following:
        _pass_over(lane, committed - following)
    return committed


def _read(lane: int, found: bytes) -> tuple[str, int, str, int]:
    try:
        written = orjson.loads(found)
        return str(written["group"]), int(written["next"]), str(written.get("topic", "")), int(written.get("passed", 0))
    except (ValueError, TypeError, KeyError):
        raise LaneBroken(
            f"lane {lane}: something else has written to its state: the record that says whose it is cannot be "
            "read. Stop all slots and delete that record"
        ) from None


def _pass_over(lane: int, events: int) -> None:
    log.warning("lane %d: %d events are passed over: the group's offset was set by hand", lane, events)
    metrics.count_passed_over(events)
