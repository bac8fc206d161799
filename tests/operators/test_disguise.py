"""Masks, tokens and redactions say nothing about what they stand for; trace context is kept only where well-formed."""

from __future__ import annotations

import base64
import hmac

import pytest

from models.finding import Finding
from operators.disguise import Tokeniser, mask, redact, trace_headers
from state.vault import Vault

VAULT = Vault.from_base64(Vault.generate())
TRACE = ("traceparent", b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
EMAIL = "jo.smith@example.org"


def test_tokens_are_stable_distinct_and_bound_to_field_and_key() -> None:
    one, other = Tokeniser(VAULT), Tokeniser(Vault.from_base64(Vault.generate()))
    token = one.token("mail", EMAIL)
    assert token == Tokeniser(VAULT).token("mail", EMAIL)
    assert len({token, one.token("mail2", EMAIL), one.token("mail", EMAIL + "x"), other.token("mail", EMAIL)}) == 4
    assert len(token) == 20
    digest = hmac.digest(VAULT.derive(b"tokens"), b"mail\0" + EMAIL.encode(), "sha256")
    assert token == "tok_" + base64.b32encode(digest)[:16].decode()
    assert one.token("mail", "\ud800") != one.token("mail", "?")


@pytest.mark.parametrize(
    ("value", "masked"),
    [
        ("", ""),
        ("abc", "***"),
        ("abcdef", "******"),
        ("abcdefg", "*****fg"),
        ("jo@example.org", "**@*******.*rg"),
        ("\u0930\u093e\u092e \u0663\u0664", "*** **"),
        ("a\tb\nc", "*****"),
    ],
)
def test_mask(value: str, masked: str) -> None:
    assert mask(value) == masked


def test_redact_merges_what_overlaps() -> None:
    findings = [Finding("B", 4, 8, 1.0), Finding("A", 2, 6, 1.0), Finding("C", 9, 10, 1.0), Finding("D", 4, 5, 1.0)]
    assert redact("0123456789z", findings) == "01<A>8<C>z"
    assert redact("abc", [Finding("X", 0, 3, 1.0)]) == "<X>"


@pytest.mark.parametrize(
    "parent",
    [
        b"ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        b"00-00000000000000000000000000000000-00f067aa0ba902b7-01",
        b"00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
        b"00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
        TRACE[1] + b"\n",
        TRACE[1] + b"-x",
        None,
    ],
)
def test_malformed_trace_context_is_dropped(parent: bytes | None) -> None:
    assert trace_headers([("traceparent", parent), ("tracestate", b"a=1")], lambda _: True) == []


@pytest.mark.parametrize("state", [b"", b"a", b"a=1,=2", b"a=" + b"x" * 600, b"a=\xc3\xa9", b"a=1;\x00", None])
def test_malformed_trace_state_is_dropped(state: bytes | None) -> None:
    assert trace_headers([TRACE, ("tracestate", state)], lambda _: True) == [TRACE]
