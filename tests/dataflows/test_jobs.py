"""Which jobs a pipeline has, and what each of them needs."""

from __future__ import annotations

from pathlib import Path

import pytest
from confluent_kafka.admin import AclOperation

from console.permissions import needs
from console.topics import topics_of
from dataflows.jobs import OUTPUTS, JobUnknown, job_of, jobs_of
from dataflows.pipeline import Pipeline, load, loads

CLAIMS = Path("deploy/pipelines/claims/pipeline.yaml")
WINDOWED = """
pipeline: shop
contract:
  format: json
  event_id: id
  entity: who
  event_time: at
  fields:
    id: { type: string }
    who: { type: string }
    at: { type: datetime }
    device: { type: string }
    card: { type: integer }
    amount: { type: number }
guard: { default: allow, headers: allow }
views:
  loaded: { key: card, features: { limit: number } , on_missing: default, defaults: { limit: 0 }, on_stale: last_known }
  own: { key: who, windows: { n_1h: { function: count, window: 1h } }, on_missing: review }
  device: { key: device, windows: { n_1h: { function: count, window: 1h } }, on_missing: review }
  devices: { key: device, windows: { spent: { function: sum, of: amount, window: 1h } }, on_missing: review }
  card: { key: card, windows: { n_1d: { function: count, window: 1d } }, on_missing: review }
policy: { version: "1", outcomes: [approve, review], default: approve, on_unknown: review }
"""


@pytest.fixture(scope="module")
def shop() -> Pipeline:
    return loads(WINDOWED)


def test_a_pipeline_without_windowed_views_only_decides() -> None:
    pipeline = load(CLAIMS)

    assert list(jobs_of(pipeline)) == ["decisions"]
    with pytest.raises(
        JobUnknown, match="there is no job 'features'; expected one of decisions: no view of claims has"
    ):
        job_of(pipeline, "features")


def test_each_other_key_of_windowed_views_has_a_job_of_its_own(shop: Pipeline) -> None:
    jobs = jobs_of(shop)

    assert list(jobs) == ["decisions", "features", "by-device", "by-card", "views"]
    assert [job.key for job in jobs.values()] == [None, None, "device", "card", None]
    assert [job.name for job in jobs.values() if job.sees_events] == ["decisions", "features"]
    assert [job.name for job in jobs.values() if job.beats] == ["decisions"]
    with pytest.raises(JobUnknown, match=r"expected one of decisions, features, by-device, by-card, views$"):
        job_of(shop, "by-who")


def test_groups_begin_with_the_pipelines_or_the_one_that_is_given(shop: Pipeline) -> None:
    groups = {group: [job.group for job in jobs_of(shop, group).values()] for group in ("", "night")}

    assert groups[""] == ["shop", "shop.features", "shop.by-device", "shop.by-card", "shop.views"]
    assert groups["night"] == [group.replace("shop", "night") for group in groups[""]]


def test_what_one_job_writes_another_reads(shop: Pipeline) -> None:
    jobs = jobs_of(shop)

    assert set(jobs["features"].writes) == {jobs["by-device"].reads[0], jobs["by-card"].reads[0]}
    assert jobs["views"].reads == ("features", "by-device.features", "by-card.features")
    assert set(jobs["views"].reads) == {job.state for job in jobs.values()} - {"state", None}


def test_topics_are_made_for_all_jobs_and_as_they_need_them(shop: Pipeline) -> None:
    topics = topics_of(shop, 6, 2)

    assert list(topics) == [
        "shop.events", *(f"shop.{role}" for role in OUTPUTS), "shop.state", "penstock.registry", "penstock.admissions",
        "shop.by-device", "shop.by-card", "shop.features", "shop.by-device.features", "shop.by-card.features",
    ]  # fmt: skip
    assert {name for name, topic in topics.items() if topic.partitions == 1} == {
        "penstock.registry", "penstock.admissions"
    }  # fmt: skip
    compacted = {name for name, topic in topics.items() if topic.config.get("cleanup.policy") == "compact"}
    assert compacted == {
        "shop.state", "penstock.admissions", "shop.features", "shop.by-device.features", "shop.by-card.features"
    }  # fmt: skip
    own_time = [name for name, topic in topics.items() if "message.timestamp.type" not in topic.config]
    assert own_time == ["shop.state"]


def test_a_job_may_do_what_it_does_and_no_more(shop: Pipeline) -> None:
    read, write = AclOperation.READ, AclOperation.WRITE
    jobs = jobs_of(shop)

    assert needs(jobs["features"]) == {
        "events": (read,), "by-device": (write,), "by-card": (write,), "features": (read, write)
    }  # fmt: skip
    assert needs(jobs["by-card"]) == {"by-card": (read,), "by-card.features": (read, write)}
    assert needs(jobs["views"]) == dict.fromkeys(jobs["views"].reads, (read,))
    assert needs(jobs["decisions"])["registry"] == (read, write)
