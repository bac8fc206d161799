"""Count events per key, exactly once: the source, the sink and lane state in a flow of your own.

Run it from the root of the repository: `python -m deploy.examples.count BOOTSTRAP GROUP SLOT`, with topics
GROUP.events, GROUP.counts and GROUP.state (compacted) of as many partitions each.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Mapping
from dataclasses import replace

import bytewax.operators as op
from bytewax.dataflow import Dataflow
from bytewax.testing import run_main

from operators.batch import Batch, Change, Record
from operators.kafka_sink import LaneSink
from operators.kafka_source import LaneSource
from operators.lanes import Lanes
from operators.membership import Membership
from operators.stage import by_lane, lane_stage, together


class Count:
    """How often each key was seen in one lane."""

    def __init__(self, lane: int) -> None:
        self.lane, self.seen = lane, dict[bytes, int]()

    def open(self, entries: Mapping[bytes, bytes]) -> None:
        """Take up the counts of the last life."""
        self.seen = {key: int(count) for key, count in entries.items()}

    def work(self, batch: Batch) -> Batch:
        """One record an event: its offset and how often its key was seen, itself included."""
        records = []
        for key, offset in zip(batch.keys, batch.offset.tolist(), strict=True):
            name = key or b""
            self.seen[name] = self.seen.get(name, 0) + 1
            records.append(Record("counts", self.lane, key, b"%d %d" % (offset, self.seen[name])))
        changes = [Change(self.lane, "count", key or b"", b"%d" % self.seen[key or b""]) for key in set(batch.keys)]
        return replace(batch, records=(*batch.records, *records), changes=(*batch.changes, *changes))


def main(bootstrap: str, group: str, slot: int) -> None:
    """Run one slot until SIGTERM."""
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    membership = Membership(group, slot, f"{group}.events", f"{group}.state", {"counts": f"{group}.counts"})
    lanes = Lanes({"bootstrap.servers": bootstrap}, membership)
    flow = Dataflow("count")
    events = op.input("events", flow, LaneSource(lanes, stopping=stop.is_set))
    counted = lane_stage("count", by_lane("by_lane", events), Count)
    op.output("counts", together("together", counted), LaneSink(lanes))
    run_main(flow)
    lanes.close()


if __name__ == "__main__":
    logging.basicConfig(level="INFO", format=f"%(asctime)s {os.getpid()} %(message)s")
    try:
        main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
    except BaseException:
        logging.exception("leaving")
        os._exit(1)
    os._exit(0)
