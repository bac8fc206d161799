"""`penstock features` against a real Redis: good rows in, bad rows by line number, never a value on the screen."""

import gzip
import json
from pathlib import Path

import pytest
import redis
import typer
from typer.testing import CliRunner

from console import feature_look, features
from dataflows.pipeline import load
from dataflows.views import view_of

PIPELINE = "deploy/pipelines/claims/pipeline.yaml"
ROWS = [
    "policyholder_id,claims_3y,paid_3y,tenure_days,event_time",
    "PH-000001,2,1500.5,300,2026-01-31T12:00:00Z",
    "PH-000002,,0,10,2026-01-31",
    "PH-000003,secret,0,10,2026-01-31",
    "PH-000004,1,0,10,yesterday",
    ",1,0,10,2026-01-31",
    "PH-000005,1,0,10",
    "PH-000006,1_0,nan,10,2026-01-31",
    "PH-000007,1,2,3,2026-01-31T12:00:00+02:00",
]

app = typer.Typer()
app.command()(features.load)
app.command()(feature_look.get)


def run(*arguments, redis_url, pipeline=PIPELINE):
    result = CliRunner().invoke(app, [*map(str, arguments), "--pipeline", str(pipeline), "--redis", redis_url])
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result


@pytest.fixture
def csv(tmp_path):
    path = tmp_path / "holders.csv"
    path.write_text("\n".join(ROWS))
    return path


def test_rows_are_written_and_mistakes_named_by_line_without_values(csv, redis_url):
    result = run("load", csv, "--json", redis_url=redis_url)
    summary = json.loads(result.stdout)

    assert result.exit_code == 1
    assert (summary["view"], summary["written"], summary["refused"]) == ("holder", 3, 5)
    assert [(mistake["line"], mistake["column"]) for mistake in summary["mistakes"]] == [
        (4, "claims_3y"),
        (5, "event_time"),
        (6, "policyholder_id"),
        (7, None),
        (8, "claims_3y"),
    ]
    assert "secret" not in result.output
    found = json.loads(run("get", "holder", "PH-000001", "--json", redis_url=redis_url).stdout)
    assert (found["claims_3y"], found["paid_3y"], found["event_time"]) == (2.0, 1500.5, "2026-01-31T12:00:00+00:00")
    assert json.loads(run("get", "holder", "PH-000002", "--json", redis_url=redis_url).stdout)["claims_3y"] is None
    assert run("get", "holder", "PH-000003", redis_url=redis_url).exit_code == 1


def test_json_lines_in_gzip_are_read_too(tmp_path, redis_url):
    path = tmp_path / "holders.jsonl.gz"
    row = {
        "policyholder_id": "PH-100000",
        "claims_3y": 1,
        "paid_3y": 2,
        "tenure_days": None,
        "event_time": "2026-01-31",
    }
    lines = [json.dumps(row), "", "[1]", '{"policyholder_id": "\\ud800"}', json.dumps(row | {"paid_3y": True})]
    path.write_bytes(gzip.compress("\n".join(lines).encode()))
    result = run("load", path, redis_url=redis_url)

    assert result.exit_code == 1
    assert "1 values of view holder written, 3 rows refused" in result.stdout
    assert [line.partition(":")[0] for line in result.stderr.splitlines()] == ["line 3", "line 4", "line 5"]
    assert json.loads(run("get", "holder", "PH-100000", "--json", redis_url=redis_url).stdout)["tenure_days"] is None


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("x.csv", b"policyholder_id,claims_3y\n", "the header lacks event_time, paid_3y, tenure_days"),
        ("x.parquet", b"", "could not tell the format"),
        ("x.csv.gz", b"no gzip", "could not read"),
        ("x.csv", b'"a"b,c\n"a"b,c\n', "the header lacks policyholder_id"),
        (
            "x.csv",
            b"policyholder_id,claims_3y,claims_3y,paid_3y,tenure_days,event_time\n",
            "has claims_3y more than once",
        ),
    ],
)
def test_a_file_that_cannot_be_used_is_said_and_exits_with_2(tmp_path, name, content, says, redis_url):
    (tmp_path / name).write_bytes(content)
    result = run("load", tmp_path / name, redis_url=redis_url)

    assert result.exit_code == 2
    assert says in result.output


