"""What the changelogs of a pipeline's windowed views say, to a committed reader that shares nothing with the jobs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import numpy as np
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, TopicPartition

from dataflows.jobs import FEATURES, VIEWS, jobs_of
from dataflows.pipeline import Pipeline
from dataflows.view_stages import view_windows
from operators.window import step_of
from state.key_windows import key_of
from state.tide import KEY, STEP, read_tide
from state.view_reader import ViewReader


class Changelogs:
    """Reads on from where it was each time."""

    def __init__(self, bootstrap: str, pipeline: Pipeline, lanes: int) -> None:
        self._pipeline = pipeline
        jobs = jobs_of(pipeline)
        self._topics = [pipeline.topic(role) for role in jobs[VIEWS].reads]
        self._topic_of = {
            view: pipeline.topic(FEATURES if spec.key == pipeline.contract.entity else f"by-{spec.key}.{FEATURES}")
            for view, spec in pipeline.views.items()
            if spec.windows
        }
        self._client = Consumer({
            "bootstrap.servers": bootstrap,
            "group.id": "reader",
            "isolation.level": "read_committed",
            "enable.partition.eof": True,
            "auto.offset.reset": "error",
            "fetch.wait.max.ms": 20,
            "log_level": 0,
        })  # fmt: skip
        self._parts = {(topic, lane) for topic in self._topics for lane in range(lanes)}
        self._client.assign([TopicPartition(*part, OFFSET_BEGINNING) for part in self._parts])
        self.entries: dict[tuple[str, int], dict[bytes, bytes]] = defaultdict(dict)
        self.records = 0

    def close(self) -> None:
        self._client.close()

    def read(self) -> None:
        """Take what there is now, of each partition to its end."""
        ended: set[Any] = set()
        while ended < self._parts:
            for message in self._client.consume(1000, 0.05):
                part = message.topic(), message.partition()
                if message.error() is not None:
                    assert message.error().code() == KafkaError._PARTITION_EOF, message.error()
                    ended.add(part)
                    continue
                ended.discard(part)
                self.records += 1
                if message.value() is None:
                    self.entries[part].pop(message.key(), None)
                else:
                    self.entries[part][message.key()] = message.value()

    def tides(self) -> dict[tuple[str, int], int]:
        """Topic and lane to tide; 0 where there is none yet."""
        key = STEP.encode() + b"\0" + KEY
        return {part: read_tide(at) if (at := self.entries[part].get(key)) else 0 for part in self._parts}

    def values(self, view: str, keys: Iterable[str], at_ms: int) -> dict[str, dict[str, float]]:
        """Key to feature to its value at a moment, as whoever decides would read it."""
        step = step_of(view).encode() + b"\0"
        stored: dict[str, bytes] = {}
        for (topic, _), entries in self.entries.items():
            for name, value in entries.items():
                if topic == self._topic_of[view] and name.startswith(step) and (key := key_of(name[len(step) :])):
                    assert key not in stored, "a key is in one lane"
                    stored[key] = value
        names = list(keys)
        assert stored.keys() <= set(names)
        reader = ViewReader(view_windows(view, self._pipeline.views[view]))
        columns = reader.evaluate_many([stored.get(name) for name in names], np.full(len(names), at_ms))
        rows = zip(*(column.tolist() for column in columns.values()), strict=True)
        return {name: dict(zip(columns, row, strict=True)) for name, row in zip(names, rows, strict=True)}
