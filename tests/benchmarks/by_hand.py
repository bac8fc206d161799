"""The same job by hand: one loop that a good engineer writes for this one pipeline, in plain Python, batches of 256.

It has what cannot be left out for the same decisions: the engine's contract, scanner and models as libraries, one
MGET, the rules as `if`s, a transaction per batch. It leaves out what such loops leave out: what it remembers is lost in
a crash, it takes no new release, shows no metrics, and has no time-outs or fallbacks. So it is cheaper than what could
replace the engine.
"""

from __future__ import annotations

import gc
import os
import signal
import struct
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import redis
from confluent_kafka import Consumer, Message, Producer, TopicPartition
from windows_by_hand import Recent, Seen

from dataflows import pipeline as pipeline_file
from models.online import OnlineModel
from models.onnx import OnnxModel
from models.pii import Scanner
from operators import cloudevents, strict_json, wire
from operators.payload import Payloads
from operators.sealed import sealed_original
from operators.wire import Reason
from state.vault import Vault

BATCH = 256
FEATURES = (
    "is_home",
    "deductible_share",
    "report_lag_days",
    "holder_claims_3y",
    "holder_paid_3y",
    "holder_tenure_days",
    "claims_1d",
)
"""What models and rules use, apart from the event's own fields."""
_STORED = struct.Struct("<16x8x3d")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
read_date = date.fromisoformat


