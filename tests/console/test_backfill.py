"""`penstock features backfill`: a file of history in, what was known at each event out; bad rows by line."""

import json
from datetime import UTC, datetime, timedelta

import polars as pl
import pytest
from typer.testing import CliRunner

from console import backfill
from console.cli import app

PIPELINE = """\
pipeline: shops
contract:
  format: json
  event_id: id
  entity: card
  event_time: at
  fields:
    id: { type: string, from: /head/id }
    card: { type: string, max_length: 8 }
    at: { type: datetime }
    shop: { type: string, required: false }
    amount: { type: number, nullable: true, ge: 0 }
    items: { type: integer }
    gift: { type: boolean, required: false }
    born: { type: date, required: false }
    note: { type: string }
views:
  shop:
    key: shop
    pane: 1s
    windows:
      n: { function: count, window: 1m }
      spent: { function: sum, of: amount, window: 1m }
      items: { function: sum, of: items, window: 1m, where: "gift OR born < DATE '2000-01-01'" }
    on_missing: review
  other: { key: shop, windows: { n: { function: count, window: 1h } }, on_missing: review }
policy: { version: "1", outcomes: [approve, review], default: approve, on_unknown: review }
"""
T = datetime(2026, 1, 20, tzinfo=UTC)
EVENTS = [
    {"id": "1", "card": "a", "at": T, "shop": "s", "amount": 1.5, "items": 1, "gift": True, "born": None},
    {"id": "2", "card": "a", "at": T, "shop": "s", "amount": 2.0, "items": 2, "gift": None, "born": None},
    {"id": "3", "card": "b", "at": T + timedelta(seconds=2), "shop": "s", "amount": None, "items": 4, "gift": False,
     "born": datetime(1999, 1, 1, tzinfo=UTC).date()},
    {"id": "1", "card": "a", "at": T + timedelta(seconds=3), "shop": "s", "amount": 9.0, "items": 9, "gift": True,
     "born": None},
    {"id": "4", "card": "b", "at": T + timedelta(seconds=4), "shop": None, "amount": 1.0, "items": 1, "gift": None,
     "born": None},
    {"id": "5", "card": "b", "at": T + timedelta(seconds=5.25), "shop": "s", "amount": 1.0, "items": 1, "gift": None,
     "born": None},
]  # fmt: skip
EXPECTED = [
    ("1", "a", T, 0.0, 0.0, 0.0, 0.0),
    ("2", "a", T, 0.0, 0.0, 0.0, 0.0),
    ("3", "b", T + timedelta(seconds=2), 2.0, 3.5, 1.0, 0.0),
    ("4", "b", T + timedelta(seconds=4), None, None, None, None),
    ("5", "b", T + timedelta(seconds=5.25), 3.0, 3.5, 5.0, 0.0),
]


def run(tmp_path, history, *options, text=PIPELINE):
    (tmp_path / "shops.yaml").write_text(text)
    out = tmp_path / "out.parquet"
    arguments = ["features", "backfill", str(history), "--pipeline", str(tmp_path / "shops.yaml"), "--out", str(out)]
    return CliRunner().invoke(app, [*arguments, *options]), out


def as_file(tmp_path, ending, events=EVENTS):
    frame = pl.DataFrame(events, infer_schema_length=None)
    path = tmp_path / f"history{ending}"
    if ending == "-of-pandas.parquet":  # a missing number is NaN, and integers beside one are floats
        numbers = [pl.col("amount").fill_null(float("nan")), pl.col("items").cast(pl.Float64)]
        frame.with_columns(*numbers, pl.col("shop").cast(pl.Categorical)).write_parquet(path)
    elif ending == ".parquet":
        frame.write_parquet(path)
    elif ending == ".csv":
        frame.write_csv(path)
    else:  # as pandas writes times
        frame.with_columns(pl.col("at").dt.strftime("%Y-%m-%d %H:%M:%S%.6f")).write_csv(path, compression="gzip")
    return path


