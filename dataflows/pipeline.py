"""The pipeline file as frozen models: one per section, unknown keys refused, every mistake with its line."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

from pydantic import BeforeValidator, Field

from dataflows.locate import MAX_BYTES
from dataflows.section import Delay, Duration, Name, Section, Span, Sql, whole
from dataflows.view_spec import ViewSpec
from operators.contract import ContractSpec, FieldSpec

__all__ = ["ContractSpec", "FieldSpec", "Mistake", "Pipeline", "PipelineInvalid", "load", "loads"]
TopicName: TypeAlias = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,249}$")]
Code: TypeAlias = Annotated[str, Field(pattern=r"^[A-Z][A-Z0-9_]{0,63}$")]
Action: TypeAlias = Literal["allow", "drop", "mask", "tokenise", "scan"]
Recogniser: TypeAlias = Literal[
    "email",
    "phone",
    "credit_card",
    "iban",
    "ip",
    "us_ssn",
    "us_itin",
    "us_passport",
    "us_bank",
    "uk_nhs",
    "crypto",
    "mac",
]
"""The names in `models.pii_recognisers`, which takes seconds to import; a test keeps them the same."""
Role: TypeAlias = Literal[
    "events", "decisions", "reviews", "rejected", "quarantine", "duplicates", "state", "registry", "admissions"
]
WITHHELD = {"drop": "drops", "mask": "masks"}
"""Actions after which nothing can be computed with a field, as verbs."""
SHARED_TOPICS = ("registry", "admissions")
"""Roles whose topic belongs to all pipelines of a cluster."""


class GuardSpec(Section):
    """What happens to personal data, per field, key and header."""

    on_finding: Literal["quarantine", "redact"] = "quarantine"
    default: Action = "scan"
    """For contract fields that `fields` does not name."""
    threshold: float = Field(default=0.4, ge=0, le=1, strict=False)
    recognisers: tuple[Recogniser, ...] = Field(
        default=("email", "phone", "credit_card", "iban", "us_ssn", "ip"), strict=False
    )
    phone_regions: tuple[Annotated[str, Field(pattern=r"^[A-Z]{2}$")], ...] = Field(default=("US",), strict=False)
    key: Literal["allow", "scan"] = "allow"  # nothing after the guard has the key, so nothing in it need be changed
    headers: Literal["allow", "drop", "scan"] = "drop"
    fields: dict[str, Action] = {}

    def action(self, field: str) -> Action:
        """What is done to a contract field."""
        return self.fields.get(field, self.default)


class DedupeSpec(Section):
    """How long an `event_id` is remembered in its lane, and how many at most; older ones would pass again."""

    window: Span = timedelta(days=1)
    max_ids: int = Field(default=500_000, ge=1, le=10**9)  # 160 bytes of memory each, unless with --lane-store


class RecalledSpec(Section):
    """One figure about the entity's own recent events."""

    function: Literal["count", "sum", "mean", "last", "seconds_since_last"]
    window: Span
    of: Name | None = None
    """The numeric column; `count` and `seconds_since_last` need none."""


class RecallSpec(Section):
    """The entity's own sliding windows."""

    pane: Span = timedelta(minutes=1)
    """Windows are exact to this."""
    allowed_lateness: Annotated[Delay, BeforeValidator(whole)] = timedelta(minutes=10)
    on_late: Literal["include", "ignore"] = "include"
    features: dict[Name, RecalledSpec] = {}


class BreakerSpec(Section):
    """When to stop asking Redis, and for how long."""

    failures: int = Field(default=5, ge=1, le=1000)
    reset: Duration = timedelta(seconds=2)


class CacheSpec(Section):
    """What each slot remembers of the views."""

    entries: int = Field(default=10_000, ge=0, le=10_000_000)
    max_age: Delay = timedelta(seconds=1)


class EnrichSpec(Section):
    """How views are read."""

    timeout: Duration = timedelta(milliseconds=50)
    breaker: BreakerSpec = BreakerSpec()
    cache: CacheSpec = CacheSpec()


class ModelSpec(Section):
    """A named place for releases."""

    inputs: tuple[Name, ...] = Field(min_length=1, max_length=2000, strict=False)
    """In the order in which the model takes them."""
    budget: Duration = timedelta(milliseconds=100)
    fallback: Sql | None = None
    """The score where no release gives one; without it the score is unknown."""


class RuleSpec(Section):
    """One reason for an outcome."""

    name: Name
    when: Sql
    outcome: Name
    reason: Code


