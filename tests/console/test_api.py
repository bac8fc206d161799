"""The HTTP side: what each page answers, and that a broken client, page or slot breaks nothing else."""

import json
import socket
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from prometheus_client import CollectorRegistry, Counter, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from console import api

Serve = Callable[..., api.Api]


def well() -> tuple[bool, str]:
    return True, "fine"


@pytest.fixture
def serve() -> Iterator[Serve]:
    with ExitStack() as running:

        def start(**pages: object) -> api.Api:
            server = api.Api("127.0.0.1", 0, **{"health": well, "ready": well, **pages}).start()
            running.callback(server.close)
            return server

        yield start


def get(server: api.Api | int, path: str) -> tuple[int, str]:
    port = server if isinstance(server, int) else server.port
    try:
        with api._direct.open(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def page_of(counts: int) -> bytes:
    registry = CollectorRegistry()
    Counter("penstock_things", "Things", ["stage"], registry=registry).labels("guard").inc(counts)
    return generate_latest(registry)


def totals(page: str, name: str) -> dict[str, float]:
    families = text_string_to_metric_families(page)
    return {s.labels["slot"]: s.value for family in families for s in family.samples if s.name == name}


def test_metrics_page_is_prometheus_text(serve: Serve) -> None:
    status, page = get(serve(), "/metrics")

    assert status == 200
    assert "# TYPE penstock_decision_latency_seconds histogram" in page


@pytest.mark.parametrize(("path", "name"), [("/healthz", "health"), ("/readyz", "ready")])
def test_probe_says_why_not(serve: Serve, path: str, name: str) -> None:
    assert get(serve(), path) == (200, "fine\n")
    assert get(serve(**{name: lambda: (False, "lanes are being restored")}), path) == (
        503,
        "lanes are being restored\n",
    )


def test_polling_is_alive_until_the_bound() -> None:
    assert api.polling(30, lambda: 29.0)() == (True, "alive")
    assert api.polling(30, lambda: 31.0)() == (False, "the source has not polled for 31 s, longer than 30 s")


def test_slots_page_is_json_and_only_where_there_are_slots(serve: Serve) -> None:
    status, page = get(serve(slots=lambda: [{"slot": 0, "lanes": [1, 2]}]), "/slots")

    assert (status, json.loads(page)) == (200, [{"slot": 0, "lanes": [1, 2]}])
    assert get(serve(), "/slots")[0] == 404


def test_page_that_fails_is_500_and_quotes_nothing(serve: Serve) -> None:
    def broken() -> bytes:
        raise ValueError("PH-000001 is not a number")

    server = serve(metrics=broken)
    status, page = get(server, "/metrics")

    assert status == 500
    assert "PH-000001" not in page
    assert get(server, "/healthz")[0] == 200


def test_nothing_can_be_posted(serve: Serve) -> None:
    request = urllib.request.Request(f"http://127.0.0.1:{serve().port}/metrics", b"x", method="POST")

    with pytest.raises(urllib.error.HTTPError, match="501"):
        api._direct.open(request, timeout=5)


def test_silent_clients_take_a_bounded_number_of_threads(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api._Handler, "timeout", 0.5)
    server = serve()
    with ExitStack() as clients:
        silent = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(api.MOST_REQUESTS)]
        for one in silent:
            clients.enter_context(one)
        turned_away = clients.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=5))

        assert turned_away.recv(1) == b""  # at once, while the others are waited for
        assert silent[0].recv(1) == b""  # after their patience
    assert get(server, "/healthz")[0] == 200


def test_port_in_use_says_what_to_do(serve: Serve) -> None:
    with pytest.raises(OSError, match="--metrics-port"):
        api.Api("127.0.0.1", serve().port, health=well, ready=well)


def test_close_frees_the_port(serve: Serve) -> None:
    server = serve()
    server.close()

    api.Api("127.0.0.1", server.port, health=well, ready=well).close()


def test_slots_page_gives_every_sample_its_slot(serve: Serve) -> None:
    slots = {0: serve(metrics=lambda: page_of(3)).port, 1: serve(metrics=lambda: page_of(4)).port}
    page = api.SlotsPage(lambda: slots)().decode()

    assert totals(page, "penstock_things_total") == {"0": 3, "1": 4}
    assert totals(page, "penstock_slot_up") == {"0": 1, "1": 1}
    assert page.count("# TYPE penstock_things_total counter") == 1


def test_slots_page_outlives_a_dead_and_a_hanging_slot(serve: Serve) -> None:
    gone = serve()
    gone.close()
    with socket.create_server(("127.0.0.1", 0)) as hangs:  # accepts by its backlog, never answers
        slots = {0: serve(metrics=lambda: page_of(3)).port, 1: gone.port, 2: hangs.getsockname()[1]}
        page = api.SlotsPage(lambda: slots, patience=0.3)().decode()

    assert totals(page, "penstock_things_total") == {"0": 3}
    assert totals(page, "penstock_slot_up") == {"0": 1, "1": 0, "2": 0}


def test_slots_page_keeps_the_other_slots_when_one_page_is_cut(serve: Serve) -> None:
    cut = page_of(4)[:-8] + b'_bad{x="'
    slots = {0: serve(metrics=lambda: cut).port, 1: serve(metrics=lambda: page_of(5)).port}

    assert totals(api.SlotsPage(lambda: slots)().decode(), "penstock_things_total")["1"] == 5


def test_slots_page_without_slots_is_a_page() -> None:
    assert b"penstock_slot_up" in api.SlotsPage(dict)()
