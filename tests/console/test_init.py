import importlib.util
import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from console.check import examine
from console.init import init
from dataflows.locate import read_yaml
from dataflows.pipeline import load

spec = importlib.util.spec_from_file_location("onnx_files", Path("tests/models/onnx_files.py"))
onnx_files = importlib.util.module_from_spec(spec)
spec.loader.exec_module(onnx_files)

app = typer.Typer()
app.command()(init)


def event(i, **changes):
    return {
        "id": f"pay-{i}", "time": f"2026-01-15T12:00:{i % 60:02d}Z",
        "card": {"token": f"c{i % 7}", "card_id": f"card-{i % 7}"},
        "amount": {"value": 10.5 * i, "currency": "EUR"}, "limit": 100 + i, "on": "2026-01-14",
        "contactless": i % 2 == 0, "tags": ["x"], "note": None if i % 3 else "fine",
    } | changes  # fmt: skip


@pytest.fixture
def sample(tmp_path):
    path = tmp_path / "sample.jsonl"
    path.write_text("\n".join(json.dumps(event(i)) for i in range(40)))
    return path


def model(tmp_path, names="amount_value,limit_value,contactless", weights=(1.0, 0.5, 2.0)):
    path = tmp_path / "fraud-v1.onnx"
    path.write_bytes(onnx_files.linear(weights, metadata={"feature_names": names} if names else None))
    return path


def run(tmp_path, *options, **paths):
    arguments = [f"--{name}={path}" for name, path in paths.items()]
    return CliRunner().invoke(app, [*arguments, f"--out={tmp_path / 'payments'}", *options])


def test_the_file_that_is_written_passes_check_with_its_case(tmp_path, sample):
    result = run(tmp_path, events=sample, model=model(tmp_path))

    assert result.exit_code == 0, result.output
    assert "ok   first.yaml" in result.output
    pipeline = load(tmp_path / "payments" / "pipeline.yaml")
    assert pipeline.pipeline == "payments"
    contract = pipeline.contract
    assert (contract.event_id, contract.entity, contract.event_time) == ("id", "card_card_id", "time")
    assert {name: field.type for name, field in contract.fields.items()} == {
        "id": "string", "time": "datetime", "card_token": "string", "card_card_id": "string", "amount_value": "number",
        "amount_currency": "string", "limit_value": "integer", "on": "date", "contactless": "boolean",
        "note": "string",
    }  # fmt: skip
    assert contract.fields["note"].nullable
    assert "left out, because they are lists or of several types: /tags" in result.output
    assert examine(tmp_path / "payments" / "pipeline.yaml").cases[0].failures == ()


def test_the_generated_case_notices_a_changed_rule(tmp_path, sample):
    run(tmp_path, events=sample, model=model(tmp_path))
    path = tmp_path / "payments" / "pipeline.yaml"
    path.write_text(path.read_text().replace("fraud >", "fraud > -1 OR fraud >"))

    assert examine(path).cases[0].failures


def test_cloudevents_are_recognised(tmp_path):
    path = tmp_path / "sample.jsonl"
    envelope = {"specversion": "1.0", "id": "1", "source": "/x", "type": "t"}
    path.write_text("\n".join(json.dumps({**envelope, "data": event(i)}) for i in range(9)))

    result = run(tmp_path, events=path, model=model(tmp_path))

    assert result.exit_code == 0, result.output
    assert load(tmp_path / "payments" / "pipeline.yaml").contract.format == "cloudevents"


def test_an_input_that_is_not_in_the_events_becomes_a_feature_to_fill_in(tmp_path, sample):
    result = run(tmp_path, events=sample, model=model(tmp_path, "amount_value,limit_value,velocity"))

    assert result.exit_code == 0, result.output
    assert "'velocity' is not in the events" in result.output
    assert load(tmp_path / "payments" / "pipeline.yaml").features == {"velocity": "0.0"}


def test_nothing_is_overwritten_without_force(tmp_path, sample):
    run(tmp_path, events=sample, model=model(tmp_path))
    path = tmp_path / "payments" / "pipeline.yaml"
    path.write_text("mine")

    refused = run(tmp_path, events=sample, model=model(tmp_path))

    assert (refused.exit_code, path.read_text()) == (2, "mine")
    assert "--force" in refused.output
    assert run(tmp_path, "--force", events=sample, model=model(tmp_path)).exit_code == 0


@pytest.mark.parametrize(
    "lines, message",
    [
        ("", "has no events"), ("{", ":1: not a JSON object"), ("[1]", ":1: one array; write one object a line"),
        ('[\n  {"id": 1}\n]', ":1: one array; write one object a line"), ("[\n1", ":1: not a JSON object"),
        ('{"id": 1, "time": 2}', "event id"),
        ('{"id": "a", "time": "yesterday"}', "event time"), ('{"id": "a"}\n{"id": "a"}', "event id"),
    ],
)  # fmt: skip
def test_a_sample_that_does_not_say_enough_is_refused(tmp_path, lines, message):
    path = tmp_path / "sample.jsonl"
    path.write_text(lines)

    result = run(tmp_path, events=path, model=model(tmp_path))

    assert result.exit_code == 2
    assert message in result.output
    assert not (tmp_path / "payments").exists()


