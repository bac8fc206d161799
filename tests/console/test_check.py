import json
import shutil
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from console import check, topic_check
from console.case_file import Case
from console.cases import decide_case, differences, run_case
from dataflows.pipeline import load

CLAIMS = Path("deploy/pipelines/claims")
app = typer.Typer()
app.command()(check.check)


class NothingFound:
    def scan_batch(self, texts):
        return [[] for _ in texts]


@pytest.fixture
def folder(tmp_path):
    """A copy of the claims pipeline that a test may change."""
    shutil.copytree(CLAIMS / "cases", tmp_path / "cases")
    shutil.copy(CLAIMS / "pipeline.yaml", tmp_path)
    return tmp_path


def change(path, before, after):
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after, 1))


def run(folder, *options):
    return CliRunner().invoke(app, [str(folder / "pipeline.yaml"), *options])


@pytest.mark.parametrize(
    "path", sorted(Path("deploy/pipelines").glob("*/pipeline.yaml")), ids=lambda path: path.parent.name
)
def test_the_pipelines_of_the_repository_pass(path):
    report = check.examine(path)

    assert report.is_right, check.describe(report)


def test_the_cases_of_claims_are_run(folder):
    result = run(folder)

    assert result.exit_code == 0
    assert result.output.count("ok  ") == len(list((folder / "cases").glob("*.yaml")))


def test_cases_hold_for_a_view_of_feast_too(folder):
    before = run(folder).output
    change(folder / "pipeline.yaml", "    key: policyholder_id", "    key: policyholder_id\n    source: feast")

    assert run(folder).output == before


def test_a_model_that_reads_what_it_was_not_granted_is_named(folder):
    change(
        folder / "pipeline.yaml", "    max_age: 30d", "    max_age: 30d\n    grants: { tenure_days: [severity_online] }"
    )
    result = run(folder)

    assert result.exit_code == 1
    assert "models.severity: holder_tenure_days is not granted to it" in result.output


def test_every_mistake_is_printed_and_nothing_is_run(folder):
    change(folder / "pipeline.yaml", "outcome: flag", "outcome: flagg")
    change(folder / "pipeline.yaml", "max_bytes", "max_byte")

    result = run(folder)

    assert result.exit_code == 1
    assert f"{folder}/pipeline.yaml:10: contract.max_byte: unknown key" in result.output
    assert "did you mean 'flag'?" in result.output
    assert result.output.endswith("2 mistakes in " + str(folder / "pipeline.yaml") + "\n")


def test_a_case_that_comes_out_otherwise_fails_and_says_how(folder):
    change(folder / "pipeline.yaml", "severity > 30000", "severity > 1000")

    result = run(folder)

    assert result.exit_code == 1
    assert "FAIL approve.yaml" in result.output
    assert 'event 1: outcome: expected "approve", got "review"' in result.output
    assert 'event 1: reasons: expected [], got ["SEVERITY_HIGH"]' in result.output


def test_the_report_as_json(folder):
    change(folder / "cases" / "approve.yaml", "outcome: approve", "outcome: review")

    report = json.loads(run(folder, "--json").output)

    assert report["ok"] is False
    assert [case["failures"] for case in report["cases"] if case["failures"]] == [
        ['event 1: outcome: expected "review", got "approve"']
    ]


def test_a_folder_stands_for_the_pipeline_file_in_it(folder):
    result = CliRunner().invoke(app, [str(folder)])

    assert result.exit_code == 0
    assert result.output.startswith(f"{folder}/pipeline.yaml: the pipeline is well-formed")


@pytest.mark.parametrize("missing", [True, False])
def test_topics_that_do_not_exist_come_with_the_command_that_creates_them(folder, monkeypatch, missing):
    notes = [topic_check.Note("claims.events", True, "it does not exist", missing)]
    monkeypatch.setattr(topic_check, "check_topics", lambda *_: notes)

    result = run(folder, "--bootstrap", "127.0.0.1:1")

    hint = f"`penstock topics {folder}/pipeline.yaml --bootstrap 127.0.0.1:1`"
    assert (hint in result.output) == missing


