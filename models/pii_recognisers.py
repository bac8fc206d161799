"""The recognisers by the names that a pipeline uses, each with the condition that the gate checks first.

All are Presidio's own classes, run by its own `AnalyzerEngine`, and one of ours for card numbers, where its pattern
misses 2-series Mastercard, 19-digit and Maestro numbers. No language model: `Words` is the whole of the language
processing, enough for the context words that lift a weak finding.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import regex  # type: ignore[import-untyped]
import tldextract
from presidio_analyzer import AnalyzerEngine, EntityRecognizer, Pattern, PatternRecognizer, RecognizerRegistry
from presidio_analyzer.nlp_engine import NlpArtifacts, NlpEngine
from presidio_analyzer.predefined_recognizers import (
    CreditCardRecognizer,
    CryptoRecognizer,
    EmailRecognizer,
    IbanRecognizer,
    IpRecognizer,
    MacAddressRecognizer,
    NhsRecognizer,
    PhoneRecognizer,
    UsBankRecognizer,
    UsItinRecognizer,
    UsPassportRecognizer,
    UsSsnRecognizer,
)

from models.pii_phone import phone_condition

LANGUAGE = "en"  # Presidio ties recognisers to a language; patterns have none, so all go under one name

logging.getLogger("presidio-analyzer").disabled = True  # some of its messages quote the text

# Presidio checks e-mail domains with tldextract, which downloads the list of public suffixes at the first one, without
# a time-out. The list inside the package is enough, and the same for everyone.
tldextract.tldextract.TLD_EXTRACTOR = tldextract.TLDExtract(suffix_list_urls=(), cache_dir=None)


class ScanTimeout(Exception):
    """A pattern used up its time on one text. Presidio would go on without that pattern; we count it as a finding."""


class PanRecogniser(PatternRecognizer):
    """Card numbers of 12 to 19 digits of the issuers in ISO/IEC 7812 ranges that pass Luhn's check."""

    _ISSUERS = re.compile(
        r"4(?:\d{12}|\d{15}|\d{18})"  # Visa
        r"|(?:5[1-5]\d\d|222[1-9]|22[3-9]\d|2[3-6]\d\d|27[01]\d|2720)\d{12}"  # Mastercard
        r"|3[47]\d{13}|3(?:0[0-5]|[689]\d)\d{11,16}"  # American Express, Diners
        r"|(?:6011|64[4-9]\d|65\d\d|62\d\d)\d{12,15}|35(?:2[89]|[3-8]\d)\d{12,15}"  # Discover, UnionPay, JCB
        r"|(?:50|5[6-9]|6\d)\d{10,17}",  # Maestro
    )

    def __init__(self) -> None:
        pattern = Pattern("PAN", r"(?<![\d-])[2-6](?:[- ]?\d){11,18}(?![\d-])", 0.3)
        context = list(CreditCardRecognizer.CONTEXT)
        super().__init__("CREDIT_CARD", name="PanRecogniser", patterns=[pattern], context=context)

    def validate_result(self, pattern_text: str) -> bool:
        """Whether issuer, length and check digit are those of a card."""
        digits = "".join(str(int(c)) for c in pattern_text if c not in "- ")
        if not self._ISSUERS.fullmatch(digits):
            return False
        doubled = (int(d) * (1 + i % 2) for i, d in enumerate(reversed(digits)))
        return sum(d - 9 if d > 9 else d for d in doubled) % 10 == 0


@dataclass(frozen=True, slots=True)
class Known:
    """How to build a recogniser, and what a text's image must contain before it can find anything."""

    build: Callable[[Sequence[str]], EntityRecognizer]
    """From the phone regions."""
    condition: Callable[[Sequence[str]], str]


def _known(build: Callable[[], EntityRecognizer], condition: str) -> Known:
    return Known(lambda _regions: build(), lambda _regions: condition)


