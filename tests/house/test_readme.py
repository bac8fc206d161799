"""What the documents tell a reader to type, open or set is real: commands, options, variables, files, keys."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from confluent_kafka import Producer
from pydantic import BaseModel
from ruamel.yaml import YAML
from typer.main import get_command

from console.case_file import Case, Event
from console.cases import decide_case, differences
from console.cli import app
from dataflows import pipeline as pipeline_file
from dataflows.pipeline import Pipeline, load
from dataflows.settings import Settings
from models.pii import Scanner

README = Path("README.md")
REFERENCE = Path("deploy/pipelines/README.md")
DOCUMENTS = sorted(
    path
    for path in [*Path().glob("*.md"), *Path("dataflows").rglob("*.md"), *Path("deploy").rglob("*.md")]
    if not path.parts[0].startswith(".")
)
ROOT: Any = get_command(app)
CLAIMS = Path("deploy/pipelines/claims/pipeline.yaml")
NEEDS_NO_SERVER = {("init",), ("check",)}
OF_TESTS = {"PENSTOCK_REQUIRE_REAL", "PENSTOCK_LONG"}
TOOLS = {Path("deploy/kafka/TOOLS.md"): ("kafka-consumer-groups.sh", "kafka-console-consumer.sh", "kcat")}
"""Document to programs of other people: `tests/integration/test_tools.py` runs its commands as they stand there."""


def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def blocks(path: Path, language: str) -> list[str]:
    fenced = re.findall(r"(?ms)^[ ]*```(\w*)\n(.*?)^[ ]*```[ ]*$", text_of(path))
    return [text for label, text in fenced if label == language]


def orders(text: str) -> Iterator[list[str]]:
    """The commands of a shell block as words, without comments."""
    for line in re.sub(r"\\\n", " ", text).splitlines():
        words = shlex.split(line, comments=True)
        if words:
            yield words


def commands(path: Path) -> list[list[str]]:
    return [words for block in blocks(path, "sh") for words in orders(block)]


def inline(path: Path) -> list[str]:
    """What stands between back-ticks in running text."""
    return re.findall(r"`([^`\n]+)`", re.sub(r"(?ms)^[ ]*```.*?^[ ]*```", "", text_of(path)))


def every_command(command: Any = ROOT, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    found = {path: command}
    for name, inner in getattr(command, "commands", {}).items():
        found |= every_command(inner, (*path, name))
    return found


COMMANDS = every_command()
OPTIONS = {option for command in COMMANDS.values() for each in command.params for option in each.opts} | {"--help"}


def parse(words: list[str]) -> tuple[str, ...]:
    """Parse the arguments of `penstock` as the command line does; the command's path. Fails where it would."""
    context = ROOT.make_context("penstock", list(words))
    path: tuple[str, ...] = ()
    while hasattr(context.command, "commands"):
        given = [*context._protected_args, *context.args]
        name, command, rest = context.command.resolve_command(context, given)
        assert rest or not hasattr(command, "commands"), f"{words}: a command is missing"
        path = (*path, name)
        context = command.make_context(name, list(rest), parent=context)
    assert context.args == []
    return path


def check_order(words: list[str], environment: dict[str, str]) -> None:
    """One command of a shell block. `export` fills the environment of those after it."""
    program, rest = words[0], words[1:]
    while re.fullmatch(r"[A-Z_]+=.*", program):  # A=b command
        program, rest = rest[0], rest[1:]
    if program == "export":
        environment |= dict(word.partition("=")[::2] for word in rest if "=" in word)
        return
    if program == "make":
        targets = re.findall(r"(?m)^([a-z]+):", text_of(Path("Makefile")))
        assert rest[0] in targets, f"make has no target {rest[0]}"
    elif program == "penstock":
        parse(rest)
    elif program in {".", "source"}:
        assert rest == [".venv/bin/activate"]
    else:
        pytest.fail(f"a document tells to type `{shlex.join(words)}`, and this test does not know {program}")


