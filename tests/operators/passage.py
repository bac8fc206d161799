"""Events of every kind, and the stages of the claims pipeline around them: what an event meets, without servers.

Clocks stand still and keys are fixed, so whatever differs between two runs is a stage's own doing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from dataflows.pipeline import Pipeline, loads
from dataflows.stages import Stages, build_stages
from dataflows.views import view_of
from models.admission import ScoringModel
from models.history import Entry, History, Part, Release
from models.release import ActivationRecord, ReleaseRecord
from operators.batch import Batch, Record
from state.cache import AgingCache
from state.features import FeatureStore
from state.link import MemoryLink
from state.vault import Vault
from state.views import redis_keys
from tests.operators.guarded import scanner

NOW = 1_795_393_800
FIRSTS = ("decisions", "rejected", "quarantine", "duplicates")
HEADERS = [
    ("ce_specversion", b"1.0"),
    ("ce_id", b"e"),
    ("ce_source", b"/p"),
    ("ce_type", b"t"),
    ("content-type", b"application/json"),
]
VAULT = Vault.from_base64(Vault.generate())
LANES = (0, 1, 2)


def claim(number: int, **changes: Any) -> bytes:
    fields = {
        "claim_id": f"C-{number}",
        "policyholder_id": f"PH-00000{number % 2}",
        "noticed_at": f"2026-11-23T00:{number:02d}:00Z",
        "accident_date": "2026-11-01",
        "report_date": "2026-11-20",
        "line": "Home" if number % 2 else "Auto",
        "claim_type": "PD",
        "policy_limit": 1000.25 * (number + 1),
        "deductible": 500,
        "description": "rear-ended: bumper broken",
    }
    return orjson.dumps(fields | changes)


def values_of(lane: int) -> list[bytes | None]:
    """One lane's events: good and repeated, broken, with personal data, late, severe, of unknown holders.

    Ids and entities are the same in all lanes, and each lane knows its own only; some limits differ.
    """
    first = claim(0)
    return [
        first,
        b'{"claim_id": ',
        claim(3),
        first,
        claim(4, description=f"write to ann{lane}@example.com"),
        None,
        claim(6, policyholder_id="PH-999999"),
        claim(7, policy_limit=9_000_000 + lane),
        claim(8, noticed_at="2026-11-22T01:00:00Z"),
        claim(4, description=f"write to ann{lane}@example.com"),
        claim(10, claim_id=7),
        claim(12, contact_phone="212-555-0123", contact_email="ann@example.com"),
        claim(3),
        claim(14, accident_date="1990-01-01"),
    ]


def events(lanes: Sequence[int] = LANES) -> Batch:
    """All of it as one poll: the rows of a lane are contiguous, in offset order."""
    values = [value for lane in lanes for value in values_of(lane)]
    each = len(values) // len(lanes)
    offsets = np.tile(np.arange(each, dtype=np.int64), len(lanes))
    return Batch(
        topic="claims.events",
        lane=np.repeat(np.array(lanes, np.int32), each),
        offset=offsets,
        append_ms=NOW * 1000 + offsets * 10,
        keys=[b"PH-%06d" % (row % 5) for row in range(len(values))],
        values=values,
        headers=[list(HEADERS) for _ in values],
        progress=dict.fromkeys(lanes, each),
        poll=1,
    )


@cache
def claims() -> Pipeline:
    """As in the repository, but for the budget of its models: how busy the machine is must not show."""
    return loads(Path("deploy/pipelines/claims/pipeline.yaml").read_text().replace("budget: 100ms", "budget: 1h"))


def stages() -> Stages:
    """New stages, as one more process would have them."""
    return build_stages(
        claims(), vault=VAULT, scanner=scanner(), store=stored(), catalog=Shelf(claims()), now=lambda: float(NOW)
    )


def stored() -> FeatureStore:
    """Feature views with a fresh row, an old one and nothing for anybody else."""
    view = view_of(claims(), "holder")
    rows = {"PH-000000": (NOW - 60, (2.0, 900.0, 40.0)), "PH-000001": (NOW - 31 * 86_400, (3.0, 0.0, 800.0))}
    names = redis_keys(claims().pipeline, "holder", rows)
    packed = [view.pack(at * 1000, values) for at, values in rows.values()]
    return FeatureStore(MemoryLink(dict(zip(names, packed, strict=True))), claims().pipeline, cache=AgingCache(0, 0.0))


class Weighted:
    """Gives each row its own number, whatever stands beside it."""

    def __init__(self, weight: float) -> None:
        self.weight = weight

    def score(self, rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        scores = np.zeros(len(rows))
        for column in range(rows.shape[1]):
            scores += self.weight * (column + 1) * np.nan_to_num(rows[:, column].astype(np.float64))
        return scores


class Shelf:
    """The releases of a registry: `severity` gets a second champion and a shadow in the middle of each lane."""

    def __init__(self, pipeline: Pipeline) -> None:
        ours = [
            ("severity", "1", "champion", 0, 0.002),
            ("severity", "2", "champion", NOW * 1000 + 75, 0.003),
            ("severity", "3", "shadow", NOW * 1000 + 75, 0.004),
            ("severity_online", "4", "champion", 0, 0.002),
        ]
        entries: list[Entry] = []
        self.models: dict[str, ScoringModel] = {}
        for at, (model, version, role, ms, weight) in enumerate(ours):
            record = ReleaseRecord.model_validate(
                {
                    "pipeline": "claims", "model": model, "version": version, "role": role, "format": "onnx",
                    "sha256": hashlib.sha256(version.encode()).hexdigest(), "size": 1, "uri": "u",
                    "inputs": pipeline.models[model].inputs,
                }
            )  # fmt: skip
            entries.append(Entry(2 * at, 0, record.to_bytes()))
            entries.append(Entry(2 * at + 1, ms, ActivationRecord(pipeline="claims", of=2 * at).to_bytes()))
            self.models[version] = Weighted(weight)
        self._history = History("claims", 0).then(entries)

    def parts(self, model: str, append_ms: npt.NDArray[np.int64]) -> list[Part]:
        return self._history.parts(model, append_ms)

    def model(self, release: Release) -> ScoringModel:
        return self.models[release.version]

    def loaded(self, release: Release) -> ScoringModel | None:
        return self.models.get(release.version)


def firsts_of(records: Sequence[Record]) -> list[tuple[str, int, int, Any]]:
    """First records as (topic, lane, offset of the event, all they say but the seal, which is new each time)."""
    found = []
    for record in records:
        if record.topic in FIRSTS:
            body = json.loads(record.value or b"")
            body.pop("sealed", None)
            assert body["origin"]["partition"] == record.lane
            found.append((record.topic, record.lane, body["origin"]["offset"], [record.key, record.headers, body]))
    return found
