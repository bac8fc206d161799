import logging
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import orjson
import pytest
from ruamel.yaml import YAML

from operators import metrics, strict_json
from operators.batch import Batch
from operators.contract import ContractSpec
from operators.decode import Decoder
from operators.sealed import open_original
from operators.wire import Reason, Rejection
from state.vault import Vault

VAULT = Vault.from_base64(Vault.generate())
PIPELINE = Path(__file__).parents[2] / "deploy/pipelines/claims/pipeline.yaml"
CLAIMS = ContractSpec.model_validate(YAML(typ="safe").load(PIPELINE)["contract"])
CLAIM = {
    "claim_id": "C-1",
    "policyholder_id": "PH-123456",
    "noticed_at": "2026-11-23T00:30:00.123456Z",
    "accident_date": "2026-11-01",
    "report_date": "2026-11-20",
    "line": "Auto",
    "claim_type": "PD",
    "policy_limit": 15000.5,
    "deductible": 500,
    "description": "rear-ended: bumper {broken}",
    "contact_name": "Ann",
}
ENVELOPE = {"specversion": "1.0", "id": "e-1", "source": "/portal", "type": "claim.noticed", "data": CLAIM}
STRUCTURED = [("content-type", b"application/cloudevents+json; charset=UTF-8")]
BINARY = [
    ("ce_specversion", b"1.0"),
    ("ce_id", b"e"),
    ("ce_source", b"/p"),
    ("ce_type", b"t"),
    ("content-type", b"application/json"),
]
PLAIN = {
    "format": "json",
    "event_id": "id",
    "entity": "who",
    "event_time": "at",
    "fields": {
        "id": {"type": "string", "from": "/meta/id"},
        "who": {"type": "string", "from": "/meta/a~1b"},
        "at": {"type": "datetime"},
        "n": {"type": "integer", "required": False, "nullable": True, "ge": -5},
        "x": {"type": "number", "required": False, "le": 10},
        "ok": {"type": "boolean", "required": False, "nullable": True},
        "day": {"type": "date", "required": False, "nullable": True},
        "kind": {"type": "string", "enum": ["a", "b"], "required": False, "nullable": True},
    },
}
EVENT = {"meta": {"id": "e-1", "a/b": "ann"}, "at": "2026-11-23T00:30:00Z"}


def batch(values, headers=STRUCTURED, key=b"k"):
    n = len(values)
    return Batch(
        topic="claims.events",
        lane=np.full(n, 1, np.int32),
        offset=np.arange(n, dtype=np.int64) + 100,
        append_ms=np.zeros(n, np.int64),
        keys=[key] * n,
        values=list(values),
        headers=[list(headers) for _ in range(n)],
        progress={1: 100 + n},
    )


def decode(values, headers=STRUCTURED, contract=CLAIMS):
    return Decoder(contract, pipeline="claims", vault=VAULT).work(batch(values, headers))


def reasons(out):
    read = [Rejection.model_validate_json(record.value) for record in out.records]
    return [(record.reason.value, record.field) for record in read]


def plain(contract=None, **event):
    return decode([orjson.dumps(EVENT | event)], [], ContractSpec.model_validate(PLAIN | (contract or {})))


def claim(**changes):
    return orjson.dumps(ENVELOPE | {"data": CLAIM | changes})


@pytest.mark.parametrize("value, headers", [(orjson.dumps(ENVELOPE), STRUCTURED), (orjson.dumps(CLAIM), BINARY)])
def test_decode_makes_columns(value, headers):
    out = decode([value, value], headers)

    assert out.records == ()
    assert out.event_ids == ["C-1", "C-1"]
    assert out.entities == ["PH-123456", "PH-123456"]
    assert out.event_ms.tolist() == [int(datetime(2026, 11, 23, 0, 30, tzinfo=UTC).timestamp()) * 1000 + 123] * 2
    assert list(out.columns) == list(CLAIMS.fields)
    assert out.columns["noticed_at"].tolist() == [datetime(2026, 11, 23, 0, 30, 0, 123456, UTC).timestamp()] * 2
    assert out.columns["accident_date"].tolist() == [20758.0, 20758.0]
    assert out.columns["deductible"].tolist() == [500.0, 500.0]
    assert {out.columns[name].dtype for name in ("noticed_at", "report_date", "policy_limit")} == {np.dtype(np.float64)}
    assert out.columns["line"] == ["Auto", "Auto"]
    assert out.columns["contact_phone"] == [None, None]
    assert (out.degraded, out.forced) == ([(), ()], [None, None])
    assert out.progress == {1: 102}


