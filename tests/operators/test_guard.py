"""Nothing planted gets past the guard, and a guard that cannot run lets nothing through."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import bytewax.operators as op
import numpy as np
import pytest
from bytewax.dataflow import Dataflow
from bytewax.testing import TestingSink, TestingSource, run_main
from hypothesis import given, settings
from hypothesis import strategies as st

from models.finding import SCAN_ERROR, SCAN_TOO_LARGE, Finding
from operators import wire
from operators.batch import Close
from operators.disguise import Tokeniser
from operators.guard import MAX_FINDINGS, guard
from tests.operators import planted
from tests.operators.guarded import ALL_PII, CLEAN, EMAIL, PII, TRACE, VAULT, batch_of, guard_of, opened


def test_clean_rows_go_on_unchanged_and_the_original_bytes_do_not() -> None:
    batch = batch_of([CLEAN, None, ""])
    out = guard_of().work(batch)
    assert {name: list(column) for name, column in out.columns.items()} == {
        name: list(column) for name, column in batch.columns.items()
    }
    assert out.records == ()
    assert out.values == [None] * 3
    assert out.keys == [None] * len(batch)


@pytest.mark.parametrize(("kind", "text"), [(kind, text) for kind, texts in PII.items() for text in texts])
def test_a_finding_sends_the_whole_event_sealed_to_quarantine(kind: str, text: str) -> None:
    batch = batch_of([CLEAN, f"please use {text} thanks", CLEAN])
    batch.headers[1] = [("tenant", b"one"), ("gone", None)]
    out = guard_of().work(batch)
    assert out.offset.tolist() == [100, 102]
    (record,) = out.records
    assert (record.topic, record.lane, record.key) == ("quarantine", 3, b"claims.events-3-101")
    body, original = opened(record)
    assert (body.origin.topic, body.origin.partition, body.origin.offset) == ("claims.events", 3, 101)
    assert (kind, 11, 11 + len(text)) in [(each.type, each.start, each.end) for each in body.findings]
    assert {each.field for each in body.findings} == {"description"}
    assert (original.key, original.value) == (batch.keys[1], batch.values[1])
    assert original.headers == (("tenant", b"one"), ("gone", None))
    assert original.whole
    assert planted.batch_leaks(out, [text]) == []


def test_the_byte_scan_sees_what_is_in_the_clear() -> None:
    out = guard_of(fields={"description": "allow"}).work(batch_of([f"mail {EMAIL}"]))
    assert planted.batch_leaks(out, [EMAIL]) == [EMAIL]
    record = wire.duplicate("claims", "claims.events", 0, 1, event_id='a"b', entity="é", first="x")
    assert planted.leaks([record], ['a"b', "é", "zzz"]) == [('a"b', "duplicates"), ("é", "duplicates")]


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_no_planted_value_is_in_anything_that_leaves(data: st.DataObject) -> None:
    words = st.sampled_from(["the car", "hit", "a wall;", "see", "\u00e9t\u00e9", "on 2024-03-11", "", "(", "no. 7"])
    piece = st.one_of(words, st.sampled_from(ALL_PII))
    texts = data.draw(st.lists(st.lists(piece, max_size=5).map(" ".join), min_size=1, max_size=6))
    mode = data.draw(st.sampled_from(["quarantine", "redact"]))
    actions = {"name": "drop", "mail": "tokenise", "phone": "mask"}
    secrets = {"name": ["Maria Gomez"], "mail": [EMAIL], "phone": ["212-555-0123"]}
    batch = batch_of(texts, **{name: values * len(texts) for name, values in secrets.items()})
    out = guard_of(fields=actions, on_finding=mode).work(batch)
    there = [text for text in ALL_PII if any(text in each for each in texts)]
    assert planted.batch_leaks(out, [*there, *(text for each in secrets.values() for text in each)]) == []
    left = {int(record.key.rsplit(b"-", 1)[1]) for record in out.records}
    assert left | set(out.offset.tolist()) == set(batch.offset.tolist())
    assert not left & set(out.offset.tolist())
    dirty = {100 + row for row, text in enumerate(texts) if any(each in text for each in ALL_PII)}
    if mode == "quarantine":
        assert dirty <= left
    for row, offset in enumerate(out.offset.tolist()):
        redacted = out.columns["description"][row] != texts[offset - 100]
        assert redacted == ("redacted:description" in out.degraded[row])
        assert redacted or offset not in dirty


def test_redacting_keeps_the_rest_of_the_text_and_says_so() -> None:
    batch = batch_of([CLEAN, f"mail {EMAIL} or 212-555-0123, thanks"], note=[f"cc {EMAIL}", "none"])
    out = guard_of(on_finding="redact").work(batch)
    assert out.columns["description"] == [CLEAN, "mail <EMAIL_ADDRESS> or <PHONE_NUMBER>, thanks"]
    assert out.columns["note"] == ["cc <EMAIL_ADDRESS>", "none"]
    assert out.degraded == [("redacted:note",), ("redacted:description",)]
    assert out.records == ()
    assert batch.columns["description"][1].startswith(f"mail {EMAIL}")  # the batch that came in is not changed


def test_what_joins_into_personal_data_once_redacted_is_held_back() -> None:
    class Always:
        def scan_batch(self, texts: Sequence[str]) -> list[list[Finding]]:
            return [[Finding("SCAN_ERROR" if text == "fails" else "X", 0, 1, 1.0)] if text else [] for text in texts]

    out = guard_of(Always(), on_finding="redact").work(batch_of(["abc", "fails", "abc"]))
    assert len(out) == 0
    assert [record.key for record in out.records] == [b"claims.events-3-%d" % n for n in (100, 101, 102)]


@pytest.mark.parametrize("where", ["claim_id", "holder", "key"])
def test_findings_that_cannot_be_redacted_quarantine(where: str) -> None:
    batch = batch_of([CLEAN, CLEAN])
    if where == "key":
        batch.keys[1] = EMAIL.encode()
    else:
        batch.columns[where][1] = EMAIL
        {"claim_id": batch.event_ids, "holder": batch.entities}[where][1] = EMAIL
    out = guard_of(fields={"claim_id": "scan", "holder": "scan"}, on_finding="redact", key_action="scan").work(batch)
    assert out.offset.tolist() == [100]
    assert planted.batch_leaks(out, [EMAIL]) == []
    assert {each.field for each in opened(out.records[0])[0].findings} == {where}


class Raises:
    def scan_batch(self, texts: Sequence[str]) -> list[list[Finding]]:
        raise MemoryError


class TooFew:
    def scan_batch(self, texts: Sequence[str]) -> list[list[Finding]]:
        return [[] for _ in texts][1:]


@pytest.mark.parametrize("broken", [Raises(), TooFew()])
@pytest.mark.parametrize("mode", ["quarantine", "redact"])
def test_a_scanner_that_cannot_run_lets_nothing_through(broken: Any, mode: str) -> None:
    batch = batch_of([CLEAN, None, EMAIL])
    out = guard_of(broken, on_finding=mode, key_action="scan").work(batch)
    assert len(out) == 0
    assert [record.key for record in out.records] == [b"claims.events-3-%d" % n for n in (100, 101, 102)]
    for record, value in zip(out.records, batch.values, strict=True):
        body, original = opened(record)
        assert {each.type for each in body.findings} == {SCAN_ERROR}
        assert original.value == value


@pytest.mark.parametrize("mode", ["quarantine", "redact"])
def test_what_could_not_be_scanned_is_held_back(mode: str) -> None:
    batch = batch_of([CLEAN, "x" * 9_000, CLEAN, CLEAN], extra=["", "", {"nested": EMAIL}, ""])
    batch.keys[3] = b"\xff\xfe"
    out = guard_of(on_finding=mode, key_action="scan").work(batch)
    assert out.offset.tolist() == [100]
    found = [{each.type for each in opened(record)[0].findings} for record in out.records]
    assert found == [{SCAN_TOO_LARGE}, {SCAN_ERROR}, {SCAN_ERROR}]


def test_numbers_and_booleans_are_not_scanned() -> None:
    batch = batch_of([CLEAN], card=np.array([4111111111111111.0]))
    assert len(guard_of().work(batch)) == 1


def test_an_array_of_strings_is_scanned_too() -> None:
    batch = batch_of([CLEAN], note=np.array([EMAIL], dtype=object))
    assert len(guard_of().work(batch)) == 0


def test_drop_mask_and_tokenise() -> None:
    batch = batch_of(
        [CLEAN] * 2,
        name=["Maria Gomez", None],
        phone=["212-555-0123", None],
        mail=[EMAIL, None],
        amount=np.array([5.0, 6.0]),
        flag=[True, False],
    )
    actions = {"name": "drop", "phone": "mask", "mail": "tokenise", "amount": "drop", "flag": "mask"}
    out = guard_of(fields=actions).work(batch)
    assert out.columns["name"] == [None, None]
    assert out.columns["phone"] == ["***-***-**23", None]
    assert out.columns["mail"] == [Tokeniser(VAULT).token("mail", EMAIL), None]
    assert np.isnan(out.columns["amount"]).all()
    assert out.columns["amount"].dtype == np.float64
    assert out.columns["flag"] == [None, None]


def test_tokenised_names_of_events_and_entities_are_the_same_everywhere() -> None:
    batch = batch_of([CLEAN, EMAIL])
    out = guard_of(fields={"claim_id": "tokenise", "holder": "tokenise"}).work(batch)
    assert out.event_ids == out.columns["claim_id"] == [Tokeniser(VAULT).token("claim_id", "C-0")]
    assert out.entities == out.columns["holder"] == [Tokeniser(VAULT).token("holder", "PH-000000")]
    assert opened(out.records[0])[1].key == b"PH-000001"


@pytest.mark.parametrize("action", ["drop", "mask"])
@pytest.mark.parametrize("field", ["claim_id", "holder"])
def test_names_of_events_and_entities_cannot_be_lost(field: str, action: str) -> None:
    with pytest.raises(ValueError, match=f"{field}.*{action}.*tokenise"):
        guard_of(fields={field: action})


def test_headers_cannot_be_masked() -> None:
    with pytest.raises(ValueError, match="headers cannot be 'mask'"):
        guard_of(header_action="mask")


def test_headers_are_dropped_but_for_trace_context() -> None:
    batch = batch_of([CLEAN] * 3)
    batch.headers[0] = [("X-User", EMAIL.encode()), TRACE, ("tracestate", b"vendor=a1,b@c=2")]
    batch.headers[1] = [TRACE, ("tracestate", f"vendor={EMAIL}".encode())]
    batch.headers[2] = [("traceparent", EMAIL.encode()), ("tracestate", b"a=1")]
    out = guard_of().work(batch)
    assert out.headers == [[TRACE, ("tracestate", b"vendor=a1,b@c=2")], [TRACE], []]


def test_scanned_headers_are_kept_when_clean_and_found_by_name_and_value() -> None:
    batch = batch_of([CLEAN] * 4)
    batch.headers[0] = [("tenant", b"one"), ("empty", None)]
    batch.headers[1] = [("tenant", b"one"), ("user", EMAIL.encode())]
    batch.headers[2] = [(EMAIL, b"x")]
    batch.headers[3] = [("blob", b"\xff")]
    out = guard_of(header_action="scan").work(batch)
    assert out.offset.tolist() == [100]
    assert out.headers == [[("tenant", b"one"), ("empty", None)]]
    found = [[(each.field, each.type) for each in opened(record)[0].findings] for record in out.records]
    assert found == [[("headers", "EMAIL_ADDRESS")], [("headers", "EMAIL_ADDRESS")], [("headers", SCAN_ERROR)]]
    assert planted.batch_leaks(out, [EMAIL]) == []
    redacted = guard_of(header_action="scan", on_finding="redact").work(batch)
    assert redacted.headers[1] == []
    assert redacted.degraded[1] == ("redacted:headers",)
    assert planted.batch_leaks(redacted, [EMAIL]) == []


@pytest.mark.parametrize("key_action", ["allow", "scan"])
def test_allowed_headers_go_on_and_the_key_does_not(key_action: str) -> None:
    batch = batch_of([CLEAN])
    batch.headers[0] = [("tenant", b"one")]
    out = guard_of(header_action="allow", key_action=key_action).work(batch)
    assert (out.headers, out.keys) == ([[("tenant", b"one")]], [None])


def test_a_record_lists_a_bounded_number_of_findings() -> None:
    out = guard_of().work(batch_of([" ".join(f"user{i}@example.org" for i in range(200))]))
    assert len(opened(out.records[0])[0].findings) == MAX_FINDINGS


def test_batch_size_does_not_matter() -> None:
    texts = [CLEAN, EMAIL, None, "192.0.2.77", CLEAN, "call 212-555-0123"]
    batch = batch_of(texts)
    whole = guard_of().work(batch)
    single = [guard_of().work(batch.take(slice(i, i + 1))) for i in range(len(texts))]
    assert whole.offset.tolist() == [int(o) for each in single for o in each.offset]
    assert [r.key for r in whole.records] == [r.key for each in single for r in each.records]


def test_as_a_step_of_a_flow_lane_control_passes() -> None:
    out: list[Any] = []
    flow = Dataflow("flow")
    items = op.input("in", flow, TestingSource([batch_of([CLEAN, EMAIL]), Close(3)]))
    op.output("out", guard("guard", items, guard=guard_of()), TestingSink(out))
    run_main(flow)
    assert [len(out[0]), len(out[0].records), out[1]] == [1, 1, Close(3)]
