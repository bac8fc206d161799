"""`penstock check`: is a pipeline file right, do its cases come out as expected, and are its topics as they must be?"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from console.cases import Outcome
    from console.topic_check import Note
    from dataflows.pipeline import Mistake, Pipeline

TIMEOUT = 10.0
"""Seconds for one call to the cluster."""


@dataclass(slots=True)
class Report:
    """All that was found."""

    file: str
    mistakes: list[Mistake] = field(default_factory=list)
    closed: list[str] = field(default_factory=list)
    """Models whose releases will be refused for what they read."""
    cases: list[Outcome] = field(default_factory=list)
    topics: list[Note] = field(default_factory=list)
    advice: str | None = None
    """What to do about the topics."""
    broken: str | None = None
    """Why something could not be checked at all."""

    @property
    def is_right(self) -> bool:
        """Whether the pipeline can be run."""
        failed = any(case.failures for case in self.cases) or any(note.severe for note in self.topics)
        return not (self.mistakes or self.closed or failed or self.broken)


def check(
    file: Annotated[Path, typer.Argument(envvar="PENSTOCK_FILE", help="The pipeline file, or its folder.")],
    bootstrap: Annotated[
        str | None,
        typer.Option(envvar="PENSTOCK_BOOTSTRAP", show_envvar=True, help="Check the topics of this cluster too."),
    ] = None,
    client_config: Annotated[
        Path | None,
        typer.Option(envvar="PENSTOCK_CLIENT_CONFIG", help="File of librdkafka properties, name=value a line."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Check a pipeline file: names, types and expressions, the cases beside it, and with --bootstrap its topics.

    Every mistake is named at once, with its line and the nearest valid name. Exit code 1 when anything is wrong.
    """
    report = examine(file, bootstrap, client_config)
    print(json.dumps(_as_dict(report), indent=2) if as_json else "\n".join(describe(report)))
    if not report.is_right:
        raise typer.Exit(1)


def examine(file: Path, bootstrap: str | None = None, client_config: Path | None = None) -> Report:
    """Check what `check` checks; broken files and unreachable clusters are in the report. A folder means its file."""
    from dataflows.pipeline import PipelineInvalid, load
    from dataflows.places import places_of

    file = file / "pipeline.yaml" if file.is_dir() else file
    report = Report(str(file))
    try:
        pipeline = load(file)
    except PipelineInvalid as invalid:
        report.mistakes = invalid.mistakes
        return report
    report.closed = [
        f"models.{place.name}: {', '.join(place.closed)} is not granted to it, so every release will be refused"
        for place in places_of(pipeline)
        if place.closed
    ]
    try:
        report.cases = _cases(pipeline, file)
    except ValueError as error:  # a stage that cannot be had as the file asks, such as an unknown phone region
        report.broken = str(error)
    if bootstrap:
        _topics(report, pipeline, bootstrap, client_config)
    return report


def describe(report: Report) -> list[str]:
    """The report in lines for a person."""
    if report.mistakes:
        found = f"{len(report.mistakes)} mistake{'s' if len(report.mistakes) > 1 else ''} in {report.file}"
        return [*map(str, report.mistakes), found]
    lines = [f"{report.file}: the pipeline is well-formed", *report.closed]
    for case in report.cases:
        lines.append(f"{'FAIL' if case.failures else 'ok  '} {Path(case.file).name}: {case.name}")
        lines += [f"       {failure}" for failure in case.failures]
    if not report.cases and not report.broken:
        lines.append("no cases: put events and the decisions you expect into cases/*.yaml beside the file")
    lines += map(str, report.topics)
    if report.advice:
        lines.append(report.advice)
    if report.broken:
        lines.append(f"error: {report.broken}")
    return lines


def _cases(pipeline: Pipeline, file: Path) -> list[Outcome]:
    from console.cases import run_cases
    from models.pii import Scanner

    spec = pipeline.guard
    return run_cases(pipeline, file, Scanner(spec.recognisers, spec.phone_regions, spec.threshold))


def _topics(report: Report, pipeline: Pipeline, bootstrap: str, client_config: Path | None) -> None:
    from confluent_kafka import KafkaException

    from console.topic_check import check_topics
    from dataflows.settings import Settings, SettingsInvalid

    try:
        connection = Settings(file=Path(report.file), bootstrap=bootstrap, client_config=client_config).connection()
        report.topics = check_topics(pipeline, connection, TIMEOUT)
        if any(note.missing for note in report.topics):
            report.advice = f"create the topics with `penstock topics {report.file} --bootstrap {bootstrap}`"
    except SettingsInvalid as error:
        report.broken = str(error)
    except KafkaException as error:
        said = error.args[0].str()
        report.broken = f"could not read the topics of {bootstrap} within {TIMEOUT:.0f} s: {said}; is Kafka reachable?"


def _as_dict(report: Report) -> dict[str, Any]:
    return {**asdict(report), "ok": report.is_right}
