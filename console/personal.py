"""Personal data in a sample of events: which fields hold it, and what a first pipeline file does about each."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from console.sample import Sample, Seen
from models.pii import Scanner

MAX_SCANNED = 1000
"""Events of the sample that are scanned; where something is found, one costs up to a millisecond."""
MASKED_ABOVE = 0.1
"""Share of the events with findings above which a field is one of personal data, not one where some slipped in."""


@dataclass(frozen=True, slots=True)
class Personal:
    """Where the guard's scanner finds something."""

    scanned: int
    """Events that were scanned, from the first."""
    rows: Mapping[str, frozenset[int]]
    """Text field to the numbers of its events with findings; without fields that have none."""
    types: Mapping[str, tuple[str, ...]]
    """Field to what was found, such as `EMAIL_ADDRESS`."""
    event_id: str
    entity: str

    @property
    def masked(self) -> list[str]:
        """Fields that are masked: personal data is the rule in them, and no key is among them."""
        keys = (self.event_id, self.entity)
        return [name for name, rows in self.rows.items() if name not in keys and self._is_rule(rows)]

    def comment(self, name: str) -> str:
        """Why a field is masked."""
        return f"{', '.join(self.types[name])} {self._share(name)}; tokenise instead keeps equal values equal"

    def notes(self) -> list[str]:
        """What the reader should know of each field with findings; no values."""
        return [self._note(name) for name in self.rows]

    def first_clean(self) -> int:
        """The first event that a scan lets through; 0 where none is."""
        scan = [rows for name, rows in self.rows.items() if name not in (*self.masked, self.event_id, self.entity)]
        held: set[int] = set().union(*scan)
        return next((number for number in range(self.scanned) if number not in held), 0)

    def _note(self, name: str) -> str:
        if name in (self.event_id, self.entity):
            role = "event id" if name == self.event_id else "entity"
            return (
                f"{name}: {self._what(name)}; it is the {role}, which cannot be masked, so it stays "
                f"readable in keys and decisions: say `{name}: tokenise` in guard.fields, or name another field"
            )
        if name in self.masked:
            return f"{name}: {self._what(name)}; it is masked"
        return f"{name}: {self._what(name)}; such events are quarantined"

    def _what(self, name: str) -> str:
        unread = all(each.startswith("SCAN_") for each in self.types[name])
        return f"{'text that cannot be scanned' if unread else 'personal data'} {self._share(name)}"

    def _share(self, name: str) -> str:
        return f"in {len(self.rows[name])} of {self.scanned} events"

    def _is_rule(self, rows: frozenset[int]) -> bool:
        return len(rows) > MASKED_ABOVE * self.scanned


def find_personal(sample: Sample) -> Personal:
    """Scan every text field of a sample as the guard of a new pipeline file does."""
    from dataflows.pipeline import GuardSpec

    guard = GuardSpec()
    scanner = Scanner(guard.recognisers, guard.phone_regions, guard.threshold)
    events = sample.events[:MAX_SCANNED]
    rows: dict[str, frozenset[int]] = {}
    types: dict[str, tuple[str, ...]] = {}
    for name, seen in sample.fields.items():
        if seen.type != "string":
            continue
        found = scanner.scan_batch([_text(event, seen) for event in events])
        if any(found):
            rows[name] = frozenset(number for number, findings in enumerate(found) if findings)
            types[name] = tuple(dict.fromkeys(each.type for findings in found for each in findings))
    return Personal(len(events), rows, types, sample.event_id, sample.entity)


def without(event: Mapping[str, Any], fields: list[Seen]) -> dict[str, Any]:
    """A copy of an event in which the guard's mask stands for the fields' texts."""
    from operators.disguise import mask

    changed = copy.deepcopy(dict(event))
    for seen in fields:
        if text := _text(changed, seen):
            inner = changed
            for step in seen.path[:-1]:
                inner = inner[step]
            inner[seen.path[-1]] = mask(text)
    return changed


def _text(event: Mapping[str, Any], seen: Seen) -> str:
    """What stands in a text field; empty where it is absent or null."""
    value: Any = event
    for step in seen.path:
        value = value.get(step) if isinstance(value, dict) else None
    return value if isinstance(value, str) else ""
