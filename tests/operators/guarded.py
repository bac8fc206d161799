"""Claims to guard, with personal data to plant in them, and a guard with the rules of a test."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np

from models.pii import Scanner
from operators import wire
from operators.batch import Batch
from operators.guard import Guard
from operators.sealed import open_original
from state.vault import Vault

VAULT = Vault.from_base64(Vault.generate())
TRACE = ("traceparent", b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
CLEAN = "Rear-ended at a light on 2024-03-11; bumper broken, 1,850.00 for parts and labour."
EMAIL = "jo.smith@example.org"
PII = {
    "EMAIL_ADDRESS": [EMAIL, "o'neil+x@mail.example.co.uk"],
    "PHONE_NUMBER": ["212-555-0123", "+44 20 7946 0958", "(646) 555 0188"],
    "CREDIT_CARD": ["4111 1111 1111 1111", "5555-5555-5555-4444", "2223000048410010"],
    "IBAN_CODE": ["DE89370400440532013000", "GB82 WEST 1234 5698 7654 32"],
    "US_SSN": ["219-09-9999"],
    "IP_ADDRESS": ["192.0.2.77", "2001:db8::7334"],
}
ALL_PII = [text for texts in PII.values() for text in texts]


@cache
def scanner() -> Scanner:
    built = Scanner(("email", "phone", "credit_card", "iban", "us_ssn", "ip"), ("US",))
    built.warm()
    return built


def batch_of(descriptions: Sequence[Any], **columns: Any) -> Batch:
    """Claims with these descriptions; `values` hold them too, as the event that was read would."""
    n = len(descriptions)
    full = {
        "claim_id": [f"C-{i}" for i in range(n)],
        "holder": [f"PH-{i:06d}" for i in range(n)],
        "limit": np.arange(n, dtype=np.float64),
        "urgent": [True] * n,
        "description": list(descriptions),
        **columns,
    }
    return Batch(
        topic="claims.events",
        lane=np.full(n, 3, np.int32),
        offset=np.arange(100, 100 + n, dtype=np.int64),
        append_ms=np.zeros(n, np.int64),
        keys=[holder.encode() for holder in full["holder"]],
        values=[json.dumps({"description": repr(each)}).encode() for each in descriptions],
        headers=[[] for _ in range(n)],
        event_ids=list(full["claim_id"]),
        entities=list(full["holder"]),
        event_ms=np.zeros(n, np.int64),
        degraded=[()] * n,
        columns=full,
    )


def guard_of(scans: Any = None, fields: Any = None, **changes: Any) -> Guard:
    rules: dict[str, Any] = {
        "pipeline": "claims",
        "fields": {"claim_id": "allow", "holder": "allow", **(fields or {})},
        "default": "scan",
        "event_id": "claim_id",
        "entity": "holder",
        "on_finding": "quarantine",
        "key_action": "allow",
        "header_action": "drop",
        "scanner": scans or scanner(),
        "vault": VAULT,
    }
    return Guard(**(rules | changes))


def opened(record: Any) -> Any:
    body = wire.Quarantine.model_validate_json(record.value)
    return body, open_original(VAULT, body)
