"""CloudEvents 1.0 in the Kafka protocol binding: which mode an event is in, and whether its attributes are there.

Structured mode: the header `content-type: application/cloudevents+json`, and the value is the envelope with `data`.
Binary mode: attributes in headers `ce_…`, and the value is the data. Only the four required attributes are needed here;
others are not passed on, except for the trace headers, which `operators.emit` reads.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Annotated, Any, Literal, NotRequired

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict  # pydantic refuses that of `typing` before Python 3.12

from operators.batch import Headers
from operators.wire import Reason

MAX_ATTRIBUTE = 1024
"""Characters of an attribute in an envelope, bytes of one in a header."""
_REQUIRED_HEADERS = ("ce_specversion", "ce_id", "ce_source", "ce_type")
_CHARSETS = ("utf-8", "us-ascii")
_STRUCTURED = "application/cloudevents+json"
_MEDIA_TYPE = re.compile(r"[!#$%&'*+.^_`|~0-9a-z-]+/[!#$%&'*+.^_`|~0-9a-z-]+")  # RFC 9110, section 8.3.1

_Text = Annotated[str, Field(min_length=1, max_length=MAX_ATTRIBUTE)]


class _Envelope(TypedDict):
    __pydantic_config__ = ConfigDict(strict=True, extra="ignore")  # type: ignore[misc]

    specversion: Literal["1.0"]
    id: _Text
    source: _Text
    type: _Text
    subject: NotRequired[_Text | None]
    time: NotRequired[_Text | None]
    dataschema: NotRequired[_Text | None]
    datacontenttype: NotRequired[_Text | None]


_ENVELOPES = TypeAdapter(list[_Envelope])
_ENVELOPE = TypeAdapter(_Envelope)


def is_structured(headers: Headers) -> bool | Reason:
    """Tell structured mode from binary mode, or why an event is in neither."""
    content_type: bytes | None = None
    attributes: dict[str, bytes | None] = {}
    for name, data in headers:
        if name == "content-type":
            if content_type is not None or data is None:
                return Reason.BAD_HEADER
            content_type = data
        elif name in _REQUIRED_HEADERS:
            if name in attributes:
                return Reason.BAD_HEADER
            attributes[name] = data
    if content_type is None:
        kind: str | Reason = "json"
    elif len(content_type) > MAX_ATTRIBUTE:
        return Reason.BAD_HEADER
    else:
        kind = _kind(content_type)
    if kind == "structured":
        return True
    if kind == "json":
        return False if len(attributes) == len(_REQUIRED_HEADERS) and _are_good(attributes) else _why(attributes)
    return Reason(kind)


def data_of(envelopes: Sequence[Any]) -> list[Any]:
    """Give the `data` of each envelope, or the `Reason` why the envelope is none."""
    try:
        _ENVELOPES.validate_python(envelopes)
    except ValidationError:
        return [_checked(envelope) for envelope in envelopes]
    return [_data(envelope) for envelope in envelopes]


def _checked(envelope: Any) -> Any:
    if not isinstance(envelope, dict):
        return Reason.NOT_AN_OBJECT
    try:
        _ENVELOPE.validate_python(envelope)
    except ValidationError as error:
        missing = any(fault["type"] == "missing" for fault in error.errors(include_url=False, include_input=False))
        return Reason.MISSING_ATTRIBUTE if missing else Reason.BAD_ATTRIBUTE
    return _data(envelope)


def _data(envelope: dict[str, Any]) -> Any:
    media_type = envelope.get("datacontenttype")
    if "data_base64" in envelope or (media_type is not None and _kind_of_text(media_type) != "json"):
        return Reason.UNSUPPORTED_CONTENT_TYPE
    return envelope.get("data", Reason.MISSING_ATTRIBUTE)


@lru_cache(maxsize=256)
def _kind(content_type: bytes) -> str:
    try:
        return _kind_of_text(content_type.decode("ascii"))
    except UnicodeDecodeError:
        return Reason.BAD_HEADER.value


@lru_cache(maxsize=256)
def _kind_of_text(content_type: str) -> str:
    """Give `structured`, `json` or the reason why neither."""
    media_type, *parameters = (part.strip().lower() for part in content_type.split(";"))
    if not content_type.isascii() or _MEDIA_TYPE.fullmatch(media_type) is None:
        return Reason.BAD_HEADER.value
    for parameter in parameters:
        name, _, setting = parameter.partition("=")
        if name.strip() == "charset" and setting.strip().strip('"') not in _CHARSETS:
            return Reason.UNSUPPORTED_CONTENT_TYPE.value
    if media_type == _STRUCTURED:
        return "structured"
    if media_type.startswith("application/cloudevents"):
        return Reason.UNSUPPORTED_CONTENT_TYPE.value
    is_json = media_type in ("application/json", "text/json") or media_type.endswith("+json")
    return "json" if is_json else Reason.UNSUPPORTED_CONTENT_TYPE.value


def _are_good(attributes: dict[str, bytes | None]) -> bool:
    return attributes["ce_specversion"] == b"1.0" and all(
        data and len(data) <= MAX_ATTRIBUTE and _is_text(data) for data in attributes.values()
    )


def _why(attributes: dict[str, bytes | None]) -> Reason:
    return Reason.BAD_HEADER if len(attributes) == len(_REQUIRED_HEADERS) else Reason.MISSING_HEADER


def _is_text(data: bytes) -> bool:
    if data.isascii():
        return True
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True
