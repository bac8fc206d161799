"""The catalog of one slot: what is in force (`history.py`) and the loaded models that score.

One thread writes (the follower of the registry log), one reads (the scoring stage). The reader sees either the history
before a record or the one after it. A model is loaded when it is admitted; a champion that is in force only for old
events, such as those of a lane that was far behind, is loaded when the first of them is scored. A shadow is optional:
the flow takes it where it is loaded and never waits for it.

A loaded model belongs to its place, since the place says in which order the inputs come: one file published for two
models is loaded twice.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from models.admission import Accepted, Answer, Place, Refused, ScoringModel, admit
from models.artefacts import ArtefactStore
from models.history import Entry, History, InForce, Part, Release

KEPT_SECONDS: Final = 600.0
"""A model that is not in force stays loaded this long after it was last used."""

_Key: TypeAlias = tuple[str, str]
"""Of a loaded model: name of the place, sha256 of the file."""


class ReleaseUnavailable(Exception):
    """A champion is in force and cannot be loaded. A slot in this state decides nothing: not with something else."""


class Catalog:
    """The releases known to a slot, with as-of look-up, and their loaded models."""

    def __init__(
        self,
        pipeline: str,
        places: Iterable[Place],
        store: ArtefactStore,
        *,
        delay_ms: int,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin with an empty log and nothing loaded.

        Args:
            pipeline: name; records of other pipelines are skipped.
            places: the pipeline's models.
            store: where artefacts are fetched from.
            delay_ms: activation delay.
            now: clock in seconds, for unloading.
        """
        self.places: Mapping[str, Place] = {place.name: place for place in places}
        self._history = History(pipeline, delay_ms)
        self._store = store
        self._now = now
        self._models: dict[_Key, ScoringModel] = {}
        self._used: dict[_Key, float] = {}
        self._asked: dict[int, tuple[Release, float]] = {}
        self._loading = threading.Lock()

    @property
    def history(self) -> History:
        """The fold of the log so far. Immutable: take it once and it stays."""
        return self._history

    def follow(self, entries: Iterable[Entry]) -> History:
        """Fold more of the log."""
        self._history = self._history.then(entries)
        return self._history

    def in_force(self, model: str, at_ms: int) -> InForce:
        """What scores events of append time `at_ms` (Unix milliseconds)."""
        return self._history.in_force(model, at_ms)

    def parts(self, model: str, append_ms: npt.NDArray[np.int64]) -> list[Part]:
        """Group rows by what is in force for each: `History.parts`."""
        return self._history.parts(model, append_ms)

    def model(self, release: Release) -> ScoringModel:
        """Give the loaded model of a release, loading it now where that has not happened yet.

        Raises:
            ReleaseUnavailable: it is in force, so it was accepted once, and cannot be loaded.
        """
        key = _key(release)
        model = self._models.get(key)
        if model is None:
            answer = self.admit(release)
            if isinstance(answer, Refused):
                raise ReleaseUnavailable(
                    f"release {release.version} of {release.model} is in force and cannot be loaded "
                    f"({answer.reason}: {answer.detail}); nothing else may decide in its place"
                )
            model = answer.model
        self._used[key] = self._now()
        return model

    def loaded(self, release: Release) -> ScoringModel | None:
        """Give the model of a release where it is loaded; otherwise None at once, and `optional` names it next."""
        key = _key(release)
        model = self._models.get(key)
        if model is None:
            self._asked[release.offset] = release, self._now()
            return None
        self._used[key] = self._now()
        return model

    def admit(self, release: Release) -> Answer:
        """Put a release to the tests and keep its model where it passes."""
        key = _key(release)
        with self._loading:  # the two threads may want the same one
            answer = admit(release.record, self.places, self._store)
            if isinstance(answer, Accepted):
                self._used[key] = self._now()
                self._models[key] = answer.model
            return answer

    def has(self, release: Release) -> bool:
        """Whether a release is loaded."""
        return _key(release) in self._models

    def needed(self, at_ms: int) -> list[Release]:
        """The champions in force at `at_ms` or later, each once: without them a slot decides nothing."""
        found = {state.champion.offset: state.champion for state in self._since(at_ms) if state.champion is not None}
        return [found[offset] for offset in sorted(found)]

    def optional(self, at_ms: int) -> list[Release]:
        """The shadows in force at `at_ms` or later, and those that `loaded` lately had not, each once."""
        found = {release.offset: release for state in self._since(at_ms) for release in state.shadows}
        oldest = self._now() - KEPT_SECONDS
        for release, asked in list(self._asked.values()):
            if asked < oldest or self.has(release):
                self._asked.pop(release.offset, None)
            else:
                found[release.offset] = release
        return [found[offset] for offset in sorted(found)]

    def unload(self, at_ms: int) -> int:
        """Drop models not in force at `at_ms` or later, not pending and not used lately; say how many."""
        history = self._history
        keep = {_key(release) for state in self._since(at_ms) for release in state.releases()}
        keep |= {_key(history.release_of(change)) for change in history.pending()}
        oldest = self._now() - KEPT_SECONDS
        old = [key for key in list(self._models) if key not in keep and self._used.get(key, 0.0) < oldest]
        for key in old:
            del self._models[key]
            self._used.pop(key, None)
        return len(old)

    def _since(self, at_ms: int) -> Iterator[InForce]:
        """All that is in force for any of the places at `at_ms` or later."""
        for model in self.places:
            timeline = self._history.timelines.get(model)
            yield from timeline.since(at_ms) if timeline else ()


def _key(release: Release) -> _Key:
    return release.model, release.record.sha256