def test_what_is_no_row_is_named_where_it_begins_and_a_quote_without_an_end_says_what_it_took(tmp_path, redis_url):
    path = tmp_path / "holders.csv"
    huge = "1" * 200_000
    good = "PH-200000,1,2,3,2026-01-31"
    rows = [ROWS[0], good, f"PH-200001,{huge},2,3,2026-01-31", good, '"PH-200002,1,2,3,2026-01-31', good, good]
    path.write_text("\n".join(rows))
    result = run("load", path, "--json", redis_url=redis_url)
    mistakes = {row["line"]: row["what"] for row in json.loads(result.stdout)["mistakes"]}

    assert mistakes == {
        3: "has a cell of more than 131072 characters",
        5: "opens a quote that is never closed; it and all that comes after it were left out",
    }


def test_a_name_that_comes_twice_in_a_row_and_a_time_far_ahead_are_refused(tmp_path, redis_url):
    path = tmp_path / "holders.jsonl"
    row = {"policyholder_id": "PH-3", "claims_3y": 1, "paid_3y": 2, "tenure_days": 3}
    twice = json.dumps(row | {"event_time": "2026-01-31"})[:-1] + ', "paid_3y": 9}'
    times = ["9999-12-31T23:59:59-10:00", "0001-01-01T00:00:00+10:00", "2999-01-01"]
    path.write_text("\n".join([twice, *(json.dumps(row | {"event_time": time}) for time in times)]))
    result = run("load", path, "--json", redis_url=redis_url)
    mistakes = [(row["line"], row["column"]) for row in json.loads(result.stdout)["mistakes"]]

    assert mistakes == [(1, None), (2, "event_time"), (3, "event_time"), (4, "event_time")]


@pytest.mark.parametrize("url", ["redis+cluster://127.0.0.1:1", "plain"])
def test_a_cluster_that_cannot_be_used_is_said_as_redis_is(csv, url, redis_url):
    if url == "plain":  # a server that is no cluster
        url = redis_url.replace("redis://", "redis+cluster://").rpartition("/")[0]
    result = run("load", csv, redis_url=url)

    assert result.exit_code == 2
    assert "is it reachable?" in result.output


def test_redis_that_is_away_and_a_view_that_is_not_there_exit_with_2(csv):
    away = run("load", csv, redis_url="redis://127.0.0.1:1/0")
    unknown = run("load", csv, "--view", "holders", redis_url="redis://127.0.0.1:1/0")

    assert (away.exit_code, unknown.exit_code) == (2, 2)
    assert "is it reachable?" in away.output
    assert "hunter2" not in away.output
    assert "no view 'holders'; expected one of: holder" in unknown.output


@pytest.mark.parametrize("order", [["load", "rows.csv"], ["get", "holder", "PH-000001"]])
def test_a_password_in_an_argument_is_refused_and_one_in_the_environment_used(order, monkeypatch):
    url = "redis://:hunter2@127.0.0.1:1/0"
    argued = run(*order, redis_url=url)
    monkeypatch.setenv("PENSTOCK_REDIS", url)
    monkeypatch.setenv("PENSTOCK_FILE", PIPELINE)
    given = CliRunner().invoke(app, order)

    assert argued.exit_code == 2
    assert "set PENSTOCK_REDIS instead" in argued.output
    assert "PENSTOCK_REDIS" not in given.output
    assert "Missing option" not in given.output
    assert "hunter2" not in argued.output + given.output


def test_a_view_of_feast_is_shown_and_not_loaded(csv, tmp_path, redis_url):
    text = (
        Path(PIPELINE).read_text().replace("  holder:\n", "  holder:\n    source: { feast: { project: shown } }\n", 1)
    )
    file = tmp_path / "pipeline.yaml"
    file.write_text(text)
    view = view_of(load(file), "holder")
    client = redis.Redis.from_url(redis_url)
    client.hset(
        view.redis_key("PH-9"), mapping=dict(zip(view.fields, view.pack(90_000, [2.0, None, 7.5]), strict=True))
    )
    client.close()

    found = json.loads(run("get", "holder", "PH-9", "--json", redis_url=redis_url, pipeline=file).stdout)
    assert (found["claims_3y"], found["paid_3y"], found["tenure_days"]) == (2.0, None, 7.5)
    assert found["event_time"] == "1970-01-01T00:01:30+00:00"
    refused = run("load", csv, redis_url=redis_url, pipeline=file)
    assert refused.exit_code == 2
    assert "`feast materialize` writes it" in refused.output
