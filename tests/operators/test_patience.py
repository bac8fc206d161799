"""Which failures are waited out."""

from __future__ import annotations

import pytest
from confluent_kafka import KafkaError, KafkaException

from operators.patience import patiently


@pytest.mark.parametrize("code", [KafkaError.NOT_COORDINATOR, KafkaError.COORDINATOR_LOAD_IN_PROGRESS])
def test_a_coordinator_on_its_way_is_asked_again_although_a_consumers_error_does_not_say_so(code: int) -> None:
    failures = [KafkaError(code)] * 2

    def ask() -> str:
        if failures:
            raise KafkaException(failures.pop())
        return "answered"

    assert not KafkaError(code).retriable()
    assert patiently(ask) == "answered"


@pytest.mark.parametrize(
    "error",
    [
        KafkaError(KafkaError.GROUP_AUTHORIZATION_FAILED),
        KafkaError(KafkaError._TRANSPORT, "as told", True),
        KafkaError(KafkaError.NOT_COORDINATOR, "as told", False, True, True),
    ],
)
def test_what_lasts_is_not(error: KafkaError) -> None:
    asked = []

    def ask() -> None:
        asked.append(error)
        raise KafkaException(error)

    with pytest.raises(KafkaException):
        patiently(ask)
    assert len(asked) == 1
