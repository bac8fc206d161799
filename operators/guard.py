"""The guard: keeps personal data out of everything that follows, per field, key and header.

`scan` looks for personal data in strings; `allow`, `drop`, `mask` and `tokenise` need no look. What a scan finds sends
the whole event, sealed, to quarantine, or is replaced in place and the event goes on. A guard that cannot run lets
nothing through: a scan that failed, took too long or met something unknown is a finding that always quarantines.

What it does not do: numbers, booleans and times that the contract types as such are never scanned (name a field `drop`
to take it out; `mask` and `tokenise` do the same to them). Event ids and entities that are allowed go to Kafka keys and
into decisions in the clear.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np
from bytewax.dataflow import Stream, operator

from models.finding import SCAN_ERROR, Finding
from operators import metrics
from operators.batch import Batch, Column, Headers, Item, Record
from operators.disguise import Tokeniser, dropped, mask, redact, trace_headers
from operators.sealed import sealed_original
from operators.stage import stage
from operators.wire import origin_key, quarantine
from state.vault import Vault

Action: TypeAlias = Literal["allow", "drop", "mask", "tokenise", "scan"]

KEY = "key"
HEADERS = "headers"
"""What findings in a key or a header call their field: a header's own name may be personal data, so it is not told."""

MAX_FINDINGS = 64
"""Findings that a quarantine record lists; the sealed original has them all."""

Found: TypeAlias = "dict[int, list[tuple[str, Finding]]]"
"""Row to its findings, each with its field."""


class Scans(Protocol):
    """What finds personal data; `models.pii.Scanner` does."""

    def scan_batch(self, texts: Sequence[str]) -> list[list[Finding]]:
        """Find personal data in each text."""