@pytest.mark.parametrize("document", DOCUMENTS, ids=str)
def test_every_command_can_be_typed(document: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    environment: dict[str, str] = {}
    for words in commands(document):
        if words[0] in TOOLS.get(document, ()):
            continue
        check_order(words, environment)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    "order",
    [
        "make demos", "penstock runs", "penstock run", "penstock models", "penstock check a.yaml --bootstraps b",
        "penstock models promote severity 2 --bootstrap b --pipeline a.yaml --role king", "frobnicate",
    ],
)  # fmt: skip
def test_a_command_that_cannot_be_typed_is_noticed(order: str) -> None:
    with pytest.raises(BaseException) as refused:  # noqa: PT011 -- the command line's own, or a failed assertion
        check_order(shlex.split(order), {})

    assert not isinstance(refused.value, KeyboardInterrupt | SystemExit)


@pytest.mark.parametrize("document", DOCUMENTS, ids=str)
def test_commands_and_options_in_running_text_exist(document: Path) -> None:
    for code in inline(document):
        words = code.split()
        if words[0] == "penstock" and len(words) > 1:
            path = tuple(word for word in words[1:3] if re.fullmatch("[a-z]+", word))
            assert path in COMMANDS or path[:1] in COMMANDS, f"`{code}`: there is no such command"
        if words[0] == "make" and len(words) > 1:
            assert re.search(rf"(?m)^{words[1]}:", text_of(Path("Makefile"))), f"`{code}`: there is no such target"
        if words[0] == "penstock" or words[0].startswith("--"):
            unknown = [word.partition("=")[0] for word in words if word.startswith("--")]
            assert set(unknown) <= OPTIONS, f"`{code}`: there is no such option"


@pytest.mark.parametrize("document", DOCUMENTS, ids=str)
def test_every_link_and_picture_leads_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", text_of(document)):
        if not re.match(r"[a-z]+:", target):
            path, _, anchor = target.partition("#")
            at = document.parent / path if path else document
            assert at.exists(), f"{document} links to {target}, which is not there"
            titles = re.findall(r"(?m)^#+ (.*)$", text_of(at)) if anchor else []
            slugs = {re.sub(r"[^a-z0-9 _-]", "", title.lower()).replace(" ", "-") for title in titles}
            assert not anchor or anchor in slugs, f"{document} links to {target}: there is no such heading"


@pytest.mark.parametrize("document", DOCUMENTS, ids=str)
def test_every_variable_is_read(document: Path) -> None:
    read = {f"PENSTOCK_{name.upper()}" for name in Settings.model_fields} | OF_TESTS
    read |= {each.envvar for command in COMMANDS.values() for each in command.params if each.envvar}

    assert set(re.findall(r"PENSTOCK_[A-Z_]*[A-Z]", text_of(document))) <= read


def test_every_option_of_run_is_also_a_variable() -> None:
    """As the README says."""
    for each in COMMANDS["run",].params:
        if each.name != "help":
            assert each.envvar == f"PENSTOCK_{each.name.upper()}"
            assert each.name in Settings.model_fields


def test_files_named_in_running_text_exist() -> None:
    for document in DOCUMENTS:
        for code in inline(document):
            if re.fullmatch(r"(dataflows|operators|state|models|console|deploy|tests)/[\w./-]*", code):
                assert (Path(code)).exists(), f"{document} names {code}, which is not there"
            if match := re.match(r"python -m ([\w.]+)", code):
                assert importlib.util.find_spec(match[1]) is not None, f"{document}: there is no module {match[1]}"


