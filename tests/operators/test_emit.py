from dataclasses import replace

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from operators.batch import Batch
from operators.emit import Encoder
from operators.wire import Decision, parse_decision_id

NOW = 1_795_393_800.25
TRACE = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def encoder(**changes):
    said = {"pipeline": "claims", "policy_version": "1", "policy_digest": "abc", "features": ["lag", "home", "text"]}
    return Encoder(**said | {"now": lambda: NOW} | changes)


def decided(n=3, **changes):
    batch = Batch(
        topic="claims.events",
        lane=np.full(n, 2, np.int32),
        offset=np.arange(n, dtype=np.int64) + 10,
        append_ms=np.zeros(n, np.int64),
        keys=[None] * n,
        values=[b"{}"] * n,
        headers=[[] for _ in range(n)],
        progress={2: 10 + n},
        event_ms=np.arange(n, dtype=np.int64) + 1_795_393_799_123,
        event_ids=[f"c-{i}" for i in range(n)],
        entities=[f"é-{i}" for i in range(n)],
        columns={
            "lag": np.arange(n) + 0.5,
            "home": [True, None, False][:n] + [None] * (n - 3),
            "text": ["a", None, 'q"},{"v":1,'][:n] + [None] * (n - 3),
            "severity": np.array([1.5, np.nan, np.inf][:n] + [0.0] * (n - 3)),
        },
        ages={"holder": np.array([2.5, np.nan, 0.0][:n] + [0.0] * (n - 3))},
        releases={"severity": ["3", None, "4"][:n] + ["4"] * (n - 3)},
        shadows={"severity": {"5": np.arange(n) * 1.0}},
        degraded=[(), ("view:holder:stale", "model:severity:nan"), ()][:n] + [()] * (n - 3),
        outcomes=["approve", "review", "flag"][:n] + ["approve"] * (n - 3),
        reasons=[(), ("SEVERITY_HIGH",), ("CLAIMS_FREQUENT", "REPORTED_LATE")][:n] + [()] * (n - 3),
        forced=[None] * n,
    )
    return replace(batch, **changes)


def test_emit_writes_what_was_decided_and_with_what():
    out = encoder().work(decided())
    first, second, review, third = out.records
    bodies = [orjson.loads(record.value) for record in (first, second, third)]

    assert out.append_ms.tolist() == decided().append_ms.tolist()  # the sink measures latency by them
    assert out.progress == {2: 13}
    assert bodies[0] == {
        "v": 1,
        "kind": "decision",
        "decision_id": "claims-0002-000000000010-" + bodies[0]["decision_id"][-1],
        "pipeline": "claims",
        "origin": {"topic": "claims.events", "partition": 2, "offset": 10},
        "revision": 0,
        "event_id": "c-0",
        "entity": "é-0",
        "event_time": "2026-11-23T00:29:59.123Z",
        "decided_at": "2026-11-23T00:30:00.250000Z",
        "outcome": "approve",
        "reasons": [],
        "scores": {"severity": {"score": 1.5, "release": "3"}},
        "shadows": {"severity": {"5": 0.0}},
        "features": {"lag": 0.5, "home": True, "text": "a"},
        "ages": {"holder": 2.5},
        "degraded": [],
        "policy": {"version": "1", "digest": "abc"},
    }
    assert bodies[1]["scores"] == {"severity": {"score": None, "release": None}}
    assert bodies[1]["ages"] == {"holder": None}
    assert bodies[1]["degraded"] == ["view:holder:stale", "model:severity:nan"]
    assert bodies[1]["features"] == {"lag": 1.5, "home": None, "text": None}
    assert bodies[2]["scores"] == {"severity": {"score": None, "release": "4"}}
    assert bodies[2]["features"]["text"] == 'q"},{"v":1,'
    assert [parse_decision_id(body["decision_id"]) for body in bodies] == [("claims", 2, 10 + i) for i in range(3)]
    assert [(r.topic, r.lane, r.key) for r in (first, second, third)] == [
        ("decisions", 2, f"é-{i}".encode()) for i in range(3)
    ]
    assert (review.topic, review.lane) == ("reviews", 2)
    assert review.key == bodies[1]["decision_id"].encode()
    assert (review.value, review.headers) == (second.value, second.headers)