def test_decode_maps_plain_json_by_pointers():
    out = plain(n=-5, x=2, ok=True, day="2024-02-29", kind="b")

    assert out.records == ()
    assert (out.event_ids, out.entities) == (["e-1"], ["ann"])
    assert (out.columns["n"].tolist(), out.columns["x"].tolist()) == ([-5.0], [2.0])
    assert (out.columns["ok"], out.columns["kind"]) == ([True], ["b"])
    assert out.columns["day"].tolist() == [19782.0]


@pytest.mark.parametrize("event", [{}, {"n": None, "ok": None, "day": None, "kind": None}])
def test_decode_says_what_is_missing_by_type(event):
    out = plain(**event)

    assert out.records == ()
    assert np.isnan([out.columns["n"][0], out.columns["x"][0], out.columns["day"][0]]).all()
    assert (out.columns["ok"], out.columns["kind"]) == ([None], [None])


@pytest.mark.parametrize(
    "event, reason, field",
    [
        ({"n": 1.0}, "wrong_type", "n"),
        ({"n": True}, "wrong_type", "n"),
        ({"n": "1"}, "wrong_type", "n"),
        ({"n": 2**53}, "number_out_of_range", "n"),
        ({"n": 2**64 - 1}, "number_out_of_range", "n"),
        ({"n": 1e30}, "number_out_of_range", "n"),
        ({"n": -6}, "constraint", "n"),
        ({"x": None}, "wrong_type", "x"),
        ({"x": 10.5}, "constraint", "x"),
        ({"ok": 0}, "wrong_type", "ok"),
        ({"day": "2026-02-29"}, "constraint", "day"),
        ({"day": 20260201}, "wrong_type", "day"),
        ({"kind": "c"}, "constraint", "kind"),
        ({"kind": 1}, "wrong_type", "kind"),
        ({"at": "2026-11-23T00:30:00"}, "constraint", "at"),
        ({"at": "2026-11-23T23:59:60Z"}, "constraint", "at"),
        ({"at": "0001-01-01T00:00:00+00:01"}, "constraint", "at"),
        ({"at": "9999-12-31T23:59:59-00:01"}, "constraint", "at"),
        ({"more": 1}, "unknown_field", None),
        ({"meta": {"id": "e", "a/b": "x", "more": 1}}, "unknown_field", None),
        ({"meta": {"id": "e"}}, "missing_field", "who"),
        ({"meta": []}, "wrong_type", None),
        ({"meta": {"id": "", "a/b": "x"}}, "constraint", "id"),
        ({"meta": {"id": "e", "a/b": "x" * 257}}, "constraint", "who"),
    ],
)
def test_decode_rejects_what_breaks_the_contract(event, reason, field):
    out = plain(**event)

    assert reasons(out) == [(reason, field)]
    assert len(out) == 0


def test_decode_drops_unknown_fields_when_told_to():
    out = plain({"unknown_fields": "drop"}, more=[1], meta={"id": "e", "a/b": "x", "more": {}})

    assert out.records == ()
    assert list(out.columns) == list(PLAIN["fields"])


