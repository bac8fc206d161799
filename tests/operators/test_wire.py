import base64
import contextlib
import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from operators import wire
from operators.sealed import KEEP_BYTES, open_original, sealed_original
from operators.wire import Duplicate, Quarantine, Reason, Rejection, decision_id, parse_decision_id
from state.vault import SealBroken, Vault

VAULT = Vault.from_base64(Vault.generate())
FIRST = TypeAdapter(wire.FirstRecord)


def rejected(key=b"k", value=b"v", headers=(), keep=KEEP_BYTES, offset=7):
    sealed = sealed_original(VAULT, wire.origin_key("claims.events", 3, 7), key, value, list(headers), keep=keep)
    return wire.rejection("claims", "claims.events", 3, offset, reason=Reason.WRONG_TYPE, field="line", sealed=sealed)


def test_wire_names_decisions_by_their_origin():
    assert decision_id("claims", 3, 12345) == "claims-0003-000000012345-B"
    assert decision_id("claims", 3, 9) < decision_id("claims", 3, 10) < decision_id("claims", 20, 1)


@given(st.from_regex(r"[a-z][a-z0-9-]{0,30}", fullmatch=True), st.integers(0, 2**31 - 1), st.integers(0, 2**63 - 1))
def test_wire_reads_decision_ids_back(pipeline, lane, offset):
    assert parse_decision_id(decision_id(pipeline, lane, offset)) == (pipeline, lane, offset)


def test_wire_finds_every_mistyped_digit_or_swap_of_neighbours_or_nearly():
    text = decision_id("claims", 3, 12345)
    wrong = [text[:i] + d + text[i + 1 :] for i in range(7, 24) if text[i] != "-" for d in "0123456789" if d != text[i]]
    wrong += [text[:i] + text[i + 1] + text[i] + text[i + 2 :] for i in range(12, 23) if text[i] != text[i + 1]]
    missed = 0
    for typo in wrong:
        with contextlib.suppress(ValueError):
            parse_decision_id(typo)
            missed += 1

    assert missed / len(wrong) < 0.06  # one in 32, as 5 bits can


@pytest.mark.parametrize(
    "text", ["", "claims", "claims-3-4-P", "claims-0003-000000012345", "claims-0003-000000012345-P "]
)
def test_wire_refuses_what_is_no_decision_id(text):
    with pytest.raises(ValueError, match="expected the form"):
        parse_decision_id(text)


def test_wire_writes_rejections():
    record = rejected()
    read = FIRST.validate_json(record.value)

    assert (record.topic, record.lane, record.key) == ("rejected", 3, b"claims.events-3-7")
    assert isinstance(read, Rejection)
    assert read.model_dump(exclude={"sealed"}) == {
        "v": 1,
        "kind": "rejection",
        "pipeline": "claims",
        "origin": {"topic": "claims.events", "partition": 3, "offset": 7},
        "revision": 0,
        "supersedes": None,
        "reason": "wrong_type",
        "field": "line",
    }
    assert dict(record.headers) == {
        "__connect.errors.topic": b"claims.events",
        "__connect.errors.partition": b"3",
        "__connect.errors.offset": b"7",
        "__connect.errors.exception.class.name": b"wrong_type",
        "__connect.errors.stage": b"decode",
    }


def test_wire_writes_quarantine_records():
    finding = {"field": "description", "type": "EMAIL", "start": 3, "end": 9, "score": 0.9}
    sealed = sealed_original(VAULT, wire.origin_key("e", 0, 1), None, b"v", [])
    record = wire.quarantine("claims", "e", 0, 1, findings=[finding], sealed=sealed)
    read = FIRST.validate_json(record.value)

    assert isinstance(read, Quarantine)
    assert record.topic == "quarantine"
    assert record.key == b"e-0-1"
    assert [found.model_dump() for found in read.findings] == [finding]
    assert open_original(VAULT, read).value == b"v"


def test_wire_writes_duplicate_marks():
    first = decision_id("claims", 0, 1)
    record = wire.duplicate("claims", "e", 0, 2, event_id="c-1", entity="PH-1", first=first)

    assert (record.topic, record.key) == ("duplicates", b"PH-1")
    assert FIRST.validate_json(record.value) == Duplicate(
        pipeline="claims", origin={"topic": "e", "partition": 0, "offset": 2}, event_id="c-1", first=first
    )


@pytest.mark.parametrize("key", [None, b"", b"\xff\n{"])
@pytest.mark.parametrize("value", [None, b"", b"\n", bytes(range(256))])
@pytest.mark.parametrize("headers", [(), (("a", None), ("a", b""), ("é\n", b"\n\x00"))])
def test_wire_keeps_the_original_whole(key, value, headers):
    read = FIRST.validate_json(rejected(key, value, headers).value)
    original = open_original(VAULT, read)

    assert (original.key, original.value, original.headers) == (key, value, headers)
    assert original.whole
    assert original.size == len(value or b"")
    assert original.sha256 == hashlib.sha256(value or b"").hexdigest()


@pytest.mark.parametrize(
    "key, value, headers",
    [
        (b"k", b"v" * 1_040_000, (("h", b"x"),)),
        (b"k" * 500_000, b"v" * 500_000, (("h", b"x"),)),
        (b"k", b"v" * 100, (("h", b"x" * 1_000_000),)),
        (b"k", b"v" * 600_000, (("\x00" * 50_000, b"x"),)),
        (b"k", b"v", (("h", b""),) * 200_000),
    ],
)
def test_wire_cuts_an_original_that_would_not_fit_into_a_message(key, value, headers):
    record = rejected(key, value, headers)
    original = open_original(VAULT, FIRST.validate_json(record.value))

    assert len(record.value) < 1_000_000
    assert not original.whole
    assert original.size == len(value)
    assert value.startswith(original.value)
    assert original.sha256 == hashlib.sha256(value).hexdigest()


def test_wire_opens_an_original_only_for_its_own_origin():
    with pytest.raises(SealBroken, match="another origin"):
        open_original(VAULT, FIRST.validate_json(rejected(offset=8).value))


@pytest.mark.parametrize("sealed", ["", "x", "%%%%", "AAAA"])
def test_wire_says_when_a_seal_is_none(sealed):
    read = FIRST.validate_json(rejected().value).model_copy(update={"sealed": sealed})

    with pytest.raises(SealBroken, match="was it cut"):
        open_original(VAULT, read)


def test_wire_shows_nothing_of_the_original():
    record = rejected(b"secret-key", b"secret-value", (("secret-name", b"secret-data"),))

    assert b"secret" not in base64.b64decode(FIRST.validate_json(record.value).sealed)
    assert b"secret" not in record.value + record.key + repr(record.headers).encode()


def test_wire_describes_every_kind():
    schemas = wire.json_schemas()

    assert set(schemas) == {"decision", "rejection", "quarantine", "duplicate"}
    assert schemas["rejection"]["$defs"]["Reason"]["enum"] == [reason.value for reason in Reason]
