"""What a scan for personal data says. Apart from the scanner, whose libraries take two seconds to import."""

from __future__ import annotations

from dataclasses import dataclass

SCAN_ERROR = "SCAN_ERROR"
SCAN_TIMEOUT = "SCAN_TIMEOUT"
SCAN_TOO_LARGE = "SCAN_TOO_LARGE"


@dataclass(frozen=True, slots=True)
class Finding:
    """One place in a text where personal data was detected; never the text itself."""

    type: str
    """Presidio's entity type, such as `EMAIL_ADDRESS`; or SCAN_ERROR, SCAN_TIMEOUT, SCAN_TOO_LARGE for a whole text."""
    start: int
    end: int
    score: float
