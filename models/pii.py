"""Personal data in texts: Presidio's pattern recognisers behind a sound pre-filter.

Clean texts, nearly all, cost about a µs; only where the gate sees that a recogniser could fire does Presidio run, and
with those recognisers only. Findings are the same as without the gate (`tests/models/test_pii_gate.py` holds that).

A scan that fails or takes too long is a finding, never a clean text. What patterns cannot see is not found: names,
places, numbers in words, encoded values.
"""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches

from models.finding import SCAN_ERROR, SCAN_TIMEOUT, SCAN_TOO_LARGE, Finding
from models.pii_gate import Gate
from models.pii_recognisers import KNOWN, LANGUAGE, Known, ScanTimeout, bound, build_engine

_WARMING = (
    "mail a.b@example.com, call (212) 555-0123 or +1 212 555 0123, card 4111 1111 1111 1111, "
    "iban DE89 3704 0044 0532 0130 00, ssn 219-09-9999, ip 192.0.2.7 and 2001:db8::1, passport A12345678, "
    "account 123456789, itin 912-70-1234, nhs 943-476-5919, mac 00:00:5e:00:53:01, "
    "btc 1A1zP1eP5QGefi2DMPTfTL5SLmv7DivfNa"
)


class Scanner:
    """Finds personal data in texts.

    Not for several threads at once. Building it opens nothing; call `warm` before the first event.

    Args:
        recognisers: names out of `models.pii_recognisers.KNOWN`.
        phone_regions: where numbers without `+` may belong, such as `US`.
        threshold: findings with a lower score are left out; 0.4 is where weak patterns need a context word.
        max_chars: longer texts are not scanned but SCAN_TOO_LARGE.
        pattern_seconds: time for one pattern on one text, beyond which the text is SCAN_TIMEOUT.

    Raises:
        ValueError: a name or a region is unknown.
    """

    def __init__(
        self,
        recognisers: Sequence[str],
        phone_regions: Sequence[str] = ("US",),
        threshold: float = 0.4,
        *,
        max_chars: int = 8192,
        pattern_seconds: float = 0.5,
    ) -> None:
        known = [each for name in dict.fromkeys(recognisers) for each in _known(name)]
        self._recognisers = [bound(each.build(phone_regions), pattern_seconds) for each in known]
        self._entities = [recogniser.supported_entities[0] for recogniser in self._recognisers]
        self._engine = build_engine(self._recognisers, threshold)
        self._gate = Gate([each.condition(phone_regions) for each in known])
        self._max_chars = max_chars

    def warm(self) -> None:
        """Pay first-use costs now (0.3 to 0.6 s): the list of public suffixes, patterns, metadata, tokens."""
        self.scan_unfiltered(_WARMING)
        self.scan_batch([_WARMING, "clean"])

    def scan_batch(self, texts: Sequence[str]) -> list[list[Finding]]:
        """Find personal data in each text, in order of position. Never raises because of a text."""
        flagged = self._gate.flagged
        found: list[list[Finding]] = []
        for text in texts:
            if len(text) > self._max_chars:
                found.append([Finding(SCAN_TOO_LARGE, 0, len(text), 1.0)])
                continue
            try:
                hits = flagged(text)
                found.append(self._analyse(text, [self._entities[i] for i in hits]) if hits else [])
            except ScanTimeout:
                found.append([Finding(SCAN_TIMEOUT, 0, len(text), 1.0)])
            except Exception:  # recognisers fail on exotic digits, in many ways; what could not be scanned is not clean
                found.append([Finding(SCAN_ERROR, 0, len(text), 1.0)])
        return found

    def scan_unfiltered(self, text: str) -> list[Finding]:
        """What `scan_batch` would find without the gate; slow, and raises what a recogniser raises. For comparison."""
        return self._analyse(text, self._entities)

    def _analyse(self, text: str, entities: list[str]) -> list[Finding]:
        results = self._engine.analyze(text, LANGUAGE, entities=entities)
        found = [Finding(r.entity_type, r.start, r.end, round(float(r.score), 4)) for r in results]
        return sorted(found, key=lambda each: (each.start, each.end, each.type))


def _known(name: str) -> tuple[Known, ...]:
    try:
        return KNOWN[name]
    except KeyError:
        near = get_close_matches(name, KNOWN, n=1) or sorted(KNOWN)
        raise ValueError(f"recogniser {name!r} is not known; did you mean {', '.join(near)}?") from None
