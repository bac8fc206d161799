"""Decode against the oracle: the same events are rejected, with a reason that the oracle knows, and all others pass."""

import json
import random

import numpy as np
import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from operators import strict_json
from operators.batch import Batch
from operators.contract import ContractSpec, published_schema
from operators.decode import Decoder
from operators.wire import Reason
from tests.operators.hostile import ODD_VALUES, generate
from tests.operators.oracle import Oracle, Refused, parse
from tests.operators.test_decode import BINARY, CLAIM, CLAIMS, ENVELOPE, EVENT, PLAIN, STRUCTURED, VAULT

MAPPED = ContractSpec.model_validate(PLAIN)
LENIENT = ContractSpec.model_validate(PLAIN | {"unknown_fields": "drop", "max_depth": 4, "max_bytes": 300})
ALL = EVENT | {"n": 1, "x": 2.5, "ok": True, "day": "2024-02-29", "kind": "a"}


def disagreements(contract, values, headers, size=256):
    """Give each value on which decoder and oracle differ, as (value, decoder's reason, oracle's reasons)."""
    decoder = Decoder(contract, pipeline="claims", vault=VAULT)
    schema = orjson.loads(orjson.dumps(published_schema(contract)))
    oracle = Oracle(schema, contract.format, contract.max_bytes, contract.max_depth)
    found = []
    for start in range(0, len(values), size):
        part, theirs = values[start : start + size], headers[start : start + size]
        n = len(part)
        zeros = np.zeros(n, np.int64)
        out = decoder.work(Batch("e", zeros.astype(np.int32), np.arange(n), zeros, [None] * n, part, theirs))
        bodies = [orjson.loads(record.value) for record in out.records]
        rejected = {body["origin"]["offset"]: body["reason"] for body in bodies}
        assert sorted([*rejected, *out.offset.tolist()]) == list(range(n))
        for i, (value, header) in enumerate(zip(part, theirs, strict=True)):
            reason, known = rejected.get(i), oracle.reasons(value, header)
            if (reason not in known) if reason else known:
                found.append((value, reason, known))
    return found


@pytest.mark.parametrize(
    "contract, valid, headers",
    [
        (CLAIMS, ENVELOPE, STRUCTURED),
        (CLAIMS, CLAIM, BINARY),
        (MAPPED, ALL, []),
        (LENIENT, ALL, []),
    ],
    ids=["structured", "binary", "mapped", "lenient"],
)
def test_decode_rejects_what_the_oracle_rejects(contract, valid, headers):
    values = generate(1, 2_500, orjson.dumps(valid))

    assert disagreements(contract, values, [headers] * len(values)) == []


def test_decode_rejects_headers_that_the_oracle_rejects():
    chance = random.Random(3)
    names = ["content-type", "ce_specversion", "ce_id", "ce_source", "ce_type", "traceparent", "Content-Type"]
    data = [
        None,
        b"",
        b"1.0",
        b"x",
        b"\xff",
        b"x" * 1024,
        b"x" * 1025,
        b"application/json",
        b"text/json; charset=UTF-8",
    ]
    data += [b"application/cloudevents+json", b"Application/CloudEvents+JSON;a=b", b"application/cloudevents+avro"]
    data += [
        b'application/vnd.a+json ; charset = "utf-8"',
        b"a/b+json;charset=latin1",
        b"a b/json",
        b"/json",
        b";",
        b" ",
    ]
    headers = [
        [
            *chance.sample(BINARY, chance.randrange(6)),
            *((chance.choice(names), chance.choice(data)) for _ in range(extra)),
        ]
        for extra in chance.choices([0, 1, 1, 2, 3], k=2_000)
    ]
    values = chance.choices([orjson.dumps(CLAIM), orjson.dumps(ENVELOPE)], k=2_000)

    assert disagreements(CLAIMS, values, headers) == []


@pytest.mark.parametrize("field", list(ALL))
def test_decode_reads_every_odd_value_of_every_field_as_the_oracle_does(field):
    text = orjson.dumps(ALL | {field: "?"})
    values = [text.replace(b'"?"', odd) for odd in ODD_VALUES]

    assert disagreements(MAPPED, values, [[]] * len(values)) == []


def _text(tree):
    return json.dumps(tree).encode()


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda child: st.lists(child) | st.dictionaries(st.text(), child),
)


@given(st.lists(st.binary() | st.text().map(str.encode) | _JSON.map(_text), max_size=8))
@example([b'{"a":1,"a":2}', b'{"\\u003a":1}', b'{"a:":":"}'])
@example([b'{"\\u003a":1,"a":1,"a":1}', b'{"a":"\\u003A","a":"\\u003A"}'])
@settings(max_examples=500, deadline=None)
def test_strict_json_reads_what_the_oracle_reads(values):
    for value, tree in zip(values, strict_json.read(values, 5), strict=True):
        if type(tree) is Reason:
            with pytest.raises(Refused) as refused:
                parse(value, 5)
            assert tree in refused.value.args
        else:
            assert orjson.dumps(tree) == orjson.dumps(_as_doubles(parse(value, 5)))


def _as_doubles(tree):
    """Integers beyond 64 bits are doubles, as orjson reads them."""
    if isinstance(tree, dict):
        return {name: _as_doubles(child) for name, child in tree.items()}
    if isinstance(tree, list):
        return [_as_doubles(child) for child in tree]
    if isinstance(tree, int) and not isinstance(tree, bool) and not -(2**63) <= tree < 2**64:
        return float(tree)
    return tree
