"""What backfill computes of a history equals pandas: the windows of both pipelines, with events that come late."""

import importlib.util
import itertools
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
import pytest

from dataflows.backfill import Backfill
from dataflows.pipeline import loads
from deploy.pipelines.claims import claims
from deploy.pipelines.payments import payments
from operators.payload import Payloads
from operators.strict_json import read
from state.murmur2 import lanes_of

_found = importlib.util.spec_from_file_location("pandas_windows", Path(__file__).with_name("pandas_windows.py"))
pandas_windows = importlib.util.module_from_spec(_found)
_found.loader.exec_module(pandas_windows)

SEED = 7
H, D = 3_600_000, 86_400_000
DEVICE = {
    "payments_1h": ("count", H, "sliding"),
    "per_second": ("rate", H, "sliding"),
    "cards_1d": ("distinct", D, "sliding"),
    "places_1d": ("distinct", D, "sliding"),
    "spent_1h": ("sum", H, "sliding"),
    "abroad_1d": ("sum", D, "sliding"),
    "mean_1d": ("mean", D, "sliding"),
    "low_1d": ("min", D, "sliding"),
    "high_1h": ("max", H, "sliding"),
    "spread_1d": ("stddev", D, "sliding"),
    "first_1d": ("first", D, "sliding"),
    "last_1d": ("last", D, "sliding"),
    "since": ("seconds_since_last", D, "sliding"),
    "today": ("count", D, "tumbling"),
    "spent_today": ("sum", D, "tumbling"),
}
SQL = {
    "cards_1d": "of: card_id", "places_1d": 'of: "country || channel"', "spent_1h": "of: amount",
    "abroad_1d": 'of: "amount * 2", where: "country <> card_country"', "mean_1d": "of: amount", "low_1d": "of: amount",
    "high_1h": "of: amount", "spread_1d": "of: amount", "first_1d": "of: amount", "last_1d": "of: amount",
    "spent_today": "of: amount",
}  # fmt: skip
LIMITS = {
    name.replace("cards", "types").replace("spent", "limit"): what
    for name, what in DEVICE.items()
    if name not in ("places_1d", "abroad_1d")
}
LINES = {name: (f, 6 * H if w == D else w, kind) for name, (f, w, kind) in LIMITS.items()}
LIMIT_SQL = {name: "of: claim_type" if "types" in name else "of: policy_limit" for name in LIMITS} | dict.fromkeys(
    ("payments_1h", "per_second", "since", "today"), ""
)


def declared(view, key, features, sql, rest):
    of = "".join(
        f"      {name}: {{ function: {f}, window: {w // 1000}s, kind: {kind}, {sql.get(name) or 'of: null'} }}\n"
        for name, (f, w, kind) in features.items()
    )
    return f"  {view}:\n    key: {key}\n    on_missing: review\n    on_stale: last_known\n{rest}    windows:\n{of}"


def pipeline_of(name, views):
    text = Path(f"deploy/pipelines/{name}/pipeline.yaml").read_text()
    return text[: text.index("views:\n")] + "views:\n" + views + POLICY


POLICY = 'policy: { version: "1", outcomes: [approve, review], default: approve, on_unknown: review }\n'
LATE = "    allowed_lateness: 5m\n"
PAYMENTS = pipeline_of(
    "payments",
    declared("device", "device_id", DEVICE, SQL, LATE + "    pane: 60s\n")
    + declared("card", "card_id", DEVICE, SQL, LATE + "    pane: 60s\n    on_late: ignore\n")
    + declared("shop", "merchant_id", DEVICE, SQL, LATE + "    pane: 120s\n    where: \"channel = 'online'\"\n"),
)
CLAIMS = pipeline_of(
    "claims",
    declared("holder", "policyholder_id", LIMITS, LIMIT_SQL, LATE + "    pane: 60s\n")
    + declared("line", "line", LINES, LIMIT_SQL, LATE + "    pane: 300s\n    on_late: ignore\n"),
)


