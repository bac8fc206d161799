"""Sealed originals: an event that could not go on, kept as it was read, for a holder of the key to decide again."""

from __future__ import annotations

import base64
import hashlib

import orjson
from pydantic import BaseModel, ConfigDict

from operators.batch import Headers
from operators.wire import VERSION, Quarantine, Rejection, origin_key
from state.vault import SealBroken, Vault

KEEP_BYTES = 700_000
"""How much of an original is kept: in base64 it must stay under Kafka's default message size of 1,048,588 bytes."""


class Original(BaseModel):
    """An event as it was read."""

    model_config = ConfigDict(frozen=True)

    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]
    whole: bool
    """False when it was larger than `KEEP_BYTES` and the end of the value, or else key and headers, were left out."""
    size: int
    """Bytes of the value as it was read; 0 for a tombstone."""
    sha256: str
    """Of the value as it was read, in hex."""


def sealed_original(
    vault: Vault, about: bytes, key: bytes | None, value: bytes | None, headers: Headers, *, keep: int = KEEP_BYTES
) -> str:
    """Seal an event as it was read, in base64; `about` is its `origin_key`.

    Larger ones than `keep` bytes lose the end of their value, or key and headers where those alone are too large: the
    record must fit into a Kafka message, or it would stop the lane. Size and SHA-256 of the value still name the whole.
    """
    size, digest = len(value or b""), hashlib.sha256(value or b"").hexdigest()
    # A control character in a name takes 6 bytes of JSON, and a length up to 10.
    rest = len(key or b"") + sum(
        6 * len(name.encode("utf-8", "replace")) + len(data or b"") + 16 for name, data in headers
    )
    whole = rest + size <= keep
    if not whole:
        if rest > keep // 2:
            key, headers, rest = None, [], 0
        value = value[: keep - rest] if value is not None else None
    head = {
        "v": VERSION,
        "key": None if key is None else len(key),
        "value": None if value is None else len(value),
        "headers": [
            [name.encode("utf-8", "replace").decode(), None if data is None else len(data)] for name, data in headers
        ],
        "whole": whole,
        "size": size,
        "sha256": digest,
    }
    plain = b"".join([orjson.dumps(head), b"\n", key or b"", value or b"", *(data or b"" for _, data in headers)])
    return base64.b64encode(vault.seal(plain, about)).decode("ascii")


def open_original(vault: Vault, record: Rejection | Quarantine) -> Original:
    """Open the original in a record; raises `state.vault.SealBroken`."""
    about = origin_key(record.origin.topic, record.origin.partition, record.origin.offset)
    try:
        sealed = base64.b64decode(record.sealed, validate=True)
    except ValueError:
        raise SealBroken("could not open a sealed record: it is not base64; was it cut?") from None
    head_bytes, _, rest = vault.open(sealed, about).partition(b"\n")
    head = orjson.loads(head_bytes)
    taken = 0

    def take(length: int | None) -> bytes | None:
        nonlocal taken
        if length is None:
            return None
        taken += length
        return rest[taken - length : taken]

    key, value = take(head["key"]), take(head["value"])
    headers = tuple((name, take(length)) for name, length in head["headers"])
    return Original(
        key=key, value=value, headers=headers, whole=head["whole"], size=head["size"], sha256=head["sha256"]
    )
