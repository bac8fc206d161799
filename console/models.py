"""`penstock models`: publish releases, see what is in force, change roles."""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn

import typer

from console.run import give_up, load_or_exit

if TYPE_CHECKING:
    from console.registry import Progress, Registry
    from dataflows.pipeline import Pipeline
    from models.release import PromotionRecord, ReleaseRecord

_FORMATS = {".onnx": "onnx", ".river": "river"}

PipelineFile = Annotated[
    Path, typer.Option("--pipeline", envvar="PENSTOCK_FILE", show_envvar=True, help="The pipeline file.")
]
Bootstrap = Annotated[
    str, typer.Option("--bootstrap", envvar="PENSTOCK_BOOTSTRAP", show_envvar=True, help="Addresses of the brokers.")
]
ClientConfig = Annotated[
    Path | None,
    typer.Option(
        "--client-config",
        envvar="PENSTOCK_CLIENT_CONFIG",
        show_envvar=True,
        help="File of librdkafka properties, `name=value` a line; passwords belong there.",
    ),
]
Wait = Annotated[bool, typer.Option("--wait", help="Wait until it is in force; exit 1 when that does not happen.")]
Timeout = Annotated[float, typer.Option("--timeout", help="Seconds to wait.")]
ValidFrom = Annotated[
    str | None, typer.Option("--valid-from", help="Not before this time: 2026-05-01T08:00:00Z, with its time zone.")
]


def publish(  # noqa: PLR0917 -- typer makes options of them
    file: Annotated[Path, typer.Argument(help="The model: FILE.onnx or FILE.river.")],
    pipeline: PipelineFile,
    bootstrap: Bootstrap,
    model: Annotated[str, typer.Option("--model", help="Which of the pipeline's models it is a release of.")],
    version: Annotated[str, typer.Option("--version", help="Its name; a version is published once.")],
    role: Annotated[Literal["champion", "shadow"], typer.Option("--role", help="What it shall be.")] = "champion",
    artefacts: Annotated[
        str,
        typer.Option("--artefacts", envvar="PENSTOCK_ARTEFACTS", show_envvar=True, help="Folder or fsspec URL."),
    ] = "artefacts",
    valid_from: ValidFrom = None,
    wait: Wait = False,
    timeout: Timeout = 60.0,
    client_config: ClientConfig = None,
) -> None:
    """Publish a release: store its file under its sha256 and append it to the registry.

    What the slots would refuse is refused here, before anything is written.

    The exit code is 1 where it is refused or not in force in time, 2 where a file, the broker or the store fails.
    """
    from models.artefacts import ArtefactStore

    spec = load_or_exit(pipeline)
    data, kind = _read(file)
    _try_out(spec, model, kind, data)
    with _registry(spec, pipeline, bootstrap, client_config) as registry:
        if (model, version) in registry.history.releases:
            _refuse("version_taken", f"version {version} of {model} is in the registry; publish it under another one")
        try:
            uri = ArtefactStore(artefacts).put(data, f".{kind}")
        except OSError as error:
            give_up(f"could not write to the artefact store {artefacts}: {error.strerror or type(error).__name__}")
        record = _release(
            pipeline=spec.pipeline,
            model=model,
            version=version,
            role=role,
            format=kind,
            sha256=hashlib.sha256(data).hexdigest(),
            size=len(data),
            uri=uri,
            inputs=spec.models[model].inputs,
            valid_from=_moment(valid_from),
        )
        _append(registry, record, f"release {version} of {model}", timeout if wait else None)


def promote(  # noqa: PLR0917
    model: Annotated[str, typer.Argument(help="The model.")],
    version: Annotated[str, typer.Argument(help="The release.")],
    pipeline: PipelineFile,
    bootstrap: Bootstrap,
    role: Annotated[Literal["champion", "shadow", "retired"], typer.Option("--role", help="What it shall be.")],
    valid_from: ValidFrom = None,
    wait: Wait = False,
    timeout: Timeout = 60.0,
    client_config: ClientConfig = None,
) -> None:
    """Give a published release another role. Exit codes as for `publish`."""
    from models.release import PromotionRecord

    spec = load_or_exit(pipeline)
    with _registry(spec, pipeline, bootstrap, client_config) as registry:
        if (model, version) not in registry.history.releases:
            known = [known for of, known in registry.history.releases if of == model]
            _refuse("unknown_version", f"{model} has no release {version}; it has {', '.join(known) or 'none'}")
        record = PromotionRecord(
            pipeline=spec.pipeline, model=model, version=version, role=role, valid_from=_moment(valid_from)
        )
        _append(registry, record, f"release {version} of {model} as {role}", timeout if wait else None)


def list_releases(
    pipeline: PipelineFile,
    bootstrap: Bootstrap,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    client_config: ClientConfig = None,
) -> None:
    """Show every release and promotion: what became of it, since when it is in force, and what the slots say."""
    spec = load_or_exit(pipeline)
    with _registry(spec, pipeline, bootstrap, client_config) as registry:
        rows = [_row(registry, of) for of in registry.history.changes]
        live = sorted(registry.answers.live())
    if as_json:
        print(json.dumps({"pipeline": spec.pipeline, "slots": live, "changes": rows}))
        return
    _print_table(rows, live)
    print(f"slots alive: {', '.join(live) or 'none'}")
    for row in rows:
        for slot, why in row["refused_by"].items():
            print(f"{slot} refused {row['model']} {row['version']}: {why.partition(':')[0]}")


