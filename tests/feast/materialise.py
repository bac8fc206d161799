"""Have Feast materialise rows of every type into Redis, and write down what Feast itself reads back.

Runs in an environment of its own (`requirements.txt`), without any of Penstock:

    python materialise.py FOLDER HOST:PORT PROJECT KEY_VERSION ROWS NOW

Each line of FOLDER/answers.jsonl is one entity of one view: {"view", "key", "time", "values": {feature: [kind, value]}}
with time in Unix seconds, kind as `feast.types.Value` calls it, bytes in base64, null for what has no value. Rows are
as old as their number says: the first is of NOW (Unix seconds), the last almost four hours before; `ttl` is two hours.
"""

from __future__ import annotations

import base64
import json
import random
import sys
import uuid
import warnings
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig, ValueType, types
from feast.protos.feast.types.Value_pb2 import Value

SEED = 20260211
TTL = timedelta(hours=2)
FIELDS = {
    "an_int32": types.Int32,
    "an_int64": types.Int64,
    "a_float": types.Float32,
    "a_double": types.Float64,
    "a_bool": types.Bool,
    "a_time": types.UnixTimestamp,
    "a_string": types.String,
    "some_bytes": types.Bytes,
    "a_uuid": types.Uuid,
    "a_decimal": types.Decimal,
    "some_json": types.Json,
    "a_null": types.Float64,
    "a_list": types.Array(types.Float32),
}
COLUMNS = pa.schema(
    [
        *[pa.field(name, pa.string()) for name in ("driver", "blob")],
        pa.field("driver_id", pa.int64()),
        pa.field("zone_id", pa.int32()),
        pa.field("an_int32", pa.int32()),
        pa.field("an_int64", pa.int64()),
        pa.field("a_float", pa.float32()),
        pa.field("a_double", pa.float64()),
        pa.field("a_bool", pa.bool_()),
        pa.field("a_time", pa.timestamp("us", tz="UTC")),
        *[pa.field(name, pa.string()) for name in ("a_string", "a_uuid", "a_decimal", "some_json")],
        pa.field("some_bytes", pa.binary()),
        pa.field("a_null", pa.float64()),
        pa.field("a_list", pa.list_(pa.float32())),
        pa.field("event_timestamp", pa.timestamp("us", tz="UTC")),
    ]
)
VIEWS = {
    "stats": ("driver_id", ValueType.INT64),
    "named": ("driver", ValueType.STRING),
    "zone": ("zone_id", ValueType.INT32),
}
"""View to its join key; they share one source."""


def row(dice: random.Random, number: int, age: float, now: float) -> dict[str, Any]:
    """One row; every seventh has a null in each feature that may have one."""
    known = number % 7 != 3
    values = {
        "an_int32": dice.randint(-(2**31), 2**31 - 1),
        "an_int64": dice.randint(-(2**53), 2**53),
        "a_float": dice.gauss(0, 1e3),
        "a_double": dice.gauss(0, 1e6),
        "a_bool": dice.random() < 0.5,
        "a_time": datetime.fromtimestamp(dice.randint(0, 2**31), UTC),
        "a_string": dice.choice(["", "gold", "Zürich", "東京", "🚗 a longer one " * 9]),
        "some_bytes": dice.choice([b"", "Zürich".encode(), dice.randbytes(9)]),
        "a_uuid": str(uuid.UUID(bytes=dice.randbytes(16), version=4)),
        "a_decimal": str(Decimal(dice.randint(-(10**9), 10**9)) / 1000),
        "some_json": json.dumps({"n": dice.randint(0, 9)}),
        "a_list": [dice.random() for _ in range(3)],
    }
    return {name: value if known else None for name, value in values.items()} | {
        "driver_id": number if number % 2 else -number,
        "driver": f"D-{number:05d}" if number % 5 else f"Fährmann {number}",
        "zone_id": number,
        "event_timestamp": datetime.fromtimestamp(now - age, UTC),
    }


def plain(value: Value) -> tuple[str | None, Any]:
    """A value as JSON can hold it."""
    kind = value.WhichOneof("val")
    held = None if kind in (None, "null_val") else getattr(value, kind)
    if isinstance(held, bytes):
        held = base64.b64encode(held).decode()
    return kind, list(held.val) if kind is not None and kind.endswith("_list_val") else held


def main(folder: Path, redis: str, project: str, *, key_version: int, rows: int, now: float) -> None:
    warnings.simplefilter("ignore")
    print(f"seed {SEED}", file=sys.stderr)
    dice = random.Random(SEED)
    made = [row(dice, number, 4 * 3600 * number / rows, now) for number in range(rows)]
    source = folder / "rows.parquet"
    pq.write_table(pa.Table.from_pylist(made, COLUMNS), source)
    store = FeatureStore(
        config=RepoConfig(
            project=project,
            provider="local",
            registry=str(folder / "registry.db"),
            online_store={"type": "redis", "connection_string": redis},
            offline_store={"type": "file"},
            entity_key_serialization_version=key_version,
            repo_path=folder,
        )
    )
    file = FileSource(name="rows", path=str(source), timestamp_field="event_timestamp")
    fields = [Field(name=name, dtype=dtype) for name, dtype in FIELDS.items()]
    objects: list[Any] = [file]
    for view, (join_key, kind) in VIEWS.items():
        entity = Entity(name=f"{view}_entity", join_keys=[join_key], value_type=kind)
        objects += [entity, FeatureView(name=view, source=file, entities=[entity], schema=fields, ttl=TTL)]
    store.apply(objects)
    store.materialize(
        datetime.fromtimestamp(now, UTC) - timedelta(days=1), datetime.fromtimestamp(now, UTC) + timedelta(seconds=1)
    )
    lines: list[str] = []
    for view, (join_key, _) in VIEWS.items():
        asked = [each[join_key] for each in made]
        answer = store.get_online_features(
            [f"{view}:{name}" for name in FIELDS], [{join_key: key} for key in asked]
        ).proto
        by_feature = dict(zip(answer.metadata.feature_names.val, answer.results, strict=True))
        for at, key in enumerate(asked):
            time = by_feature["an_int32"].event_timestamps[at]
            values = {name: plain(by_feature[name].values[at]) for name in FIELDS}
            line = {
                "view": view,
                "key": str(key),
                "time": time.seconds + time.nanos / 1e9,
                "values": values,
            }
            lines.append(json.dumps(line) + "\n")
    (folder / "answers.jsonl").write_text("".join(lines))


if __name__ == "__main__":
    given, at, named, version, number, moment = sys.argv[1:]
    main(Path(given), at, named, key_version=int(version), rows=int(number), now=float(moment))