class PolicySpec(Section):
    """From scores, features and facts to an outcome with reasons."""

    version: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,40}$")]
    outcomes: tuple[Name, ...] = Field(min_length=1, max_length=20, strict=False)
    """From mild to severe."""
    default: Name
    on_unknown: Name
    """The outcome that a rule gives whose condition is unknown (NULL)."""
    rules: tuple[RuleSpec, ...] = Field(default=(), max_length=500, strict=False)


class DeliverySpec(Section):
    """Bounds of the group commit."""

    min_commit_interval: Delay = timedelta(milliseconds=5)
    """From one commit's return to the next transaction's first record."""
    max_held_rows: int = Field(default=20_000, ge=1, le=1_000_000)
    max_held_bytes: int = Field(default=64 * 1024 * 1024, ge=1024, le=2**33)
    tide_interval: Duration = timedelta(milliseconds=250)
    """How often `features` says up to when its views have all events, which costs a transaction where none comes."""


class Pipeline(Section):
    """One pipeline: events of a topic to decisions."""

    pipeline: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,39}$")]
    contract: ContractSpec
    guard: GuardSpec = GuardSpec()
    dedupe: DedupeSpec = DedupeSpec()
    recall: RecallSpec = RecallSpec()
    views: dict[Name, ViewSpec] = {}
    enrich: EnrichSpec = EnrichSpec()
    features: dict[Name, Sql] = {}
    models: dict[Name, ModelSpec] = {}
    policy: PolicySpec
    activation_delay: Span = timedelta(seconds=2)
    topics: dict[Role, TopicName] = {}
    delivery: DeliverySpec = DeliverySpec()

    def topic(self, role: str) -> str:
        """The full name of a topic, such as `claims.decisions` for `decisions`."""
        default = f"penstock.{role}" if role in SHARED_TOPICS else f"{self.pipeline}.{role}"
        return self.topics.get(role, default)  # type: ignore[call-overload, no-any-return]

    @cached_property
    def columns(self) -> dict[str, str]:
        """Every column that may be computed with, in the order in which they appear, and its contract type.

        Contract fields without those that the guard withholds, then recalled, view and derived features, then scores.
        """
        columns: dict[str, str] = {
            name: spec.type for name, spec in self.contract.fields.items() if self.guard.action(name) not in WITHHELD
        }
        columns |= dict.fromkeys(self.recall.features, "number")
        for view, spec in self.views.items():
            columns |= {f"{view}_{feature}": kind for feature, kind in spec.kinds.items()}
        return columns | dict.fromkeys(self.features, "number") | dict.fromkeys(self.models, "number")


@dataclass(frozen=True, slots=True)
class Mistake:
    """One thing to mend in a pipeline file."""

    file: str
    line: int
    column: int
    """Both from 1."""
    where: str
    """Path in the file, such as `policy.rules[2].when`."""
    what: str
    expected: str
    nearest: str | None = None
    """The valid name closest to the one found."""

    def __str__(self) -> str:
        hint = f"; did you mean '{self.nearest}'?" if self.nearest else ""
        expected = f"; expected {self.expected}" if self.expected else ""
        where = f"{self.where}: " if self.where else ""
        return f"{self.file}:{self.line}: {where}{self.what}{expected}{hint}"


class PipelineInvalid(Exception):
    """A pipeline file cannot be used. Carries every mistake found."""

    def __init__(self, mistakes: list[Mistake]) -> None:
        super().__init__("\n".join(str(mistake) for mistake in mistakes))
        self.mistakes = mistakes


def load(path: Path | str) -> Pipeline:
    """Read and validate a pipeline file. Expressions are tried out, so not in a process that is forked afterwards.

    Raises:
        PipelineInvalid: with every mistake, ordered by line.
    """
    name = str(path)
    try:
        with Path(path).open(encoding="utf-8") as file:
            text = file.read(MAX_BYTES + 1)  # an endless file ends here; a long one is refused for its length
    except UnicodeDecodeError as error:
        raise PipelineInvalid([Mistake(name, 1, 1, "", f"not UTF-8 at byte {error.start}", "UTF-8 text")]) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise PipelineInvalid([Mistake(name, 1, 1, "", f"could not be read: {reason}", "a file")]) from None
    return loads(text, name)


def loads(text: str, file: str = "pipeline.yaml") -> Pipeline:
    """Validate the text of a pipeline file, as `load` does; `file` names it in mistakes."""
    from dataflows.validation import validate  # noqa: PLC0415 -- it is about the models of this module

    pipeline, mistakes = validate(text, file)
    if pipeline is None:
        raise PipelineInvalid(mistakes)
    return pipeline