@pytest.mark.parametrize("ending", [".parquet", "-of-pandas.parquet", ".csv", ".csv.gz"])
@pytest.mark.parametrize("rows", [1, 4096])
def test_each_event_gets_what_was_known_before_its_pane(tmp_path, monkeypatch, ending, rows):
    monkeypatch.setattr(backfill, "ROWS", rows)
    result, out = run(tmp_path, as_file(tmp_path, ending))

    assert (result.exit_code, result.stdout) == (0, "5 events written, 1 repeats left out, 0 rows refused\n")
    found = pl.read_parquet(out)
    assert found.columns == ["id", "card", "at", "shop_n", "shop_spent", "shop_items", "other_n"]
    assert found.rows() == EXPECTED
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"history{ending}", "out.parquet", "shops.yaml"]


def test_one_view_alone_needs_only_its_columns(tmp_path):
    only = [{name: event[name] for name in ("id", "card", "at", "shop")} for event in EVENTS]
    result, out = run(tmp_path, as_file(tmp_path, ".parquet", only), "--view", "other", "--lanes", "3")

    assert result.exit_code == 0
    assert pl.read_parquet(out).columns == ["id", "card", "at", "other_n"]


def test_a_catalog_is_told_what_came_from_what(tmp_path, monkeypatch):
    for name, value in {"TYPE": "file", "LOG_FILE_PATH": str(tmp_path / "told"), "APPEND": "true"}.items():
        monkeypatch.setenv(f"OPENLINEAGE__TRANSPORT__{name}", value)
    _, out = run(tmp_path, as_file(tmp_path, ".parquet"))
    began, ended = map(json.loads, (tmp_path / "told").read_text().splitlines())
    [given], [made] = ended["inputs"], ended["outputs"]

    assert (began["eventType"], ended["eventType"], ended["job"]["name"]) == ("START", "COMPLETE", "shops.backfill")
    assert (given["name"], made["name"]) == (str(tmp_path / "history.parquet"), str(out))
    assert given["inputFacets"]["inputStatistics"]["rowCount"] == 6
    origins = made["facets"]["columnLineage"]["fields"]["shop_items"]["inputFields"]
    assert {each["field"] for each in origins} == {"items", "gift", "born", "shop", "at"}


def test_rows_that_break_the_contract_are_named_by_line_and_left_out(tmp_path):
    path = tmp_path / "history.csv"
    path.write_text(
        "id,card,at,shop,amount,items,gift,born\n"
        "1,a,2026-01-20T00:00:00Z,s,1.5,1,true,\n"
        "2,a,soon,s,1.5,1,true,\n"
        "3,a,2026-01-20T00:00:01Z,s,-1,1,true,\n"
        "4,a,2026-01-20T00:00:01Z,s,much,1,true,\n"
        "5,a,2026-01-20T00:00:01Z,s,1,1.5,true,\n"
        "6,a\n"
        "7,,2026-01-20T00:00:01Z,s,1,1,true,\n"
        "8,a,2026-01-20T00:00:01Z,s,1,1,,1999-02-30\n"
    )
    result, out = run(tmp_path, path, "--json")
    said = json.loads(result.stdout)

    assert result.exit_code == 1
    assert [(row["line"], row["column"]) for row in said["mistakes"]] == [
        (3, "at"), (4, "amount"), (5, "amount"), (6, "items"), (7, None), (8, "card"), (9, "born"),
    ]  # fmt: skip
    assert (said["written"], said["repeats"], said["refused"]) == (1, 0, 7)
    assert "much" not in result.output
    assert len(pl.read_parquet(out)) == 1


@pytest.mark.parametrize("ending", [".csv", ".parquet"])
def test_a_number_that_no_event_can_have_is_refused_and_whole_floats_are_integers(tmp_path, ending):
    path = tmp_path / f"history{ending}"
    header = "id,card,at,shop,amount,items,gift,born"
    rows = [("1", "inf", "1"), ("2", "-inf", "1"), ("3", "1.5", "2.0")]
    if ending == ".csv":
        rows.append(("4", "1_0", "1"))
        lines = [f"{event},a,2026-01-20T00:00:00Z,s,{amount},{items},true," for event, amount, items in rows]
        path.write_text("\n".join([header, *lines]))
    else:
        events = [EVENTS[0] | {"id": event, "amount": float(amount), "items": float(n)} for event, amount, n in rows]
        pl.DataFrame(events, infer_schema_length=None).write_parquet(path)
    result, out = run(tmp_path, path, "--json")
    said = json.loads(result.stdout)

    assert (said["written"], said["refused"]) == (1, len(rows) - 1)
    assert {row["column"] for row in said["mistakes"]} == {"amount"}
    assert pl.read_parquet(out)["id"].to_list() == ["3"]