def table_of(pipeline, module, n, **options):
    """The events of a generator that meet the contract, as a frame of contract fields in the order of arrival."""
    values = [each.value for each in module.stream(SEED, n, **options) if each.value]
    trees = read(values, pipeline.contract.max_depth)
    trees = [tree.get("data", tree) if isinstance(tree, dict) else tree for tree in trees]
    good, faults = Payloads(pipeline.contract).check(trees)
    print(f"seed {SEED}: {len(good)} events, {len(faults)} that break the contract")
    return pd.DataFrame(good)


def arrived(table, pipeline, lanes):
    """Lane and event time of each event, without those whose id came before."""
    contract = pipeline.contract
    events = table.drop_duplicates(contract.event_id).reset_index(drop=True)
    lane = lanes_of([entity.encode() for entity in events[contract.entity]], lanes)
    t = pd.to_datetime(events[contract.event_time], utc=True, format="ISO8601").astype("datetime64[ms, UTC]")
    return events.assign(lane=lane, t=t.astype("int64"), taken=True)


def payments_measured(events):
    abroad = (events["amount"] * 2).where(events["country"] != events["card_country"])
    of = {"cards_1d": events["card_id"], "places_1d": events["country"] + events["channel"], "abroad_1d": abroad}
    return {name: of.get(name, events["amount"]) for name in DEVICE}


def claims_measured(events):
    return {name: events["claim_type"] if "types" in name else events["policy_limit"] for name in LIMITS}


def check(pipeline, table, measured, of, *, lanes):
    """Compare each view with pandas; give the frame of backfill and how many events were late."""
    filler, parts = Backfill(pipeline, list(pipeline.views), lanes=lanes), []
    rows = table.astype(object).where(table.notna(), None).to_dict("records")
    for start in range(0, len(rows), 1000):
        filled = filler.take(rows[start : start + 1000])
        assert not filled.faults
        parts.append(pd.DataFrame({"id": filled.event_ids, **filled.features}))
    found = pd.concat(parts, ignore_index=True)
    events = arrived(table, pipeline, lanes)
    events = events.assign(**measured(events))
    assert found["id"].tolist() == events[pipeline.contract.event_id].tolist()
    for name, spec in pipeline.views.items():
        features = of[name]
        of_view = events.assign(taken=(events["channel"] == "online") if spec.where else True)
        expected, late = pandas_windows.recompute(
            of_view, spec.key, features, pane_ms=spec.pane // timedelta(milliseconds=1),
            lateness_ms=300_000, include_late=spec.on_late == "include",
        )  # fmt: skip
        named = found.rename(columns={f"{name}_{feature}": feature for feature in features})
        tally = filler.late[name]
        print(f"view {name}: {len(found)} events x {len(features)} features, {late} late, {tally}")
        assert pandas_windows.differences(named, expected, features) == {}
        assert (tally.included, tally.ignored) == ((late, 0) if spec.on_late == "include" else (0, late))
        assert late > 0
    return found


OF_PAYMENTS = dict.fromkeys(("device", "card", "shop"), DEVICE)
OF_CLAIMS = {"holder": LIMITS, "line": LINES}


def payments_at(n):
    return table_of(loads(PAYMENTS), payments, n, now=lambda: datetime(2026, 1, 20, tzinfo=UTC))


def claims_at(n):
    moments = (datetime(2026, 1, 20, tzinfo=UTC) + timedelta(seconds=60 * i) for i in itertools.count())
    return table_of(loads(CLAIMS), claims, n, now=lambda: next(moments))


@pytest.mark.parametrize("lanes", [1, 3])
def test_payments_equal_pandas(lanes):
    check(loads(PAYMENTS), payments_at(2_500), payments_measured, OF_PAYMENTS, lanes=lanes)


def test_claims_equal_pandas():
    check(loads(CLAIMS), claims_at(1_500), claims_measured, OF_CLAIMS, lanes=2)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_200_000_payments_equal_pandas():
    check(loads(PAYMENTS), payments_at(206_000), payments_measured, OF_PAYMENTS, lanes=4)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_200_000_claims_equal_pandas():
    check(loads(CLAIMS), claims_at(206_000), claims_measured, OF_CLAIMS, lanes=4)
