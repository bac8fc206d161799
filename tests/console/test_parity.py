"""`penstock features parity`: what it says before it reads anything, and what it tells Prometheus."""

import socket
import urllib.request

import pytest
from typer.testing import CliRunner

from console.cli import app
from console.parity import _print
from console.parity_metrics import REGISTRY, serve, show
from console.ports import free_port
from dataflows.parity import Compared

CLAIMS, PAYMENTS = (f"deploy/pipelines/{name}/pipeline.yaml" for name in ("claims", "payments"))
NOWHERE = ("--bootstrap", "127.0.0.1:1", "--redis", "redis://127.0.0.1:1/0")


def said(*words: str) -> str:
    """It ends with 2 and without a traceback."""
    done = CliRunner().invoke(app, ["features", "parity", *words])
    assert done.exit_code == 2, done.output
    return str(done.output)


def test_a_pipeline_without_windows_has_nothing_to_compare() -> None:
    assert "no view of claims has windows" in said("--pipeline", CLAIMS, *NOWHERE)


def test_a_pause_that_is_none_is_said() -> None:
    assert "--every takes a duration such as 30s or 5m" in said("--pipeline", PAYMENTS, *NOWHERE, "--every", "soon")


def test_a_port_for_metrics_that_nobody_could_ask_is_refused() -> None:
    assert "--metrics-port needs --every" in said("--pipeline", PAYMENTS, *NOWHERE, "--metrics-port", "9150")


def test_a_port_for_metrics_that_is_taken_is_said() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        assert f"could not serve metrics on port {port}" in said(
            "--pipeline", PAYMENTS, *NOWHERE, "--every", "5s", "--metrics-port", port
        )


def test_where_nothing_could_be_compared_it_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    _print([Compared("device", 0.01, keys=5), Compared("card", 0.01, keys=5, compared=4)], as_json=False)

    assert capsys.readouterr().out.count("nothing could be compared: Redis has no tide of this view") == 1


def test_the_share_of_wrong_keys_is_a_metric_by_view() -> None:
    port = free_port()
    serve(port)
    show([Compared("device", 0.01, keys=5, compared=4, wrong=1), Compared("card", 0.01, keys=9, compared=8)])
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        page = answer.read().decode()

    assert 'penstock_features_parity_mismatch_ratio{view="device"} 0.25' in page
    assert 'penstock_features_parity_mismatch_ratio{view="card"} 0.0' in page
    assert 'penstock_features_parity_compared_keys{view="card"} 8.0' in page


def test_where_nothing_could_be_compared_the_last_ratio_stays() -> None:
    show([Compared("device", 0.01, keys=5, compared=4, wrong=1)])
    show([Compared("device", 0.01, keys=5)])

    ratio, keys = (REGISTRY.get_sample_value(f"penstock_features_parity_{name}", {"view": "device"})
                   for name in ("mismatch_ratio", "compared_keys"))  # fmt: skip
    assert (ratio, keys) == (0.25, 0.0)
