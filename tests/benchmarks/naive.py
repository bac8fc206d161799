"""The naive recipe: the same libraries as their first pages show them, one event at a time.

json and pydantic, Presidio on every text, an HMGET for the features, a model call and a blocking flush for each event.
"""

from __future__ import annotations

import json
import signal
import sys
from datetime import UTC, date, datetime
from typing import Any, Literal

import numpy as np
import orjson
import redis
from by_hand import load
from confluent_kafka import Consumer, Message, Producer
from presidio_analyzer import AnalyzerEngine
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from windows_by_hand import Recent, Seen

from dataflows import pipeline as pipeline_file
from models.pii_recognisers import KNOWN, LANGUAGE, build_engine
from state.views import LoadedView


class Claim(BaseModel):
    """An event."""

    model_config = ConfigDict(extra="forbid")

    claim_id: str = Field(max_length=40, pattern="^[A-Za-z0-9-]+$")
    policyholder_id: str = Field(max_length=40, pattern="^PH-[0-9]{6}$")
    noticed_at: datetime
    accident_date: date
    report_date: date
    line: Literal["Auto", "Home"]
    claim_type: Literal["PD", "Dwelling"]
    policy_limit: float = Field(ge=0, le=10_000_000)
    deductible: float = Field(ge=0, le=1_000_000)
    description: str = Field(max_length=2000)
    contact_name: str | None = Field(default=None, max_length=200)
    contact_email: str | None = Field(default=None, max_length=200)
    contact_phone: str | None = Field(default=None, max_length=60)


class Naive:
    """Decides one event."""

    def __init__(self, given: dict[str, Any]) -> None:
        spec = pipeline_file.load(given["pipeline"])
        self.analyser: AnalyzerEngine = _presidio(
            spec.guard.recognisers, spec.guard.phone_regions, spec.guard.threshold
        )
        self.redis = redis.Redis.from_url(given["redis"])
        self.models = [load(name, given["releases"][name], spec.models[name].inputs) for name in spec.models]
        self.seen, self.recent = Seen(), Recent()

    def first_record(self, message: Message) -> tuple[str, dict[str, Any]]:
        """Give the topic's role and the record."""
        try:
            tree = json.loads(message.value() or b"")
            claim = Claim.model_validate(tree.get("data", tree))
        except (ValueError, ValidationError, AttributeError):
            return "rejected", {"reason": "invalid"}
        if found := self.analyser.analyze(claim.description, LANGUAGE):
            return "quarantine", {"findings": [each.to_dict() for each in found]}
        first = self.seen.first(claim.claim_id, message.offset(), message.timestamp()[1])
        if first is not None:
            return "duplicates", {"event_id": claim.claim_id, "first": str(first)}
        return "decisions", self.decide(claim, message.timestamp()[1])

    def decide(self, claim: Claim, append_ms: int) -> dict[str, Any]:
        """Features, scores and rules."""
        at_ms = int(claim.noticed_at.timestamp() * 1000)
        features: dict[str, Any] = self.recent.observe(claim.policyholder_id, at_ms, append_ms, claim.policy_limit)
        names = ("claims_3y", "paid_3y", "tenure_days")
        values = self.redis.hmget(f"naive:holder:{claim.policyholder_id}", names)
        features |= {f"holder_{name}": float(value or 0) for name, value in zip(names, values, strict=True)}
        features |= {
            "policy_limit": claim.policy_limit,
            "deductible": claim.deductible,
            "report_lag_days": float((claim.report_date - claim.accident_date).days),
            "is_home": float(claim.line == "Home"),
            "deductible_share": claim.deductible / claim.policy_limit if claim.policy_limit else 1.0,
        }
        for name, _, inputs, model in self.models:
            features[name] = float(model.score(np.array([[features[column] for column in inputs]], np.float32))[0])
        reasons = [reason for reason, holds in _rules(features).items() if holds]
        outcome = "flag" if "CLAIMS_FREQUENT" in reasons else "review" if reasons else "approve"
        return {
            "event_id": claim.claim_id,
            "decided_at": datetime.now(UTC).isoformat(),
            "outcome": outcome,
            "reasons": reasons,
            "features": features,
        }


def _rules(features: dict[str, Any]) -> dict[str, bool]:
    severity, online = features["severity"], features["severity_online"]
    return {
        "SEVERITY_HIGH": severity > 30_000,
        "MODELS_DISAGREE": online > 4 * severity and online > 20_000,
        "CLAIMS_FREQUENT": features["claims_1d"] >= 3,
        "REPORTED_LATE": features["report_lag_days"] > 1000,
    }


def _presidio(recognisers: Any, regions: Any, threshold: float) -> AnalyzerEngine:
    """Presidio with the pipeline's recognisers, asked about every text."""
    return build_engine([each.build(regions) for name in recognisers for each in KNOWN[name]], threshold)


def _copy_features(client: redis.Redis, view: LoadedView) -> None:
    """Write what is known of the policyholders as hashes, as the first page of a tutorial has it."""
    for key in client.scan_iter(f"penstock:claims:{view.name}:*", 1000):
        found = view.values([client.get(key)], np.zeros(1, np.intp), np.zeros(1, np.int64))
        values = {name: value for (name, _), value in zip(view.features, found.numbers[:, 0].tolist(), strict=True)}
        client.hset(f"naive:{view.name}:{key.decode().rpartition(':')[2]}", mapping=values)


def main() -> None:
    """Consume, decide, produce and flush until SIGTERM, one event at a time."""
    given = orjson.loads(sys.argv[1])
    going = [True]
    signal.signal(signal.SIGTERM, lambda *_: going.clear())
    work, prefix = Naive(given), given["prefix"]
    view = LoadedView("holder", (("claims_3y", "number"), ("paid_3y", "number"), ("tenure_days", "number")))
    _copy_features(work.redis, view)
    consumer = Consumer({"bootstrap.servers": given["bootstrap"], "group.id": prefix, "auto.offset.reset": "earliest"})
    producer = Producer({"bootstrap.servers": given["bootstrap"]})
    consumer.subscribe([f"{prefix}.events"], on_assign=lambda *_: print("ready", flush=True))
    while going:
        message = consumer.poll(0.1)
        if message is None or message.error():
            continue
        role, record = work.first_record(message)
        producer.produce(f"{prefix}.{role}", json.dumps(record).encode(), message.key())
        producer.flush()
    consumer.close()


if __name__ == "__main__":
    main()
