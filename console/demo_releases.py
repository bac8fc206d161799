"""The demo's releases: published to the registry like anybody's, and waited for until they are in force."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from console.parts import PartFailed
from console.registry import Progress, Registry, RegistryUnreachable
from models.artefacts import ArtefactStore
from models.release import ReleaseRecord

if TYPE_CHECKING:
    from dataflows.pipeline import Pipeline

FORMATS = {".onnx": "onnx", ".river": "river"}


class Releases:
    """The files `<model>-<version>.onnx` or `.river` of a folder, as releases of a pipeline.

    Args:
        folder: where the files are.
        pipeline: whose models they are.
        connection: librdkafka properties; `bootstrap.servers` at least.
        artefacts: the folder from which the slots will read them.
    """

    def __init__(self, folder: Path, pipeline: Pipeline, connection: Mapping[str, Any], artefacts: Path) -> None:
        self._folder, self._pipeline, self._connection = folder, pipeline, connection
        self._store = ArtefactStore(str(artefacts))
        self._published: dict[int, str] = {}
        """Offset in the registry to what was published there."""

    def publish(self, version: str) -> str:
        """Publish this version of every model that has a file of it; says in words what was published.

        Raises:
            PartFailed: there is no such file, or the registry does not take the record.
        """
        files = [file for file in sorted(self._folder.glob(f"*-{version}.*")) if file.suffix in FORMATS]
        if not files:
            raise PartFailed(f"could not find a file *-{version}.onnx or .river in {self._folder}; train them first")
        records = [self._record(file, version) for file in files]
        try:
            with Registry(self._pipeline, self._connection) as registry:
                for record in records:
                    self._published[registry.append(record)] = f"{record.model} {version}"
        except RegistryUnreachable as problem:
            raise PartFailed(str(problem)) from problem
        return " and ".join(f"{record.model} {version}" for record in records)

    def wait_until_in_force(self, timeout: float = 60.0, alive: Callable[[], bool] = lambda: True) -> None:
        """Wait until everything published so far is activated, and its activation's delay is over.

        Raises:
            PartFailed: a slot refused one, that took longer than `timeout` seconds, or nobody is `alive` to do it.
        """

        def still_alive(_: Progress) -> None:
            if not alive():
                raise PartFailed("the engine ended before the releases were in force")

        try:
            with Registry(self._pipeline, self._connection) as registry:
                for offset, what in self._published.items():
                    found = registry.wait(offset, timeout, still_alive)
                    if found.in_force_from is None:
                        why = "; ".join(f"{slot}: {reason}" for slot, reason in found.refused.items())
                        raise PartFailed(f"{what} is not in force after {timeout:.0f} s; {why or 'no slot refused it'}")
        except RegistryUnreachable as problem:
            raise PartFailed(str(problem)) from problem

    def _record(self, file: Path, version: str) -> ReleaseRecord:
        data = file.read_bytes()
        model = file.stem.rpartition("-")[0]
        fields = {
            "pipeline": self._pipeline.pipeline,
            "model": model,
            "version": version,
            "format": FORMATS[file.suffix],
            "sha256": hashlib.sha256(data).hexdigest(),
            "size": len(data),
            "uri": self._store.put(data, file.suffix),
            "inputs": self._pipeline.models[model].inputs,
        }
        return ReleaseRecord.model_validate(fields)
