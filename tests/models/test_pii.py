"""What the scanner finds, and what it says when it cannot."""

from __future__ import annotations

import logging
import socket
import time
from functools import cache
from typing import Any

import pytest

from models.finding import SCAN_ERROR, SCAN_TIMEOUT, SCAN_TOO_LARGE, Finding
from models.pii import Scanner
from models.pii_gate import GateBroken
from models.pii_recognisers import KNOWN, bound

CLEAN = (
    "Rear-ended at a traffic light on the way to work on 2024-03-11; bumper and tail lamp are broken, the boot no "
    "longer shuts. Police attended. Garage estimate 1,850.00 for parts and labour, 2 days."
)


@cache
def scanner() -> Scanner:
    built = Scanner(tuple(KNOWN), ("US", "GB", "DE"))
    built.warm()
    return built


@pytest.mark.parametrize(
    ("text", "kind", "span"),
    [
        ("write to jo.smith+x@mail.example.org today", "EMAIL_ADDRESS", "jo.smith+x@mail.example.org"),
        ("call 212-555-0123 now", "PHONE_NUMBER", "212-555-0123"),
        ("call +44 20 7946 0958 now", "PHONE_NUMBER", "+44 20 7946 0958"),
        ("card 4111 1111 1111 1111.", "CREDIT_CARD", "4111 1111 1111 1111"),
        ("card 2223 0000 4841 0010.", "CREDIT_CARD", "2223 0000 4841 0010"),
        ("card 6304000000000000 maestro", "CREDIT_CARD", "6304000000000000"),
        ("to DE89 3704 0044 0532 0130 00 please", "IBAN_CODE", "DE89 3704 0044 0532 0130 00"),
        ("from 192.0.2.7 last night", "IP_ADDRESS", "192.0.2.7"),
        ("from 2001:db8::7 last night", "IP_ADDRESS", "2001:db8::7"),
        ("my social security number is 219-09-9999", "US_SSN", "219-09-9999"),
        ("itin 912-70-1234", "US_ITIN", "912-70-1234"),
        ("passport A12345678", "US_PASSPORT", "A12345678"),
        ("bank account 945456787654", "US_BANK_NUMBER", "945456787654"),
        ("nhs 943-476-5919", "UK_NHS", "943-476-5919"),
        ("mac 00:00:5e:00:53:01", "MAC_ADDRESS", "00:00:5e:00:53:01"),
        ("wallet 1A1zP1eP5QGefi2DMPTfTL5SLmv7DivfNa", "CRYPTO", "1A1zP1eP5QGefi2DMPTfTL5SLmv7DivfNa"),
        ("call \uff12\uff11\uff12-555-0123 now", "PHONE_NUMBER", "\uff12\uff11\uff12-555-0123"),
    ],
)
def test_finds_what_it_says(text: str, kind: str, span: str) -> None:
    start = text.index(span)
    found = scanner().scan_batch([CLEAN, text])
    assert found[0] == []
    assert (kind, start, start + len(span)) in [(each.type, each.start, each.end) for each in found[1]]


@pytest.mark.parametrize("digits", ["4111111111111112", "2221000000000000", "6304000000000001"])
def test_numbers_that_are_no_cards_are_left_alone(digits: str) -> None:
    only = Scanner(["credit_card"])
    assert only.scan_batch([f"order {digits}"]) == [[]]


def test_a_context_word_lifts_a_weak_pattern_over_the_threshold() -> None:
    assert Scanner(["us_ssn"]).scan_batch(["order 219099999", "ssn 219099999"]) == [
        [],
        [Finding("US_SSN", 4, 13, 0.4)],
    ]


def test_a_recogniser_that_fails_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    of = Scanner(["email", "ip"])

    def fail(*_: Any, **__: Any) -> None:
        raise KeyError("\u0be7")

    monkeypatch.setattr(of._recognisers[0], "validate_result", fail)
    assert of.scan_batch(["clean", "a@example.org", "10.0.0.1"]) == [
        [],
        [Finding(SCAN_ERROR, 0, 13, 1.0)],
        [Finding("IP_ADDRESS", 0, 8, 0.6)],
    ]


def test_a_gate_that_gives_no_answer_is_a_finding_for_every_text(monkeypatch: pytest.MonkeyPatch) -> None:
    of = Scanner(["email"])

    class Mute:
        def Match(self, text: bytes) -> None:  # noqa: N802 (RE2's name): what it says when out of memory
            return None

    monkeypatch.setattr(of._gate, "_set", Mute())
    with pytest.raises(GateBroken):
        of._gate.flagged("clean")
    assert of.scan_batch(["clean", ""]) == [[Finding(SCAN_ERROR, 0, 5, 1.0)], [Finding(SCAN_ERROR, 0, 0, 1.0)]]


def test_a_pattern_out_of_time_is_a_finding_and_not_clean() -> None:
    of = Scanner(["email"])
    bound(of._recognisers[0], 1e-9)
    text = "a." * 3_000 + "b@example.org"
    assert of.scan_batch([text]) == [[Finding(SCAN_TIMEOUT, 0, len(text), 1.0)]]


def test_a_text_over_the_limit_is_a_finding() -> None:
    of = Scanner(["email"], max_chars=100)
    assert of.scan_batch(["x" * 100, "x" * 101]) == [[], [Finding(SCAN_TOO_LARGE, 0, 101, 1.0)]]


@pytest.mark.parametrize(
    "hostile",
    [
        "." * 8_000 + "a@b.co",
        "a." * 4_000 + "@b.co",
        "a" * 8_000 + "@b.co",
        "a-" * 4_000 + "@b.co",
        "x@" + "a-" * 3_900 + "b.c!",
        "1 " * 4_000,
        "1-" * 4_000,
        "(1)" * 2_600,
        "+1" * 4_000,
        "4" * 8_000,
        "1234 5678 " * 800,
        "AB12 " + "CDEF " * 1_600,
        "1:" * 4_000,
        "::" * 4_000,
        "1." * 4_000,
        "\u0661" * 8_000,
        "\U0001d7d8" * 8_000,
        "\ud800" * 8_000,
    ],
)
def test_hostile_texts_end_in_bounded_time(hostile: str) -> None:
    began = time.process_time()
    found = scanner().scan_batch([hostile[:8_192]])
    assert len(found) == 1
    assert time.process_time() - began < 10


def test_nothing_is_downloaded_and_nothing_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("the scanner opened a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    caplog.set_level(logging.DEBUG)
    fresh = Scanner(("email", "iban"))
    fresh.warm()
    found = fresh.scan_batch(["mail jo@example.co.uk", "iban GB82WEST1234569876543\u0be7", "x@y.museum"])
    assert [[each.type for each in one] for one in found] == [["EMAIL_ADDRESS"], [], ["EMAIL_ADDRESS"]]
    assert not [
        record for record in caplog.records if "example" in record.getMessage() or "WEST" in record.getMessage()
    ]


def test_an_unknown_recogniser_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(ValueError, match=r"'emial' is not known; did you mean email\?"):
        Scanner(["emial"])
