"""The `penstock` command. Commands import what they need when they run, so that `--help` is quick."""

from __future__ import annotations

import sys

import typer

from console import (
    account,
    backfill,
    check,
    demo,
    feature_look,
    feature_rebuild,
    features,
    init,
    lanes,
    models,
    parity,
    rejected,
    replay,
    run,
    schema,
    slots,
)

app = typer.Typer(
    name="penstock",
    help="A real-time decision engine: events in, decisions out, exactly once.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command()(demo.demo)
app.command()(run.run)
app.command()(check.check)
app.command()(init.init)
app.command()(run.topics)
app.command()(schema.schema)
app.command()(account.account)
app.command()(replay.replay)

releases = typer.Typer(help="Publish, list and promote releases of models.", no_args_is_help=True)
releases.command()(models.publish)
releases.command("list")(models.list_releases)
releases.command()(models.promote)
app.add_typer(releases, name="models")

partitions = typer.Typer(help="Look after single lanes.", no_args_is_help=True)
partitions.command()(lanes.skip)
app.add_typer(partitions, name="lanes")

rejections = typer.Typer(help="Look at rejected events, and decide them again.", no_args_is_help=True)
rejections.command("list")(rejected.list_rejected)
rejections.command()(rejected.show)
rejections.command()(rejected.replay)
app.add_typer(rejections, name="rejected")

views = typer.Typer(help="Put feature views into Redis and look at them.", no_args_is_help=True)
views.command()(feature_look.get)
views.command()(features.put)
views.command()(features.load)
views.command("list")(feature_look.list_views)
views.command()(feature_rebuild.rebuild)
views.command()(backfill.backfill)
views.command()(parity.parity)
app.add_typer(views, name="features")

members = typer.Typer(
    help="Look at the slots of a group, and retire one that will not come back.", no_args_is_help=True
)
members.command("list")(slots.list_slots)
members.command()(slots.retire)
app.add_typer(members, name="slots")


def main() -> None:
    """Run the command line."""
    try:
        app()
    except Exception as failure:
        if (why := _unusable(failure)) is None:
            raise
        print(f"could not make a Kafka client: {why}; is what --client-config names right?", file=sys.stderr)
        sys.exit(2)


def _unusable(failure: Exception) -> str | None:
    """What is wrong with the client's properties, which any command meets where it makes its first client."""
    from confluent_kafka import KafkaError, KafkaException

    error = failure.args[0] if isinstance(failure, KafkaException) else None
    return error.str() if isinstance(error, KafkaError) and error.code() == KafkaError._INVALID_ARG else None


if __name__ == "__main__":
    main()
