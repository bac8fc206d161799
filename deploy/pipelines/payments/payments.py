"""Card payments to replay: events with what goes wrong on the way, and the best AUC there can be."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from deploy.pipelines.payments.process import GAP, Payment, drift_index, payments
from deploy.pipelines.planned import Kind, Planned, ViewRow

__all__ = ["auc", "bayes_optimal_auc", "drift_index", "payments", "stream", "view_rows"]

PII_SHARE = 0.01
BROKEN_SHARE = 0.01
DUPLICATE_SHARE = 0.01
LATE_SHARE = 0.01

_MEMOS = ("", "", "", "thanks", "order of Monday", "gift for a friend", "table four", "second instalment")
_LEAKS = {"email": "send the bill to {}@example.com", "us_ssn": "my number is {}-45-6781", "ip": "from 10.20.30.{}"}


def bayes_optimal_auc(seed: int, n: int) -> float:
    """The AUC of the true probability as a score, on the labels of these payments: no model beats it but by luck."""
    made = [payment for payment in payments(seed, n) if payment.index >= 0]
    return auc(np.array([m.p for m in made]), np.array([m.fraud for m in made], dtype=np.float64))


def auc(score: npt.NDArray[np.float64], label: npt.NDArray[np.float64]) -> float:
    """Area under the ROC curve: the share of (fraud, other) pairs that are ranked rightly, ties half (Mann-Whitney).

    Args:
        score: (n,), higher for what is more likely fraud.
        label: (n,), 1 for fraud and 0 for others.

    Raises:
        ValueError: there is no fraud, or nothing else.
    """
    positive = label > 0
    frauds, others = int(positive.sum()), int((~positive).sum())
    if not frauds or not others:
        raise ValueError(f"could not compute an AUC: {frauds} frauds and {others} others; take more payments")
    _, place, count = np.unique(score, return_inverse=True, return_counts=True)
    rank = (np.cumsum(count) - (count - 1) / 2.0)[place]
    return float((rank[positive].sum() - frauds * (frauds + 1) / 2.0) / (frauds * others))


def view_rows(_seed: int, _n: int) -> Iterator[ViewRow]:
    """Nothing: all views are computed from the payments."""
    yield from ()


def stream(seed: int, n: int, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> Iterator[Planned]:
    """Plan `n` records in order; the payments in them are spread over the time before `now`: the last is about now.

    Broken records are extra ones, which are no payments: the engine never remembers them, so the true probabilities
    hold.
    """
    began = now() - timedelta(seconds=n * GAP)
    rng = random.Random(seed + 1)
    repeats: dict[int, Planned] = {}
    made = (payment for payment in payments(seed, n) if payment.index >= 0)
    for i in range(n):
        if i in repeats:
            yield repeats.pop(i)
            continue
        draw = rng.random()
        if draw < BROKEN_SHARE:
            yield _broken(rng, i, began)
            continue
        planned = _plan(rng, next(made), began, leaks=draw > 1 - PII_SHARE)
        fate, later, again = rng.random(), i + rng.randint(100, 400), i + rng.randint(1, 50)
        if planned.kind == "clean" and fate < LATE_SHARE and later < n and later not in repeats:
            repeats[later] = replace(planned, kind="late")
            planned = _plan(rng, next(made), began, leaks=False)
        elif planned.kind == "clean" and fate > 1 - DUPLICATE_SHARE and again not in repeats:
            repeats[again] = replace(planned, kind="duplicate")
        yield planned


def _plan(rng: random.Random, payment: Payment, began: datetime, *, leaks: bool) -> Planned:
    kind: Kind = "pii" if leaks else "clean"
    detail, memo = "", rng.choice(_MEMOS)
    if leaks:
        detail = rng.choice(tuple(_LEAKS))
        memo = _LEAKS[detail].format(rng.randrange(101, 250))
    data = event(payment, began, memo)
    return Planned(payment.card.id.encode(), orjson.dumps(data), _headers(rng), kind, detail)


def event(payment: Payment, began: datetime, memo: str) -> dict[str, Any]:
    """A payment as an acquirer would send it: nested, with more than the contract asks for."""
    at = began + timedelta(seconds=payment.at)
    return {
        "id": f"pay-{payment.index:08d}",
        "time": at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "amount": {"value": payment.amount, "currency": "EUR"},
        "card": {"token": payment.card.id, "country": payment.card.country, "limit": payment.card.limit},
        "merchant": {"id": f"mer_{payment.merchant:04d}", "category": payment.category, "country": payment.country},
        "device": {"id": payment.device, "type": "app" if payment.channel == "online" else "terminal"},
        "channel": payment.channel,
        "memo": memo,
    }


def _headers(rng: random.Random) -> tuple[tuple[str, bytes], ...]:
    digits = f"{rng.getrandbits(192) | 1 << 64 | 1:048x}"
    return (
        ("content-type", b"application/json"),
        ("traceparent", f"00-{digits[:32]}-{digits[32:]}-01".encode()),
    )


def _broken(rng: random.Random, i: int, began: datetime) -> Planned:
    card = f"card_{rng.randrange(1000):06d}"
    data: dict[str, Any] = {
        "id": f"bad-{i:08d}",
        "time": (began + timedelta(seconds=i * GAP)).isoformat(timespec="seconds"),
        "amount": {"value": 12.5, "currency": "EUR"},
        "card": {"token": card, "country": "DE", "limit": 2000.0},
        "merchant": {"id": "mer_0001", "category": "fuel", "country": "DE"},
        "device": {"id": "dev_00001", "type": "terminal"},
        "channel": "shop",
        "memo": "",
    }
    reason = rng.choice(BREAKS)
    _BREAK_DATA.get(reason, dict)(data)
    value: bytes | None = orjson.dumps(data)
    if reason in _BREAK_BYTES:
        value = _BREAK_BYTES[reason](value)
    return Planned(card.encode(), value, _headers(rng), "broken", reason)


_BREAK_DATA: dict[str, Callable[[dict[str, Any]], Any]] = {
    "missing_field": lambda data: data["amount"].pop("value"),
    "wrong_type": lambda data: data["amount"].update(value="12,50"),
    "constraint": lambda data: data["amount"].update(value=-1),
}
_BREAK_BYTES: dict[str, Callable[[Any], bytes | None]] = {
    "invalid_json": lambda value: value[: len(value) // 2],
    "invalid_utf8": lambda value: value.replace(b"mer_", b"\xe9er_", 1),
    "duplicate_key": lambda value: b'{"channel":"shop",' + value[1:],
    "not_an_object": lambda value: b"[" + value + b"]",
    "tombstone": lambda value: None,
    "empty": lambda value: b"",
}
BREAKS = (*_BREAK_DATA, *_BREAK_BYTES)
"""The ways to break an event; each is the reason code that is expected."""