KNOWN: dict[str, tuple[Known, ...]] = {
    "email": (_known(EmailRecognizer, r"[!-?A-~]@\w[\w-]*\.\w"),),
    "phone": (Known(lambda regions: PhoneRecognizer(supported_regions=tuple(regions)), phone_condition),),
    "credit_card": (
        _known(CreditCardRecognizer, r"[13-6]\d{3}[- ]?\d{3,4}[- ]?\d{3,4}[- ]?\d{3}"),
        _known(PanRecogniser, r"[2-6](?:[- ]?\d){11}"),
    ),
    "iban": (_known(IbanRecognizer, r"[A-Z]{2}[0-9]{2}(?:[ -]?[A-Z0-9]{4}){2}"),),
    "ip": (_known(IpRecognizer, r"(?i)\d\.\d{1,3}\.\d{1,3}\.\d|::|(?:[0-9a-f]{1,4}:){6}"),),
    "us_ssn": (_known(UsSsnRecognizer, r"\d{9}|\d{5}-\d{4}|\d{3}-\d{6}|\d{3}[- .]\d{2}[- .]\d{4}"),),
    "us_itin": (_known(UsItinRecognizer, r"9\d{2}[- ]?\d{2}[- ]?\d{4}"),),
    "us_passport": (_known(UsPassportRecognizer, r"(?i)\d{9}|[a-z]\d{8}"),),
    "us_bank": (_known(UsBankRecognizer, r"\d{8}"),),
    "uk_nhs": (_known(NhsRecognizer, r"\d{3}[- ]?\d{3}[- ]?\d{4}"),),
    "crypto": (_known(CryptoRecognizer, r"(?i)(?:bc1|[13])[a-z0-9]{25}"),),
    "mac": (_known(MacAddressRecognizer, r"(?i)(?:[0-9a-f]{2}[:-]){5}[0-9a-f]{2}|(?:[0-9a-f]{4}\.){2}[0-9a-f]{4}"),),
}
"""Pipeline name to recognisers. Its URL, date and UUID ones are left out: they find what is not personal."""


class Bounded:
    """A compiled pattern that ends with `ScanTimeout` instead of going on without the pattern."""

    __slots__ = ("pattern", "seconds")

    def __init__(self, pattern: regex.Pattern[str], seconds: float) -> None:
        self.pattern = pattern
        self.seconds = seconds

    def finditer(self, text: str, timeout: float) -> Iterator[regex.Match[str]]:
        """Find all matches within this object's own time, whatever Presidio's `timeout` (60 s) is."""
        try:
            yield from self.pattern.finditer(text, timeout=self.seconds)
        except TimeoutError as error:
            raise ScanTimeout from error


def bound(recogniser: EntityRecognizer, seconds: float) -> EntityRecognizer:
    """Compile a recogniser's patterns now, and bound the time that each may take on one text."""
    if isinstance(recogniser, PatternRecognizer):
        untyped: Any = recogniser
        flags = untyped.global_regex_flags
        untyped.patterns = [_compiled(pattern, flags, seconds) for pattern in untyped.patterns]  # its class shares them
    return recogniser


def _compiled(pattern: Pattern, flags: int, seconds: float) -> Pattern:
    own: Any = Pattern(pattern.name, pattern.regex, pattern.score)
    own.compiled_with_flags = flags
    own.compiled_regex = Bounded(regex.compile(pattern.regex, flags), seconds)
    return own  # type: ignore[no-any-return]


class Words(NlpEngine):
    """The least language processing that Presidio accepts: words are runs of word characters, in lower case lemmas."""

    engine_name = "words"
    is_available = True
    _WORD = re.compile(r"\w+|[^\w\s]")

    def load(self) -> None:
        """Nothing to load."""

    def is_loaded(self) -> bool:
        """Say that it is ready."""
        return True

    def process_text(self, text: str, language: str) -> NlpArtifacts:
        """Cut a text into words."""
        found = list(self._WORD.finditer(text))
        words: Any = [m[0] for m in found]  # Presidio takes the length of each, nothing more
        return NlpArtifacts(
            entities=[],
            tokens=words,
            tokens_indices=[m.start() for m in found],
            lemmas=[word.lower() for word in words],
            nlp_engine=self,
            language=language,
            scores=[],
        )

    def process_batch(
        self, texts: Iterable[str], language: str, batch_size: int = 1, n_process: int = 1, **kwargs: Any
    ) -> Iterator[tuple[str, NlpArtifacts]]:
        """Cut texts into words."""
        return ((text, self.process_text(text, language)) for text in texts)

    def is_stopword(self, word: str, language: str) -> bool:
        """Keep all words: a stop word would only widen the reach of context."""
        return False

    def is_punct(self, word: str, language: str) -> bool:
        """Punctuation is no context."""
        return len(word) == 1 and not word.isalnum()

    def get_supported_entities(self) -> list[str]:
        """None: patterns do all the finding."""
        return []

    def get_supported_languages(self) -> list[str]:
        """One, that stands for all."""
        return [LANGUAGE]


def build_engine(recognisers: Sequence[EntityRecognizer], threshold: float) -> AnalyzerEngine:
    """Presidio's engine over exactly these recognisers."""
    registry = RecognizerRegistry(recognizers=list(recognisers), supported_languages=[LANGUAGE])
    return AnalyzerEngine(
        registry=registry, nlp_engine=Words(), supported_languages=[LANGUAGE], default_score_threshold=threshold
    )
