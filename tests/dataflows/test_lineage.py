"""What a job reads and writes, as a catalog of data is told: topics, views, and which column comes from which."""

from __future__ import annotations

from pathlib import Path

import pytest

from dataflows.jobs import job_of
from dataflows.lineage import Column, rebuild_of, work_of
from dataflows.pipeline import loads

TEXT = Path("deploy/pipelines/payments/pipeline.yaml").read_text()
VIEWS = """views:
  device:
    key: device_id
    where: "channel = 'online'"
    windows:
      cards_seen: { function: count, window: 1h }
      abroad: { function: sum, of: "amount * 1.0", window: 1h, where: "country <> card_country" }
    max_age: 5s
    defaults: { cards_seen: 0, abroad: 0 }
  own:
    key: card_id
    windows: { spent: { function: sum, of: amount, window: 1h } }
    max_age: 5s
    defaults: { spent: 0 }
policy: { version: "1", outcomes: [approve, review], default: approve, on_unknown: review }
"""


@pytest.fixture(scope="module")
def payments():
    return loads(TEXT[: TEXT.index("views:\n")] + VIEWS)


def work(pipeline, job):
    return work_of(pipeline, job_of(pipeline, job), "one:9092,two:9092", "redis://user:secret@store:6380/0")


def test_each_job_reads_what_the_one_before_it_writes(payments):
    rekeyed, entity, decisions = work(payments, "by-device_id"), work(payments, "features"), work(payments, "decisions")
    views = work(payments, "views")
    names = lambda datasets: [(each.namespace, each.name) for each in datasets]  # noqa: E731 -- said once

    assert names(entity.reads) == [("kafka://one:9092", "payments.events")]
    assert names(entity.writes) == [
        ("kafka://one:9092", "payments.by-device_id"),
        ("kafka://one:9092", "payments.features"),
    ]
    assert rekeyed.reads == (entity.writes[0],)
    assert views.reads == (entity.writes[1], *rekeyed.writes)
    assert names(views.writes) == [("redis://store:6380", f"penstock:payments:{view}") for view in ("device", "own")]
    assert decisions.reads == (*entity.reads, *views.writes)
    assert "secret" not in repr((decisions, views))
    assert [each.name for each in (entity, rekeyed, views)] == [
        "payments.features", "payments.by-device_id", "payments.views",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("redis", "namespace"),
    [
        ("redis+cluster://h1:6381,h2:6382", "redis://h1:6381"),
        ("rediss+cluster://user:secret@h1,h2:6382", "redis://h1:6379"),
        ("redis+sentinel://user:secret@h1:26380,h2:26381/master/0", "redis://h1:26380"),
        ("rediss://user:secret@h1/0", "redis://h1:6379"),
        ("redis://h1:port", "redis://unknown:6379"),
        (None, "redis://unknown:6379"),
    ],
)
def test_of_several_hosts_of_redis_the_first_names_it(payments, redis, namespace):
    for made in (
        rebuild_of(payments, "one:9092", redis),
        work_of(payments, job_of(payments, "views"), "one:9092", redis),
    ):
        assert [each.namespace for each in made.writes] == [namespace] * 2


def test_a_feature_comes_from_what_its_sql_its_filters_and_its_windows_use(payments):
    topic, changelog = work(payments, "features").writes
    [devices] = work(payments, "by-device_id").writes
    when, fields = payments.contract.event_time, {column.name for column in topic.columns}

    assert changelog.columns == (
        Column("own_spent", "number", (("amount", "AGGREGATION"), ("card_id", "GROUP_BY"), (when, "WINDOW"))),
    )
    cards, abroad = devices.columns
    assert dict(cards.origins) == {"channel": "FILTER", "device_id": "GROUP_BY", when: "WINDOW"}
    assert dict(abroad.origins) == {
        "amount": "AGGREGATION", "country": "FILTER", "card_country": "FILTER", "channel": "FILTER",
        "device_id": "GROUP_BY", when: "WINDOW",
    }  # fmt: skip
    assert fields == {"amount", "country", "card_country", "channel", "device_id", when}


def test_a_view_of_feast_has_feasts_names():
    text = Path("deploy/pipelines/claims/pipeline.yaml").read_text()
    claims = loads(text.replace("  holder:\n", "  holder:\n    source: { feast: { project: demo } }\n", 1))
    _, holder = work(claims, "decisions").reads

    assert (holder.namespace, holder.name) == ("redis://store:6380", "feast:demo:holder")
    assert [column.name for column in holder.columns] == ["holder_claims_3y", "holder_paid_3y", "holder_tenure_days"]
