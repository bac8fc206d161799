"""What the guard turns a value into when it may not stay as it is: nothing, a mask, a token, a text with gaps."""

from __future__ import annotations

import hmac
import re
from collections.abc import Callable, Sequence

import numpy as np

from models.finding import Finding
from operators.batch import Column, Headers
from operators.trace import trace_context
from state.vault import Vault

_HIDDEN = re.compile(r"[^ !-/:-@\[-`{-~]")
"""Everything but spaces and ASCII punctuation: what is not known to be harmless is hidden."""

_BASE32 = [a + b for a in "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567" for b in "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"]
"""Ten bits to two characters (RFC 4648): twice as fast as `base64.b32encode`, which is Python."""


class Tokeniser:
    """Gives values tokens: the same value of the same field always the same one, that says nothing about it.

    `tok_` + 80 bits of HMAC-SHA256, in base32, under a key derived (HKDF) from the vault's first key. Who holds that
    key can test guesses, so tokens are pseudonyms, not anonymous; a new first key gives new tokens.
    """

    def __init__(self, vault: Vault) -> None:
        self._key = vault.derive(b"tokens")

    def token(self, field: str, value: str | bytes) -> str:
        """The token of one value of a field."""
        data = value if isinstance(value, bytes) else value.encode("utf-8", "surrogatepass")
        bits = int.from_bytes(hmac.digest(self._key, field.encode() + b"\0" + data, "sha256")[:10])
        return "tok_" + "".join([_BASE32[bits >> shift & 1023] for shift in range(70, -1, -10)])


def mask(value: str) -> str:
    """Put `*` for each letter and digit, but for the last two characters of a value longer than six."""
    shown = 2 if len(value) > 6 else 0
    return _HIDDEN.sub("*", value[: len(value) - shown]) + value[len(value) - shown :]


def dropped(column: Column) -> Column:
    """A column of the same length and kind in which every value is missing."""
    if isinstance(column, np.ndarray) and column.dtype.kind == "f":
        return np.full(len(column), np.nan)
    return [None] * len(column)


def redact(text: str, findings: Sequence[Finding]) -> str:
    """Put `<TYPE>` in place of each finding; what overlaps becomes one, by the type that begins first."""
    parts: list[str] = []
    done = 0
    for each in sorted(findings, key=lambda each: (each.start, -each.end)):
        if each.start >= done:
            parts += [text[done : each.start], f"<{each.type}>"]
        done = max(done, each.end)
    return "".join([*parts, text[done:]])


def trace_headers(headers: Headers, is_clean: Callable[[str], bool]) -> Headers:
    """Keep W3C trace context where it is well-formed; `tracestate` is free text, so it must be clean too."""
    kept = trace_context(headers)
    return [(name, data) for name, data in kept if name != "tracestate" or is_clean((data or b"").decode("ascii"))]