class Guard:
    """Applies a pipeline's privacy rules to batches.

    Args:
        pipeline: its name, for the quarantine records.
        fields: contract field to action; `default` is for the others.
        event_id, entity: the contract fields that name events and entities. They must stay distinct, so they can only
            be allowed, scanned or tokenised; tokenised, `Batch.event_ids` and `Batch.entities` hold the tokens.
        on_finding: `quarantine` the event, or `redact` the text and go on with `redacted:<field>` in `degraded`.
            Findings in a key, an event id or an entity quarantine in either case.
        key_action: for the record's key, which nothing after the guard has: `allow` or `scan`.
        header_action: `allow`, `drop` or `scan`; `drop` keeps W3C trace context that is well-formed.

    A guard without a scanner takes every text that it should scan as not scanned, and so as a finding.

    Raises:
        ValueError: an action that cannot be had.
    """

    def __init__(
        self,
        *,
        pipeline: str,
        fields: Mapping[str, Action],
        default: Action,
        event_id: str,
        entity: str,
        on_finding: Literal["quarantine", "redact"],
        key_action: Literal["allow", "scan"],
        header_action: Action,
        scanner: Scans | None,
        vault: Vault,
    ) -> None:
        self._pipeline = pipeline
        self._fields = dict(fields)
        self._default = default
        self._event_id = event_id
        self._entity = entity
        self._redacts = on_finding == "redact"
        self._key_action = key_action
        self._header_action = header_action
        self._scanner = scanner
        self._vault = vault
        self._tokeniser = Tokeniser(vault)
        for name in (event_id, entity):
            if self._action(name) in ("drop", "mask"):
                raise ValueError(
                    f"guard: field {name!r} tells events or entities apart, so it cannot be {self._action(name)!r}; "
                    "use tokenise, scan or allow"
                )
        if header_action in ("mask", "tokenise"):
            raise ValueError(f"guard: headers cannot be {header_action!r}; use drop, scan or allow")

    def work(self, batch: Batch) -> Batch:
        """Give the rows that may go on, without what must not; the others leave as quarantine records.

        Values and keys as they were read go no further: both are None for every row from here on.
        """
        found: Found = {}
        columns = {name: self._field(name, column, found) for name, column in batch.columns.items()}
        if self._key_action == "scan":
            self._scan(KEY, [_text(key) for key in batch.keys], found)
        headers = self._headers(batch.headers, found)
        none: list[bytes | None] = [None] * len(batch)
        passed = replace(batch, columns=columns, keys=none, headers=headers, values=none)
        passed = self._with_tokens(passed)
        if not found:
            return passed
        metrics.count_findings([finding.type for row in found.values() for _, finding in row])
        held = [row for row in sorted(found) if self._holds(found[row])]
        if self._redacts:
            passed = self._redacted(passed, found, held)
        if not held:
            return passed
        metrics.count_quarantined(len(held))
        stays = np.ones(len(batch), np.bool_)
        stays[held] = False
        return passed.leave(stays, [self._record(batch, row, found[row]) for row in held])

    def _action(self, field: str) -> Action:
        return self._fields.get(field, self._default)

    def _field(self, name: str, column: Column, found: Found) -> Column:
        action = self._action(name)
        if action == "allow":
            return column
        if isinstance(column, np.ndarray):
            if column.dtype.kind not in "OUS":  # numbers and times have no text to scan, mask or tokenise
                return column if action == "scan" else dropped(column)
            column = list(column)
        if action == "drop":
            return dropped(column)
        if action == "mask":
            return [mask(value) if isinstance(value, str) else None for value in column]
        if action == "tokenise":
            return [self._tokeniser.token(name, value) if isinstance(value, str) else None for value in column]
        self._scan(name, column, found)
        return column

    def _scan(self, field: str, values: Sequence[Any], found: Found) -> None:
        """Scan the strings among `values`, one a row; None and booleans have nothing to find, other things fail."""
        kinds = set(map(type, values))
        if str in kinds:
            texts = list(values) if len(kinds) == 1 else [value if type(value) is str else "" for value in values]
            for row, findings in enumerate(self._findings(texts)):
                if findings:
                    found.setdefault(row, []).extend((field, finding) for finding in findings)
        if not kinds <= _SCANNABLE:
            for row, value in enumerate(values):
                if type(value) not in _SCANNABLE:
                    found.setdefault(row, []).append((field, Finding(SCAN_ERROR, 0, 0, 1.0)))

    def _findings(self, texts: list[str]) -> list[list[Finding]]:
        try:
            findings = self._scanner.scan_batch(texts) if self._scanner else []
        except Exception:  # whatever it is, these texts were not scanned
            findings = []
        if len(findings) != len(texts):
            return [[Finding(SCAN_ERROR, 0, len(text), 1.0)] for text in texts]
        return findings

    def _headers(self, headers: list[Headers], found: Found) -> list[Headers]:
        action = self._header_action
        if action == "allow" or not any(headers):
            return headers
        if action == "drop":
            return [trace_headers(row, self._is_clean) if row else row for row in headers]
        rows = [row for row, each in enumerate(headers) for _ in range(2 * len(each))]
        texts = [text for each in headers for name, data in each for text in (name, _text(data))]
        in_texts: Found = {}
        self._scan(HEADERS, texts, in_texts)
        for at, findings in in_texts.items():
            found.setdefault(rows[at], []).extend(findings)
        return headers

    def _is_clean(self, text: str) -> bool:
        return self._findings([text]) == [[]]

    def _with_tokens(self, batch: Batch) -> Batch:
        if self._action(self._event_id) == "tokenise":
            batch = replace(batch, event_ids=[self._tokeniser.token(self._event_id, each) for each in batch.event_ids])
        if self._action(self._entity) == "tokenise":
            batch = replace(batch, entities=[self._tokeniser.token(self._entity, each) for each in batch.entities])
        return batch

    def _holds(self, findings: list[tuple[str, Finding]]) -> bool:
        if not self._redacts:
            return True
        never = (self._event_id, self._entity, KEY)
        return any(finding.type.startswith("SCAN_") or field in never for field, finding in findings)

    def _redacted(self, batch: Batch, found: Found, held: list[int]) -> Batch:
        """Replace what was found in the rows that go on. Adds those that are still not clean to `held`."""
        columns = dict(batch.columns)
        headers = list(batch.headers)
        degraded = list(batch.degraded) or [()] * len(batch)
        for row in sorted(found.keys() - set(held)):
            for field in dict.fromkeys(field for field, _ in found[row]):
                degraded[row] = (*degraded[row], f"redacted:{field}")
                if field == HEADERS:
                    headers[row] = trace_headers(headers[row], self._is_clean)
                    continue
                column = columns[field]
                if column is batch.columns[field]:
                    columns[field] = column = list(column)
                column[row] = redact(column[row], [each for of, each in found[row] if of == field])
                if not self._is_clean(column[row]):  # what stood on both sides of a finding may make another
                    held.append(row)
                    break
        held.sort()
        return replace(batch, columns=columns, headers=headers, degraded=degraded)

    def _record(self, batch: Batch, row: int, findings: list[tuple[str, Finding]]) -> Record:
        lane, offset = int(batch.lane[row]), int(batch.offset[row])
        about = origin_key(batch.topic, lane, offset)
        sealed = sealed_original(self._vault, about, batch.keys[row], batch.values[row], batch.headers[row])
        listed = [
            {"field": field, "type": each.type, "start": each.start, "end": each.end, "score": each.score}
            for field, each in findings[:MAX_FINDINGS]
        ]
        return quarantine(self._pipeline, batch.topic, lane, offset, findings=listed, sealed=sealed)


@operator
def guard(step_id: str, up: Stream[Item], *, guard: Guard) -> Stream[Item]:
    """Keep personal data out, by the pipeline's rules.

    In: decoded batches. Out: the rows that may go on; quarantine records for the others. State: none.
    """
    return stage("guard", up, guard.work)


_SCANNABLE = frozenset({str, bool, type(None)})

_NOT_TEXT = object()
"""Stands for bytes that are not UTF-8: they cannot be scanned, so the scan fails."""


def _text(data: bytes | None) -> Any:
    try:
        return data if data is None else data.decode()
    except UnicodeDecodeError:
        return _NOT_TEXT
