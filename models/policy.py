"""The decision policy: which rules hold, what the worst of them demands, and why."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

import numpy as np

from models.expressions import UNKNOWN, Expressions, Truths

DEGRADED = "DEGRADED"
"""Reason where a stage demanded an outcome because something was missing; the decision's `degraded` says what."""

_MAX_REMEMBERED = 10_000


@dataclass(frozen=True, slots=True)
class Rule:
    """One reason for an outcome."""

    name: str
    when: str
    """SQL condition."""
    outcome: str
    reason: str


@dataclass(frozen=True, slots=True)
class Policy:
    """Rules from scores, features and facts to an outcome."""

    version: str
    outcomes: tuple[str, ...]
    """From mild to severe."""
    default: str
    """Where no rule has anything to say."""
    on_unknown: str
    """What a rule demands whose condition is unknown."""
    rules: tuple[Rule, ...] = ()

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of the whole policy: the same columns under the same digest give the same decision."""
        canonical = json.dumps(asdict(self), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return hashlib.sha256(canonical.encode()).hexdigest()

    def compile(self, schema: Mapping[str, str], *, attempt: bool = True) -> Expressions:
        """The rules as expressions over columns (name to contract type), see `Expressions.compile`."""
        return Expressions.compile({rule.name: rule.when for rule in self.rules}, schema, "boolean", attempt=attempt)


@dataclass(slots=True)
class Judge:
    """Applies a policy to what its rules' conditions gave."""

    policy: Policy
    _found: dict[bytes, tuple[str | None, tuple[str, ...]]] = field(default_factory=dict)
    """One byte a rule to the worst outcome and the reasons: few combinations occur, so each is worked out once."""

    def judge(
        self, truths: Mapping[str, Truths], n: int, forced: Sequence[str | None]
    ) -> tuple[list[str], list[tuple[str, ...]]]:
        """Decide n events.

        Every rule that holds gives its reason, in the policy's order; an unknown one gives `UNKNOWN_<RULE>` and demands
        `on_unknown`. The outcome is the most severe that is demanded, else the default. What a stage forces can make it
        more severe, never milder.

        Args:
            truths: rule to (n,) of 1, 0, `UNKNOWN`.
            n: number of events.
            forced: (n,) outcome that a stage demands, or None; empty when none does.

        Returns:
            Outcomes (n,) and reasons (n,).
        """
        policy = self.policy
        if policy.rules:
            table = np.ascontiguousarray(np.stack([truths[rule.name] for rule in policy.rules], axis=1).astype(np.int8))
            width, raw = table.shape[1], table.tobytes()
            found = [self._lookup(raw[i : i + width]) for i in range(0, n * width, width)]
        else:
            found = [(None, ())] * n
        outcomes = [outcome or policy.default for outcome, _ in found]
        reasons = [why for _, why in found]
        for i, demanded in enumerate(forced):
            if demanded is not None:
                outcomes[i] = max(outcomes[i], demanded, key=policy.outcomes.index)
                reasons[i] = (*reasons[i], DEGRADED)
        return outcomes, reasons

    def _lookup(self, truths: bytes) -> tuple[str | None, tuple[str, ...]]:
        known = self._found.get(truths)
        if known is None:
            if len(self._found) >= _MAX_REMEMBERED:
                self._found.clear()
            known = self._found[truths] = self._combine(truths)
        return known

    def _combine(self, truths: bytes) -> tuple[str | None, tuple[str, ...]]:
        demanded: list[str] = []
        reasons: list[str] = []
        for rule, truth in zip(self.policy.rules, np.frombuffer(truths, np.int8), strict=True):
            if truth == UNKNOWN:
                demanded.append(self.policy.on_unknown)
                reasons.append(f"UNKNOWN_{rule.name.upper()}")
            elif truth:
                demanded.append(rule.outcome)
                reasons.append(rule.reason)
        return max(demanded, key=self.policy.outcomes.index, default=None), tuple(reasons)
