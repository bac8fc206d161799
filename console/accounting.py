"""Does every event have exactly one first record? Counted from the topics alone, as any reader of them could.

Nothing of the engine is used here: not its models, not its metrics. `python -m console.accounting --bootstrap HOST:PORT
--pipeline NAME` prints the account and ends with status 1 where an origin has no first record, or more than one.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any

from confluent_kafka import OFFSET_BEGINNING, OFFSET_END, Consumer, KafkaError, KafkaException, Message, TopicPartition

from console.ledger import Account, Ledger

ROLES = ("events", "decisions", "reviews", "rejected", "quarantine", "duplicates")
"""The topics that are read; by default each is called `<pipeline>.<role>`."""

_END = KafkaError._PARTITION_EOF
_PASSING = (KafkaError._ALL_BROKERS_DOWN, KafkaError._TRANSPORT, KafkaError._RESOLVE)
"""The broker is away; the client tries again by itself."""


class AccountImpossible(Exception):
    """The topics cannot be read; the message says which and why."""


class Reader:
    """Reads every record of a pipeline's topics from the first one on, committed ones only. Joins no group.

    Args:
        connection: librdkafka properties; `bootstrap.servers` at least.
        topics: role to topic name.

    Raises:
        AccountImpossible: a topic is not there, or no broker answers.
    """

    def __init__(self, connection: Mapping[str, Any], topics: Mapping[str, str], timeout: float = 20.0) -> None:
        ours = {
            "group.id": f"penstock-accounting-{os.getpid()}",  # the client wants one; nothing is ever committed to it
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "isolation.level": "read_committed",
            "fetch.wait.max.ms": 50,
            "auto.offset.reset": "error",  # a record that was removed before it was read must be told, not skipped
            "log_level": 0,
        }
        self._roles = {name: role for role, name in topics.items()}
        try:
            self._consumer = Consumer({**connection, **ours})
        except KafkaException as error:
            raise AccountImpossible(f"could not use the client's properties: {error.args[0].str()}") from None
        try:
            self._partitions = [part for name in topics.values() for part in self._parts(name, timeout)]
            self._consumer.assign(self._partitions)
        except BaseException:
            self._consumer.close()
            raise
        self._read_to: dict[tuple[str, int], int] = {}

    def everything(self, patience: float) -> Iterator[tuple[str, Message]]:
        """Give (role, record) for everything up to the ends that the topics have now.

        Raises:
            AccountImpossible: it took longer than `patience` seconds; a transaction may still be open.
        """
        ends, deadline = self.ends(), time.monotonic() + patience
        while behind := [part for part, end in ends.items() if self._read_to.get(part, 0) < end]:
            if time.monotonic() > deadline:
                topic, partition = behind[0]
                raise AccountImpossible(f"{topic} partition {partition} was not read to its end in {patience:.0f} s")
            yield from self.read(0.5)

    def read(self, timeout: float, most: int = 1000) -> list[tuple[str, Message]]:
        """Give what there is within `timeout` seconds, at most `most` records, each with its topic's role."""
        found = []
        first = self._consumer.poll(timeout)  # `consume` alone would wait out its time for `most` records
        for message in [first, *self._consumer.consume(most - 1, 0)] if first is not None else []:
            error = message.error()
            if error is not None and error.code() in _PASSING:
                continue
            if error is not None and error.code() != _END:
                hint = "; deploy/kafka/ACLS.md has what it needs" if "authorization" in error.str() else ""
                raise AccountImpossible(f"could not read {message.topic() or 'the topics'}: {error.str()}{hint}")
            # The last offset may be a transaction's marker, which is never given out: the end's own offset says so.
            part = str(message.topic()), int(message.partition() or 0)
            self._read_to[part] = int(message.offset() or 0) + (error is None)
            if error is None:
                found.append((self._roles[part[0]], message))
        return found

    def begins(self) -> dict[tuple[str, int], int]:
        """Role and partition to the first offset that is still there."""
        return {(self._roles[topic], part): at for (topic, part), at in self._offsets(OFFSET_BEGINNING).items()}

    def ends(self) -> dict[tuple[str, int], int]:
        """Topic and partition to the end of what is committed there."""
        return self._offsets(OFFSET_END)

    def _offsets(self, which: int) -> dict[tuple[str, int], int]:
        wanted = [TopicPartition(part.topic, part.partition, which) for part in self._partitions]
        try:
            found = self._consumer.offsets_for_times(wanted, timeout=20.0)  # one request, not one for each partition
        except KafkaException as error:
            raise AccountImpossible(f"could not ask where the topics begin and end: {error.args[0].str()}") from None
        for part in found:
            if part.error is not None:
                raise AccountImpossible(f"could not ask for the offsets of {part.topic}: {part.error.str()}")
        return {(part.topic, part.partition): part.offset for part in found}

    def lanes(self, topic: str) -> list[TopicPartition]:
        """The partitions of one of the topics."""
        return [TopicPartition(topic, part.partition) for part in self._partitions if part.topic == topic]

    def close(self) -> None:
        """Let go of the connection."""
        self._consumer.close()

    def _parts(self, name: str, timeout: float) -> list[TopicPartition]:
        try:
            topic = self._consumer.list_topics(name, timeout=timeout).topics[name]
        except KafkaException as error:
            raise AccountImpossible(
                f"could not ask for topic {name}: {error.args[0].str()}; are --bootstrap and --client-config right?"
            ) from None
        if topic.error is not None or not topic.partitions:
            raise AccountImpossible(f"there is no topic {name}; is it the right pipeline?")
        return [TopicPartition(name, number, OFFSET_BEGINNING) for number in topic.partitions]


