"""The engine on a cluster with TLS, SCRAM and access rules: `deploy/kafka/ACLS.md` grants what it needs and no more."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from confluent_kafka.admin import AclBinding, AclOperation, AclPermissionType, ResourcePatternType, ResourceType

from console.cluster import ClusterUnfit, check_cluster
from console.kafka_cluster import KafkaCluster
from dataflows.pipeline import Pipeline
from dataflows.settings import Settings
from tests.integration.launched import committed, firsts, launched, send, small_on, wait

READ, WRITE = AclOperation.READ, AclOperation.WRITE
TOPIC, GROUP, TRANSACTIONAL_ID = ResourceType.TOPIC, ResourceType.GROUP, ResourceType.TRANSACTIONAL_ID
OUTPUTS = ("decisions", "reviews", "rejected", "quarantine", "duplicates")


@dataclass
class Office:
    """A pipeline on the secured cluster, its users, and the rules of the engine, as the document has them."""

    cluster: KafkaCluster
    file: Path
    pipeline: Pipeline

    def __post_init__(self) -> None:
        self.engine, self.producer, self.reader = (f"{self.group}-{who}" for who in ("engine", "producer", "reader"))
        self.cluster.add_users([self.engine, self.producer, self.reader])
        topics = [("events", READ), *((role, WRITE) for role in OUTPUTS)]
        topics += [(role, does) for role in ("state", "registry", "admissions") for does in (READ, WRITE)]
        self.rules = [self.rule(self.engine, TOPIC, self.pipeline.topic(role), does) for role, does in topics]
        self.rules.append(self.rule(self.engine, GROUP, self.group, READ))
        self.transactional = self.rule(
            self.engine, TRANSACTIONAL_ID, f"{self.group}-", WRITE, ResourcePatternType.PREFIXED
        )
        others = [self.rule(self.producer, TOPIC, self.pipeline.topic("events"), WRITE)]
        others += [self.rule(self.reader, TOPIC, self.pipeline.topic(role), READ) for role in OUTPUTS]
        others.append(self.rule(self.reader, GROUP, "reader", READ))
        self.cluster.allow([*self.rules, self.transactional, *others])

    @property
    def group(self) -> str:
        return self.pipeline.pipeline

    @staticmethod
    def rule(
        user: str,
        kind: ResourceType,
        name: str,
        does: AclOperation,
        pattern: ResourcePatternType = ResourcePatternType.LITERAL,
    ) -> AclBinding:
        return AclBinding(kind, name, pattern, f"User:{user}", "*", does, AclPermissionType.ALLOW)

    def client(self, user: str) -> dict[str, str]:
        assert self.cluster.security is not None
        return {**self.cluster.security.client_properties(user), "bootstrap.servers": self.cluster.bootstrap}

    def config(self, user: str) -> str:
        assert self.cluster.security is not None
        return str(self.cluster.security.client_file(user))

    def said_by_check(self) -> str:
        settings = Settings(file=self.file, bootstrap=self.cluster.bootstrap, client_config=self.config(self.engine))
        try:
            return "\n".join(check_cluster(settings, self.pipeline))
        except ClusterUnfit as unfit:
            return str(unfit)


@pytest.fixture
def office(secured: KafkaCluster, unique: Callable[[str], str], tmp_path: Path) -> Iterator[Office]:
    file, pipeline = small_on(secured, unique("office"), tmp_path)
    office = Office(secured, file, pipeline)
    yield office
    secured.forbid([*office.rules, office.transactional])


def test_each_rule_that_is_missing_is_named(office: Office, until: Callable[..., None]) -> None:
    """Resource and operation, before a slot starts: all of them are taken away, and given back one by one."""
    lines = [
        f"refuse {rule.operation.name} on {rule.restype.name.lower()} {rule.name} to the user" for rule in office.rules
    ]
    office.cluster.forbid(office.rules)
    until(lambda: office.said_by_check().count("refuse ") == len(lines), "every broker to have forgotten the rules")
    for n, rule in enumerate(office.rules):
        said = office.said_by_check()
        assert [line in said for line in lines] == [m >= n for m in range(len(lines))]
        office.cluster.allow([rule])
        left = len(lines) - n - 1
        until(lambda left=left: office.said_by_check().count("refuse ") == left, f"{rule} to count")

    assert "its settings could not be read, so they were not checked" in office.said_by_check(), "a warning, no more"


@pytest.mark.timeout(180)
def test_the_rules_are_enough_and_a_slot_that_meets_a_refusal_goes_on_once_it_is_lifted(
    office: Office, tmp_path: Path
) -> None:
    """First without the right to transactional ids, which no check can see; then a rule is taken away under load."""
    decisions = next(rule for rule in office.rules if rule.name == office.pipeline.topic("decisions"))
    office.cluster.forbid([office.transactional])
    config = office.config(office.engine)
    with launched(office.file, office.cluster.bootstrap, tmp_path, slots=2, CLIENT_CONFIG=config) as run:
        line = f"refuse WRITE on transactional id {office.group}-"
        wait(lambda: run.said().count(line) >= 2, 60, run, f"to say that Kafka's rules {line}")
        office.cluster.allow([office.transactional])
        run.until_ready()
        send(office.client(office.producer), office.pipeline, 2000)
        wait(lambda: sum(upto(office).values()) >= 500, 60, run, "to decide the first events")

        office.cluster.forbid([decisions])
        line = f"refuse WRITE on topic {decisions.name} to the user"
        send(office.client(office.producer), office.pipeline, 1000, first=2000)
        wait(lambda: "penstock_standing_by{" in run.page("/metrics"), 60, run, "to stand by")
        office.cluster.allow([decisions])
        wait(lambda: sum(upto(office).values()) >= 3000, 90, run, "to go on by itself")

        assert "standing by: Kafka's access rules " + line in run.said()
        assert office.client(office.engine)["sasl.password"] not in run.said()
    origins = firsts(office.client(office.reader), office.pipeline)

    assert origins == {(lane, offset): 1 for lane, end in upto(office).items() for offset in range(end)}
    assert len(origins) == 3000


def upto(office: Office) -> dict[int, int]:
    return committed(office.cluster.connection, office.pipeline)
