"""Sealing: what is kept of an event that could not go on is kept encrypted, so that only a holder of the key reads it.

An envelope is `version (1) ‖ key id (8) ‖ nonce (12) ‖ ciphertext ‖ tag (16)`, AES-256-GCM (NIST SP 800-38D) with a
random 96-bit nonce. Version, key id and what the envelope is about are authenticated too, so that one moved to another
record does not open. Random nonces are safe for 2**32 envelopes a key: change the key before that (at 100 a second, in
16 months).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

_VERSION = b"\x01"
_KEY_BYTES = 32
_ID_BYTES = 8
_NONCE_BYTES = 12
_TAG_BYTES = 16
_HEAD_BYTES = len(_VERSION) + _ID_BYTES
_MAKE_ONE = "make one with: head -c 32 /dev/urandom | base64"


class VaultError(Exception):
    """The root of what can go wrong here: `KeyRefused`, `SealBroken`."""


class KeyRefused(VaultError):
    """A key is missing or unusable."""


class SealBroken(VaultError):
    """An envelope does not open: unknown key, another record's envelope, or changed bytes."""


class Vault:
    """Keys that open envelopes; the first one seals. To rotate, put the new key in front and keep the old ones."""

    __slots__ = ("_ciphers", "_first", "_key_id")

    def __init__(self, keys: Sequence[bytes]) -> None:
        """Take one key or more of 32 bytes each; raises `KeyRefused`."""
        if not keys:
            raise KeyRefused(f"could not open the vault: no seal key was given; {_MAKE_ONE}")
        for number, key in enumerate(keys, 1):
            if len(key) != _KEY_BYTES:
                raise KeyRefused(
                    f"could not open the vault: seal key {number} has {len(key)} bytes, expected {_KEY_BYTES}; "
                    f"{_MAKE_ONE}"
                )
        self._first = bytes(keys[0])
        self._key_id = _id_of(self._first)
        self._ciphers = {_id_of(key): AESGCM(key) for key in keys}

    @classmethod
    def from_base64(cls, text: str) -> Vault:
        """Read keys in base64, separated by white space or commas; raises `KeyRefused`."""
        keys = []
        for number, word in enumerate(text.replace(",", " ").split(), 1):
            try:
                keys.append(base64.b64decode(word, validate=True))
            except (binascii.Error, ValueError):
                # `from None`: the cause would carry the text
                raise KeyRefused(f"could not open the vault: seal key {number} is not base64; {_MAKE_ONE}") from None
        return cls(keys)

    @classmethod
    def from_file(cls, path: Path) -> Vault:
        """Read keys in base64 from a file, one a line; raises `KeyRefused`."""
        try:
            text = path.read_text("ascii")
        except OSError as error:
            why = error.strerror or "it cannot be read"
            raise KeyRefused(f"could not read the seal key file {path}: {why}; {_MAKE_ONE} > {path}") from error
        except UnicodeDecodeError:
            raise KeyRefused(
                f"could not read the seal key file {path}: it is not base64; {_MAKE_ONE} > {path}"
            ) from None
        return cls.from_base64(text)

    @staticmethod
    def generate() -> str:
        """Make a new key, in base64."""
        return base64.b64encode(os.urandom(_KEY_BYTES)).decode("ascii")

    @property
    def key_id(self) -> str:
        """The id of the key that seals, in hex. It says nothing about the key."""
        return self._key_id.hex()

    def seal(self, plain: bytes, about: bytes) -> bytes:
        """Encrypt; `about` (the origin of the record) is needed again to open."""
        nonce = os.urandom(_NONCE_BYTES)
        head = _VERSION + self._key_id
        return head + nonce + self._ciphers[self._key_id].encrypt(nonce, plain, head + about)

    def open(self, sealed: bytes, about: bytes) -> bytes:
        """Decrypt; raises `SealBroken`."""
        head = sealed[:_HEAD_BYTES]
        if len(sealed) < _HEAD_BYTES + _NONCE_BYTES + _TAG_BYTES or head[:1] != _VERSION:
            raise SealBroken("could not open a sealed record: it is no envelope of a version known here; was it cut?")
        cipher = self._ciphers.get(head[1:])
        if cipher is None:
            raise SealBroken(
                f"could not open a sealed record: its key is {head[1:].hex()}; add that key to the seal keys"
            )
        nonce_end = _HEAD_BYTES + _NONCE_BYTES
        try:
            return cipher.decrypt(sealed[_HEAD_BYTES:nonce_end], sealed[nonce_end:], head + about)
        except InvalidTag:
            raise SealBroken(
                "could not open a sealed record: it was changed, or it belongs to another origin"
            ) from None

    def derive(self, purpose: bytes, length: int = _KEY_BYTES) -> bytes:
        """Give a key for another purpose (HKDF-SHA256, RFC 5869) from the first key; another `purpose`, another key."""
        return HKDF(algorithm=SHA256(), length=length, salt=None, info=b"penstock " + purpose).derive(self._first)

    def __repr__(self) -> str:
        return f"Vault(key_id={self.key_id!r}, keys={len(self._ciphers)})"

    def __reduce__(self) -> str | tuple[object, ...]:
        raise TypeError("a vault is never pickled: it holds keys")


def _id_of(key: bytes) -> bytes:
    return hashlib.sha256(b"penstock key id\x00" + key).digest()[:_ID_BYTES]
