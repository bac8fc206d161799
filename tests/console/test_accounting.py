"""The account: one first record for each event, counted from the topics, and nothing of the engine in it."""

import ast
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import typer
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from typer.testing import CliRunner

from console import accounting, ledger
from console.account import account
from console.accounting import AccountImpossible
from console.ledger import Ledger

ENGINE = ("operators", "dataflows", "state", "models", "console")


def penstock(*arguments):
    app = typer.Typer()
    app.command()(account)
    return CliRunner().invoke(app, arguments)


def first(role, partition, offset, topic="claims.events", revision=0, **more):
    kind = {"decisions": "decision", "rejected": "rejection", "quarantine": "quarantine", "duplicates": "duplicate"}
    origin = {"topic": topic, "partition": partition, "offset": offset}
    return json.dumps({"v": 1, "kind": kind[role], "origin": origin, "revision": revision, **more}).encode()


def ledger_of(events, records):
    book = Ledger("claims.events")
    for partition, offset in events:
        book.event(partition, offset)
    for role, value in records:
        book.record(role, value)
    return book


def test_account_counts_each_kind_of_first_record():
    by_release, fallen_back = ({"m": {"score": 1.0, "release": release}} for release in ("7", None))
    found = ledger_of(
        [(0, 0), (0, 1), (0, 5), (1, 0), (1, 2)],
        [
            ("decisions", first("decisions", 0, 0, outcome="approve", scores=by_release, degraded=[])),
            ("decisions", first("decisions", 0, 1, outcome="review", scores=fallen_back, degraded=["model:m:error"])),
            ("reviews", b"whatever"),
            ("rejected", first("rejected", 0, 5, reason="invalid_json")),
            ("quarantine", first("quarantine", 1, 0)),
            ("duplicates", first("duplicates", 1, 2)),
        ],
    ).account()

    assert found.right
    assert accounting.as_json(found) == {
        "read": 5,
        "decisions": 2,
        "outcomes": {"approve": 1, "review": 1},
        "reviews": 1,
        "quarantined": 1,
        "rejected": {"invalid_json": 1},
        "duplicates": 1,
        "degraded": 1,
        "releases": {"m": {"7": 1, "fallback": 1}},
        "unaccounted": 0,
        "missing": (),
        "repeated": (),
        "strange": 0,
        "waiting": 0,
        "revisions": 0,
        "repeated_revisions": 0,
        "past": 0,
    }


def test_account_names_what_is_missing_and_what_came_twice():
    found = ledger_of(
        [(0, 7), (0, 8), (3, 2)],
        [("decisions", first("decisions", 0, 8)), ("rejected", first("rejected", 0, 8, reason="empty"))],
    ).account()

    assert found.unaccounted == 3
    assert found.missing == ("claims.events-0-7", "claims.events-3-2")
    assert found.repeated == ("claims.events-0-8",)
    assert not found.right


def test_what_is_beyond_the_committed_offset_waits_and_what_is_before_it_is_missing():
    book = ledger_of([(0, 7), (0, 8), (0, 9), (3, 2)], [("decisions", first("decisions", 0, 9))])

    found = book.account({0: 8})

    assert found.missing == ("claims.events-0-7",)
    assert (found.unaccounted, found.waiting) == (1, 2)
    assert book.account({0: 7}).right
    assert book.account({}).unaccounted == 3, "a group that has committed nothing excuses nothing"


def test_what_retention_has_deleted_is_neither_missing_nor_strange():
    """Of lane 0 the events before 10**12 are gone; of lane 1 the decisions about the events before 5."""
    begin, book = 10**12, Ledger("claims.events")
    book.begins("events", 0, begin)
    book.begins("decisions", 1, 7)
    for partition, offset in [(0, begin), (1, 3), (1, 4), (1, 5), (1, 6)]:
        book.event(partition, offset)
    for partition, offset in [(0, begin - 1), (0, begin), (1, 5)]:
        book.record("decisions", first("decisions", partition, offset))

    assert book.account().past == 3
    assert book.account().missing == ("claims.events-1-6",)
    assert book.account().strange == 0, "and it takes no memory for what is gone"


