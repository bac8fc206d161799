"""The records of the registry and of the slots' answers, as JSON.

The registry is an append-only log; its readers fold it (`catalog.py`). A record says what it means with `kind` and
`v`: a kind or a version that a reader does not know is counted and skipped, so a change of meaning needs a new `v`.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Final, Literal, TypeAlias

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

MAX_ARTEFACT_BYTES: Final = 256 * 1024 * 1024
"""No release is larger: a slot holds the file and the loaded model in memory at once."""

Role: TypeAlias = Literal["champion", "shadow", "retired"]
ReleaseRole: TypeAlias = Literal["champion", "shadow"]
Format: TypeAlias = Literal["onnx", "river"]

Name = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_.-]{0,63}$")]
Version = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.+-]{0,63}$")]
Offset = Annotated[int, Field(ge=0)]


class RefusalReason(StrEnum):
    """Why a release may not be used. Bounded: it is a metric label and part of the admissions topic."""

    UNKNOWN_MODEL = "unknown_model"
    VERSION_TAKEN = "version_taken"
    UNKNOWN_VERSION = "unknown_version"
    FORMAT = "format"
    TOO_LARGE = "too_large"
    FETCH_FAILED = "fetch_failed"
    FETCH_TIMEOUT = "fetch_timeout"
    SHA256 = "sha256"
    BROKEN_FILE = "broken_file"
    FORBIDDEN_CODE = "forbidden_code"
    LIBRARY_VERSION = "library_version"
    DEVICE = "device"
    INPUT_NAMES = "input_names"
    INPUT_TYPE = "input_type"
    INPUT_SHAPE = "input_shape"
    NOT_GRANTED = "not_granted"
    OUTPUT = "output"
    TRIAL_ERROR = "trial_error"
    NOT_FINITE = "not_finite"
    ROWS_DEPEND = "rows_depend"
    TOO_SLOW = "too_slow"


TRANSIENT: Final = frozenset({RefusalReason.FETCH_FAILED, RefusalReason.FETCH_TIMEOUT})
"""Refusals of a world that may mend itself: the slot tries again."""


class ModelRefused(Exception):
    """A release cannot be used, for a reason that is the release's own.

    Attributes:
        reason: the bounded code.
        detail: plain words: what was tried, what was wrong, what to do.
    """

    def __init__(self, reason: RefusalReason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")

    v: Literal[1] = 1
    pipeline: Name

    def to_bytes(self) -> bytes:
        """Give the record as UTF-8 JSON, without what is not set."""
        return self.model_dump_json(exclude_none=True).encode()


class ReleaseRecord(_Record):
    """A version of a model was published. It scores nothing until it is activated."""

    kind: Literal["release"] = "release"
    model: Name
    version: Version
    role: ReleaseRole = "champion"
    format: Format
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    size: Annotated[int, Field(gt=0, le=MAX_ARTEFACT_BYTES)]
    """Bytes of the artefact."""
    uri: Annotated[str, Field(min_length=1, max_length=1024)]
    """Where the artefact is: a path relative to the artefact store, or a URL that fsspec understands."""
    inputs: Annotated[tuple[Name, ...], Field(min_length=1, max_length=4096)]
    """Names of the columns that the model takes, in its order."""
    valid_from: AwareDatetime | None = None


class PromotionRecord(_Record):
    """A release that was published before shall have another role."""

    kind: Literal["promotion"] = "promotion"
    model: Name
    version: Version
    role: Role
    valid_from: AwareDatetime | None = None


class ActivationRecord(_Record):
    """Every live slot has accepted the release or promotion at offset `of`: from now on it counts."""

    kind: Literal["activation"] = "activation"
    of: Offset


class AdmissionRecord(_Record):
    """One slot's answer to the release or promotion at offset `of` of the registry."""

    kind: Literal["admission"] = "admission"
    of: Offset
    slot: Annotated[str, Field(min_length=1, max_length=200)]
    """Group and slot number: `<group>-<slot>`."""
    accepted: bool
    reason: RefusalReason | None = None
    detail: Annotated[str, Field(max_length=1000)] | None = None
    figures: dict[str, float] = {}
    """What was measured, such as `load_ms` and `us_per_event_64`."""

    def key(self) -> bytes:
        """Key of the record in the compacted admissions topic: the last answer of a slot counts."""
        return f"{self.pipeline}|{self.of}|{self.slot}".encode()


class HeartbeatRecord(_Record):
    """A slot is alive and has folded the registry up to `next_offset`."""

    kind: Literal["heartbeat"] = "heartbeat"
    slot: Annotated[str, Field(min_length=1, max_length=200)]
    next_offset: Offset

    def key(self) -> bytes:
        """Key of the record in the compacted admissions topic; a tombstone says that the slot has left."""
        return heartbeat_key(self.pipeline, self.slot)


RegistryRecord: TypeAlias = ReleaseRecord | PromotionRecord | ActivationRecord
AnswerRecord: TypeAlias = AdmissionRecord | HeartbeatRecord

_REGISTRY: Final[TypeAdapter[RegistryRecord]] = TypeAdapter(Annotated[RegistryRecord, Field(discriminator="kind")])
_ANSWERS: Final[TypeAdapter[AnswerRecord]] = TypeAdapter(Annotated[AnswerRecord, Field(discriminator="kind")])


def heartbeat_key(pipeline: str, slot: str) -> bytes:
    """Key of a slot's heartbeats."""
    return f"{pipeline}|heartbeat|{slot}".encode()


def read_registry(value: bytes | None) -> RegistryRecord | None:
    """Read one registry record; None for what this version of the program does not know or cannot read."""
    try:
        return _REGISTRY.validate_json(value or b"")
    except ValidationError:
        return None


def read_answer(value: bytes | None) -> AnswerRecord | None:
    """Read one record of the admissions topic; None for what this version does not know or cannot read."""
    try:
        return _ANSWERS.validate_json(value or b"")
    except ValidationError:
        return None


def unix_ms(moment: datetime | None) -> int:
    """Unix milliseconds of a moment, 0 when there is none."""
    return 0 if moment is None else round(moment.timestamp() * 1000)
