"""Artefacts: the files of releases, fetched by name or URL, bounded in size and time, checked by sha256.

The artefact store is a folder or any URL that fsspec understands. In it a file is called by its content,
`<sha256>.onnx`, so nothing is ever overwritten and two releases of the same bytes share one file.
"""

from __future__ import annotations

import hashlib
import threading
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, Final

import fsspec

from models.release import MAX_ARTEFACT_BYTES, ModelRefused, RefusalReason

FETCH_SECONDS: Final = 10.0  # well below the 30 s after which a slot that does not poll is ended
_CHUNK: Final = 1 << 20
_MAX_HUNG: Final = 4


@dataclass(frozen=True, slots=True)
class ArtefactStore:
    """Where artefacts are. Safe to use from several threads."""

    root: str
    """A folder, or a URL such as `s3://bucket/models`."""
    timeout: float = FETCH_SECONDS
    """Seconds one fetch may take."""
    _hung: list[threading.Thread] = field(default_factory=list, repr=False, compare=False)

    def fetch(self, uri: str, size: int, sha256: str) -> bytes:
        """Read an artefact.

        Args:
            uri: path relative to the store, or a URL.
            size: bytes that it must have.
            sha256: digest that it must have, 64 hexadecimal digits.

        Raises:
            ModelRefused: not there, not in time, or not the bytes that were promised.
        """
        if size > MAX_ARTEFACT_BYTES:
            raise ModelRefused(RefusalReason.TOO_LARGE, f"{size} bytes are more than {MAX_ARTEFACT_BYTES}")
        data = self._in_time(self.locate(uri), size)
        if len(data) != size:
            shown = f"more than {size}" if len(data) > size else str(len(data))
            raise ModelRefused(RefusalReason.SHA256, f"the artefact has {shown} bytes, the release says {size}")
        found = hashlib.sha256(data).hexdigest()
        if found != sha256:
            detail = f"the artefact's sha256 is {found[:12]}…, the release says {sha256[:12]}…; was the file replaced?"
            raise ModelRefused(RefusalReason.SHA256, detail)
        return data

    def put(self, data: bytes, suffix: str) -> str:
        """Store an artefact under the name of its content, unless it is there.

        Args:
            data: the file.
            suffix: such as `.onnx`.

        Returns:
            The name, to be fetched with.

        Raises:
            OSError: the store cannot be written.
        """
        name = f"{hashlib.sha256(data).hexdigest()}{suffix}"
        filesystem, path = fsspec.core.url_to_fs(self.locate(name))
        if not filesystem.exists(path):
            filesystem.makedirs(str(PurePosixPath(path).parent), exist_ok=True)
            # The name appears only with the whole file: a reader never sees half of it.
            half = f"{path}.{threading.get_ident()}.part"
            filesystem.pipe_file(half, data)
            filesystem.mv(half, path)
        return name

    def locate(self, uri: str) -> str:
        """The full URL of an artefact.

        Raises:
            ModelRefused: the name leads out of the store, or chains file systems.
        """
        if "::" in uri:
            raise ModelRefused(RefusalReason.FETCH_FAILED, "the artefact's address chains file systems with ::")
        if "://" in uri:
            return uri
        name = PurePosixPath(uri)
        if name.is_absolute() or ".." in name.parts:
            detail = "the artefact's path leads out of the artefact store; use a relative path or a URL"
            raise ModelRefused(RefusalReason.FETCH_FAILED, detail)
        return f"{self.root.rstrip('/')}/{name}"

    def _in_time(self, url: str, size: int) -> bytes:
        """Read in a thread of its own: not every file system that fsspec knows can be told a time-out."""
        self._hung[:] = [thread for thread in self._hung if thread.is_alive()]
        if len(self._hung) >= _MAX_HUNG:
            detail = f"{_MAX_HUNG} earlier fetches still hang; is the artefact store reachable?"
            raise ModelRefused(RefusalReason.FETCH_TIMEOUT, detail)
        box: list[Any] = []
        thread = threading.Thread(target=_read, args=(url, size, box), name="artefact-fetch", daemon=True)
        thread.start()
        thread.join(self.timeout)
        if not box:
            self._hung.append(thread)
            detail = f"the artefact was not read within {self.timeout:g} s; is the artefact store reachable?"
            raise ModelRefused(RefusalReason.FETCH_TIMEOUT, detail)
        if isinstance(box[0], BaseException):
            detail = f"the artefact cannot be read: {type(box[0]).__name__}; is it in the artefact store?"
            raise ModelRefused(RefusalReason.FETCH_FAILED, detail) from box[0]
        return bytes(box[0])


def _read(url: str, size: int, box: list[Any]) -> None:
    """Read at most one byte more than promised, so that a file without end is noticed and not kept."""
    try:
        parts, left = [], size + 1
        with fsspec.open(url, "rb") as file:
            while left and (part := file.read(min(_CHUNK, left))):
                parts.append(part)
                left -= len(part)
        box.append(b"".join(parts))
    except BaseException as error:  # handed to the thread that waits
        box.append(error)
