"""Values that nobody should send, through a real broker and the real engine: an oracle says which must be rejected.

The oracle shares no code with the engine: it is the standard library's JSON and jsonschema on the published schema, by
the rules of deploy/pipelines/CONTRACT.md.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

from console.embedded import KafkaServer
from operators.contract import published_schema
from operators.sealed import open_original
from operators.wire import Rejection
from state.vault import Vault
from tests.integration.engine import Event, running
from tests.operators.hostile import generate
from tests.operators.oracle import Oracle

SEED, HOSTILE, BASES = 20261123, 10_000, 40
ENVELOPE = {"specversion": "1.0", "id": "e-1", "source": "/portal", "type": "claim.noticed"}
STRUCTURED = (("content-type", b"application/cloudevents+json; charset=UTF-8"),)
BINARY = (
    ("ce_specversion", b"1.0"),
    ("ce_id", b"e-1"),
    ("ce_source", b"/portal"),
    ("ce_type", b"claim.noticed"),
    ("content-type", b"application/json"),
)
KEYS = (None, b"", b"PH-123456", b"\xff\x00", "é".encode())


def claim(number: int) -> dict[str, Any]:
    return {
        "claim_id": f"C-{number}",
        "policyholder_id": f"PH-{number % 1000:06d}",
        "noticed_at": "2026-11-23T00:30:00.123456Z",
        "accident_date": "2026-11-01",
        "report_date": "2026-11-20",
        "line": "Auto",
        "claim_type": "PD",
        "policy_limit": 15000.5,
        "deductible": 500,
        "description": "rear-ended: bumper {broken}",
    }


def event(number: int, *, structured: bool) -> bytes:
    return orjson.dumps(ENVELOPE | {"data": claim(number)} if structured else claim(number))


def hostile_events(chance: random.Random) -> list[Event]:
    """Fuzzed values, half of them in each mode of CloudEvents; a few tombstones, and a few that lack a header."""
    made: list[Event] = []
    for base in range(BASES):
        structured = base % 2 == 0
        for value in generate(SEED + base, HOSTILE // BASES, event(base, structured=structured)):
            headers = list(STRUCTURED if structured else BINARY)
            if chance.random() < 0.03:
                del headers[chance.randrange(len(headers))]
            made.append((chance.choice(KEYS), None if chance.random() < 0.01 else value, headers))
    chance.shuffle(made)
    return made


def valid_events(n: int) -> list[Event]:
    """Claims with ids that no hostile value has."""
    return [
        (
            b"PH-%06d" % (number % 1000),
            event(100_000 + number, structured=number % 2 == 0),
            BINARY if number % 2 else STRUCTURED,
        )
        for number in range(n)
    ]


@pytest.mark.timeout(400)
def test_what_the_oracle_rejects_is_rejected_and_all_else_is_decided(
    kafka: KafkaServer, redis_url: str, unique: Callable[[str], str], tmp_path: Path
) -> None:
    """10,000 hostile values, a valid one after every fourth; the engine does not stop, and loses none."""
    print(f"seed {SEED}")
    bad, good = hostile_events(random.Random(SEED)), valid_events(HOSTILE // 4)
    events = [each for i in range(0, HOSTILE, 4) for each in (*bad[i : i + 4], good[i // 4])]
    with running("claims", kafka, redis_url, unique("claims"), tmp_path) as engine:
        origins = engine.send(events)
        contract = engine.pipeline.contract
        schema = orjson.loads(orjson.dumps(published_schema(contract)))
        oracle = Oracle(schema, contract.format, contract.max_bytes, contract.max_depth)
        expected = [oracle.reasons(value, headers) for _, value, headers in events]
        firsts = engine.first_records(len(events))

    got = [firsts.get(origin, []) for origin in origins]
    assert Counter(origins) == Counter(firsts.keys()), "each value and nothing else has a first record"
    assert {len(found) for found in got} == {1}, "and only one"
    wrong = [
        (value, first.body["reason"] if first.role == "rejected" else first.role, known)
        for (_, value, _), known, [first] in zip(events, expected, got, strict=True)
        if (first.body["reason"] not in known if first.role == "rejected" else known)
    ]
    assert wrong == [], f"{len(wrong)} values were not read as the oracle reads them; seed {SEED}"
    assert {first.role for [first] in got[4::5]} == {"decisions"}, "the valid ones between them are decided"
    roles = Counter(first.role for [first] in got)
    assert roles["rejected"] > HOSTILE / 2, "the values are hostile"
    assert roles["decisions"] + roles["duplicates"] > len(good) + HOSTILE / 20, "and some of them are still valid"
    assert_sealed(Vault.from_base64(engine.key), events, got)
    print(f"{dict(roles)}; {dict(Counter(first.body['reason'] for [first] in got if first.role == 'rejected'))}")


def assert_sealed(vault: Vault, events: list[Event], got: list[Any]) -> None:
    """What was rejected can be had again as it was sent, by who has the key."""
    for (key, value, headers), [first] in zip(events, got, strict=True):
        if first.role == "rejected":
            opened = open_original(vault, Rejection.model_validate(first.body))
            assert (opened.key, opened.value, opened.headers) == (key, value, tuple(headers))
