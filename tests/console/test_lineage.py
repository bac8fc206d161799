"""OpenLineage events of a run: in their order, with counts and columns, and never in the way of the work."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections import Counter

import pytest

from console import lineage
from console.lineage import SlotRows, recorded
from dataflows.lineage import Column, Dataset, Work

EVENTS = Dataset("kafka://one:9092", "p.events", (Column("amount", "number"), Column("card", "string")))
WORK = Work(
    "p.features",
    "STREAMING",
    (EVENTS,),
    (
        Dataset(
            "kafka://one:9092",
            "p.features",
            (Column("own_spent", "number", (("amount", "AGGREGATION"), ("card", "GROUP_BY"), ("gone", "FILTER"))),),
        ),
    ),
)


@pytest.fixture(autouse=True)
def nobody_asks(monkeypatch):
    for name in [name for name in lineage.os.environ if name.startswith(lineage.PREFIX)]:
        monkeypatch.delenv(name)


@pytest.fixture
def file(monkeypatch, tmp_path):
    """What the library's file transport has written so far."""
    path = tmp_path / "events.jsonl"
    for name, value in {"TYPE": "file", "LOG_FILE_PATH": str(path), "APPEND": "true"}.items():
        monkeypatch.setenv(f"OPENLINEAGE__TRANSPORT__{name}", value)
    return lambda: [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def counted(events):
    """Rows that each event tells, of those that tell any."""
    facets = [event["inputs"][0].get("inputFacets", {}) for event in events]
    return [facet["inputStatistics"]["rowCount"] for facet in facets if "inputStatistics" in facet]


def test_nothing_is_made_where_nobody_asks():
    def never() -> Work:
        raise AssertionError

    with recorded(never) as run:
        run.failure = "no matter"

    assert "lineage" not in {thread.name for thread in threading.enumerate()}


def test_a_run_starts_tells_its_rows_and_completes(file, until):
    with recorded(lambda: WORK, every=0.05) as run:
        run.rows = iter(range(0, 10_000, 5)).__next__  # may come after START, and after a RUNNING where time is short
        until(lambda: len(counted(file())) >= 3, "three events with counts")
    events = file()

    assert [event["eventType"] for event in events[:3]] == ["START", "RUNNING", "RUNNING"]
    assert events[-1]["eventType"] == "COMPLETE"
    assert len({event["run"]["runId"] for event in events}) == 1
    assert {(event["job"]["namespace"], event["job"]["name"]) for event in events} == {("penstock", "p.features")}
    assert events[0]["job"]["facets"]["jobType"]["processingType"] == "STREAMING"
    assert [event["eventTime"] for event in events] == sorted(event["eventTime"] for event in events)
    assert counted(events) == list(range(0, 5 * len(counted(events)), 5))


def test_an_event_names_topics_columns_and_where_they_come_from(file):
    with recorded(lambda: WORK):
        pass
    [given], [made] = file()[0]["inputs"], file()[0]["outputs"]

    assert (given["namespace"], given["name"]) == ("kafka://one:9092", "p.events")
    assert [(field["name"], field["type"]) for field in given["facets"]["schema"]["fields"]] == [
        ("amount", "number"),
        ("card", "string"),
    ]
    assert [field["name"] for field in made["facets"]["schema"]["fields"]] == ["own_spent"]
    origins = made["facets"]["columnLineage"]["fields"]["own_spent"]["inputFields"]
    assert [(each["name"], each["field"], each["transformations"][0]["type"]) for each in origins] == [
        ("p.events", "amount", "DIRECT"),
        ("p.events", "card", "INDIRECT"),
    ]
    assert all(facet["_schemaURL"].startswith("https://openlineage.io/spec/") for facet in made["facets"].values())


def test_a_run_that_fails_says_why(file):
    with recorded(lambda: WORK) as run:
        run.failure = "the slots ended with status 1"
    with pytest.raises(KeyError), recorded(lambda: WORK):
        raise KeyError("a value that must not be told")
    ends = [event for event in file() if event["eventType"] == "FAIL"]

    assert [end["run"]["facets"]["errorMessage"]["message"] for end in ends] == [
        "the slots ended with status 1",
        "KeyError",
    ]
    assert len({event["run"]["runId"] for event in file()}) == 2


def ask(monkeypatch, port):
    for name, value in {"TYPE": "http", "URL": f"http://127.0.0.1:{port}", "RETRY__TOTAL": "0"}.items():
        monkeypatch.setenv(f"OPENLINEAGE__TRANSPORT__{name}", value)


def test_a_catalog_that_hangs_or_a_setting_that_is_wrong_does_not_hold_the_work_up(monkeypatch, caplog):
    monkeypatch.setattr(lineage, "PATIENCE", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts, and never answers
        ask(monkeypatch, silent.getsockname()[1])
        began = time.monotonic()
        with recorded(lambda: WORK):
            pass
        assert time.monotonic() - began < 1.0
        assert "was not taken" in caplog.text
    monkeypatch.setattr(lineage, "PATIENCE", 10.0)
    monkeypatch.setenv("OPENLINEAGE__TRANSPORT__TYPE", "nonsense")
    with recorded(lambda: WORK):
        pass
    assert "settings cannot be used" in caplog.text


def test_a_catalog_that_is_away_is_said_once(monkeypatch, caplog, until):
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    ask(monkeypatch, port)
    asked: list[int] = []
    with recorded(lambda: WORK, every=0.02) as run:
        run.rows = lambda: asked.append(0)
        until(lambda: len(asked) > 3, "some events")

    by_run = Counter(record.thread for record in caplog.records if "could not be sent" in record.message)
    assert set(by_run.values()) == {1}, "one that an earlier test began may still be at it"


def test_rows_go_on_counting_when_a_slot_is_started_again():
    pages = iter([{"0": 5, "1": 7}, {"0": 9}, {"0": 2, "1": 8}])
    rows = SlotRows(
        lambda: "".join(f'penstock_batch_events_sum{{slot="{n}"}} {v}.0\n' for n, v in next(pages).items()).encode()
    )

    assert [rows(), rows(), rows()] == [12, 16, 19]