def test_emit_writes_what_its_model_describes():
    for record in encoder().work(decided()).records:
        body = Decision.model_validate_json(record.value)
        assert orjson.loads(body.model_dump_json(exclude={"supersedes"})) == orjson.loads(record.value)


def test_emit_describes_each_record_as_a_cloudevent():
    record = encoder().work(decided(1)).records[0]

    assert dict(record.headers) == {
        "content-type": b"application/json",
        "ce_specversion": b"1.0",
        "ce_type": b"penstock.decision.v1",
        "ce_source": b"/penstock/claims",
        "ce_id": orjson.loads(record.value)["decision_id"].encode(),
        "ce_subject": b"claims.events-2-10",
        "ce_time": b"2026-11-23T00:30:00.250000Z",
    }


@pytest.mark.parametrize(
    "headers, kept",
    [
        ([("traceparent", TRACE)], {"traceparent": TRACE}),
        ([("traceparent", TRACE), ("tracestate", b"a=b,c=d")], {"traceparent": TRACE, "tracestate": b"a=b,c=d"}),
        ([("tracestate", b"a=b")], {}),
        ([("traceparent", b"ann@example.com")], {}),
        ([("traceparent", TRACE + b"\n")], {}),
        ([("traceparent", None)], {}),
        ([("traceparent", TRACE.replace(b"00-", b"ff-", 1))], {}),
        ([("traceparent", TRACE.replace(b"00-", b"cc-", 1))], {"traceparent": TRACE.replace(b"00-", b"cc-", 1)}),
        ([("traceparent", b"00-" + b"0" * 32 + TRACE[35:])], {}),
        ([("traceparent", TRACE), ("tracestate", b"a=b c=d;e@mail")], {"traceparent": TRACE}),
        ([("traceparent", TRACE), ("tracestate", b"a=1," * 33 + b"a=1")], {"traceparent": TRACE}),
        ([("traceparent", TRACE), ("tracestate", b"a=\xff")], {"traceparent": TRACE}),
        ([("traceparent", TRACE), ("tracestate", b"a=" + b"x" * 513)], {"traceparent": TRACE}),
        ([("ce_extra", b"secret"), ("x", b"secret")], {}),
    ],
)
def test_emit_carries_the_trace_on_and_no_other_header(headers, kept):
    plain = dict(encoder().work(decided(1)).records[0].headers)
    written = dict(encoder().work(decided(1, headers=[headers])).records[0].headers)

    assert {name: data for name, data in written.items() if name not in plain} == kept


@given(
    st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1, max_size=8),
    st.lists(st.floats(), min_size=8, max_size=8),
)
def test_emit_writes_any_text_and_number(texts, numbers):
    n = len(texts)
    numbers = np.array(numbers[:n])
    columns = {"v": texts, "kind": numbers, "m": numbers}
    rows = {"columns": columns, "event_ids": texts, "entities": texts, "reasons": [(text,) for text in texts]}
    empty = {"ages": {}, "shadows": {}, "releases": {"m": texts}, "outcomes": ["a"] * n, "degraded": [()] * n}
    out = encoder(features=["v", "kind"]).work(decided(n, **rows | empty))

    for i, record in enumerate(out.records):
        body = orjson.loads(record.value)
        number = numbers[i] if np.isfinite(numbers[i]) else None
        assert body["features"] == {"v": texts[i], "kind": number}
        assert body["scores"] == {"m": {"score": number, "release": texts[i]}}
        assert (body["event_id"], body["reasons"], record.key) == (texts[i], [texts[i]], texts[i].encode())


def test_emit_gives_the_same_records_whatever_the_batch_size():
    whole = encoder().work(decided(9)).records
    one_by_one = [record for i in range(9) for record in encoder().work(decided(9).take(np.array([i]))).records]

    assert list(whole) == one_by_one


def test_emit_takes_names_with_signs_of_the_template():
    out = encoder(pipeline="a%b", features=[]).work(
        decided(2, ages={"%b": np.zeros(2)}, shadows={"m": {"%s": np.ones(2)}})
    )
    body = orjson.loads(out.records[0].value)

    assert (body["pipeline"], body["ages"], body["shadows"]) == ("a%b", {"%b": 0.0}, {"m": {"%s": 1.0}})


def test_emit_lets_a_batch_without_rows_pass():
    empty = decided().take(np.array([], np.int64))

    assert encoder().work(empty) is empty