def test_order_of_reading_does_not_matter():
    record = ("decisions", first("decisions", 0, 3, outcome="approve"))
    before, after = Ledger("claims.events"), Ledger("claims.events")
    before.record(*record)
    before.event(0, 3)
    after.event(0, 3)
    after.record(*record)

    assert before.account() == after.account()
    assert before.waiting == after.waiting == 0


def test_waiting_counts_down_to_nothing_and_knows_repeats():
    book = ledger_of([(0, 0), (0, 1)], [])
    assert book.waiting == 2

    book.record("decisions", first("decisions", 0, 0))
    book.record("decisions", first("decisions", 0, 0))
    assert (book.waiting, book.repeated) == (1, 1)


def test_later_revisions_are_no_first_records():
    found = ledger_of([(0, 0)], [("decisions", first("decisions", 0, 0, revision=1))]).account()

    assert found.missing == ("claims.events-0-0",)
    assert (found.decisions, found.revisions) == (0, 1)


def test_revisions_are_counted_apart_and_none_may_come_twice():
    records = [
        ("rejected", first("rejected", 0, 0, reason="empty")),
        ("decisions", first("decisions", 0, 0, revision=1, outcome="review")),
        ("reviews", first("decisions", 0, 0, revision=1, outcome="review")),
        ("decisions", first("decisions", 0, 0, revision=2, outcome="approve")),
    ]
    book = ledger_of([(0, 0)], records)
    found = book.account()

    assert found.right
    assert (found.decisions, found.reviews, found.outcomes, found.rejected) == (0, 0, {}, {"empty": 1})
    assert (found.revisions, found.repeated_revisions) == (2, 0)

    book.record(*records[1])
    assert book.account().repeated_revisions == 1
    assert not book.account().right


@pytest.mark.parametrize(
    "value",
    [
        b"",
        None,
        b"not json",
        b"[]",
        first("decisions", 9, 9),
        first("decisions", 0, 0, topic="other.events"),
        first("decisions", 0, 1 << 50),
        first("decisions", -1, 0),
    ],
)
def test_records_without_an_event_are_strange(value):
    found = ledger_of([], [("decisions", value)]).account()

    assert found.strange == 1
    assert not found.right


