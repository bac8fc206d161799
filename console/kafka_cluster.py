"""Several Apache Kafka brokers (KRaft) as child processes: replication, leaders that move, users, access rules.

Every broker is a controller too, so with three of them any one may be killed or frozen and the two others go on.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from console.kafka_jars import find_jars, find_java
from console.kafka_security import ADMIN, Security, users_of
from console.kafka_server import KafkaServer, Place
from console.parts import PartFailed, quiet
from console.ports import free_port
from console.topics import Topic, create_topics

if TYPE_CHECKING:
    from confluent_kafka.admin import AclBinding, AdminClient, PartitionMetadata

REPLICAS = 3
_CALL_SECONDS = 10.0


def _settings(brokers: int) -> dict[str, str]:
    replicas, in_sync = min(REPLICAS, brokers), max(1, min(REPLICAS, brokers) - 1)
    return {
        "default.replication.factor": str(replicas),
        "min.insync.replicas": str(in_sync),
        "offsets.topic.replication.factor": str(replicas),
        "transaction.state.log.replication.factor": str(replicas),
        "transaction.state.log.min.isr": str(in_sync),
        "share.coordinator.state.topic.replication.factor": str(replicas),
        "share.coordinator.state.topic.min.isr": str(in_sync),
    }


class KafkaCluster:
    """Brokers on the loopback interface, each in its own process: `cluster[2].kill()`, `.pause()`, `.start()`.

    Data stay in `folder` between `start`s. Use it as a context manager. It ends with this process.
    """

    kind = "kafka"
    guarantee = "exactly_once"

    def __init__(
        self,
        folder: Path,
        *,
        brokers: int = 3,
        first_port: int = 0,
        settings: Mapping[str, str] | None = None,
        heap_mb: int = 256,
        steady: bool = False,
        progress: Callable[[str], None] = quiet,
        security: Security | None = None,
    ) -> None:
        """Prepare; nothing runs before `start`.

        Args:
            folder: where data, logs, certificates and client files go.
            brokers: how many; their numbers are 1, 2, and so on.
            first_port: of the first broker, the others have the next ones; 0 takes free ports.
            settings: more settings of the brokers, by Kafka's names.
            heap_mb: MiB of Java heap for each broker.
            steady: compile as thoroughly as in production, for brokers that live longer than a minute.
            progress: told in a few words what is being done when it takes seconds.
            security: how clients prove who they are; without it nobody has to.
        """
        self.folder, self.security, self._progress = folder.resolve(), security, progress
        if security is not None:
            security.prepare()
        controllers, cluster = {node: free_port() for node in range(1, brokers + 1)}, Place().cluster
        self.brokers = {
            node: KafkaServer(
                self.folder / f"broker-{node}",
                port=first_port + node - 1 if first_port else 0,
                settings={**_settings(brokers), **(settings or {})},
                heap_mb=heap_mb,
                steady=steady,
                place=Place(node, controllers, cluster),
                security=security,
            )
            for node in controllers
        }
        self._admin: AdminClient | None = None

    def __getitem__(self, node: int) -> KafkaServer:
        return self.brokers[node]

    @property
    def bootstrap(self) -> str:
        """The addresses for clients."""
        return ",".join(broker.bootstrap for broker in self.brokers.values())

    @property
    def running(self) -> bool:
        """Whether all of them run."""
        return all(broker.running for broker in self.brokers.values())

    @property
    def connection(self) -> dict[str, str]:
        """Properties of a client that may do everything, as the brokers among themselves."""
        each = [broker.admin for broker in self.brokers.values()]
        return {**each[0], "bootstrap.servers": ",".join(admin["bootstrap.servers"] for admin in each)}

    def start(self, timeout: float = 60.0) -> Self:
        """Start those that do not run, and wait until all answer.

        Raises:
            PartMissing, PartFailed: as `KafkaServer.start`.
        """
        self._progress(f"starting {len(self.brokers)} brokers of Apache Kafka")
        find_jars(self._progress)
        try:
            with ThreadPoolExecutor(len(self.brokers)) as pool:  # formatting takes each a second
                list(pool.map(KafkaServer.launch, self.brokers.values()))
            for broker in self.brokers.values():
                broker.wait(timeout)
            if self.security is not None and self.security.sasl:
                self.add_users([ADMIN])
        except BaseException:
            self.kill()
            raise
        return self

    def stop(self) -> None:
        """End all: one in order; the last ones could not, since their shutdown waits for a majority of controllers."""
        self[1].stop()
        self.kill()

    def kill(self) -> None:
        """End all with SIGKILL."""
        for broker in self.brokers.values():
            broker.kill()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def create_topics(self, topics: Mapping[str, Topic], timeout: float = 30.0) -> None:
        """Create topics; those that ask for one copy get as many as the cluster has by default."""
        replicas = min(REPLICAS, len(self.brokers))
        wanted = {name: Topic(t.partitions, t.config, max(t.replicas, replicas)) for name, t in topics.items()}
        create_topics(self.connection["bootstrap.servers"], wanted, timeout, self.connection)

    def add_users(self, names: Iterable[str]) -> None:
        """Let users in, with the passwords of their client files."""
        assert self.security is not None  # noqa: S101 -- a cluster without security has no users
        passwords = {name: self.security.client_properties(name)["sasl.password"] for name in names}
        for answer in self.admin.alter_user_scram_credentials(users_of(passwords)).values():
            answer.result(_CALL_SECONDS)
        waiting = set(passwords)
        deadline = time.monotonic() + _CALL_SECONDS
        while waiting:  # each broker learns of it by itself
            waiting = {name for name in waiting if not self._lets_in(name)}
            if waiting and time.monotonic() > deadline:
                raise PartFailed(f"Kafka does not let {sorted(waiting)} in {_CALL_SECONDS:.0f} s after it was told to")

    def allow(self, rules: Iterable[AclBinding]) -> None:
        """Add access rules."""
        for answer in self.admin.create_acls(list(rules), request_timeout=_CALL_SECONDS).values():
            answer.result(_CALL_SECONDS)

    def forbid(self, rules: Iterable[AclBinding]) -> None:
        """Take access rules away again."""
        from confluent_kafka.admin import AclBindingFilter

        filters = [
            AclBindingFilter(
                r.restype, r.name, r.resource_pattern_type, r.principal, r.host, r.operation, r.permission_type
            )
            for r in rules
        ]
        for answer in self.admin.delete_acls(filters, request_timeout=_CALL_SECONDS).values():
            answer.result(_CALL_SECONDS)

    @property
    def admin(self) -> AdminClient:
        """A client that may do everything."""
        from confluent_kafka.admin import AdminClient

        self._admin = self._admin or AdminClient({**self.connection, "log_level": 0})
        return self._admin

    def leader(self, topic: str, partition: int) -> int:
        """The broker that leads a partition now; negative where none does."""
        return int(self._partition(topic, partition).leader)

    def group_coordinator(self, group: str) -> int:
        """The broker that keeps a group's members and offsets."""
        return self._keeper("__consumer_offsets", group)

    def transaction_coordinator(self, transactional_id: str) -> int:
        """The broker that decides an id's transactions."""
        return self._keeper("__transaction_state", transactional_id)

    def move_leader(self, topic: str, partition: int, node: int, timeout: float = 20.0) -> None:
        """Make a broker lead a partition that it has a copy of, as an administrator does: it becomes the preferred one.

        Raises:
            PartFailed: it does not lead within `timeout` seconds.
        """
        from confluent_kafka import ElectionType, TopicPartition

        found = self._partition(topic, partition)
        replicas = [node, *(other for other in found.replicas if other != node)]
        said = self._reassign(topic, partition, replicas)
        deadline = time.monotonic() + timeout
        while self.leader(topic, partition) != node:
            if time.monotonic() > deadline:
                raise PartFailed(f"broker {node} does not lead {topic} {partition} after {timeout:.0f} s:\n{said}")
            answer = self.admin.elect_leaders(ElectionType.PREFERRED, [TopicPartition(topic, partition)])
            answer.result(_CALL_SECONDS)

    def wait_until_in_sync(self, timeout: float = 30.0) -> None:
        """Wait until every copy of every partition is up to date.

        Raises:
            PartFailed: one is not within `timeout` seconds.
        """
        deadline = time.monotonic() + timeout
        while behind := self._behind():
            if time.monotonic() > deadline:
                raise PartFailed(f"copies of {behind[:5]} are behind after {timeout:.0f} s")
            time.sleep(0.05)

    def _partition(self, topic: str, partition: int) -> PartitionMetadata:
        """What a broker says of a partition; one that has not heard of a new topic yet is asked again."""
        deadline = time.monotonic() + _CALL_SECONDS
        while True:
            found = self.admin.list_topics(topic, timeout=_CALL_SECONDS).topics[topic].partitions
            if partition in found:
                return found[partition]
            if time.monotonic() > deadline:
                raise PartFailed(f"no broker knows partition {partition} of {topic} after {_CALL_SECONDS:.0f} s")
            time.sleep(0.05)

    def _behind(self) -> list[str]:
        topics = self.admin.list_topics(timeout=_CALL_SECONDS).topics
        parts = [(name, number, part) for name, topic in topics.items() for number, part in topic.partitions.items()]
        return [f"{name} {number}" for name, number, part in parts if len(part.isrs) < len(part.replicas)]

    def _keeper(self, topic: str, name: str) -> int:
        partitions = len(self.admin.list_topics(topic, timeout=_CALL_SECONDS).topics[topic].partitions)
        return self.leader(topic, abs(_java_hash(name)) % partitions)

    def _lets_in(self, user: str) -> bool:
        from confluent_kafka import KafkaException
        from confluent_kafka.admin import AdminClient

        assert self.security is not None  # noqa: S101 -- as above
        for broker in self.brokers.values():
            client: dict[str, Any] = {**self.security.client_properties(user), "log_level": 0}
            try:
                AdminClient({**client, "bootstrap.servers": broker.bootstrap}).list_topics(timeout=1.0)
            except KafkaException:
                return False
        return True

    def _reassign(self, topic: str, partition: int, replicas: list[int]) -> str:
        """By Kafka's own tool, the client has no such request."""
        plan = self.folder / "reassign.json"
        part = {"topic": topic, "partition": partition, "replicas": replicas}
        plan.write_text(json.dumps({"version": 1, "partitions": [part]}))
        tool = [find_java()[0], "-XX:TieredStopAtLevel=1", "-cp", f"{find_jars()}/*"]
        order = [*tool, "org.apache.kafka.tools.reassign.ReassignPartitionsCommand", "--execute"]
        order += ["--bootstrap-server", self.connection["bootstrap.servers"], "--reassignment-json-file", str(plan)]
        if self.security is not None:
            order += ["--command-config", str(self.security.node_file())]
        told = subprocess.run(order, capture_output=True, text=True, timeout=60, check=False)
        if told.returncode != 0:
            raise PartFailed(f"Kafka could not reassign {topic} {partition}:\n{(told.stdout + told.stderr)[-2000:]}")
        return told.stdout + told.stderr


def _java_hash(text: str) -> int:
    """Java's `String.hashCode`, by which Kafka chooses the partition that keeps a group or a transactional id."""
    value = 0
    for unit in memoryview(text.encode("utf-16-le")).cast("H"):
        value = (31 * value + unit) & 0xFFFFFFFF
    return value - (value >> 31 << 32)
