"""What is sent to another key's lanes, and that the same is read there."""

from __future__ import annotations

from typing import Any

import numpy as np
import orjson
import pytest

from operators import metrics
from operators.batch import Batch, Record
from operators.rekey import Exchange, Rekeyer
from operators.rekeyed import RekeyedReader
from state.murmur2 import lanes_of

LANES = 5
DEVICE = Exchange("by-device", "device", ("device", "amount", "online", "country"))
TERMINAL = Exchange("by-terminal", "terminal", ("terminal",))
FIELDS = {"device": "string", "amount": "number", "online": "boolean", "country": "string"}
ODD = 'a "b", ü%b \\ '


def events(**more: Any) -> Batch:
    """Three rows of lane 2 and one of lane 3, of which one has no device."""
    return Batch(
        topic="p.events",
        lane=np.array([2, 2, 2, 3], np.int32),
        offset=np.array([10, 11, 13, 7]),
        append_ms=np.array([5, 6, 7, 8]),
        keys=[None] * 4,
        values=[None] * 4,
        headers=[[]] * 4,
        event_ms=np.array([1_000, 900, 2_000, 5]),
        behind_ms=np.array([0, 100, 0, 0]),
        columns={
            "device": ["D-1", ODD, None, "D-1"],
            "terminal": np.array([7.0, np.nan, 12345678901.0, 7.0]),
            "amount": np.array([1.5, np.nan, 2.0, 1e300]),
            "online": [True, None, False, False],
            "country": [None, ODD, "DE", ""],
        },
        records=(Record("rejected", 2, None, b"another job's"),),
        **more,
    )


def sent(batch: Batch) -> list[Record]:
    return list(Rekeyer([DEVICE, TERMINAL], lambda: LANES).work(batch).records)


def received(records: list[Record], fields: dict[str, str] = FIELDS, role: str = "by-device") -> Batch:
    """As the job of that key polls them, all partitions as if they were one lane."""
    mine = [record for record in records if record.topic == role]
    n = len(mine)
    polled = Batch(
        topic="p.by-device",
        lane=np.zeros(n, np.int32),
        offset=np.arange(n),
        append_ms=np.full(n, 9),
        keys=[record.key for record in mine],
        values=[record.value for record in mine],
        headers=[[]] * n,
        poll=4,
        progress={0: n},
    )
    return RekeyedReader(fields).work(polled)


def test_a_row_arrives_with_all_that_the_views_need() -> None:
    read = received(sent(events()))

    assert read.columns["device"] == ["D-1", ODD, "D-1"]
    assert read.columns["country"] == [None, ODD, ""]
    assert read.columns["online"] == [True, None, False]
    np.testing.assert_array_equal(read.columns["amount"], [1.5, np.nan, 1e300])
    assert (read.event_ms.tolist(), read.behind_ms.tolist()) == ([1_000, 900, 5], [0, 100, 0])
    assert (read.source_lane.tolist(), read.source_offset.tolist()) == ([2, 2, 3], [10, 11, 7])
    assert (len(read), read.poll, read.progress) == (3, 4, {0: 3})


def test_rows_go_where_a_producer_would_send_their_key_and_belong_to_their_own_lane() -> None:
    records = sent(events())

    assert [(r.topic, r.lane, r.key) for r in records] == [
        ("by-device", 2, b"D-1"), ("by-device", 2, ODD.encode()), ("by-device", 3, b"D-1"),
        ("by-terminal", 2, b"7"), ("by-terminal", 2, b"12345678901"), ("by-terminal", 3, b"7"),
    ]  # fmt: skip
    assert [r.partition for r in records] == lanes_of([r.key or b"" for r in records], LANES).tolist()


def test_records_of_another_job_go_no_further_also_where_no_row_is_left() -> None:
    assert all(record.topic.startswith("by-") for record in sent(events()))
    assert sent(events().take(slice(0, 0))) == []


def test_tides_are_in_every_partition_and_speak_for_all_their_lanes() -> None:
    tick = events(tides={2: {2: 777}, 3: {3: 888}}).take(slice(0, 0))
    records = sent(tick)

    assert sorted((r.topic, r.partition) for r in records) == [
        (e.role, p) for e in (DEVICE, TERMINAL) for p in range(LANES)
    ]
    assert {(r.key, r.lane, r.others) for r in records} == {(None, 2, (3,))}
    read = received(records[:1])
    assert (len(read), read.tides) == (0, {0: {2: 777, 3: 888}})


@pytest.mark.parametrize(
    "value", [None, b"", b"[]", b"1", b"{}", b'{"v":2,"at":1}', b'{"v":1,"at":1}', b'{"v":1,"tides":{"a":1}}',
              b'{"v":1,"at":1,"from":[1],"with":{}}', b'{"v":1,"at":"x","from":[1,2],"behind":0,"with":{}}',
              b'{"v":1,"tides":[]}', b'{"v":1,"tides":{}}', b'{"v":1,"tides":{"0":"soon"}}',
              b'{"v":1,"tides":{"0":18446744073709551615}}',
              b'{"v":1,"at":9223372036854775808,"from":[1,2],"behind":0,"with":{}}',
              b'{"v":1,"at":1,"from":[2147483648,2],"behind":0,"with":{}}',
              b'{"v":1,"at":1,"from":[1,2],"behind":0.5,"with":{}}',
              b'{"v":1,"at":1,"from":[1,2],"behind":0,"with":{"device":"D","amount":"much"}}',
              b'{"v":1,"at":1,"from":[1,2],"behind":0,"with":{"device":"D","amount":[1]}}',
              b'{"v":1,"at":1,"from":[1,2],"behind":0,"with":{"device":7}}',
              b'{"v":1,"at":1,"from":[1,2],"behind":0,"with":{"device":"D","online":"yes"}}'],
)  # fmt: skip
@pytest.mark.parametrize("key", [b"D-1", None])
def test_what_something_else_wrote_there_leaves_and_the_others_stay(key: bytes | None, value: bytes | None) -> None:
    good, before = sent(events(tides={2: {2: 777}})), rejected()
    read = received([*good, Record("by-device", 0, key, value)])

    assert read.columns["device"] == ["D-1", ODD, "D-1"]
    assert read.tides == {0: {2: 777}}
    assert rejected() == before + 1


def rejected() -> float:
    return metrics.SLOT.get_sample_value("penstock_rejected_events_total", {"reason": "undecodable"}) or 0.0


def test_a_field_that_a_record_lacks_is_missing() -> None:
    """As after the pipeline file has got a new feature, while older records are still in the topic."""
    read = received(sent(events()), FIELDS | {"age": "number", "city": "string"})

    assert np.isnan(read.columns["age"]).all()
    assert read.columns["city"] == [None] * 3


def test_the_body_is_what_the_docstring_says() -> None:
    assert orjson.loads(sent(events())[1].value or b"") == {
        "v": 1, "at": 900, "from": [2, 11], "behind": 100,
        "with": {"device": ODD, "amount": None, "online": None, "country": ODD},
    }  # fmt: skip