@pytest.mark.parametrize(
    "names, message",
    [(None, "feature_names"), ("a,b", "metadata has feature_names"),
     ("amount_value,limit,contactless", "column in SQL"),
     ("amount_value,note,contactless", "is text in the events")],
)  # fmt: skip
def test_a_model_that_does_not_fit_is_refused(tmp_path, sample, names, message):
    result = run(tmp_path, events=sample, model=model(tmp_path, names))

    assert result.exit_code == 2 or "cannot be used" in result.output
    assert not (tmp_path / "payments").exists()


def test_what_is_no_model_is_refused(tmp_path, sample):
    assert "not an ONNX model" in run(tmp_path, events=sample, model=sample).output
    assert "could not read the model" in run(tmp_path, events=sample, model=tmp_path / "none.onnx").output


def write(tmp_path, events):
    path = tmp_path / "sample.jsonl"
    path.write_text("\n".join(map(json.dumps, events)))
    return path


def test_a_field_of_personal_data_is_masked_with_a_word_and_the_case_expects_a_decision(tmp_path):
    mails = [event(i, customer={"email": f"jane.doe{i}@gmail.com"}) for i in range(40)]

    result = run(tmp_path, events=write(tmp_path, mails), model=model(tmp_path))

    assert result.exit_code == 0, result.output
    assert "customer_email: personal data in 40 of 40 events; it is masked" in result.output
    text = (tmp_path / "payments" / "pipeline.yaml").read_text()
    assert "    customer_email: mask # EMAIL_ADDRESS in 40 of 40 events" in text
    assert load(tmp_path / "payments" / "pipeline.yaml").guard.action("customer_email") == "mask"
    case = (tmp_path / "payments" / "cases" / "first.yaml").read_text()
    assert "decision" in case
    assert "jane" not in case
    assert examine(tmp_path / "payments" / "pipeline.yaml").cases[0].failures == ()


@pytest.mark.parametrize("found, action", [(4, "scan"), (5, "mask")])
def test_one_in_ten_with_personal_data_is_no_field_of_it(tmp_path, found, action):
    notes = [event(i, note="write to jane.doe@gmail.com" if i < found else "fine") for i in range(40)]

    result = run(tmp_path, events=write(tmp_path, notes), model=model(tmp_path))

    assert result.exit_code == 0, result.output
    assert f"note: personal data in {found} of 40 events" in result.output
    assert ("such events are quarantined" in result.output) == (action == "scan")
    assert load(tmp_path / "payments" / "pipeline.yaml").guard.action("note") == action
    assert "decision" in (tmp_path / "payments" / "cases" / "first.yaml").read_text()


def test_keys_with_personal_data_are_told_of_and_never_masked(tmp_path):
    events = [event(i, id=f"jane.doe{i}@gmail.com", card={"card_id": f"john.roe{i % 7}@gmail.com"}) for i in range(40)]

    result = run(tmp_path, events=write(tmp_path, events), model=model(tmp_path))

    assert result.exit_code == 0, result.output
    assert "id: personal data in 40 of 40 events; it is the event id, which cannot be masked" in result.output
    assert "card_card_id: personal data in 40 of 40 events; it is the entity" in result.output
    guard = load(tmp_path / "payments" / "pipeline.yaml").guard
    assert (guard.action("id"), guard.action("card_card_id")) == ("allow", "allow")


@pytest.mark.parametrize(
    "file, name",
    [
        ("risk-1", "risk"),
        ("risk-v2", "risk"),
        ("risk_2.0.1", "risk"),
        ("risk", "risk"),
        ("r2d2", "r2d2"),
        ("7", "model"),
    ],
)
def test_the_model_is_called_as_its_file_without_the_version(tmp_path, sample, file, name):
    path = model(tmp_path).rename(tmp_path / f"{file}.onnx")

    assert run(tmp_path, events=sample, model=path).exit_code == 0
    assert list(load(tmp_path / "payments" / "pipeline.yaml").models) == [name]


def test_the_case_has_one_value_a_line(tmp_path, sample):
    run(tmp_path, events=sample, model=model(tmp_path))

    lines = (tmp_path / "payments" / "cases" / "first.yaml").read_text().splitlines()

    assert "      id: pay-0" in lines
    assert "  - kind: decision" in lines


def test_texts_that_look_like_something_else_are_the_same_in_the_case(tmp_path):
    odd = ["1", "null", "yes", "2026-01-01", "- a", "a: b", "#", "tab\tand\nline", "\u2028\u00e9\U0001f600", "'\"", ""]
    events = [event(i, texts={f"t{n}": text for n, text in enumerate(odd)}, tiny=1e-7, big=10**15) for i in range(9)]

    result = run(tmp_path, events=write(tmp_path, events), model=model(tmp_path))

    assert result.exit_code == 0, result.output
    case = read_yaml((tmp_path / "payments" / "cases" / "first.yaml").read_text(encoding="utf-8"))
    assert case.data["events"] == [{"value": events[0]}]
