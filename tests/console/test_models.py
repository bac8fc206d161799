"""`penstock models` against a real broker, with slots that follow the registry."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

from console import models
from console.kafka_server import KafkaServer
from console.topics import Topic
from dataflows.pipeline import Pipeline, load
from dataflows.places import places_of
from models.artefacts import ArtefactStore
from models.catalog import Catalog
from operators.registry_follower import RegistryFollower, RegistryTopics
from tests.models import onnx_files

PIPELINE = """
pipeline: claims
contract:
  version: 1
  format: json
  event_id: claim_id
  entity: holder
  event_time: at
  fields:
    claim_id: {{ type: string, max_length: 40 }}
    holder: {{ type: string, max_length: 40 }}
    at: {{ type: datetime }}
    a: {{ type: number }}
    b: {{ type: number }}
models:
  severity:
    inputs: [a, b]
policy:
  version: "1"
  outcomes: [approve, review]
  default: approve
  on_unknown: review
topics:
  registry: {registry}
  admissions: {admissions}
activation_delay: 300ms
"""


class Desk:
    """A pipeline file, a place for artefacts, slots, and the commands."""

    def __init__(self, kafka: KafkaServer, folder: Path, unique: Callable[[str], str]) -> None:
        self.folder, self.bootstrap = folder, kafka.bootstrap
        topics = RegistryTopics(unique("registry"), unique("admissions"))
        kafka.create_topics({topics.registry: Topic(1), topics.admissions: Topic(1, {"cleanup.policy": "compact"})})
        self.file = folder / "pipeline.yaml"
        self.file.write_text(PIPELINE.format(registry=topics.registry, admissions=topics.admissions))
        self.pipeline: Pipeline = load(self.file)
        self.topics = topics
        self.slots: list[RegistryFollower] = []
        self.app = typer.Typer()
        self.app.command("publish")(models.publish)
        self.app.command("promote")(models.promote)
        self.app.command("list")(models.list_releases)

    def slot(self, store: Path | None = None) -> RegistryFollower:
        store = store or self.folder / "artefacts"
        catalog = Catalog("claims", places_of(self.pipeline), ArtefactStore(str(store)), delay_ms=300)
        number = len(self.slots)
        follower = RegistryFollower(
            catalog,
            slot=f"g-{number}",
            connection={"bootstrap.servers": self.bootstrap},
            owns_lane_zero=lambda: number == 0,
            topics=self.topics,
        )
        follower.start()
        self.slots.append(follower)
        return follower

    def __call__(self, *arguments: str, bootstrap: str | None = None) -> Result:
        environment = {
            "PENSTOCK_FILE": str(self.file),
            "PENSTOCK_BOOTSTRAP": bootstrap or self.bootstrap,
            "PENSTOCK_ARTEFACTS": str(self.folder / "artefacts"),
        }
        return CliRunner().invoke(self.app, list(arguments), env=environment)

    def model(self, name: str, data: bytes) -> str:
        (self.folder / name).write_bytes(data)
        return str(self.folder / name)

    def listed(self) -> list[dict[str, object]]:
        return json.loads(self("list", "--json").stdout)["changes"]


@pytest.fixture
def desk(kafka: KafkaServer, tmp_path: Path, unique: Callable[[str], str]) -> Iterator[Desk]:
    desk = Desk(kafka, tmp_path, unique)
    yield desk
    for slot in desk.slots:
        slot.stop()


def test_models_are_published_and_waited_for(desk: Desk, until: Callable[..., None]) -> None:
    slot = desk.slot()
    until(lambda: slot.ready, "the slot")
    file = desk.model("m.onnx", onnx_files.linear([1, 2]))

    published = desk("publish", file, "--model", "severity", "--version", "1", "--wait")

    assert published.exit_code == 0, published.output
    assert "release 1 of severity is in force" in published.stdout
    (row,) = desk.listed()
    assert (row["version"], row["state"], row["accepted_by"]) == ("1", "champion", ["g-0"])
    assert "champion" in desk("list").stdout


def test_models_change_roles(desk: Desk, until: Callable[..., None]) -> None:
    slot = desk.slot()
    until(lambda: slot.ready, "the slot")
    for version, role in (("1", "champion"), ("2", "shadow")):
        file = desk.model("m.onnx", onnx_files.linear([1, int(version)]))
        assert (
            desk("publish", file, "--model", "severity", "--version", version, "--role", role, "--wait").exit_code == 0
        )
    assert [row["state"] for row in desk.listed()] == ["champion", "shadow"]

    promoted = desk("promote", "severity", "2", "--role", "champion", "--wait")

    assert promoted.exit_code == 0, promoted.output
    assert [row["state"] for row in desk.listed()] == ["retired", "champion", "champion"]


ROWS: list[dict[str, Any]] = [
    {"model": "severity_online", "version": version, "role": "champion", "state": "activated",
     "in_force_from": "2026-05-01T08:00:00.123+00:00", "accepted_by": ["claims-0", "claims-1"], "refused_by": {}}
    for version in ("1", "2026-04-30")
]  # fmt: skip


def test_the_list_fits_a_terminal_of_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    told = StringIO()
    told.isatty = lambda: True  # type: ignore[method-assign]
    monkeypatch.setattr(sys, "stdout", told)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "dumb")

    models._print_table(ROWS, ["claims-0", "claims-1"])

    lines = told.getvalue().splitlines()
    assert len(lines) == 1 + len(ROWS)
    assert all(re.search(r"activated +0[45]-\d\d \d\d:\d\d:00 +2 of 2", line) for line in lines[1:])
    assert max(map(len, lines)) <= 80


def test_the_list_is_not_cut_where_it_is_no_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    long = "a" * 60

    models._print_table([ROWS[0] | {"model": long, "version": long}], [])

    [_, line] = capsys.readouterr().out.splitlines()
    assert line.split()[:2] == [long, long]


@pytest.mark.parametrize(
    ("name", "data", "options", "reason"),
    [
        ("m.onnx", b"garbage", ["--model", "severity"], "refused: broken_file"),
        ("m.onnx", onnx_files.linear([1]), ["--model", "severity"], "refused: input_shape"),
        ("m.onnx", onnx_files.linear([1, 2], bias=float("inf")), ["--model", "severity"], "refused: not_finite"),
        ("m.river", onnx_files.linear([1, 2]), ["--model", "severity"], "refused: broken_file"),
        ("m.pkl", b"x", ["--model", "severity"], "refused: format"),
        ("m.onnx", onnx_files.linear([1, 2]), ["--model", "fraud"], "refused: unknown_model"),
    ],
)
def test_models_refuse_before_anything_is_written(
    desk: Desk, name: str, data: bytes, options: list[str], reason: str
) -> None:
    result = desk("publish", desk.model(name, data), "--version", "1", *options)

    assert result.exit_code == 1
    assert reason in result.stderr
    assert desk.listed() == []
    assert not (desk.folder / "artefacts").exists()


def test_models_publish_a_version_once(desk: Desk) -> None:
    file = desk.model("m.onnx", onnx_files.linear([1, 2]))
    assert desk("publish", file, "--model", "severity", "--version", "1").exit_code == 0

    again = desk("publish", file, "--model", "severity", "--version", "1")
    unknown = desk("promote", "severity", "9", "--role", "champion")

    assert (again.exit_code, unknown.exit_code) == (1, 1)
    assert "version_taken" in again.stderr
    assert "it has 1" in unknown.stderr
    assert [row["state"] for row in desk.listed()] == ["pending"]


def test_models_say_who_refused(desk: Desk, tmp_path: Path, until: Callable[..., None]) -> None:
    slot, other = desk.slot(), desk.slot(tmp_path / "elsewhere")
    until(lambda: slot.ready and other.ready, "both slots")
    until(lambda: len(json.loads(desk("list", "--json").stdout)["slots"]) == 2, "two live slots")
    file = desk.model("m.onnx", onnx_files.linear([1, 2]))

    result = desk("publish", file, "--model", "severity", "--version", "1", "--wait", "--timeout", "2")

    assert result.exit_code == 1
    assert "g-1 refused it: fetch_failed" in result.stderr


def test_models_say_that_nobody_is_there(desk: Desk) -> None:
    file = desk.model("m.onnx", onnx_files.linear([1, 2]))

    result = desk("publish", file, "--model", "severity", "--version", "1", "--wait", "--timeout", "0.5")

    assert result.exit_code == 1
    assert "no slot of this pipeline is alive" in result.stderr


def test_models_give_up_in_plain_words(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("console.registry.CALL_SECONDS", 0.5)
    file = desk.model("m.onnx", onnx_files.linear([1, 2]))

    nowhere = desk("list", bootstrap="127.0.0.1:1")
    bad_time = desk("publish", file, "--model", "severity", "--version", "1", "--valid-from", "tomorrow")

    assert (nowhere.exit_code, bad_time.exit_code) == (2, 2)
    assert "are --bootstrap and --client-config right" in nowhere.stderr
    assert "time with its zone" in bad_time.stderr
