"""A stranger to the slots who joins their group for a moment, so that lanes change hands."""

from __future__ import annotations

import threading
import time

from confluent_kafka import Consumer


def visit(bootstrap: str, group: str, topic: str) -> bool:
    """Be a member of the group until lanes are given, decide nothing, commit nothing, and leave; were any given?"""
    settings = {"enable.auto.commit": False, "session.timeout.ms": 6000, "heartbeat.interval.ms": 500, "log_level": 0}
    assignor = {"partition.assignment.strategy": "cooperative-sticky"}
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": group, **settings, **assignor})
    given = threading.Event()
    consumer.subscribe([topic], on_assign=lambda _, lanes: given.set() if lanes else None)
    deadline = time.monotonic() + 4.0
    while not given.is_set() and time.monotonic() < deadline:
        consumer.poll(0.05)
    consumer.close()
    return given.is_set()
