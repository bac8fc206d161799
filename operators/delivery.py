"""A slot's delivery as its guarantee asks for it: its producer, where its records go, and how large they may be."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from confluent_kafka import Consumer, Producer
from confluent_kafka.admin import AdminClient

from operators.at_least_once import AtLeastOnce
from operators.exactly_once import ExactlyOnce
from operators.membership import Guarantee, Membership, producer_properties
from operators.record_producer import Places, RecordProducer
from operators.too_large import SizeLimits
from operators.transaction import Delivery

log = logging.getLogger(__name__)


def deliver(
    guarantee: Guarantee,
    connection: Mapping[str, Any],
    membership: Membership,
    places: Places,
    *,
    admin: AdminClient,
    consumer: Consumer,
) -> Delivery:
    """Make the delivery of a slot, whose records go to `places`."""
    properties = producer_properties(connection, membership, guarantee)
    sizes = SizeLimits(admin, [membership.state, *membership.topics.values()])
    if guarantee == "at_least_once":
        return AtLeastOnce(RecordProducer(Producer(properties, logger=log), places), consumer, sizes.get)

    def make() -> Producer:
        return Producer({**properties, "batch.size": sizes.batch_bytes()}, logger=log)

    return ExactlyOnce(make, places, consumer, sizes.get)
