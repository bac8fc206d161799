from pathlib import Path

import pytest

from console.check import examine
from console.topic_check import _judge, check_topics
from console.topics import Topic, create_topics, topics_of
from dataflows.jobs import OUTPUTS
from dataflows.pipeline import loads

CLAIMS = Path("deploy/pipelines/claims/pipeline.yaml").read_text(encoding="utf-8")
EVENTS = Topic(3, {"message.timestamp.type": "LogAppendTime"})
REGISTRY = Topic(1, {"message.timestamp.type": "LogAppendTime", "cleanup.policy": "delete", "retention.ms": "-1"})
COMPACT = {"cleanup.policy": "compact"}
BROKER_TIME = {"message.timestamp.type": "LogAppendTime"}


@pytest.fixture
def pipeline(unique):
    own = unique("t")
    return loads(CLAIMS.replace("pipeline: claims", f"pipeline: {own.replace('-', '_')}")
                 + f"\ntopics: {{ registry: {own}.registry, admissions: {own}.admissions }}\n")  # fmt: skip


def topics(pipeline, **changed):
    plan = {"events": EVENTS} | {role: Topic(3, COMPACT if role == "state" else {}) for role in (*OUTPUTS, "state")}
    plan |= {"registry": REGISTRY, "admissions": Topic(1, COMPACT | BROKER_TIME)} | changed
    return {pipeline.topic(role): topic for role, topic in plan.items() if topic is not None}


def test_topics_as_they_should_be_give_no_note(kafka, pipeline):
    create_topics(kafka.bootstrap, topics(pipeline))

    assert check_topics(pipeline, {"bootstrap.servers": kafka.bootstrap}) == []


def test_what_would_break_the_promise_is_severe_and_the_rest_a_warning(kafka, pipeline):
    by_producer = {"message.timestamp.type": "CreateTime"}
    wrong = {"decisions": Topic(2), "state": Topic(3), "quarantine": None}
    wrong |= {"registry": Topic(1, REGISTRY.config | by_producer), "admissions": Topic(1, COMPACT | by_producer)}
    create_topics(kafka.bootstrap, topics(pipeline, events=Topic(3, by_producer), **wrong))

    notes = check_topics(pipeline, {"bootstrap.servers": kafka.bootstrap})

    severe = {note.topic.rpartition(".")[2] for note in notes if note.severe}
    assert severe == {"decisions", "state", "registry", "admissions", "quarantine"}
    assert {note.topic.rpartition(".")[2] for note in notes if not note.severe} == {"events"}


def test_the_report_includes_the_topics(kafka, tmp_path):
    (tmp_path / "pipeline.yaml").write_text(CLAIMS.replace("pipeline: claims", "pipeline: nowhere"))

    report = examine(tmp_path / "pipeline.yaml", kafka.bootstrap)

    assert not report.is_right
    assert "nowhere.events" in {note.topic for note in report.topics}


@pytest.mark.parametrize(
    "role, severe", [("events", [False]), ("registry", [True]), ("admissions", [True]), ("state", [])]
)
def test_what_goes_by_the_brokers_time_must_have_it(role, severe):
    settings = dict(topics_of(loads(CLAIMS), 3)[loads(CLAIMS).topic(role)].config)
    assert _judge(role, role, settings) == []

    notes = _judge(role, role, settings | {"message.timestamp.type": "CreateTime"})

    assert [note.severe for note in notes] == severe
