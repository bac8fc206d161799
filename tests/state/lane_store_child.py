"""A process with a lane store that ends itself by SIGKILL at a given point: `lane_store_child.py FOLDER POINT LIFE`."""

import os
import random
import resource
import signal
import sys
from pathlib import Path

from state.entries import LaneStoreFailed
from state.lane_stamp import Stamp
from state.lane_store import LaneStore, Shared

folder, point, life = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
dice = random.Random(1 + life)
WANTED = Stamp("p.state", "id-1", "g", lane=0, at=1_000_000.0)


def die_at(name: str) -> None:
    if name == point and left["commits"] <= 0:
        os.kill(os.getpid(), signal.SIGKILL)


class Disk:
    """The store's RocksDB, with the points around its write."""

    def __init__(self, disk):
        self._disk = disk

    def write(self, batch):
        die_at("before the disk")
        self._disk.write(batch)
        die_at("after the disk")

    def __getattr__(self, name):
        return getattr(self._disk, name)


def parse(line: bytes):
    for pair in line.split(b" "):
        key, value = pair.split(b":")
        yield bytes.fromhex(key.decode()), bytes.fromhex(value.decode()) or None


left = {"commits": dice.randint(3, 30)}
path = folder / "log"
lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
records = [record for line in lines for record in (*parse(line), None)]
INDEXES = {"ids": lambda name, value: [(value[i : i + 1], name) for i in range(len(value))]}
store = LaneStore(folder / "lane-0", Shared(), WANTED, end=10**9, max_age=100.0, indexes=INDEXES)
for offset in range(store.following, len(records)):
    store.take([records[offset]] if records[offset] is not None else [], offset + 1)
    if point == "while restoring" and life:
        os.kill(os.getpid(), signal.SIGKILL)
store.opened()
store._db = Disk(store._db)
if point == "disk full":  # a file may not grow on: the write fails as it does on a full disk
    grown = max(file.stat().st_size for file in (folder / "lane-0").iterdir())
    resource.setrlimit(resource.RLIMIT_FSIZE, (grown + 2_000, resource.RLIM_INFINITY))
with path.open("ab") as log:
    while True:
        left["commits"] -= 1
        changes = {}
        for _ in range(dice.randint(1, 6)):
            step = dice.choice([b"ids\0", b"recall\0"])
            value = None if dice.random() < 0.2 else dice.randbytes(dice.randint(1, 4))
            changes[step + b"%d" % dice.randint(0, 9)] = value
        for key, value in changes.items():
            store.hold(key, value)
        die_at("before the commit")
        text = b" ".join(b"%s:%s" % (k.hex().encode(), (v or b"").hex().encode()) for k, v in changes.items())
        log.write(text + b"\n")
        log.flush()
        records += [*changes.items(), None]
        die_at("between")
        if point == "while restoring" and left["commits"] == 1:
            os.kill(os.getpid(), signal.SIGKILL)  # so that the next life has something to restore
        try:
            store.write(list(changes.items()), len(records) - 1, at=WANTED.at)
        except LaneStoreFailed:
            os.kill(os.getpid(), signal.SIGKILL)
        die_at("after")
