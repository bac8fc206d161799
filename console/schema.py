"""`penstock schema`: what producers send and consumers get, as an AsyncAPI 3 document of JSON Schemas."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from dataflows.pipeline import Pipeline

OUTPUTS = {
    "decisions": ("decision", "Decisions, keyed by entity; those with outcome `review` are among them."),
    "reviews": ("decision", "Decisions with outcome `review` again, keyed by decision id, for people."),
    "rejected": ("rejection", "Events that broke the contract, sealed, with a reason."),
    "quarantine": ("quarantine", "Events held back because of personal data, sealed, with what was found."),
    "duplicates": ("duplicate", "Marks of events seen before, naming the first decision."),
}
"""Role of a topic to the kind of its records and what it is for."""


def schema(
    file: Annotated[Path, typer.Argument(envvar="PENSTOCK_FILE", help="The pipeline file.")],
    contract: Annotated[bool, typer.Option("--contract", help="Only the JSON Schema of an event.")] = False,
) -> None:
    """Print what the pipeline's topics hold: an AsyncAPI 3 document, or the JSON Schema of an event."""
    from console.run import load_or_exit
    from operators.contract import published_schema

    pipeline = load_or_exit(file)
    typer.echo(json.dumps(published_schema(pipeline.contract) if contract else describe(pipeline), indent=2))


def describe(pipeline: Pipeline) -> dict[str, Any]:
    """Describe every topic that producers and consumers of a pipeline meet, as AsyncAPI 3.0."""
    from operators.contract import published_schema
    from operators.wire import json_schemas

    schemas = {"event": published_schema(pipeline.contract), **json_schemas()}
    about = {"events": ("event", "Events, keyed by entity, partitioned as Java's default does."), **OUTPUTS}
    return {
        "asyncapi": "3.0.0",
        "info": {"title": f"Penstock pipeline {pipeline.pipeline}", "version": str(pipeline.contract.version)},
        "defaultContentType": "application/json",
        "channels": {
            role: {
                "address": pipeline.topic(role),
                "description": text,
                "messages": {kind: {"$ref": f"#/components/messages/{kind}"}},
            }
            for role, (kind, text) in about.items()
        },
        "operations": {
            role: {"action": "receive" if role == "events" else "send", "channel": {"$ref": f"#/channels/{role}"}}
            for role in about
        },
        "components": {"messages": {kind: {"payload": _local(body, kind)} for kind, body in schemas.items()}},
    }


def _local(body: Any, kind: str) -> Any:
    """Make references within a schema relative to the whole document."""
    if isinstance(body, dict):
        return {
            key: value.replace("#/$defs/", f"#/components/messages/{kind}/payload/$defs/")
            if key == "$ref"
            else _local(value, kind)
            for key, value in body.items()
        }
    return [_local(item, kind) for item in body] if isinstance(body, list) else body
