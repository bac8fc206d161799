"""`penstock schema` describes what is really on the topics."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
from typer.testing import CliRunner

from console.cli import app
from console.schema import describe
from dataflows.pipeline import load

PIPELINES = Path("deploy/pipelines")


@pytest.mark.parametrize("name", ["claims", "payments"])
def test_every_reference_leads_somewhere_and_every_payload_is_a_schema(name: str) -> None:
    document = describe(load(PIPELINES / name / "pipeline.yaml"))

    def follow(reference: str) -> object:
        here: object = document
        for step in reference.removeprefix("#/").split("/"):
            assert isinstance(here, dict)
            here = here[step]
        return here

    def references(node: object) -> list[str]:
        if isinstance(node, dict):
            own = [node["$ref"]] if isinstance(node.get("$ref"), str) else []
            return own + [found for value in node.values() for found in references(value)]
        return [found for item in node for found in references(item)] if isinstance(node, list) else []

    assert document["channels"]["decisions"]["address"] == f"{name}.decisions"
    assert len(references(document)) > 12
    for reference in references(document):
        follow(reference)
    for message in document["components"]["messages"].values():
        jsonschema.Draft202012Validator.check_schema(message["payload"])


def test_the_contract_alone_is_what_producers_validate_against() -> None:
    result = CliRunner().invoke(app, ["schema", str(PIPELINES / "claims" / "pipeline.yaml"), "--contract"])
    printed = json.loads(result.stdout)

    assert result.exit_code == 0
    assert printed["properties"]["line"]["enum"] == ["Auto", "Home"]
    assert "claim_id" in printed["required"]
