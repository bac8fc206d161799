"""A real Feast in an environment of its own, and the views that it materialises as Penstock declares them."""

from __future__ import annotations

import base64
import json
import math
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from console.parts import PartMissing
from state.feast import FeastView

HERE = Path(__file__).parent
PROJECT = "demo"
TTL = 2 * 3600.0
"""Seconds that the views declare in Feast."""
JOIN_KEYS = {"stats": ("driver_id", "int64"), "named": ("driver", "string"), "zone": ("zone_id", "int32")}
NUMBERS = ("an_int32", "an_int64", "a_float", "a_double", "a_bool", "a_time", "a_decimal", "a_null")
STRINGS = ("a_string", "a_uuid", "some_json")


@dataclass(frozen=True, slots=True)
class Answer:
    """What Feast reads for one entity of one view."""

    view: str
    key: str
    time: float
    """Unix seconds."""
    values: dict[str, tuple[str | None, Any]]
    """Feature to the kind of value and the value, None for null."""

    def number(self, feature: str) -> float:
        """As a column of numbers should have it."""
        kind, value = self.values[feature]
        missing = value is None or (kind == "unix_timestamp_val" and value == -(2**63))
        return math.nan if missing else float(value)

    def text(self, feature: str) -> str | None:
        """As a column of strings should have it."""
        return self.values[feature][1]

    def raw(self, feature: str) -> bytes | None:
        """What a feature of bytes holds."""
        value = self.values[feature][1]
        return None if value is None else base64.b64decode(value)


def view_of(name: str, features: dict[str, str], key_version: int) -> FeastView:
    join_key, kind = JOIN_KEYS[name]
    return FeastView(name, tuple(features.items()), PROJECT, name, join_key, kind, key_version)


def answers_of(lines: Sequence[str]) -> list[Answer]:
    parsed = (json.loads(line) for line in lines)
    return [
        Answer(each["view"], each["key"], each["time"], {name: tuple(value) for name, value in each["values"].items()})
        for each in parsed
    ]


def environment(cache: Path = Path(".cache")) -> Path:
    """Feast's Python: installed once, 446 MB, and again when the requirements change.

    Raises:
        PartMissing: the packages cannot be had.
    """
    pins = (HERE / "requirements.txt").read_bytes()
    folder = cache / f"feast-{sha256(pins).hexdigest()[:12]}"
    python, done = folder / "bin" / "python", folder / "installed"
    if not done.exists():
        uv = Path(sys.executable).parent / "uv"
        make = [uv, "venv", "--quiet", "--clear", "--python", sys.executable, folder]
        fill = [uv, "pip", "sync", "--quiet", "--require-hashes", "--python", python, HERE / "requirements.txt"]
        try:
            for command in (make, fill):
                subprocess.run(command, check=True, timeout=600, capture_output=True, text=True)
        except subprocess.CalledProcessError as error:
            raise PartMissing(f"Feast cannot be installed: {error.stderr.strip()[-300:]}") from None
        done.touch()
    return python


def materialise(folder: Path, redis_url: str, *, key_version: int, rows: int, now: float) -> list[Answer]:
    """Have Feast write `rows` rows per view to a Redis, and give what it reads back."""
    place = urlsplit(redis_url)
    folder.mkdir(parents=True, exist_ok=True)
    program = [environment().absolute(), HERE / "materialise.py", folder, f"{place.hostname}:{place.port}", PROJECT]
    command = [*map(str, program), str(key_version), str(rows), repr(now)]
    run = subprocess.run(command, check=False, timeout=500, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-2000:]
    return answers_of((folder / "answers.jsonl").read_text().splitlines())
