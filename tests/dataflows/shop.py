"""A pipeline with windowed views of three keys, events out of order for it, and what pandas says of them.

Nothing here uses the code that computes views: pandas reads the log as a whole and asks at one moment.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import Any

import orjson
import pandas as pd

from dataflows.pipeline import Pipeline
from dataflows.view_spec import ViewSpec, WindowedSpec

SHOP = """
pipeline: shop
contract:
  format: json
  event_id: id
  entity: who
  event_time: at
  fields:
    id: { type: string }
    who: { type: string }
    at: { type: datetime }
    device: { type: string, required: false, nullable: true }
    card: { type: integer }
    amount: { type: number }
guard: { default: allow, headers: allow }
views:
  own:
    key: who
    pane: 1m
    windows:
      n_1h: { function: count, window: 1h }
      mean_6h: { function: mean, of: amount, window: 6h }
      since: { function: seconds_since_last, window: 1d }
    on_missing: review
  device:
    key: device
    pane: 1m
    allowed_lateness: 10m
    on_late: ignore
    windows:
      n_1h: { function: count, window: 1h }
      today: { function: count, window: 1d, kind: tumbling }
      cards_1d: { function: distinct, of: card, window: 1d }
      spent_6h: { function: sum, of: amount, window: 6h, where: "amount > 20" }
      spread_1d: { function: stddev, of: amount, window: 1d }
      last_1d: { function: last, of: amount, window: 1d }
    on_missing: review
  card:
    key: card
    pane: 5m
    where: "amount > 5"
    windows:
      most_1d: { function: max, of: amount, window: 1d }
      least_1d: { function: min, of: "amount * 2.0", window: 1d }
      first_6h: { function: first, of: amount, window: 6h }
      rate_1h: { function: rate, window: 1h }
    on_missing: review
policy: { version: "1", outcomes: [approve, review], default: approve, on_unknown: review }
"""
BEGIN_MS = 1_700_000_000_000
BASIS = {"count": 0.0, "sum": 0.0, "distinct": 0.0, "rate": 0.0}
"""Of a function where nothing is in its window; NaN for the others."""


@dataclass(frozen=True)
class Sent:
    """One event as it is in the log."""

    key: bytes
    value: bytes
    sent_ms: int


def events(n: int, seed: int) -> list[Sent]:
    """About 4 an hour and person in the order of sending; some an hour late, some repeated, some broken."""
    chance, sent = random.Random(seed), list[Sent]()
    for number in range(n):
        sent_ms = BEGIN_MS + number * 20_000
        late = chance.choice([0, 0, 0, 0, 30_000, 500_000, 900_000, 3_600_000])
        event = {
            "id": f"E-{number}",
            "who": f"W-{chance.randrange(max(n // 100, 5))}",
            "at": _text(sent_ms - chance.randrange(late + 1)),
            "device": chance.choice([None, f"D-{chance.randrange(max(n // 60, 5))}"]) if number % 3 else "D-0",
            "card": 4_000_000 + chance.randrange(max(n // 80, 5)),
            "amount": round(chance.lognormvariate(3, 1), 2),
        }
        sent.append(Sent(event["who"].encode(), orjson.dumps(event), sent_ms))
        if chance.random() < 0.02:
            sent.append(chance.choice(sent[-200:]))
        if chance.random() < 0.01:
            sent.append(Sent(event["who"].encode(), b'{"id": ', sent_ms))
    return sent


def _text(ms: int) -> str:
    return pd.Timestamp(ms, unit="ms").strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


def table(rows: list[tuple[int, int, bytes, int]], pipeline: Pipeline) -> pd.DataFrame:
    """The events that count, of lane, offset, value and append time.

    What is broken, was there before in its lane, or is ahead of the broker's time is left out.
    """
    bodies = []
    for lane, offset, value, append in rows:
        try:
            bodies.append({**orjson.loads(value), "lane": lane, "offset": offset, "append": append})
        except ValueError:
            continue
    frame = pd.DataFrame(bodies).sort_values(["lane", "offset"]).drop_duplicates(["lane", "id"])
    frame["ms"] = pd.to_datetime(frame["at"]).astype("datetime64[ms, UTC]").astype("int64")
    return with_lateness(frame, pipeline)


def with_lateness(frame: pd.DataFrame, pipeline: Pipeline) -> pd.DataFrame:
    """Add by how much each event is behind its lane; the rows of a lane are in the order of the log.

    Rows further ahead of the broker's time than all views let events be late, and than a minute, are left out.
    """
    least = min(spec.allowed_lateness for spec in pipeline.views.values() if spec.windows).total_seconds()
    frame = frame[frame["ms"] - frame["append"] <= 1000 * max(least, 60)]
    before = frame.groupby("lane")["ms"].transform(lambda times: times.cummax().shift())
    return frame.assign(behind=(before - frame["ms"]).clip(lower=0).fillna(0))


def expected(pipeline: Pipeline, frame: pd.DataFrame, at_ms: int) -> dict[str, dict[str, dict[str, float]]]:
    """View to key to feature to its value at a moment, for every key that the log has."""
    return {name: _view(spec, frame, at_ms) for name, spec in pipeline.views.items() if spec.windows}


def _view(spec: ViewSpec, frame: pd.DataFrame, at_ms: int) -> dict[str, dict[str, float]]:
    keys = frame[spec.key].dropna().astype(str).unique()
    taken = frame[frame[spec.key].notna()]
    if spec.where is not None:
        taken = taken.query(spec.where)
    if spec.on_late == "ignore":
        taken = taken[taken["behind"] <= spec.allowed_lateness.total_seconds() * 1000]
    columns = {name: _feature(spec, windowed, taken, at_ms) for name, windowed in spec.windows.items()}
    return {
        key: {
            name: float(column.get(key, BASIS.get(spec.windows[name].function, math.nan)))
            for name, column in columns.items()
        }
        for key in keys
    }


def _feature(spec: ViewSpec, windowed: WindowedSpec, frame: pd.DataFrame, at_ms: int) -> Any:
    """Key to the value of one feature, of the keys that have any."""
    pane_ms, window_ms = spec.pane.total_seconds() * 1000, windowed.window.total_seconds() * 1000
    pane, now = frame["ms"] // pane_ms, at_ms // pane_ms
    first = now - window_ms // pane_ms if windowed.kind == "sliding" else at_ms // window_ms * (window_ms // pane_ms)
    inside = frame[(pane >= first) & (pane < now)]
    if windowed.where is not None:
        inside = inside.query(windowed.where)
    inside = inside.assign(key=inside[spec.key].astype(str), of=inside.eval(windowed.of) if windowed.of else 1.0)
    groups = inside.sort_values("ms", kind="stable").groupby("key")
    match windowed.function:
        case "count":
            return groups.size()
        case "rate":
            return groups.size() / (window_ms / 1000)
        case "distinct":
            return groups["of"].nunique()
        case "seconds_since_last":
            return (at_ms - groups["ms"].max()) / 1000
        case "stddev":
            return groups["of"].std()
        case simple:
            return getattr(groups["of"], simple)()