@pytest.mark.parametrize("module", [accounting, ledger])
def test_the_engine_has_no_part_in_it(module):
    tree = ast.parse(Path(module.__file__).read_text())
    imported = {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    imported |= {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}

    assert not [m for m in imported - {"console.ledger"} if m.split(".")[0] in ENGINE]


@pytest.fixture(scope="module")
def mock(tmp_path_factory):
    from console.embedded import MockKafka

    with MockKafka(tmp_path_factory.mktemp("mock")) as kafka:
        yield kafka


def write(bootstrap, pipeline, leave_out=None, given=None):
    """Twenty events and their decisions, without the decision about one of them."""
    from confluent_kafka import Producer

    producer = Producer({"bootstrap.servers": bootstrap, "log_level": 0})
    topics = accounting.topics_of(pipeline, given)
    for name in topics.values():
        producer.list_topics(name, timeout=10)
    for i in range(20):
        producer.produce(topics["events"], b"{}", partition=i % 4)
        if i != leave_out:
            value = first("decisions", i % 4, i // 4, topic=topics["events"], outcome="approve")
            producer.produce(topics["decisions"], value, partition=i % 4)
    assert producer.flush(10) == 0


@pytest.mark.parametrize("leave_out, status, unaccounted", [(None, 0, 0), (13, 1, 1)])
def test_command_fails_when_one_output_record_is_removed(mock, capsys, leave_out, status, unaccounted):
    pipeline = f"p{leave_out or 0}"
    write(mock.bootstrap, pipeline, leave_out)

    assert accounting.main(["--bootstrap", mock.bootstrap, "--pipeline", pipeline]) == status
    found = json.loads(capsys.readouterr().out)
    assert found["read"] == 20
    assert found["decisions"] == 20 - unaccounted
    assert found["unaccounted"] == unaccounted
    assert found["missing"] == ([f"{pipeline}.events-1-3"] if unaccounted else [])


@pytest.mark.parametrize("committed, status, waiting", [(3, 0, 1), (4, 1, 0)])
def test_command_asks_what_the_group_has_committed(mock, capsys, committed, status, waiting):
    pipeline = f"w{committed}"
    write(mock.bootstrap, pipeline, leave_out=13)
    consumer = Consumer({"bootstrap.servers": mock.bootstrap, "group.id": "g", "log_level": 0})
    ends = [TopicPartition(f"{pipeline}.events", lane, committed if lane == 1 else 5) for lane in range(4)]
    consumer.commit(offsets=ends, asynchronous=False)
    consumer.close()

    whose = ["--bootstrap", mock.bootstrap, "--pipeline", pipeline, "--group", "g"]
    assert accounting.main(whose) == status
    found = json.loads(capsys.readouterr().out)
    assert (found["waiting"], found["unaccounted"]) == (waiting, 1 - waiting)


@pytest.mark.parametrize("by_file", [True, False])
def test_penstock_account_takes_the_file_with_its_topics_or_the_name(mock, tmp_path, by_file):
    given = {"events": "claims-in"} if by_file else None
    name = f"f{by_file:d}"
    write(mock.bootstrap, name, given=given)
    (tmp_path / "pipeline.yaml").write_text(f"pipeline: {name}\ntopics: {{ events: claims-in }}\n")
    (tmp_path / "client").write_text("client.id=auditor\n")
    whose = [str(tmp_path / "pipeline.yaml")] if by_file else ["--pipeline", name]
    result = penstock(*whose, "--bootstrap", mock.bootstrap, "--client-config", str(tmp_path / "client"))

    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["decisions"] == 20


@pytest.mark.parametrize(
    "config, file, says",
    [
        ("client.id", "pipeline: p", "client:1: expected name=value"),
        ("no.such.property=1", "pipeline: p", "could not use the client's properties"),
        ("", "pipeline: [", "does not name a pipeline"),
        ("", None, "could not read"),
    ],
)
def test_penstock_account_says_what_it_cannot_use(tmp_path, config, file, says):
    (tmp_path / "client").write_text(config)
    if file is not None:
        (tmp_path / "p.yaml").write_text(file)
    result = penstock(
        str(tmp_path / "p.yaml"), "--bootstrap", "127.0.0.1:1", "--client-config", str(tmp_path / "client")
    )

    assert result.exit_code == 2
    assert says in result.output.replace("\n", "")


def test_penstock_account_wants_a_file_or_a_name():
    assert penstock("--bootstrap", "127.0.0.1:1").exit_code == 2


def test_command_says_when_no_broker_answers(capsys):
    assert accounting.main(["--bootstrap", "127.0.0.1:1", "--pipeline", "claims", "--patience", "1"]) == 2

    assert "claims.events" in capsys.readouterr().err


def test_reading_to_the_end_gives_up_after_its_patience(mock):
    write(mock.bootstrap, "late")
    reader = accounting.Reader({"bootstrap.servers": mock.bootstrap}, accounting.topics_of("late"))
    reader.ends = lambda: {("late.events", 0): 99}

    with pytest.raises(AccountImpossible, match=r"late\.events partition 0"):
        list(reader.everything(0.6))
    reader.close()


def test_a_broker_that_hangs_in_the_middle_is_said(mock, monkeypatch):
    write(mock.bootstrap, "hangs")
    reader = accounting.Reader({"bootstrap.servers": mock.bootstrap}, accounting.topics_of("hangs"))
    consumer = reader._consumer

    def times_out(*_, **__):
        raise KafkaException(KafkaError(KafkaError._TIMED_OUT))

    monkeypatch.setattr(reader, "_consumer", SimpleNamespace(offsets_for_times=times_out))
    with pytest.raises(AccountImpossible, match="could not ask where the topics begin and end"):
        reader.ends()
    consumer.close()


def test_an_access_rule_that_is_missing_is_said(mock, monkeypatch):
    """The client looks for the coordinator of its own group, and an error about that names no topic."""
    write(mock.bootstrap, "refused")
    reader = accounting.Reader({"bootstrap.servers": mock.bootstrap}, accounting.topics_of("refused"))
    consumer, error = reader._consumer, SimpleNamespace(code=lambda: 30, str=lambda: "Group authorization failed.")
    refusal = SimpleNamespace(error=lambda: error, topic=lambda: None)
    monkeypatch.setattr(reader, "_consumer", SimpleNamespace(poll=lambda _: refusal, consume=lambda *_: []))
    with pytest.raises(AccountImpossible, match=r"could not read the topics: Group authorization failed.*ACLS\.md"):
        reader.read(0.1)
    consumer.close()