def test_what_needs_no_server_works_as_written(tmp_path: Path) -> None:
    """A reader's first minutes: the commands of the README, in its order, in a folder with a sample and a model."""
    (tmp_path / "deploy").symlink_to(Path("deploy").resolve())
    sample(tmp_path)
    done = []
    for words in commands(README):
        if words[0] == "penstock" and tuple(words[1:2]) in NEEDS_NO_SERVER and "--bootstrap" not in words:
            told = subprocess.run(
                [sys.executable, "-m", "console.cli", *words[1:]],
                cwd=tmp_path,
                env={**os.environ, "PYTHONPATH": str(Path().resolve())},
                capture_output=True,
                text=True,
                timeout=100,
                check=False,
            )
            assert told.returncode == 0, f"{shlex.join(words)}:\n{told.stdout}{told.stderr}"
            done.append(words[1])

    assert done[:2] == ["init", "check"]
    assert len(done) >= 3


def sample(folder: Path) -> None:
    """The files that the README takes for granted."""
    events = [
        {
            "order_id": f"o-{i}",
            "customer_id": f"c-{i % 7}",
            "placed_at": f"2026-01-15T12:00:{i:02d}Z",
            "amount": 9.5 * i,
        }
        for i in range(40)
    ]
    (folder / "sample.jsonl").write_text("\n".join(map(json.dumps, events)))
    model = onnx_files().linear((1.0,), metadata={"feature_names": "amount"})
    (folder / "model.onnx").write_bytes(model)


