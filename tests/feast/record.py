"""Record what Feast writes for some rows into `recorded.json.gz`, which the tests read: `python -m tests.feast.record`.

Once for each format of keys: the hashes as Redis holds them, in base64, and what Feast itself reads back.
"""

from __future__ import annotations

import base64
import gzip
import json
import tempfile
from pathlib import Path

import redis

from console.redis_server import RedisServer
from tests.feast.project import HERE, materialise

RECORDED = HERE / "recorded.json.gz"
ROWS = 24
NOW = 1_790_000_000.0


def main() -> None:
    recorded = {}
    for version in (2, 3):
        with tempfile.TemporaryDirectory() as name, RedisServer(Path(name) / "redis") as server:
            materialise(Path(name) / "feast", server.url, key_version=version, rows=ROWS, now=NOW)
            client = redis.Redis.from_url(server.url)
            hashes = {
                text(key): {text(k): text(v) for k, v in client.hgetall(key).items()} for key in client.scan_iter()
            }
            client.close()
            answers = (Path(name) / "feast" / "answers.jsonl").read_text().splitlines()
            recorded[version] = {"hashes": hashes, "answers": answers}
            print(f"key version {version}: {len(hashes)} hashes, {len(answers)} answers")
    RECORDED.write_bytes(gzip.compress(json.dumps(recorded, sort_keys=True).encode(), mtime=0))
    print(f"{RECORDED}: {RECORDED.stat().st_size} bytes")


def text(stored: bytes) -> str:
    return base64.b64encode(stored).decode()


if __name__ == "__main__":
    main()