def _print_table(rows: list[dict[str, Any]], live: list[str]) -> None:
    """Fits 80 columns where names are short, in local time."""
    from console.tables import print_table

    cells = []
    for row in rows:
        start = row["in_force_from"]
        since = "" if start is None else f"{datetime.fromisoformat(start).astimezone():%m-%d %H:%M:%S}"
        accepted = f"{len({*live} & {*row['accepted_by']})} of {len(live)}"
        cells.append((row["model"], row["version"], row["role"], row["state"], since, accepted))
    print_table(["model", "version", "asked", "state", "in force from", "accepted"], cells)


def _row(registry: Registry, of: int) -> dict[str, Any]:
    change, found = registry.history.changes[of], registry.progress(of)
    start = found.in_force_from
    return {
        "offset": of,
        "model": change.model,
        "version": change.version,
        "role": change.role,
        "state": registry.state_of(change, time.time_ns() // 1_000_000),
        "in_force_from": None
        if start is None
        else datetime.fromtimestamp(start / 1000, UTC).isoformat("T", "milliseconds"),
        "sha256": registry.history.release_of(change).record.sha256,
        "accepted_by": sorted(found.accepted),
        "refused_by": dict(sorted(found.refused.items())),
    }


def _append(registry: Registry, record: ReleaseRecord | PromotionRecord, what: str, timeout: float | None) -> None:
    """Append, and wait where that is asked for."""
    from rich.console import Console

    of = registry.append(record)
    print(f"published {what} at offset {of} of the registry")
    if timeout is None:
        return
    with Console(stderr=True).status(f"{what}: waiting for the slots") as status:
        found = registry.wait(of, timeout, lambda seen: status.update(f"{what}: {_in_words(seen)}"))
    if found.in_force_from is not None and found.in_force_from <= time.time() * 1000:
        print(f"{what} is in force")
        return
    print(f"{what} is not in force: {_in_words(found)}", file=sys.stderr)
    for slot, why in found.refused.items():
        print(f"  {slot} refused it: {why}", file=sys.stderr)
    raise typer.Exit(1)


def _in_words(found: Progress) -> str:
    if found.in_force_from is not None:
        return (
            f"activated, in force from {datetime.fromtimestamp(found.in_force_from / 1000, UTC):%Y-%m-%d %H:%M:%S} UTC"
        )
    if found.overtaken:
        return "a later champion of this model, or another change or release of this version, came first"
    if not found.live:
        return "no slot of this pipeline is alive; is `penstock run` running?"
    accepted = len(found.live & found.accepted)
    return f"{accepted} of {len(found.live)} slots have accepted it, {len(found.refused)} have refused it"


def _read(file: Path) -> tuple[bytes, str]:
    from models.release import MAX_ARTEFACT_BYTES

    kind = _FORMATS.get(file.suffix)
    if kind is None:
        _refuse("format", f"{file.name} is neither .onnx nor .river")
    try:
        if file.stat().st_size > MAX_ARTEFACT_BYTES:
            _refuse("too_large", f"{file.name} has more than {MAX_ARTEFACT_BYTES} bytes")
        return file.read_bytes(), kind
    except OSError as error:
        give_up(f"could not read {file}: {error.strerror or type(error).__name__}")


def _try_out(pipeline: Pipeline, model: str, kind: str, data: bytes) -> None:
    """The slots' own tests, here and now."""
    from dataflows.places import place_of
    from models.admission import check_grants, load, try_out
    from models.release import ModelRefused

    if model not in pipeline.models:
        _refuse("unknown_model", f"the pipeline has no model {model}; it has {', '.join(pipeline.models) or 'none'}")
    place = place_of(pipeline, model)
    try:
        check_grants(place)
        try_out(load(kind, data, place.inputs), place, {})
    except ModelRefused as refusal:
        _refuse(refusal.reason, refusal.detail)


def _release(**fields: Any) -> ReleaseRecord:
    from pydantic import ValidationError

    from models.release import ReleaseRecord

    try:
        return ReleaseRecord(**fields)
    except ValidationError as error:
        wrong = [f"{'.'.join(map(str, e['loc']))}: {e['msg'].lower()}" for e in error.errors(include_input=False)]
        give_up("; ".join(wrong))


def _moment(text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        give_up("--valid-from takes a time with its zone, such as 2026-05-01T08:00:00Z")
    return moment


@contextmanager
def _registry(pipeline: Pipeline, file: Path, bootstrap: str, client_config: Path | None) -> Iterator[Registry]:
    from console.registry import Registry, RegistryUnreachable
    from dataflows.settings import Settings, SettingsInvalid

    try:
        connection = Settings(file=file, bootstrap=bootstrap, client_config=client_config).connection()
    except SettingsInvalid as invalid:
        give_up(str(invalid))
    try:
        with Registry(pipeline, connection) as registry:
            yield registry
    except RegistryUnreachable as error:
        give_up(str(error))


def _refuse(reason: str, detail: str) -> NoReturn:
    print(f"refused: {reason}: {detail}", file=sys.stderr)
    raise typer.Exit(1)
