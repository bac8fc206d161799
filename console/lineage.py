"""OpenLineage events of a run: START, RUNNING with counts now and then, and COMPLETE or FAIL.

Nothing is sent unless the environment asks for it, by the library's own variables (OPENLINEAGE_URL, OPENLINEAGE_CONFIG,
OPENLINEAGE__TRANSPORT__… ), and `openlineage-python` is installed. A thread of its own sends, one event at a time, so
that a catalog that is slow or away delays no work; the end of a run waits for its last event for some seconds at most.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dataflows.lineage import Column, Dataset, Work

log = logging.getLogger(__name__)

PREFIX = "OPENLINEAGE"
EVERY = 60.0
"""Seconds between two RUNNING events."""
PATIENCE = 5.0
"""Seconds that the end of a run waits for its last event."""
_CHOOSES = {"GROUP_BY", "FILTER", "WINDOW"}


@dataclass(slots=True)
class Run:
    """A run that is being recorded."""

    rows: Callable[[], int | None] = lambda: None
    """Rows read so far, where they are counted; asked by the thread that sends."""
    failure: str | None = None
    """Set it where the run fails without an exception."""


@contextmanager
def recorded(work: Callable[[], Work], every: float = EVERY) -> Iterator[Run]:
    """Record what happens inside as one run of `work`, where the environment asks for it."""
    run = Run()
    if not any(name.startswith(PREFIX) for name in os.environ):
        yield run
        return
    sender = _Sender(work(), run, every)
    sender.start()
    try:
        yield run
    except BaseException as error:
        run.failure = type(error).__name__
        raise
    finally:
        sender.end()


class _Sender(threading.Thread):
    """Sends the events of one run."""

    def __init__(self, work: Work, run: Run, every: float) -> None:
        super().__init__(name="lineage", daemon=True)
        self._work, self._run, self._every = work, run, every
        self._began = datetime.now(UTC)
        self._ended = threading.Event()
        self._silent = False

    def end(self) -> None:
        """Send the last event, and wait a little for it."""
        self._ended.set()
        self.join(PATIENCE)
        if self.is_alive():
            log.warning("the last OpenLineage event was not taken within %.0f s", PATIENCE)

    def run(self) -> None:
        """Send until the run has ended."""
        try:
            from openlineage.client import OpenLineageClient
            from openlineage.client.uuid import generate_new_uuid
        except ImportError:
            log.warning("%s… is set, but openlineage-python is not installed: no lineage is sent", PREFIX)
            return
        try:
            client = OpenLineageClient()
        except Exception as error:  # whatever is wrong with its settings must not end the work
            log.warning("no lineage is sent: OpenLineage's settings cannot be used (%s)", type(error).__name__)
            return
        run_id = str(generate_new_uuid())
        self._send(client, run_id, "START", self._began)
        while not self._ended.wait(self._every):
            self._send(client, run_id, "RUNNING", datetime.now(UTC))
        self._send(client, run_id, "FAIL" if self._run.failure else "COMPLETE", datetime.now(UTC))
        client.close(PATIENCE)

    def _send(self, client: Any, run_id: str, state: str, at: datetime) -> None:
        try:
            client.emit(_event(self._work, self._run, run_id, state, at))
            self._silent = False
        except Exception as error:  # a catalog that is away must not end the work
            if not self._silent:
                log.warning("the OpenLineage event %s could not be sent (%s)", state, type(error).__name__)
            self._silent = True


class SlotRows:
    """Rows polled by the slots of a launcher. A slot that is started again counts from 0, and they go on counting."""

    def __init__(self, page: Callable[[], bytes]) -> None:
        """`page` gives the metrics of all slots."""
        self._page = page
        self._last: dict[str, float] = {}
        self._total = 0.0

    def __call__(self) -> int:
        """Ask the slots now."""
        for line in self._page().decode().splitlines():
            if line.startswith("penstock_batch_events_sum{"):
                slot, _, value = line.rpartition(" ")
                now, before = float(value), self._last.get(slot, 0.0)
                self._total += now - before if now >= before else now
                self._last[slot] = now
        return round(self._total)


def _event(work: Work, run: Run, run_id: str, state: str, at: datetime) -> Any:
    """One event, as the library writes it; rows are told of the first dataset that is read."""
    from openlineage.client import event_v2, facet_v2

    producer = f"urn:penstock:{version('penstock')}"
    event_v2.set_producer(producer)
    engine = facet_v2.processing_engine_run.ProcessingEngineRunFacet(version("bytewax"), "Bytewax")
    of_run: dict[str, Any] = {"processing_engine": engine}
    if run.failure:
        of_run["errorMessage"] = facet_v2.error_message_run.ErrorMessageRunFacet(run.failure, "python")
    kind = facet_v2.job_type_job.JobTypeJobFacet(work.kind, "PENSTOCK", jobType="JOB")
    inputs = [event_v2.InputDataset(each.namespace, each.name, facets=_facets(each)) for each in work.reads]
    if inputs and (rows := run.rows()) is not None:
        counted = facet_v2.input_statistics_input_dataset.InputStatisticsInputDatasetFacet(rows)
        inputs[0].inputFacets = {"inputStatistics": counted}
    return event_v2.RunEvent(
        eventType=event_v2.RunState[state],
        eventTime=at.isoformat(),
        producer=producer,
        run=event_v2.Run(run_id, of_run),
        job=event_v2.Job(os.environ.get("OPENLINEAGE_NAMESPACE", "penstock"), work.name, {"jobType": kind}),
        inputs=inputs,
        outputs=[
            event_v2.OutputDataset(each.namespace, each.name, facets=_facets(each, work.reads)) for each in work.writes
        ],
    )


def _facets(dataset: Dataset, reads: tuple[Dataset, ...] = ()) -> dict[str, Any]:
    """The schema of a dataset, and where its columns come from among those read."""
    from openlineage.client.facet_v2 import column_lineage_dataset, schema_dataset

    if not dataset.columns:
        return {}
    fields = [schema_dataset.SchemaDatasetFacetFields(column.name, column.type) for column in dataset.columns]
    facets: dict[str, Any] = {"schema": schema_dataset.SchemaDatasetFacet(fields)}
    lineage = {column.name: origins for column in dataset.columns if (origins := list(_origins(column, reads)))}
    if lineage:
        facets["columnLineage"] = column_lineage_dataset.ColumnLineageDatasetFacet(
            {name: column_lineage_dataset.Fields(origins) for name, origins in lineage.items()}
        )
    return facets


def _origins(column: Column, reads: tuple[Dataset, ...]) -> Iterator[Any]:
    from openlineage.client.facet_v2 import column_lineage_dataset as lineage

    for field, how in column.origins:
        for dataset in reads:
            if any(other.name == field for other in dataset.columns):
                done = lineage.Transformation("INDIRECT" if how in _CHOOSES else "DIRECT", how)
                yield lineage.InputField(dataset.namespace, dataset.name, field, [done])
