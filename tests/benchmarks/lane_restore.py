"""How long a lane's state takes to come back from a real broker: into memory, onto disk, and after what is on disk."""

from __future__ import annotations

import struct
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient

from console.kafka_server import KafkaServer
from console.topics import Topic
from operators.lane_state import Restore
from operators.lane_stores import LaneStores
from operators.record_producer import Places
from operators.state_home import InSteps, StateHome
from state.window_spec import Feature, WindowSpec
from state.windows import EntityWindows

TOPIC, TAIL = "bench.state", 10_000
SPEC = WindowSpec((Feature("n", "count", 3_600_000), Feature("total", "sum", 3_600_000, "amount")))


def show(size: int) -> None:
    """Fill a state partition with `size` entities, and read it back in each way."""
    with tempfile.TemporaryDirectory(prefix="penstock-bench-") as folder, KafkaServer(Path(folder) / "kafka") as kafka:
        kafka.create_topics({TOPIC: Topic(1, {"cleanup.policy": "compact"})})
        connection = {"bootstrap.servers": kafka.bootstrap}
        admin = AdminClient(connection)
        places = Places("bench", "bench.events", TOPIC, {}, ends={})

        def on_disk() -> StateHome:
            return LaneStores(places, admin, folder=Path(folder) / "stores", indexes={})

        _fill(connection, size)
        _restore("into memory, all of it", connection, admin, InSteps)
        _restore("onto disk, all of it", connection, admin, on_disk)
        _restore("from disk, nothing new", connection, admin, on_disk)
        _fill(connection, TAIL)
        _restore(f"from disk, {TAIL} records new", connection, admin, on_disk)


def _fill(connection: dict[str, str], entities: int) -> None:
    producer = Producer({**connection, "log_level": 0, "linger.ms": 20, "compression.type": "lz4"})
    windows = EntityWindows(SPEC)
    now = 1_800_000_000_000
    for first in range(0, entities, 1000):
        names = [f"entity-{number:09}" for number in range(first, min(first + 1000, entities))]
        amounts = [struct.unpack("<d", struct.pack("<Q", 0x4059 << 48 | hash(name) & 0xFFFFFFFF))[0] for name in names]
        windows.observe(names, [now] * len(names), [now] * len(names), {"amount": amounts})
        for key, value in windows.changes():
            producer.produce(TOPIC, value, b"recall\0" + key, 0)
        producer.poll(0)
    producer.flush(60)


def _restore(what: str, connection: dict[str, str], admin: AdminClient, make: Callable[[], StateHome]) -> None:
    """Read the lane to its end, hand it to recall, and say what that took."""
    home = make()
    restore = Restore(connection, admin, TOPIC, "bench", home)
    began, used = time.perf_counter(), time.process_time()
    restore.begin([0])
    while not (opened := restore.poll(0.1)):
        pass
    EntityWindows(SPEC).restore(opened[0].entries["recall"])
    seconds, cpu = time.perf_counter() - began, time.process_time() - used
    home.close([0])
    print(f"{what}: {seconds:.2f} s, {cpu:.2f} s of CPU", flush=True)
