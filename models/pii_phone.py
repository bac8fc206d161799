"""What a text must contain before libphonenumber can find a phone number in it.

libphonenumber walks a text in Python, once per region: 100 to 2,000 µs. What it finds has a national number that
matches its region's own pattern, with at most four punctuation characters between two digits. That pattern comes from
libphonenumber's metadata, so a new version of it brings its own condition.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import phonenumbers
from phonenumbers import PhoneMetadata

_GAP = r"[-x ()\[\]./~_]{0,4}"
"""Between two digits of one number: at most four of libphonenumber's punctuation; `_` is what is not ASCII."""

_ATOM = re.compile(r"(\\d|\[[-0-9]+\]|[0-9])(\{[0-9]+(?:,[0-9]*)?\}|[?*+])?|\{[^}]*\}")
_SIMPLE = re.compile(r"(?:\(\?:|\)|\||\\d|\[[-0-9]+\]|[0-9]|\{[0-9]+(?:,[0-9]*)?\}|[?*+])*")
"""Metadata patterns without look-around: only these can be spread out over punctuation atom by atom."""


def phone_condition(regions: Sequence[str]) -> str:
    """An RE2 pattern on the image of a text that matches wherever a number of one of `regions` can be found.

    Raises:
        ValueError: libphonenumber knows no such region.
    """
    parts = [r"\+[^0-9a-z]*[0-9]"]  # in full, with the country's code
    for region in dict.fromkeys(regions):
        if region not in phonenumbers.SUPPORTED_REGIONS:
            raise ValueError(f"phone region {region!r} is not known; use two capital letters, such as US, GB or DE")
        parts += _bare(region)
    return "(?i)" + "|".join(dict.fromkeys(parts))


def _bare(region: str) -> list[str]:
    """Conditions for numbers of a region without `+`: national, and with its prefix for calls abroad."""
    own = _plan(PhoneMetadata.metadata_for_region(region))
    sharing = _sharing(phonenumbers.country_code_for_region(region))
    added = max(own.added, sharing[0].added)
    digits = max(min(plan.shortest for plan in sharing) - added, 1)
    if added or not all(_SIMPLE.fullmatch(plan.shape) for plan in sharing):
        national = [_chain(digits)]
    else:
        national = [_spread(plan.shape) for plan in sharing]
    # An extension that libphonenumber does not take off, because fewer than three digits precede it, counts as part of
    # the number, and the letters of `int` as digits.
    rest = max(digits - 2, 1)
    odd = [
        r"[0-9][^0-9a-z]*int[^0-9a-z]*[0-9]",
        rf"[0-9][^0-9a-z]*[#~_;][^0-9a-z]*[0-9]{{{rest}}}",
        rf"[0-9][- ]*[0-9]{{{rest}}}#",
    ]
    return national + _abroad(own.abroad) + odd


def _abroad(prefix: str) -> list[str]:
    if not prefix:
        return []
    shortest = min(
        len(str(code)) + min(plan.shortest for plan in plans) - plans[0].added
        for code in phonenumbers.COUNTRY_CODE_TO_REGION_CODE
        if (plans := _sharing(code))
    )
    return [_spread(prefix) + _chain(shortest)] if _SIMPLE.fullmatch(prefix) else [_chain(1 + shortest)]


@dataclass(frozen=True, slots=True)
class _Plan:
    """What the metadata say about the numbers of one region."""

    shape: str
    """Pattern of the digits of a national number."""
    shortest: int
    added: int
    """Upper bound on the digits that the region's rewriting rule puts in front of what was written."""
    abroad: str
    """Pattern of what is dialled before a country's code."""


def _plan(metadata: PhoneMetadata | None) -> _Plan:
    if metadata is None or metadata.general_desc is None or metadata.general_desc.national_number_pattern is None:
        raise ValueError("libphonenumber has no metadata for a region that it lists; is it installed completely?")
    rule = re.sub(r"\\[0-9]|\$[0-9]", "", metadata.national_prefix_transform_rule or "")
    return _Plan(
        shape=metadata.general_desc.national_number_pattern,
        shortest=min(metadata.general_desc.possible_length),
        added=sum(map(str.isdigit, rule)),
        abroad=(metadata.international_prefix or "").replace("~", ""),  # a pause for the dial tone
    )


def _sharing(code: int) -> list[_Plan]:
    """Plans of all regions with this country code, the main one first."""
    return [
        _plan(
            PhoneMetadata.metadata_for_nongeo_region(code)
            if region == "001"
            else PhoneMetadata.metadata_for_region(region)
        )
        for region in phonenumbers.COUNTRY_CODE_TO_REGION_CODE[code]
    ]


def _chain(digits: int) -> str:
    return rf"[0-9](?:{_GAP}[0-9]){{{digits - 1}}}"


def _spread(pattern: str) -> str:
    """Allow punctuation after each digit of a simple digit pattern."""
    return "(?:" + _ATOM.sub(_with_gap, pattern) + ")"


def _with_gap(found: re.Match[str]) -> str:
    atom, times = found.groups()
    return f"(?:{atom}{_GAP}){times or ''}" if atom else found[0]  # else a count that belongs to a group