class ByHand:
    """The loop. `given` says where everything is."""

    def __init__(self, given: dict[str, Any]) -> None:
        spec = pipeline_file.load(given["pipeline"])
        self.contract = spec.contract
        self.payloads = Payloads(spec.contract)
        self.scanner = Scanner(spec.guard.recognisers, spec.guard.phone_regions, spec.guard.threshold)
        self.scanner.warm()
        self.vault = Vault.from_base64(os.environ["PENSTOCK_SEAL_KEY"])
        self.redis = redis.Redis.from_url(given["redis"])
        self.models = [load(name, given["releases"][name], spec.models[name].inputs) for name in spec.models]
        self.seen: defaultdict[int, Seen] = defaultdict(Seen)
        self.recent: defaultdict[int, Recent] = defaultdict(Recent)
        self.prefix = given["prefix"]
        self.policy = {"version": spec.policy.version, "digest": ""}
        self.events = f"{self.prefix}.events"
        self.out: list[tuple[str, int, bytes | None, bytes, Any]] = []
        """Topic, lane, key, value, headers."""

    def batch(self, messages: Sequence[Message]) -> None:
        """Give each event its first record."""
        claims = self.decode(messages)
        claims = self.guard(claims)
        claims = self.recall(claims)
        self.enrich(claims)
        self.score(claims)
        self.now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        for claim in claims:
            self.decide(claim)

    def decode(self, messages: Sequence[Message]) -> list[dict[str, Any]]:
        """Events that keep the contract; the others leave."""
        texts, readable, structured = [], [], []
        for message in messages:
            value = message.value()
            if not value:
                self.reject(message, Reason.TOMBSTONE if value is None else Reason.EMPTY, None)
            elif len(value) > self.contract.max_bytes:
                self.reject(message, Reason.TOO_LARGE, None)
            elif type(mode := cloudevents.is_structured(message.headers() or [])) is Reason:
                self.reject(message, mode, None)
            else:
                texts.append(value)
                readable.append(message)
                structured.append(mode)
        trees = strict_json.read(texts, self.contract.max_depth)
        whole = [i for i, tree in enumerate(trees) if structured[i] and type(tree) is not Reason]
        for i, data in zip(whole, cloudevents.data_of([trees[i] for i in whole]), strict=True):
            trees[i] = data
        good, faults = self.payloads.check(trees)
        claims, good_ones = [], iter(good)
        for i, message in enumerate(readable):
            if i in faults:
                self.reject(message, *faults[i])
                continue
            claim = next(good_ones)
            try:
                claim["at_us"] = (datetime.fromisoformat(claim["noticed_at"]) - _EPOCH) // timedelta(microseconds=1)
                claim["lag"] = (read_date(claim["report_date"]) - read_date(claim["accident_date"])).days
            except ValueError:
                self.reject(message, Reason.CONSTRAINT, None)
                continue
            claim["message"], claim["lane"], claim["offset"] = message, message.partition(), message.offset()
            claims.append(claim)
        return claims

    def guard(self, claims: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Only the description is used and can hold personal data."""
        clean = []
        for claim, found in zip(claims, self.scanner.scan_batch([c["description"] for c in claims]), strict=True):
            if not found:
                clean.append(claim)
                continue
            findings = [
                {"field": "description", "type": f.type, "start": f.start, "end": f.end, "score": f.score}
                for f in found
            ]
            about, sealed = self.sealed(claim["message"])
            body = {**self.head("quarantine", claim["message"]), "findings": findings, "sealed": sealed}
            self.emit("quarantine", claim["message"], about, body)
        return clean

    def recall(self, claims: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Drop repeats, and look back at the policyholder's last day."""
        fresh = []
        for claim in claims:
            lane, offset, (_, append_ms) = claim["lane"], claim["offset"], claim["message"].timestamp()
            first = self.seen[lane].first(claim["claim_id"], offset, append_ms)
            if first is not None:
                mark = {"event_id": claim["claim_id"], "first": wire.decision_id("claims", lane, first)}
                body = {**self.head("duplicate", claim["message"]), **mark}
                self.emit("duplicates", claim["message"], claim["policyholder_id"].encode(), body)
                continue
            at_ms = claim["at_us"] // 1000
            claim.update(self.recent[lane].observe(claim["policyholder_id"], at_ms, append_ms, claim["policy_limit"]))
            fresh.append(claim)
        return fresh

    def enrich(self, claims: list[dict[str, Any]]) -> None:
        """One MGET for the batch."""
        if not claims:
            return
        keys = [f"penstock:claims:holder:{claim['policyholder_id']}" for claim in claims]
        now = time.time()
        for claim, stored in zip(claims, self.redis.mget(keys), strict=True):
            found = _STORED.unpack(stored) if stored is not None else None
            age = now - (int.from_bytes(stored[:8]) - (1 << 63)) / 1000 if found else None
            claim["ages"], claim["degraded"] = {"holder": age}, []
            claim["holder_claims_3y"], claim["holder_paid_3y"], claim["holder_tenure_days"] = found or (0.0,) * 3
            if age is None or age > 30 * 86_400:
                claim["degraded"] = ["view:holder:stale" if found else "view:holder:missing"]

    def score(self, claims: list[dict[str, Any]]) -> None:
        """Derived features, then one call of each model."""
        for claim in claims:
            limit = claim["policy_limit"]
            claim["report_lag_days"] = float(claim["lag"])
            claim["is_home"] = 1.0 if claim["line"] == "Home" else 0.0
            claim["deductible_share"] = claim["deductible"] / limit if limit > 0 else 1.0
        for name, release, inputs, model in self.models if claims else ():
            rows = np.array([[claim[column] for column in inputs] for claim in claims], np.float32)
            for claim, score in zip(claims, model.score(rows).tolist(), strict=True):
                claim[name] = score
                claim.setdefault("scores", {})[name] = {"score": score, "release": release}

    def decide(self, claim: dict[str, Any]) -> None:
        """The rules, and the decision."""
        reasons = []
        if claim["severity"] > 30_000:
            reasons.append("SEVERITY_HIGH")
        if claim["severity_online"] > 4 * claim["severity"] and claim["severity_online"] > 20_000:
            reasons.append("MODELS_DISAGREE")
        if claim["claims_1d"] >= 3:
            reasons.append("CLAIMS_FREQUENT")
        if claim["report_lag_days"] > 1000:
            reasons.append("REPORTED_LATE")
        outcome = "flag" if "CLAIMS_FREQUENT" in reasons else "review" if reasons else "approve"
        lane, offset = claim["lane"], claim["offset"]
        body = {
            **self.head("decision", claim["message"]),
            "decision_id": wire.decision_id("claims", lane, offset),
            "event_id": claim["claim_id"],
            "entity": claim["policyholder_id"],
            "event_time": claim["noticed_at"],
            "decided_at": self.now,
            "outcome": outcome,
            "reasons": reasons,
            "scores": claim["scores"],
            "shadows": {},
            "features": {name: claim[name] for name in FEATURES},
            "ages": claim["ages"],
            "degraded": claim["degraded"],
            "policy": self.policy,
        }
        decision_id = body["decision_id"].encode()
        headers = [
            ("content-type", b"application/json"),
            ("ce_specversion", b"1.0"),
            ("ce_type", b"penstock.decision.v1"),
            ("ce_source", b"/penstock/claims"),
            ("ce_id", decision_id),
            ("ce_subject", wire.origin_key(self.events, lane, offset)),
            ("ce_time", self.now.encode()),
            *(header for header in claim["message"].headers() if header[0] == "traceparent"),
        ]
        self.emit("decisions", claim["message"], claim["policyholder_id"].encode(), body, headers)
        if outcome == "review":
            self.emit("reviews", claim["message"], decision_id, body, headers)

    def reject(self, message: Message, reason: Reason, field: str | None) -> None:
        """Keep an event that breaks the contract."""
        about, sealed = self.sealed(message)
        record = wire.rejection(
            "claims", self.events, message.partition(), message.offset(), reason=reason, field=field, sealed=sealed
        )
        self.out.append(("rejected", message.partition(), about, record.value, record.headers))

    def sealed(self, message: Message) -> tuple[bytes, str]:
        """The origin's key, and the sealed event."""
        about = wire.origin_key(self.events, message.partition(), message.offset())
        return about, sealed_original(self.vault, about, message.key(), message.value(), message.headers() or [])

    def head(self, kind: str, message: Message) -> dict[str, Any]:
        """What every first record begins with."""
        origin = {"topic": self.events, "partition": message.partition(), "offset": message.offset()}
        return {"v": 1, "kind": kind, "pipeline": "claims", "origin": origin, "revision": 0}

    def emit(self, role: str, message: Message, key: bytes, body: dict[str, Any], headers: Any = ()) -> None:
        """Hold a record for the transaction."""
        self.out.append((role, message.partition(), key, orjson.dumps(body), headers))


def load(name: str, release: dict[str, str], inputs: Sequence[str]) -> tuple[str, str, Sequence[str], Any]:
    """Open a model file: name, version, inputs, model."""
    data = Path(release["file"]).read_bytes()
    kind = OnnxModel if release["format"] == "onnx" else OnlineModel
    return name, release["version"], inputs, kind.load(data, inputs)


def run(work: ByHand, given: dict[str, Any]) -> None:
    """Consume, decide and commit until SIGTERM, one transaction a batch."""
    gc.collect()
    gc.freeze()  # the heap of the libraries is not looked through again and again
    going = [True]
    signal.signal(signal.SIGTERM, lambda *_: going.clear())
    consumer = Consumer(
        {
            "bootstrap.servers": given["bootstrap"],
            "group.id": work.prefix,
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
            "session.timeout.ms": 45_000,
        }
    )
    producer = Producer({"bootstrap.servers": given["bootstrap"], "transactional.id": work.prefix, "linger.ms": 0})
    producer.init_transactions(60)
    consumer.subscribe([work.events], on_assign=lambda *_: print("ready", flush=True))
    while going:
        messages = [m for m in consumer.consume(BATCH, 0.01) if m.error() is None]
        if not messages:
            continue
        work.batch(messages)
        producer.begin_transaction()
        for role, lane, key, value, headers in work.out:
            producer.produce(f"{work.prefix}.{role}", value, key, lane, headers=list(headers))
        work.out = []
        ends = {message.partition(): message.offset() + 1 for message in messages}
        offsets = [TopicPartition(work.events, lane, end) for lane, end in ends.items()]
        producer.send_offsets_to_transaction(offsets, consumer.consumer_group_metadata(), 30)
        producer.commit_transaction(30)
    consumer.close()


def main() -> None:
    """Run with the JSON of the first argument."""
    given = orjson.loads(sys.argv[1])
    run(ByHand(given), given)


if __name__ == "__main__":
    main()
