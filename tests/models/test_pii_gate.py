"""The gate may only over-match: leaving out what it leaves out changes no finding."""

from __future__ import annotations

import random
from functools import cache

import pytest
import regex
from faker import Faker
from hypothesis import given, settings
from hypothesis import strategies as st
from presidio_analyzer import PatternRecognizer

from models.finding import SCAN_ERROR, Finding
from models.pii import Scanner
from models.pii_gate import Gate, image
from models.pii_phone import phone_condition
from models.pii_recognisers import KNOWN

REGIONS = ("US", "GB", "DE", "FR", "IL", "IN", "CA", "BR")
OF_CLAIMS = ("email", "phone", "credit_card", "iban", "us_ssn", "ip")
GLUE = ["", " ", ", ", ": ", "-", ".", "/", "(", ")", "x", "~", "+", " ext. ", " int ", " #", "\n"]
GLUE += ["é", "\u00a0", "\u2010", "\u200b", "\uff19", "\u0663", "\u212a", "\u017f"]  # digits and letters beyond ASCII
LOOK_ALIKES = ["a@b", "a@b.c", "::", "::1", "v1.2.3.4", "AB12 3456 7890", "219-09-9999", "GB82WEST12345698765432"]


@cache
def scanner(
    names: tuple[str, ...] = tuple(KNOWN), regions: tuple[str, ...] = REGIONS, threshold: float = 0.05
) -> Scanner:
    built = Scanner(names, regions, threshold)
    built.warm()
    return built


def unfiltered(of: Scanner, text: str) -> list[list[Finding]]:
    """What may be found: what Presidio finds; where it fails, that, or what those recognisers find that do not fail."""
    try:
        return [of.scan_unfiltered(text)]
    except Exception:
        return [
            [Finding(SCAN_ERROR, 0, len(text), 1.0)],
            of._analyse(text, [e for e in of._entities if runs(of, text, e)]),
        ]


def runs(of: Scanner, text: str, entity: str) -> bool:
    try:
        of._analyse(text, [entity])
    except Exception:
        return False
    return True


def assert_same(of: Scanner, texts: list[str]) -> int:
    """Compare with Presidio alone; give the number of texts with findings."""
    with_findings = 0
    for text, found in zip(texts, of.scan_batch(texts), strict=True):
        assert found in unfiltered(of, text), ascii(text)
        with_findings += bool(found)
    return with_findings


@cache
def corpus(size: int, seed: int) -> list[str]:
    """Sentences with planted personal data and with look-alikes, then the same with characters changed."""
    chance = random.Random(seed)
    fakes = [Faker(locale) for locale in ("en_US", "en_GB", "de_DE", "fr_FR", "pt_BR")]
    for i, fake in enumerate(fakes):
        fake.seed_instance(seed + i)
    kinds = ["email", "phone_number", "credit_card_number", "iban", "ipv4", "ipv6", "mac_address", "msisdn"]
    kinds += ["date", "iso8601", "uuid4", "url", "ean13", "postcode", "street_address", "bban"]

    def digits(n: int) -> str:
        return "".join(chance.choices("0123456789", k=n))

    def grouped(n: int) -> str:
        mark = chance.choice("- ./x~")
        return "".join(c + (mark if chance.random() < 0.3 else "") for c in digits(n))

    def value() -> str:
        dice = chance.random()
        if dice < 0.5:
            return str(getattr(chance.choice(fakes), chance.choice(kinds))())
        if dice < 0.65:
            return digits(chance.randint(1, 20))
        if dice < 0.8:
            return chance.choice(["", "+", "00", "011", "1", "("]) + grouped(chance.randint(4, 16))
        if dice < 0.9:
            return ".".join(str(chance.randint(0, 300)) for _ in range(chance.randint(3, 5)))
        return chance.choice([*LOOK_ALIKES, f"{digits(3)}-{digits(2)}-{digits(4)}"])

    def text() -> str:
        words = chance.choice(fakes).words(chance.randint(0, 4))
        parts = [*words, value(), *([value()] if chance.random() < 0.4 else [])]
        chance.shuffle(parts)
        whole = "".join(part + (" " if chance.random() < 0.7 else chance.choice(GLUE)) for part in parts)
        if chance.random() < 0.3:  # change a few characters
            at = chance.randrange(len(whole))
            anything = chr(chance.randrange(0x20, 0x3000))
            digit = chr(chance.choice([0x660, 0xFF10, 0x966]) + chance.randrange(10))
            whole = whole[:at] + chance.choice([*GLUE, anything, digit]) + whole[at + 1 :]
        return whole

    return [text() for _ in range(size)]