def onnx_files() -> ModuleType:
    """The tests of `models` have a small ONNX model; tests are no package, so it is loaded by its path."""
    spec = importlib.util.spec_from_file_location("onnx_files", "tests/models/onnx_files.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_case_in_the_readme_comes_out_as_it_says() -> None:
    """What it expects, and the decision that is shown below it."""
    [shown] = [YAML(typ="safe").load(block) for block in blocks(README, "yaml") if "\nexpect:" in block]
    [decision] = map(json.loads, blocks(README, "json"))
    claims = load(CLAIMS)
    spec = claims.guard
    scanner = Scanner(spec.recognisers, spec.phone_regions, spec.threshold)

    [got] = decide_case(claims, Case.model_validate(shown), CLAIMS.parent, scanner)

    assert differences(shown["expect"][0], got) == []
    assert got.pop("policy").keys() == decision.pop("policy").keys()  # its digest changes with every rule
    assert got == decision


def test_the_expressions_in_the_readme_are_those_of_the_pipeline() -> None:
    [shown] = [block for block in blocks(README, "yaml") if "\npolicy:" in block]
    parts = YAML(typ="safe").load(shown)
    claims = load(CLAIMS)

    assert parts["features"].items() <= claims.features.items()
    assert all(rule in [each.model_dump() for each in claims.policy.rules] for rule in parts["policy"]["rules"])


@pytest.mark.parametrize(("document", "code"), [(path, code) for path in DOCUMENTS for code in blocks(path, "python")])
def test_the_python_in_documents_compiles(document: Path, code: str) -> None:
    compile(code, str(document), "exec")


def test_the_producer_in_the_readme_sends_what_gets_a_decision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its properties are librdkafka's, and its record passes the claims' contract."""
    [code] = [block for block in blocks(README, "python") if "Producer(" in block]
    [case] = [YAML(typ="safe").load(block) for block in blocks(README, "yaml") if "\nexpect:" in block]
    [value] = [event["value"] for event in case["events"]]
    (tmp_path / "claim.json").write_text(json.dumps(value))
    sent: list[dict[str, Any]] = []

    class Stub(Producer):
        def __init__(self, properties: dict[str, str]) -> None:
            super().__init__({**properties, "log_level": 0})  # refuses what librdkafka does not know

        def produce(self, topic: str, value: str, key: str, headers: dict[str, str]) -> None:
            sent.append({"topic": topic, "raw": value, "key": key, "headers": headers})

    monkeypatch.setattr("confluent_kafka.Producer", Stub)
    monkeypatch.chdir(tmp_path)
    exec(code, {})
    monkeypatch.undo()
    [record] = sent
    claims = load(CLAIMS)
    spec = claims.guard
    event = {name: record[name] for name in ("raw", "key", "headers")}
    asked = Case.model_validate({**case, "events": [event]})

    [got] = decide_case(claims, asked, CLAIMS.parent, Scanner(spec.recognisers, spec.phone_regions, spec.threshold))

    assert record["topic"] == claims.topic("events")
    assert '"partitioner": "murmur2_random"' in code
    assert (got["kind"], got["entity"]) == ("decision", record["key"])


def test_the_readme_publishes_every_model_of_its_pipeline() -> None:
    """Without one of them every decision is degraded."""
    published = [words for words in commands(README) if words[:3] == ["penstock", "models", "publish"]]

    assert {words[words.index("--model") + 1] for words in published} == {*load(CLAIMS).models}
    assert all(Path(words[3]).exists() for words in published)


def keys_of(model: type[BaseModel]) -> set[str]:
    """What may be written in a section and in those within it."""
    found: set[str] = set()
    for name, field in model.model_fields.items():
        found.add(field.alias or name)
        for inner in vars(pipeline_file).values():
            if isinstance(inner, type) and issubclass(inner, BaseModel) and inner.__name__ in str(field.annotation):
                found |= keys_of(inner)
    return found


def test_the_reference_names_every_key_of_a_pipeline_and_of_a_case() -> None:
    named = {word for code in inline(REFERENCE) for word in re.findall(r"[a-z_]+", code)}

    assert len(keys_of(Pipeline)) > 50
    assert keys_of(Pipeline) - named == set()
    assert {*Case.model_fields, *Event.model_fields} - named == set()


SECTIONS = {
    "contract": pipeline_file.ContractSpec,
    "guard": pipeline_file.GuardSpec,
    "dedupe": pipeline_file.DedupeSpec,
    "recall": pipeline_file.RecallSpec,
    "views": pipeline_file.ViewSpec,
    "enrich": pipeline_file.EnrichSpec,
    "models": pipeline_file.ModelSpec,
    "delivery": pipeline_file.DeliverySpec,
}


def test_the_reference_gives_the_defaults_that_hold() -> None:
    """Those that one word says."""
    section, wrong, compared = "", [], 0
    for bold, names, told in re.findall(r"(?m)^\| (\*\*)?((?:`\w+`(?:, )?)+)(?:\*\*)? \|(.*?)\|", text_of(REFERENCE)):
        if bold:
            section = names.strip("`")
            continue
        keys, values = re.findall(r"`(\w+)`", names), [value.strip("` ") for value in told.split(",")]
        for key, value in zip(keys, values, strict=False):
            field = (
                SECTIONS[section].model_fields.get(key) if section in SECTIONS and len(keys) == len(values) else None
            )
            if field is None or value in {"needed", ""} or isinstance(field.default, tuple | dict | BaseModel):
                continue
            compared += 1
            if not same(value, field.default):
                wrong.append(f"{section}.{key}: {value}, not {field.default}")

    assert wrong == []
    assert compared > 15


def same(told: str, default: object) -> bool:
    if isinstance(default, timedelta):
        unit = re.fullmatch(r"(\d+)(ms|s|m|h|d)", told)
        seconds = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}
        return unit is not None and timedelta(seconds=int(unit[1]) * seconds[unit[2]]) == default
    if default is None:
        return told in {"for ever", "unknown"}
    return told.replace("64 MiB", str(64 * 1024**2)) == str(default)


def test_every_block_says_what_language_it_is_in() -> None:
    """A block of commands without a label would not be tested."""
    assert {document: blocks(document, "") for document in DOCUMENTS if blocks(document, "")} == {}


def test_the_readme_is_short_and_begins_with_what_it_is_for() -> None:
    text = text_of(README)
    first = text.split("\n\n")[1]

    assert len(text.splitlines()) < 240
    assert "Kafka" in first
    assert text.index("demo.svg") < text.index("make demo") < text.index("\n## ")