@pytest.mark.parametrize(
    "value, reason",
    [
        (None, "tombstone"),
        (b"", "empty"),
        (b" ", "invalid_json"),
        (b'"' + b"x" * 32768 + b'"', "too_large"),
        (b'{"a":"\xff"}', "invalid_utf8"),
        (b'{"a":"\xed\xa0\x80"}', "invalid_utf8"),
        (b"\xef\xbb\xbf{}", "invalid_json"),
        (orjson.dumps(ENVELOPE)[:-1], "invalid_json"),
        (b'{"a":NaN}', "invalid_json"),
        (b'{"a":"\\ud800"}', "invalid_json"),
        (b'{"a":1e400}', "number_out_of_range"),
        (b'{"a":' + b"9" * 400 + b"}", "number_out_of_range"),
        (b"[" * 9 + b"]" * 9, "too_deep"),
        (b"[" * 20_000, "too_deep"),
        (b'{"a":1,"\\u0061":1}', "duplicate_key"),
        (b'{"a":' + b"[" * 1010 + b"]" * 1010 + b',"a":1}', "duplicate_key"),
        (b'{"\\u003a":1,"a":1,"a":1}', "duplicate_key"),  # as many colons in the text as in what is left of it
        (b'{"\\u003A":1,"a":1,"a":1}', "duplicate_key"),
        (b'{"a\\u0000":1}', "nul_character"),
        (b"[" * 8 + b"]" * 8, "not_an_object"),
        (b"null", "not_an_object"),
        (b'{"id":"\\u003a"}', "missing_attribute"),
        (orjson.dumps(ENVELOPE | {"specversion": "0.3"}), "bad_attribute"),
        (orjson.dumps(ENVELOPE | {"id": ""}), "bad_attribute"),
        (orjson.dumps(ENVELOPE | {"subject": 1}), "bad_attribute"),
        (orjson.dumps(ENVELOPE | {"datacontenttype": "text/xml"}), "unsupported_content_type"),
        (orjson.dumps(ENVELOPE | {"data_base64": "e30="}), "unsupported_content_type"),
        (orjson.dumps({k: v for k, v in ENVELOPE.items() if k != "data"}), "missing_attribute"),
        (orjson.dumps(ENVELOPE | {"data": None}), "not_an_object"),
        (claim(policyholder_id="PH-123456\n"), "constraint"),
        (claim(**{f"x{i}": i for i in range(2000)}), "unknown_field"),
    ],
)
def test_decode_rejects_hostile_values_and_lets_their_neighbours_pass(value, reason):
    good = claim()
    out = decode([good, value, good])

    assert [found for found, _ in reasons(out)] == [reason]
    assert out.offset.tolist() == [100, 102]
    assert out.event_ids == ["C-1", "C-1"]
    assert len(out.columns["line"]) == 2


@pytest.mark.parametrize(
    "headers, reason",
    [
        ([], "missing_header"),
        (BINARY[1:], "missing_header"),
        ([("content-type", b"application/json")], "missing_header"),
        ([("content-type", None)], "bad_header"),
        ([("content-type", b"json")], "bad_header"),
        ([("content-type", b"\xff/json")], "bad_header"),
        ([("content-type", b"a/" + b"x" * 2000)], "bad_header"),
        ([*STRUCTURED, *STRUCTURED], "bad_header"),
        ([*BINARY, ("ce_id", b"e")], "bad_header"),
        ([("ce_specversion", b"0.3"), *BINARY[1:]], "bad_header"),
        ([BINARY[0], ("ce_id", b""), *BINARY[2:]], "bad_header"),
        ([BINARY[0], ("ce_id", b"\xff"), *BINARY[2:]], "bad_header"),
        ([BINARY[0], ("ce_id", None), *BINARY[2:]], "bad_header"),
        ([*BINARY[:4], ("content-type", b"application/avro")], "unsupported_content_type"),
        ([("content-type", b"application/cloudevents-batch+json")], "unsupported_content_type"),
        ([("content-type", b"application/cloudevents+json;charset=utf-16")], "unsupported_content_type"),
    ],
)
def test_decode_rejects_by_headers(headers, reason):
    assert reasons(decode([orjson.dumps(CLAIM)], headers)) == [(reason, None)]


