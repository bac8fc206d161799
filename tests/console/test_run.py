"""What `penstock run` says before it runs anything, or instead."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path

import pytest
from confluent_kafka import KafkaError, KafkaException
from typer.testing import CliRunner, Result

from console.cli import app, main
from console.cluster import ClusterUnfit, check_cluster
from console.kafka_server import KafkaServer
from console.logs import OncePerFacility
from console.run import GUARANTEES
from console.slot import _causes, _hint
from console.topics import Topic, standing_topics
from dataflows.pipeline import load
from dataflows.settings import Settings

CLAIMS = Path("deploy/pipelines/claims/pipeline.yaml")
KEY = b64encode(bytes(32)).decode()
NOBODY = "127.0.0.1:1"


def run(*arguments: str, **environment: str) -> str:
    """What it says; it ends with 2 and without a traceback."""
    result = CliRunner().invoke(app, ["run", *arguments], env={"PENSTOCK_SEAL_KEY": KEY, **environment})
    assert result.exit_code == 2, result.output
    return str(result.output)


def test_a_pipeline_file_that_is_not_there_is_said() -> None:
    assert "/nowhere.yaml:1: could not be read: No such file" in run("/nowhere.yaml", "--bootstrap", NOBODY)


def test_mistakes_in_the_pipeline_file_are_said_with_their_lines(tmp_path: Path) -> None:
    file = tmp_path / "pipeline.yaml"
    file.write_text(CLAIMS.read_text().replace("severity > 30000", "severty > 30000"))

    said = run(str(file), "--bootstrap", NOBODY)

    assert re.search(rf"{file}:\d+: policy.rules\[0\].when: .* did you mean 'severity'\?", said)


def test_it_does_not_start_without_a_seal_key() -> None:
    said = run(str(CLAIMS), "--bootstrap", NOBODY, PENSTOCK_SEAL_KEY="")

    assert "set PENSTOCK_SEAL_KEY, or --seal-key-file FILE" in said


def test_a_lane_store_that_cannot_be_written_is_said_before_a_slot_meets_it(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    said = run(str(CLAIMS), "--bootstrap", NOBODY, "--lane-store", str(tmp_path / "file" / "store"))

    assert f"--lane-store {tmp_path}/file/store: Not a directory" in said


def test_a_password_in_an_argument_is_refused_and_not_repeated() -> None:
    said = run(str(CLAIMS), "--bootstrap", NOBODY, "--redis", "redis://:hunter2@r:6379")

    assert "set PENSTOCK_REDIS instead" in said
    assert "hunter2" not in said


def test_an_address_that_is_no_redis_is_refused_and_not_repeated() -> None:
    said = run(str(CLAIMS), "--bootstrap", NOBODY, PENSTOCK_REDIS="http://:hunter2@r")

    assert "PENSTOCK_REDIS: " in said
    assert "redis://, rediss://, unix://" in said
    assert "hunter2" not in said


@pytest.mark.parametrize("option", ["slots", "guarantee", "metrics-port", "session-timeout"])
def test_an_option_that_cannot_be_used_is_named(option: str) -> None:
    said = run(str(CLAIMS), "--bootstrap", NOBODY, f"--{option}", "0")

    assert f"PENSTOCK_{option.replace('-', '_').upper()}: " in said


def test_a_job_that_the_pipeline_has_not_is_refused_with_those_that_it_has() -> None:
    said = run(str(CLAIMS), "--bootstrap", NOBODY, "--job", "features")

    assert "there is no job 'features'; expected one of decisions: no view of claims has windows" in said


def test_a_broker_that_is_not_there_is_said_with_the_reason(capfd: pytest.CaptureFixture[str]) -> None:
    settings = Settings(file=CLAIMS, bootstrap=NOBODY)

    with pytest.raises(ClusterUnfit) as caught:
        check_cluster(settings, load(CLAIMS), timeout=0.5)

    assert str(caught.value).startswith(f"could not reach Kafka at {NOBODY} within 0 s: ")
    assert "Connection refused" in str(caught.value)
    assert capfd.readouterr().err == "", "the client says nothing of its own"


@pytest.mark.parametrize("command", [["run", str(CLAIMS)], ["slots", "list", str(CLAIMS)], ["rejected", "list"]])
def test_a_property_that_the_client_does_not_know_is_said_in_a_line(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "client").write_text("no.such.property=1\n")
    monkeypatch.setenv("PENSTOCK_FILE", str(CLAIMS))
    monkeypatch.setenv("PENSTOCK_SEAL_KEY", KEY)
    given = ["--bootstrap", NOBODY, "--client-config", str(tmp_path / "client")]
    monkeypatch.setattr(sys, "argv", ["penstock", *command, *given])

    with pytest.raises(SystemExit) as end:
        main()
    said = capsys.readouterr().err.splitlines()

    assert end.value.code == 2
    assert 'could not make a Kafka client: No such configuration property: "no.such.property"' in said[-1]


def test_each_guarantee_has_its_line() -> None:
    for guarantee in ("exactly_once", "at_least_once"):
        settings = Settings.from_environment(
            {"PENSTOCK_FILE": "p", "PENSTOCK_BOOTSTRAP": "b", "PENSTOCK_GUARANTEE": guarantee}
        )
        assert GUARANTEES[settings.guarantee].startswith(guarantee)


def test_topics_says_what_it_created_and_what_was_there(
    kafka: KafkaServer, unique: Callable[[str], str], tmp_path: Path
) -> None:
    name = unique("t").replace("-", "_")
    file = tmp_path / "pipeline.yaml"
    file.write_text(
        CLAIMS.read_text().replace("pipeline: claims", f"pipeline: {name}") + f"\ntopics: {{ registry: {name}.one }}\n"
    )

    def topics(lanes: int) -> Result:
        return CliRunner().invoke(app, ["topics", str(file), "--bootstrap", kafka.bootstrap, "--lanes", str(lanes)])

    first, again, other = topics(3), topics(3), topics(2)

    assert (first.exit_code, again.exit_code, other.exit_code) == (0, 0, 1), other.output
    assert f"{name}.events: created, 3 partitions\n" in first.stdout
    assert f"{name}.one: created, 1 partition\n" in first.stdout
    assert f"{name}.events: exists, 3 partitions\n" in again.stdout
    assert f"{name}.events: exists, 3 partitions (wanted 2)\n" in other.stdout
    assert f"{name}.one: exists, 1 partition\n" in other.stdout
    assert "the number of lanes is fixed for the life of a pipeline" in other.stderr


def test_topics_creates_nothing_where_the_lanes_differ(
    kafka: KafkaServer, unique: Callable[[str], str], tmp_path: Path
) -> None:
    name = unique("t").replace("-", "_")
    file = tmp_path / "pipeline.yaml"
    file.write_text(CLAIMS.read_text().replace("pipeline: claims", f"pipeline: {name}"))
    kafka.create_topics({f"{name}.events": Topic(3)})
    told = CliRunner().invoke(app, ["topics", str(file), "--bootstrap", kafka.bootstrap, "--lanes", "2"])

    assert told.exit_code == 1, told.output
    assert f"{name}.events: exists, 3 partitions (wanted 2)\n" in told.stdout
    assert "none was created" in told.stderr
    assert [topic for topic in standing_topics(kafka.bootstrap) if topic.startswith(name)] == [f"{name}.events"]


def test_help_is_quick_and_names_every_option_with_its_variable() -> None:
    code = (
        "import sys; from console.cli import app\n"
        "try: app(['run', '--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'polars', 'onnxruntime', 'river', 'presidio_analyzer', 'confluent_kafka', 'bytewax', 'numpy'}\n"
        "print('HEAVY', sorted(heavy & set(sys.modules)))"
    )
    wide = {**os.environ, "COLUMNS": "200", "NO_COLOR": "1"}
    said = subprocess.run([sys.executable, "-c", code], env=wide, capture_output=True, text=True, check=True).stdout

    assert "HEAVY []" in said
    for name in Settings.model_fields:
        if name != "seal_key":  # never an argument
            assert f"PENSTOCK_{name.upper()}" in said


def test_no_color_is_heeded() -> None:
    colours = re.compile(r"\x1b\[[\d;]*3\d[;m]")
    terminal = {**os.environ, "FORCE_COLOR": "1", "TERM": "xterm-256color"}
    plain = {**terminal, "NO_COLOR": "1"}
    command = [sys.executable, "-m", "console.cli", "--help"]
    coloured, bare = (
        subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout for env in (terminal, plain)
    )

    assert colours.search(coloured)
    assert not colours.search(bare)


def test_a_kafka_client_says_the_same_once_in_ten_seconds() -> None:
    def line(facility: str, at: float, client: str = "rdkafka#consumer-1") -> logging.LogRecord:
        record = logging.LogRecord("operators.lanes", 3, "", 0, "%s [%s] %s", (facility, client, "refused"), None)
        record.created = at
        return record

    once = OncePerFacility()
    passes = [once.filter(line("FAIL", at)) for at in (0.0, 0.1, 9.9, 10.0)]

    assert passes == [True, False, False, True]
    assert once.filter(line("ERROR", 10.1))
    assert once.filter(line("FAIL", 10.1, client="rdkafka#producer-2"))
    ours = logging.LogRecord("console.slot", 3, "", 0, "lanes %s assigned", ([1],), None)
    assert all(once.filter(ours) for _ in range(3))


def test_a_slot_tells_its_reason_from_the_cause_on_and_what_to_do_about_a_rival() -> None:
    settings = Settings(file=CLAIMS, bootstrap=NOBODY, slot=4)
    fenced = RuntimeError("step failed\nwith details")
    fenced.__cause__ = KafkaException(KafkaError(KafkaError.FENCED_INSTANCE_ID))

    assert [cause.partition(":")[0] for cause in _causes(fenced)] == ["KafkaException", "RuntimeError"]
    assert list(_causes(fenced))[1] == "RuntimeError", "its words may quote an event"
    assert "Another process has become slot 4 of this group" in _hint(fenced, settings, load(CLAIMS))
    assert _hint(RuntimeError("else"), settings, load(CLAIMS)) == ""
