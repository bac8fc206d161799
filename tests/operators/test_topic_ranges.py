"""Parts of topics that cannot be asked for are told, and never taken for empty ones."""

from __future__ import annotations

from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import OFFSET_INVALID

from operators.topic_ranges import TopicRanges, TopicUnreadable


class Hanging:
    """An admin client whose broker does not answer: what it then gives (confluent-kafka 2.16)."""

    def list_offsets(self, wanted: Any, **_: object) -> Any:
        answer: Future[Any] = Future()
        answer.set_result(SimpleNamespace(offset=OFFSET_INVALID))
        return dict.fromkeys(wanted, answer)


def test_an_end_that_was_not_told_in_time_is_no_empty_topic() -> None:
    """Or a redrive would find nothing that is decided already, and decide it again."""
    with TopicRanges({"bootstrap.servers": "127.0.0.1:1"}) as reader:
        reader._admin = Hanging()  # type: ignore[assignment]
        reader.lanes = lambda _: [0, 1]  # type: ignore[method-assign]

        with pytest.raises(TopicUnreadable, match=r"could not ask for the offsets of claims\.decisions: _TIMED_OUT"):
            reader.bounds("claims.decisions")