def test_findings_are_those_of_presidio_alone_on_a_corpus() -> None:
    texts = corpus(20_000, seed=1)
    few = scanner(OF_CLAIMS, ("US",), 0.4)
    found = assert_same(few, texts)
    assert found > 3_000  # the corpus holds something to lose


def test_findings_are_those_of_presidio_alone_for_every_recogniser_and_many_regions() -> None:
    found = assert_same(scanner(), corpus(2_000, seed=2))
    assert found > 1_000


@settings(max_examples=800, deadline=None)
@given(st.lists(st.sampled_from([*"0123456789" * 2, *GLUE, "tel", "555", "310", "49"]), max_size=24).map("".join))
def test_phone_numbers_in_odd_punctuation_are_never_missed(text: str) -> None:
    assert_same(scanner(("phone",)), [text])


@settings(max_examples=250, deadline=None)
@given(st.lists(st.one_of(st.text(), st.sampled_from([*GLUE, *LOOK_ALIKES, "4111111111111111"]))).map("".join))
def test_findings_are_those_of_presidio_alone_on_any_unicode(text: str) -> None:
    assert_same(scanner(), [text])


PATTERNS = [
    (name, at, pattern.regex, recogniser.global_regex_flags)
    for name, known in KNOWN.items()
    for at, each in enumerate(known)
    if isinstance(recogniser := each.build(REGIONS), PatternRecognizer)
    for pattern in recogniser.patterns
]


@pytest.mark.parametrize(("name", "at", "pattern", "flags"), PATTERNS)
def test_whatever_a_pattern_matches_its_condition_matches(name: str, at: int, pattern: str, flags: int) -> None:
    gate = Gate([KNOWN[name][at].condition(REGIONS)])
    compiled = regex.compile(pattern, flags)
    matched = 0

    @settings(max_examples=60, deadline=None)
    @given(st.from_regex(pattern), st.sampled_from(GLUE), st.sampled_from(GLUE))
    def check(middle: str, before: str, after: str) -> None:
        nonlocal matched
        text = before + middle + after
        if compiled.search(text):
            matched += 1
            assert gate.flagged(text) == [0], ascii(text)

    check()
    assert matched > 20


def test_the_image_keeps_one_byte_per_character_and_knows_every_digit() -> None:
    beyond = "".join(map(chr, range(0x110000)))
    seen = image(beyond)
    assert len(seen) == len(beyond)
    for found in regex.finditer(r"\d", beyond):
        assert chr(seen[found.start()]).isdigit()
    for found in regex.finditer(r"[a-z]", beyond, flags=regex.IGNORECASE):
        assert chr(seen[found.start()]).isalpha()
    assert image("a\ud800b") == b"a_b"  # a lone surrogate is a character like any other


@pytest.mark.parametrize(
    ("name", "narrowed"),
    [
        ("email", r"[a-z]@\w+\.\w\w\w"),
        ("phone", r"\d{3}-\d{3}-\d{4}"),
        ("credit_card", r"[45]\d{15}"),
        ("iban", r"[A-Z]{2}[0-9]{2}[A-Z0-9]{20}"),
        ("ip", r"\d\.\d{1,3}\.\d{1,3}\.\d"),
        ("us_ssn", r"\d{3}-\d{2}-\d{4}"),
    ],
)
def test_a_narrowed_condition_is_noticed(name: str, narrowed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The corpus has the power to fail: a condition that is a little too narrow loses a finding of it."""
    of = scanner((name,), ("US",), 0.4)
    monkeypatch.setattr(of, "_gate", Gate([narrowed for _ in KNOWN[name]]))
    with pytest.raises(AssertionError):
        assert_same(of, corpus(6_000, seed=3))


def test_an_unknown_region_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'UK'.*GB"):
        phone_condition(["UK"])