@pytest.mark.parametrize(
    "text, microseconds",
    [
        ("1970-01-01T00:00:00Z", 0),
        ("1970-01-01t00:00:00.5z", 500_000),
        ("1970-01-01T01:00:00+01:00", 0),
        ("1969-12-31T23:59:59.999999999-00:00", -1),
        ("2262-04-11T23:47:16.854775Z", 9_223_372_036_854_775),
        ("0001-01-01T00:00:00Z", -62_135_596_800_000_000),
        ("9999-12-31T23:59:59.999999Z", 253_402_300_799_999_999),
    ],
)
@pytest.mark.parametrize("beside", ["1970-01-01T00:00:00Z", "1970-01-01T00:00:00+00:00"])
def test_decode_reads_moments_to_the_millisecond(text, microseconds, beside):
    out = decode([orjson.dumps(EVENT | {"at": at}) for at in (text, beside)], [], ContractSpec.model_validate(PLAIN))

    assert out.records == ()
    assert out.event_ms.tolist() == [microseconds // 1000, 0]
    assert out.columns["at"].tolist() == [microseconds / 1e6, 0.0]


def test_decode_seals_the_original():
    value = b'{"secret":'
    out = decode([value])
    record = out.records[0]
    original = open_original(VAULT, Rejection.model_validate_json(record.value))

    assert (original.key, original.value, original.headers) == (b"k", value, tuple(STRUCTURED))
    assert record.key == b"claims.events-1-100"
    assert b"secret" not in record.value


def test_decode_gives_the_same_whatever_the_batch_size():
    values = [claim(claim_id=f"C-{i}") if i % 3 else b"{" * (i % 5) for i in range(30)]
    whole = decode(values)
    decoder = Decoder(CLAIMS, pipeline="claims", vault=VAULT)
    alone = [decoder.work(batch(values).take(np.array([i]))) for i in range(30)]

    assert [event_id for out in alone for event_id in out.event_ids] == whole.event_ids
    assert [found for out in alone for found in reasons(out)] == reasons(whole)
    assert [t for out in alone for t in out.event_ms.tolist()] == whole.event_ms.tolist()


def test_decode_lets_no_defect_of_ours_stop_the_lane(monkeypatch, caplog):
    sound = strict_json.orjson.loads

    def loads(value):
        if b"trigger" in value:
            raise RuntimeError("secret")
        return sound(value)

    monkeypatch.setattr(strict_json.orjson, "loads", loads)
    with caplog.at_level(logging.ERROR):
        out = decode([claim(), b'{"trigger":1}', b"{", claim()])

    assert reasons(out) == [("undecodable", None), ("invalid_json", None)]
    assert out.offset.tolist() == [100, 103]
    assert "RuntimeError at" in caplog.text
    assert "secret" not in caplog.text
    assert "trigger" not in caplog.text


def test_decode_counts_rejections_once_a_batch_and_each_of_them_once(monkeypatch):
    sound, counted = strict_json.orjson.loads, []

    def loads(value):
        if b"trigger" in value:
            raise RuntimeError
        return sound(value)

    monkeypatch.setattr(metrics, "count_rejected", lambda reason, n=1: counted.append((reason, n)))
    decode([b"{", claim(), b"{", b""])
    assert sorted(counted) == [("empty", 1), ("invalid_json", 2)]

    counted.clear()
    monkeypatch.setattr(strict_json.orjson, "loads", loads)
    decode([b"{", b'{"trigger":1}', claim(), b"{"])
    assert sorted(counted) == [("invalid_json", 2), ("undecodable", 1)]


def test_decode_has_a_test_for_every_reason():
    text = Path(__file__).read_text()

    assert [reason.value for reason in Reason if f'"{reason.value}"' not in text] == []


def test_decode_documents_every_reason():
    text = PIPELINE.parents[1].joinpath("CONTRACT.md").read_text()

    assert [reason.value for reason in Reason if f"`{reason.value}`" not in text] == []
