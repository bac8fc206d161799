"""The sound pre-filter of the privacy guard: which recognisers can possibly find something in a text.

A recogniser costs 10 to 1,000 µs a text, and nearly all texts are clean. The gate looks at a text once, with one RE2
`Set` of *necessary conditions*: whatever a recogniser can find, its condition matches. So a recogniser whose condition
does not match has nothing to say, and leaving it out changes no finding. The reverse does not hold and need not.

Conditions are matched on the *image* of a text: one ASCII byte per character. ASCII stands for itself, a decimal digit
of any script for its value, a character that ignoring case equals an ASCII letter for that letter, everything else for
`_`. Every condition lets `_` stand where a recogniser accepts anything beyond ASCII.
"""

from __future__ import annotations

import codecs
import unicodedata
from collections.abc import Sequence

import re2
import regex  # type: ignore[import-untyped]

_IMAGE = "penstock-image"


class Image(dict[int, str]):
    """Code point to its ASCII image; what is not listed is `_`, so the table stays at about a thousand entries."""

    def __missing__(self, code: int) -> str:
        return "_"

    @classmethod
    def of_unicode(cls) -> Image:
        """Build the table from what the matching libraries themselves take for digits and letters (0.2 s)."""
        table = cls()
        beyond = "".join(map(chr, range(0x80, 0x110000)))
        for char in regex.findall(
            r"\d", beyond
        ):  # newer Unicode than the interpreter's: some digits have no value there
            table[ord(char)] = str(unicodedata.decimal(char, 0))
        for char in filter(str.isdecimal, beyond):
            table[ord(char)] = str(unicodedata.decimal(char))
        for letter in "abcdefghijklmnopqrstuvwxyz":
            for char in regex.findall(letter, beyond, flags=regex.IGNORECASE):
                table[ord(char)] = letter
        table[ord("\uff0b")] = "+"  # the one plus beyond ASCII that begins a phone number
        return table


_table = Image()


def _to_image(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return error.object[error.start : error.end].translate(_table), error.end


codecs.register_error(_IMAGE, _to_image)


def image(text: str) -> bytes:
    """The ASCII image of a text, one byte per character."""
    return text.encode("ascii", _IMAGE)


class GateBroken(Exception):
    """The gate did not answer, so nothing is known about the text."""


class Gate:
    """One pass over a text that says which recognisers can fire.

    Args:
        conditions: one RE2 pattern per recogniser, on the image of a text, with `(?i)` where case is ignored.
    """

    def __init__(self, conditions: Sequence[str]) -> None:
        if not _table:
            _table.update(Image.of_unicode())
        options = re2.Options()
        options.encoding = re2.Options.Encoding.LATIN1
        options.max_mem = 64 << 20
        options.log_errors = False
        self._set = re2.Set.SearchSet(options)
        for condition in conditions:
            self._set.Add(condition)
        self._canary = self._set.Add("")
        self._set.Compile()

    def flagged(self, text: str) -> list[int]:
        """Indices of the recognisers that can find something in `text`; empty for a clean one.

        Raises:
            GateBroken: RE2 ran out of memory, which it reports like "no match": the empty pattern, which matches
                every text, tells the two apart.
        """
        hits: list[int] | None = self._set.Match(text.encode("ascii", _IMAGE))
        if hits is None:
            raise GateBroken("the pre-filter gave no answer for a text; the text counts as not scanned")
        hits.remove(self._canary)
        return hits
