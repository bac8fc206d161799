"""`penstock run` and `penstock topics`: a pipeline on a cluster."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from console.logs import log_as

if TYPE_CHECKING:
    from dataflows.pipeline import Pipeline


GUARANTEES = {
    "exactly_once": "exactly_once: outputs, lane state and offsets are one transaction; read with read_committed",
    "at_least_once": "at_least_once: a crash repeats records; a repeated decision has the same decision id",
}
"""What each guarantee gives, in the line that `penstock run` prints."""


def option(name: str, text: str) -> Any:
    """Make an option that is also the variable PENSTOCK_<name>."""
    return typer.Option(envvar=f"PENSTOCK_{name}", show_envvar=True, help=text)


def run(  # noqa: PLR0917 -- typer makes options of them
    context: typer.Context,
    file: Annotated[Path, typer.Argument(envvar="PENSTOCK_FILE", help="The pipeline file.")],
    bootstrap: Annotated[str, option("BOOTSTRAP", "Kafka brokers, host:port and so on.")],
    redis: Annotated[
        str | None, option("REDIS", "URL of the feature store. One with a password: only by PENSTOCK_REDIS.")
    ] = None,
    slots: Annotated[int, option("SLOTS", "Processes to run here.")] = 1,
    slot: Annotated[int, option("SLOT", "Number of the first of them; unique in the group.")] = 0,
    job: Annotated[
        str, option("JOB", "decisions; where views have windows also features, by-<key> and views.")
    ] = "decisions",
    group: Annotated[str, option("GROUP", "Consumer group; by default the pipeline's name.")] = "",
    guarantee: Annotated[
        str, option("GUARANTEE", "exactly_once, or at_least_once for brokers without transactions.")
    ] = "exactly_once",
    client_config: Annotated[
        Path | None, option("CLIENT_CONFIG", "File of librdkafka properties, name=value a line; passwords go here.")
    ] = None,
    session_timeout: Annotated[
        float, option("SESSION_TIMEOUT", "Seconds after which the lanes of a silent slot move to others.")
    ] = 10.0,
    watchdog: Annotated[
        float, option("WATCHDOG", "Seconds without a poll, or in one commit, after which a slot is ended.")
    ] = 30.0,
    host: Annotated[str, option("HOST", "Address that metrics and health are served on.")] = "127.0.0.1",
    metrics_port: Annotated[int, option("METRICS_PORT", "Port for all; slot n has this port + 1 + n.")] = 9100,
    seal_key_file: Annotated[
        Path | None, option("SEAL_KEY_FILE", "32 bytes in base64 that seal what is held back; or PENSTOCK_SEAL_KEY.")
    ] = None,
    artefacts: Annotated[str, option("ARTEFACTS", "Folder or fsspec URL of the releases' files.")] = "artefacts",
    lane_store: Annotated[
        Path | None, option("LANE_STORE", "Folder of a local disk for lane state; without it, it is in memory.")
    ] = None,
) -> None:
    """Decide the events of a pipeline, or do another of its jobs, until SIGTERM.

    Each slot is a process of its own in one consumer group; more can run elsewhere, with other slot numbers.
    """
    from console.cluster import ClusterUnfit, check_cluster
    from console.launcher import Launcher
    from console.lineage import SlotRows, recorded
    from dataflows.jobs import JobUnknown, job_of
    from dataflows.lineage import work_of
    from dataflows.settings import Settings, SettingsInvalid, open_vault

    log_as("launcher")
    refuse_password(context, redis)
    given = {
        f"PENSTOCK_{name.upper()}": str(value) for name, value in context.params.items() if value not in (None, "")
    }
    try:
        settings = Settings.from_environment({**os.environ, **given})
        pipeline = load_or_exit(file)
        wanted = job_of(pipeline, settings.job)
        if wanted.sees_events:
            open_vault(settings)
        _refuse_folder(lane_store)
        warnings = check_cluster(settings, pipeline)
    except (SettingsInvalid, ClusterUnfit, JobUnknown) as wrong:
        give_up(str(wrong))
    for warning in warnings:
        typer.echo(warning, err=True)
    typer.echo(GUARANTEES[settings.guarantee], err=True)
    launcher = Launcher(settings, pipeline)
    try:
        with recorded(lambda: work_of(pipeline, wanted, settings.bootstrap, redis)) as lineage:
            lineage.rows = SlotRows(launcher.page)
            if code := launcher.run():
                lineage.failure = f"the slots ended with status {code}"
    except OSError as failure:  # the port is taken
        give_up(failure.strerror or str(failure))
    raise typer.Exit(code)


def topics(
    file: Annotated[Path, typer.Argument(envvar="PENSTOCK_FILE", help="The pipeline file.")],
    bootstrap: Annotated[str, option("BOOTSTRAP", "Kafka brokers, host:port and so on.")],
    lanes: Annotated[int, typer.Option(min=1, max=1000, help="Partitions; fixed for the life of the pipeline.")] = 8,
    replicas: Annotated[int, typer.Option(min=1, max=9, help="Copies of each partition.")] = 1,
    client_config: Annotated[
        Path | None, option("CLIENT_CONFIG", "File of librdkafka properties, name=value a line.")
    ] = None,
) -> None:
    """Create the topics of a pipeline, with the settings that they need. Those that exist stay as they are.

    Nothing is created where one that exists has another number of partitions than it must have; the exit code is 1.
    """
    from confluent_kafka import KafkaException

    from console.topics import Standing, create_topics, standing_topics, topics_of
    from dataflows.settings import Settings, SettingsInvalid

    pipeline = load_or_exit(file)
    wanted = topics_of(pipeline, lanes, replicas)
    try:
        settings = Settings(file=file, bootstrap=bootstrap, client_config=client_config)
        connection = settings.connection()
        there = standing_topics(bootstrap, client=connection)
        differ = [name for name, topic in wanted.items() if there.get(name, topic.partitions) != topic.partitions]
        if differ:
            found = {name: Standing(there[name], created=False) for name in wanted if name in there}
        else:
            found = create_topics(bootstrap, wanted, client=connection)
    except (SettingsInvalid, TimeoutError) as failure:
        give_up(str(failure))
    except KafkaException as failure:
        unreached = failure.args[0].code() < 0  # the client's own words: no broker has answered
        hint = "; are --bootstrap and --client-config right?" if unreached else ""
        give_up(f"could not create topics at {bootstrap}: {failure.args[0].str()}{hint}")
    for name, now in found.items():
        counted = f"{now.partitions} partition{'' if now.partitions == 1 else 's'}"
        asked = f" (wanted {wanted[name].partitions})" if name in differ else ""
        typer.echo(f"{name}: {'created' if now.created else 'exists'}, {counted}{asked}")
    if set(differ) - {pipeline.topic("registry"), pipeline.topic("admissions")}:
        typer.echo("the number of lanes is fixed for the life of a pipeline: give --lanes the number it has", err=True)
    if differ:
        if missing := len(wanted) - len(found):
            typer.echo(f"{missing} topics do not exist; none was created", err=True)
        raise typer.Exit(1)


def load_or_exit(file: Path) -> Pipeline:
    """Read a pipeline file, or print every mistake in it and exit."""
    from dataflows.pipeline import PipelineInvalid, load

    try:
        return load(file)
    except PipelineInvalid as wrong:
        give_up(str(wrong))


def give_up(message: str) -> NoReturn:
    """Say what is wrong on standard error and exit with 2."""
    typer.echo(message, err=True)
    raise typer.Exit(2)


def _refuse_folder(folder: Path | None) -> None:
    """Exit where lane state cannot be kept in a folder: each slot would find out, again and again."""
    if folder is None:
        return
    from tempfile import TemporaryFile

    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            pass
    except OSError as failure:
        give_up(
            f"--lane-store {folder}: {failure.strerror}; it takes a folder on a local disk that this user may write"
        )


def refuse_password(context: typer.Context, url: str | None) -> None:
    """Exit where `--redis` itself holds a password: an argument is visible to every user of the machine."""
    from urllib.parse import urlsplit

    source = context.get_parameter_source("redis")
    if url and source is not None and source.name == "COMMANDLINE" and (urlsplit(url).password or "password=" in url):
        give_up("--redis has a password in it, which every user of this machine can read; set PENSTOCK_REDIS instead")