def test_a_cluster_that_is_not_there_is_said_in_time(folder, monkeypatch):
    monkeypatch.setattr(check, "TIMEOUT", 0.5)

    result = run(folder, "--bootstrap", "127.0.0.1:1")

    assert result.exit_code == 1
    assert "could not read the topics of 127.0.0.1:1" in result.output


@pytest.mark.parametrize(
    "before, after, message",
    [
        ("holder:", "holders:", "no view 'holders'"),
        ("claims_3y: 0", "claims: 0", "no feature 'claims'"),
        ("claims_3y: 0", "claims_3y: none", "holder.claims_3y is a number, and the case gives it another type"),
        ("severity: { score: 1200 }", "severe: { score: 1200 }", "no model 'severe'"),
        ("{ score: 1200 }", "{ release: none.onnx }", "could not read the release"),
        ("{ score: 1200 }", "{}", "either score or release"),
        ("events:", "event:", "approve.yaml:8: event: unknown key 'event'; expected one of name, now"),
        ("expect:", "expect:\n  - {}", "1 events and 2 expectations"),
        ("name:", "name: [", "approve.yaml:"),
        ("expect:", "expects:", "approve.yaml:20: expects: unknown key 'expects'"),
        (
            "{ score: 1200 }, severity_online",
            "{ scor: 1200 }, severity_online",
            "scores.severity.scor: unknown key 'scor'",
        ),
        ("kind: decision", "kind: [decision]", "is no kind of record"),
        ("expect:", "expects:", "; did you mean 'expect'?"),
        ("outcome:", "outcom:", "approve.yaml:22: expect[0].outcom: unknown key 'outcom', which no decision has"),
        ("outcome:", "outcom:", "; did you mean 'outcome'?"),
        ("kind: decision", "kind: decison", "approve.yaml:21: expect[0].kind: 'decison' is no kind of record"),
        (
            "kind: decision",
            "kind: decison",
            "one of decision, rejection, quarantine, duplicate; did you mean 'decision'?",
        ),
        ("outcome: approve", "policy: { versio: '1' }", "expect[0].policy.versio: unknown key 'versio'"),
        ("outcome: approve", "origin: { ofset: 0 }", "expect[0].origin.ofset: unknown key 'ofset'"),
    ],
)
def test_a_case_that_cannot_be_run_says_why(folder, before, after, message):
    path = folder / "cases" / "approve.yaml"
    change(path, before, after)

    outcome = run_case(load(folder / "pipeline.yaml"), path, folder, NothingFound())

    assert len(outcome.failures) == 1
    assert message in outcome.failures[0]


def test_every_mistake_in_a_case_is_named_at_once(folder):
    path = folder / "cases" / "approve.yaml"
    for before, after in (("outcome:", "outcom:"), ("kind: decision", "kind: decison"), ("redis", "redi")):
        if before in path.read_text():
            change(path, before, after)
    change(path, "name:", "nam:")

    outcome = run_case(load(folder / "pipeline.yaml"), path, folder, NothingFound())

    assert [failure.split(": ")[1] for failure in outcome.failures] == ["nam", "expect[0].kind", "expect[0].outcom"]


def test_a_case_gives_every_event_a_first_record():
    case = Case.model_validate(
        {
            "events": [
                {"raw": ""},
                {"value": {}},
                {"value": None},
                {"raw": "\ud800".encode("utf-8", "replace").decode()},
            ],
            "expect": [],
        }
    )

    records = decide_case(load(CLAIMS / "pipeline.yaml"), case, CLAIMS, NothingFound())

    assert [record["kind"] for record in records] == ["rejection"] * 4


@pytest.mark.parametrize(
    "expected, got, wrong",
    [
        ({"a": 1}, {"a": 1.0000000001, "b": 2}, 0), ({"a": {"b": [1]}}, {"a": {"b": [1]}}, 0), ({"a": 1}, {}, 1),
        ({"a": None}, {}, 1),
        ({"a": True}, {"a": 1}, 0),
        ({"a": "x"}, {"a": ["x"]}, 1), ({"a": {"b": 1, "c": 2}}, {"a": {"b": 2, "c": 1}}, 2), ({}, {}, 0),
    ],
)  # fmt: skip
def test_differences(expected, got, wrong):
    assert len(differences(expected, got)) == wrong