def topics_of(pipeline: str, given: Mapping[str, str] | None = None) -> dict[str, str]:
    """The topics of a pipeline: those `given` by role, and for the others what they are called by default."""
    return {role: (given or {}).get(role, f"{pipeline}.{role}") for role in ROLES}


def account(
    connection: Mapping[str, Any], topics: Mapping[str, str], *, patience: float = 60.0, group: str | None = None
) -> Account:
    """Read everything that the topics hold now and count it.

    Args:
        connection: librdkafka properties.
        topics: role to topic name.
        patience: seconds to read everything.
        group: the consumer group that decides. Events beyond what it has committed are waiting, not missing; without
            a group, or where it has committed nothing, every event must have its first record.

    Raises:
        AccountImpossible: a topic is not there, or they were not read to their end within `patience` seconds.
    """
    ledger = Ledger(topics["events"])
    reader = Reader(connection, topics, min(patience, 20.0))
    try:
        # Before the ends are asked for: what is committed now has its first records before those ends.
        due = _committed(connection, group, reader.lanes(topics["events"])) if group else {}
        for (role, partition), offset in reader.begins().items():
            ledger.begins(role, partition, offset)
        for role, message in reader.everything(patience):
            ledger.take(role, message)
    finally:
        reader.close()
    return ledger.account(due)


def _committed(connection: Mapping[str, Any], group: str, lanes: list[TopicPartition]) -> dict[int, int]:
    """Partition to the offset that a group has committed, where it has. Joins no group."""
    ours = {"group.id": group, "enable.auto.commit": False, "isolation.level": "read_committed", "log_level": 0}
    consumer = Consumer({**connection, **ours})
    try:
        found = consumer.committed(lanes, timeout=20.0)
    except KafkaException as error:
        raise AccountImpossible(f"could not ask what group {group} has committed: {error.args[0].str()}") from None
    finally:
        consumer.close()
    if wrong := [part.error.str() for part in found if part.error is not None]:
        raise AccountImpossible(f"could not ask what group {group} has committed: {wrong[0]}")
    return {part.partition: part.offset for part in found if part.offset >= 0}


def as_json(found: Account) -> dict[str, Any]:
    """The account as it is printed."""
    return {name: getattr(found, name) for name in Account.__slots__}


def main(arguments: list[str] | None = None) -> int:
    """Print the account of a pipeline."""
    parser = argparse.ArgumentParser(prog="penstock account", description=main.__doc__)
    parser.add_argument("--bootstrap", required=True)
    parser.add_argument("--pipeline", required=True, help="the name in the pipeline file, such as claims")
    parser.add_argument("--patience", type=float, default=60.0, help="seconds to read everything")
    parser.add_argument("--group", help="its consumer group; by default the pipeline's name")
    options = parser.parse_args(arguments)
    connection, group = {"bootstrap.servers": options.bootstrap}, options.group or options.pipeline
    return report(connection, topics_of(options.pipeline), options.patience, group)


def report(connection: Mapping[str, Any], topics: Mapping[str, str], patience: float, group: str) -> int:
    """Print the account as JSON; status 0 where it is right, 1 where it is not, 2 where it cannot be made."""
    try:
        found = account(connection, topics, patience=patience, group=group)
    except AccountImpossible as problem:
        print(problem, file=sys.stderr)
        return 2
    print(json.dumps(as_json(found)))
    return 0 if found.right else 1


if __name__ == "__main__":
    sys.exit(main())
