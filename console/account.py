"""`penstock account`: does every event have exactly one first record? See `console.accounting`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from console.run import give_up


def account(  # noqa: PLR0917 -- typer makes options of them
    bootstrap: Annotated[
        str, typer.Option(envvar="PENSTOCK_BOOTSTRAP", show_envvar=True, help="Kafka brokers, host:port and so on.")
    ],
    file: Annotated[
        Path | None, typer.Argument(envvar="PENSTOCK_FILE", help="The pipeline file, for its name and topics.")
    ] = None,
    pipeline: Annotated[
        str | None,
        typer.Option(help="In place of the file: the pipeline's name, where no topic has a name of its own."),
    ] = None,
    group: Annotated[
        str | None,
        typer.Option(envvar="PENSTOCK_GROUP", show_envvar=True, help="Consumer group; by default the pipeline's name."),
    ] = None,
    patience: Annotated[float, typer.Option(help="Seconds to read everything.")] = 60.0,
    client_config: Annotated[
        Path | None,
        typer.Option(
            envvar="PENSTOCK_CLIENT_CONFIG", show_envvar=True, help="File of librdkafka properties, name=value a line."
        ),
    ] = None,
) -> None:
    """Count, from the topics alone, the events that do not have exactly one first record.

    Prints the account as JSON. Events beyond what the group has committed are waiting, which is not wrong.

    The exit code is 1 where it is not right, 2 where it cannot be made.
    """
    from console import accounting
    from dataflows.settings import Settings, SettingsInvalid

    if pipeline is None and file is None:
        give_up("neither a pipeline file nor --pipeline NAME was given")
    name, given = (pipeline, {}) if pipeline is not None else _named_in(Path(file or ""))
    try:
        settings = Settings(file=file or Path(), bootstrap=bootstrap, client_config=client_config)
        connection = settings.connection()
    except SettingsInvalid as wrong:
        give_up(str(wrong))
    raise typer.Exit(accounting.report(connection, accounting.topics_of(name, given), patience, group or name))


def _named_in(file: Path) -> tuple[str, dict[str, str]]:
    """Name and topics in a pipeline file. Its text alone is read: the account must not rely on what it checks."""
    from dataflows.locate import read_yaml

    try:
        data = read_yaml(file.read_text(encoding="utf-8")).data
    except (OSError, UnicodeDecodeError) as error:
        give_up(f"could not read {file}: {error}")
    name = data.get("pipeline") if isinstance(data, dict) else None
    given = data.get("topics") or {} if isinstance(data, dict) else {}
    if not isinstance(name, str) or not isinstance(given, dict):
        give_up(f"{file} does not name a pipeline and its topics; `penstock check {file}` says what is wrong")
    return name, {str(role): str(topic) for role, topic in given.items()}