def test_a_history_without_rows_gives_a_table_without_rows_in_place_of_an_older_one(tmp_path):
    run(tmp_path, as_file(tmp_path, ".csv"))
    (tmp_path / "none.csv").write_text("id,card,at,shop,amount,items,gift,born\n")
    result, out = run(tmp_path, tmp_path / "none.csv")

    assert result.exit_code == 0
    assert pl.read_parquet(out).shape == (0, 7)


def test_one_row_far_ahead_of_the_others_is_said(tmp_path):
    ahead = EVENTS[0] | {"id": "0", "at": T + timedelta(days=365), "shop": "other"}
    result, _ = run(tmp_path, as_file(tmp_path, ".parquet", [ahead, *EVENTS]))

    assert "most events were too late for any window" in result.stderr


@pytest.mark.parametrize(
    "name, content, words",
    [
        ("history.txt", b"", "could not tell the format"),
        ("history.csv", b"id,card\n1,a\n", "the header lacks at, shop, amount"),
        ("history.parquet", b"PAR1 but no more", "could not read"),
        ("none.parquet", None, "could not read"),
    ],
)
def test_a_file_that_cannot_be_used_says_why_and_leaves_nothing(tmp_path, name, content, words):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    result, out = run(tmp_path, tmp_path / name)

    assert result.exit_code == 2
    assert words in result.output
    assert not out.exists()


def test_a_parquet_file_without_a_column_is_refused_by_name(tmp_path):
    only = [{"id": event["id"], "card": event["card"], "shop": event["shop"]} for event in EVENTS]
    result, _ = run(tmp_path, as_file(tmp_path, ".parquet", only))

    assert result.exit_code == 2
    assert "lacks the columns at, amount, items" in result.output


@pytest.mark.parametrize("ending", [".parquet", ".csv"])
def test_a_day_is_no_datetime_as_it_is_none_where_events_are_decided(tmp_path, ending):
    days = [event | {"at": T.date()} for event in EVENTS[:2]]
    result, _ = run(tmp_path, as_file(tmp_path, ending, days))

    assert result.exit_code == (2 if ending == ".parquet" else 1)
    said = "has days in at, where the contract has datetimes" if ending == ".parquet" else "line 2: at: breaks"
    assert said in result.output


def test_what_is_no_name_for_parquet_is_refused(tmp_path):
    result, _ = run(tmp_path, as_file(tmp_path, ".csv"), "--out", str(tmp_path / "out.csv"))

    assert result.exit_code == 2
    assert "give it a name that ends with .parquet" in " ".join(result.output.split())


def test_a_pipeline_without_windows_and_an_unknown_view_are_refused(tmp_path):
    bare = PIPELINE[: PIPELINE.index("views:")] + PIPELINE[PIPELINE.index("policy:") :]
    none, _ = run(tmp_path, as_file(tmp_path, ".csv"), text=bare)
    unknown, _ = run(tmp_path, as_file(tmp_path, ".csv"), "--view", "shopp")

    assert (none.exit_code, unknown.exit_code) == (2, 2)
    assert "no view with windows" in none.output
    assert "expected one of: shop, other" in unknown.output


def test_a_folder_that_is_not_there_is_named(tmp_path):
    (tmp_path / "shops.yaml").write_text(PIPELINE)
    arguments = ["--pipeline", str(tmp_path / "shops.yaml"), "--out", str(tmp_path / "none" / "out.parquet")]
    result = CliRunner().invoke(app, ["features", "backfill", str(as_file(tmp_path, ".csv")), *arguments])

    assert result.exit_code == 2
    assert "could not write" in result.output
