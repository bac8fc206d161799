"""Are the windowed views that are served what the raw events say? A slice of the keys, recomputed and compared.

What enters a view is decided by the stages that decide it for the jobs: contract, guard, duplicates, lateness, SQL. All
that comes after is done in another way (`state.parity`), and what is compared is what a decision would read: through
the feature store, at a moment for which everything that counts has been taken.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from dataflows.pipeline import Pipeline
from dataflows.stages import dedupe_of, guard_of
from dataflows.view_stages import ahead_of, measurer_of, view_windows, windowed_view, windowed_views
from operators.batch import Batch
from operators.decode import Decoder
from operators.dedupe import Dedupe
from operators.guard import Scans
from state.features import FeatureStore
from state.lateness import Lateness
from state.packed import origins_of
from state.parity import Expected, KeySlice, matches
from state.vault import Vault
from state.views import Lack
from state.windowed_view import Kept as Served

KEYS_AT_ONCE = 500
"""Read from the feature store in one round trip."""
SHOWN = 10
"""Wrong values that are named; the others are counted."""


class NotServed(Exception):
    """The feature store does not answer."""


@dataclass(slots=True)
class Compared:
    """What a comparison of one view came to."""

    view: str
    share: float
    """Of all keys, by hash, that were looked at."""
    keys: int = 0
    """That had events in the windows."""
    compared: int = 0
    """Keys; for the others it cannot be said now what they must give."""
    wrong: int = 0
    """Of those compared, keys with a value that may not be."""
    features: Counter[str] = field(default_factory=Counter)
    """Feature to keys of which it was wrong."""
    named: list[str] = field(default_factory=list)
    """Some of the wrong values, each by its feature and where in the source its key's latest change came from."""

    @property
    def ratio(self) -> float | None:
        """Of the keys compared, the share that is wrong; None where none could be."""
        return self.wrong / self.compared if self.compared else None

    @property
    def blind(self) -> bool:
        """Whether there were keys and none of them could be compared."""
        return bool(self.keys) and not self.compared


class Parity:
    """Follows the events of a pipeline, and compares."""

    def __init__(
        self, pipeline: Pipeline, *, vault: Vault, scanner: Scans | None, share: float, most: int = 500_000
    ) -> None:
        """Compile, which starts Polars' threads.

        Args:
            pipeline: the pipeline file.
            vault: tokens are made with it, as by the jobs.
            scanner: finds personal data; None where the pipeline scans nothing.
            share: of the keys of each view, above 0 and at most 1.
            most: events of each view to remember.
        """
        specs = {name: view_windows(name, pipeline.views[name]) for name in windowed_views(pipeline)}
        self._views = {name: windowed_view(pipeline, name) for name in specs}
        self._slices = {name: KeySlice(spec, share, most=most) for name, spec in specs.items()}
        self._decoder = Decoder(pipeline.contract, pipeline=pipeline.pipeline, vault=vault)
        self._guard = guard_of(pipeline, scanner, vault)
        self._measurer = measurer_of(pipeline, list(specs))
        self._build, self._dedupes = dedupe_of(pipeline), dict[int, Dedupe]()
        self._ahead_ms, self._lateness = ahead_of(pipeline), dict[int, Lateness]()
        longest = max(spec.longest * spec.pane_ms + spec.lateness_ms for spec in specs.values())
        self._warm_up_ms = max(self._ahead_ms, round(pipeline.dedupe.window.total_seconds() * 1000))
        self.needs_ms = longest + self._warm_up_ms
        """How far back of now events are needed: for the windows, and to know repeats and lateness before them."""

    def begin(self, append_ms: int) -> None:
        """Say that the events of a lane from before this moment are not there."""
        for each in self._slices.values():
            each.begin(append_ms + self._warm_up_ms)

    def take(self, batch: Batch) -> None:
        """Take events of one lane, in the order of their offsets."""
        lane = int(batch.lane[0])
        if lane not in self._dedupes:
            self._dedupes[lane], self._lateness[lane] = self._build(lane), Lateness(self._ahead_ms)
            self._dedupes[lane].open({})
        for work in (self._decoder.work, self._guard.work, self._dedupes[lane].work):
            batch = work(batch)
            if not len(batch):
                return
        append_ms, event_ms = batch.append_ms.tolist(), batch.event_ms.tolist()
        behind = self._lateness[lane].behind(event_ms, append_ms)
        measured = self._measurer.work(batch.columns, len(batch))
        rows = [row for row, by in enumerate(behind) if by is not None]
        for name, each in self._slices.items():
            of = measured[name]
            each.take(
                [of.keys[row] for row in rows],
                [append_ms[row] for row in rows],
                [event_ms[row] for row in rows],
                [by for by in behind if by is not None],
                {measure: [column[row] for row in rows] for measure, column in of.values.items()},
            )

    def compare(self, store: FeatureStore, catch_up: Callable[[], object]) -> list[Compared]:
        """Compare what is served now.

        Args:
            store: of the pipeline; what its cache holds carries its own tide.
            catch_up: takes all events that the topic has by now. It is called after the values were read, so that none
                of them can have an event that is not known here.

        Raises:
            NotServed: the feature store does not answer.
        """
        served = {name: self._read(store, name) for name in self._views}
        catch_up()
        return [self._compared(name, kept) for name, kept in served.items()]

    def _read(self, store: FeatureStore, name: str) -> dict[str, Served]:
        view, keys = self._views[name], self._slices[name].keys()
        served: dict[str, Served] = {}
        for at in range(0, len(keys), KEYS_AT_ONCE):
            some = keys[at : at + KEYS_AT_ONCE]
            served |= dict(zip(some, store.read({view: some})[view].kept, strict=False))  # and a last one for no key
        if any(each is Lack.UNAVAILABLE for each in served.values()):
            raise NotServed("the feature store does not answer; is --redis (or PENSTOCK_REDIS) right?")
        return served

    def _compared(self, name: str, served: dict[str, Served]) -> Compared:
        slice_ = self._slices[name]

        def tide_of(key: str) -> int | None:
            kept = served.get(key, Lack.MISSING)
            return None if isinstance(kept, Lack) else round(kept[1] * 1000)

        found = Compared(name, slice_.share)
        for key, expected in slice_.expected(tide_of):
            found.keys += 1
            if served.get(key) is Lack.UNREADABLE:
                found.compared, found.wrong = found.compared + 1, found.wrong + 1
                found.features["unreadable"] += 1
                if len(found.named) < SHOWN:
                    found.named.append("a value that is none of this view as it is declared now")
            elif expected is not None:
                self._judge(found, served[key], expected)
        return found

    def _judge(self, found: Compared, kept: Served, expected: Expected) -> None:
        view = self._views[found.view]
        values = view.values([kept], np.zeros(1, np.intp), np.array([expected.at_ms]))
        wrong = [
            feature
            for (feature, _), value, may in zip(view.features, values.numbers[:, 0], expected.features, strict=True)
            if not matches(float(value), may)
        ]
        found.compared += 1
        found.wrong += bool(wrong)
        found.features.update(wrong)
        if wrong and len(found.named) < SHOWN:
            panes = None if isinstance(kept, Lack) else kept[0]
            origin = None if panes is None else origins_of(panes)
            where = "nothing is stored" if origin is None else f"from lane {origin.lane}, offset {origin.last}"
            found.named.append(f"{', '.join(wrong)} ({where})")
