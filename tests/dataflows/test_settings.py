"""What `penstock run` is told, and what it answers to nonsense."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from dataflows.settings import Settings, SettingsInvalid, open_vault

KEY = b64encode(bytes(range(32))).decode()
LEAST = {"PENSTOCK_FILE": "/pipelines/p.yaml", "PENSTOCK_BOOTSTRAP": "b1:9092,b2:9092"}


def refused(environment: Mapping[str, str]) -> str:
    with pytest.raises(SettingsInvalid) as caught:
        Settings.from_environment(environment)
    return str(caught.value)


def settings(**given: Any) -> Settings:
    return Settings(file=Path("p.yaml"), bootstrap="b:9092", **given)


def test_settings_reach_another_process_through_the_environment() -> None:
    told = settings(
        redis="redis://:hunter2@r:6379/0",
        group="night",
        slots=3,
        slot=4,
        guarantee="at_least_once",
        client_config=Path("/etc/client"),
        session_timeout=12.5,
        job="features",
        metrics_port=9200,
        host="0.0.0.0",
        seal_key=KEY,
        seal_key_file=Path("/etc/key"),
        artefacts="s3://bucket/models",
    ).model_copy(update={"file": Path("/pipelines/p.yaml")})

    assert Settings.from_environment(told.to_environment()) == told


def test_paths_mean_the_same_in_a_process_that_runs_in_another_folder(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    told = settings(client_config=Path("client"), seal_key_file=Path("key"), artefacts="models").to_environment()

    assert told["PENSTOCK_FILE"] == str(tmp_path / "p.yaml")
    assert told["PENSTOCK_CLIENT_CONFIG"] == str(tmp_path / "client")
    assert told["PENSTOCK_SEAL_KEY_FILE"] == str(tmp_path / "key")
    assert told["PENSTOCK_ARTEFACTS"] == str(tmp_path / "models")


def test_what_is_not_given_or_empty_has_its_default() -> None:
    read = Settings.from_environment({**LEAST, "PENSTOCK_REDIS": "", "PENSTOCK_SLOTS": "", "PATH": "/bin"})

    assert (read.slots, read.redis, read.guarantee, read.group) == (1, None, "exactly_once", "")


@pytest.mark.parametrize("missing", LEAST)
def test_a_missing_variable_is_named(missing: str) -> None:
    assert f"{missing}: field required" in refused({name: value for name, value in LEAST.items() if name != missing})


@pytest.mark.parametrize(
    "variable",
    ["SLOTS", "SLOT", "GUARANTEE", "SESSION_TIMEOUT", "METRICS_PORT"],
)
def test_a_wrong_variable_is_named_and_its_value_is_not_repeated(variable: str) -> None:
    said = refused({**LEAST, f"PENSTOCK_{variable}": "s3cret"})

    assert said.startswith(f"PENSTOCK_{variable}: ")
    assert "s3cret" not in said


def test_every_wrong_variable_is_named_at_once() -> None:
    said = refused({"PENSTOCK_FILE": "p", "PENSTOCK_SLOTS": "0", "PENSTOCK_METRICS_PORT": "70000"})

    assert [part.partition(":")[0] for part in said.split("; ")] == [
        "PENSTOCK_BOOTSTRAP", "PENSTOCK_SLOTS", "PENSTOCK_METRICS_PORT",
    ]  # fmt: skip


def test_settings_do_not_show_passwords_or_keys() -> None:
    shown = repr(settings(redis="redis://:hunter2@r:6379/0", seal_key=KEY))

    assert "hunter2" not in shown
    assert KEY not in shown


def test_a_client_config_gives_properties(tmp_path: Path) -> None:
    file = tmp_path / "client"
    file.write_text("# of the broker\n\nsasl.password = a=b \nsecurity.protocol=SASL_SSL\nbootstrap.servers=other:1\n")

    assert settings(client_config=file).connection() == {
        "sasl.password": "a=b",
        "security.protocol": "SASL_SSL",
        "bootstrap.servers": "b:9092",
    }


def test_a_line_of_the_client_config_that_is_not_a_property_is_told_by_number_only(tmp_path: Path) -> None:
    file = tmp_path / "client"
    file.write_text("security.protocol=SASL_SSL\nsasl.password hunter2\n")

    with pytest.raises(SettingsInvalid) as caught:
        settings(client_config=file).connection()
    assert str(caught.value) == f"{file}:2: expected name=value"


@pytest.mark.parametrize("content", [None, b"\xff\xfe"], ids=["missing", "not text"])
def test_a_client_config_that_cannot_be_read_is_named(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "client"
    if content is not None:
        file.write_bytes(content)

    with pytest.raises(SettingsInvalid, match=f"could not read the client config {file}"):
        settings(client_config=file).connection()


def test_a_seal_key_is_taken_from_the_settings_or_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text(KEY + "\n")

    assert open_vault(settings(seal_key=KEY)).key_id == open_vault(settings(seal_key_file=file)).key_id


@pytest.mark.parametrize(
    "given, says",
    [
        ({}, "set PENSTOCK_SEAL_KEY, or --seal-key-file FILE, to 32 random bytes in base64"),
        ({"seal_key": b64encode(b"short").decode()}, "has 5 bytes, expected 32"),
        ({"seal_key": "not base64!"}, "is not base64"),
        ({"seal_key": "  "}, "no seal key was given"),
        ({"seal_key_file": Path("/nowhere/key")}, "could not read the seal key file /nowhere/key"),
    ],
    ids=["missing", "too short", "not base64", "blank", "no file"],
)
def test_a_seal_key_that_cannot_be_used_is_explained_and_not_shown(given: dict[str, Any], says: str) -> None:
    with pytest.raises(SettingsInvalid) as caught:
        open_vault(settings(**given))

    assert says in str(caught.value)
    assert not (key := given.get("seal_key", "").strip()) or key not in str(caught.value)


@pytest.mark.parametrize("port", ["65536", "six", "-1"])
def test_a_port_of_redis_that_is_none_is_found_at_once_and_not_repeated(port: str) -> None:
    told = refused({**LEAST, "PENSTOCK_REDIS": f"redis://:hunter2@r:{port}/0"})

    assert "PENSTOCK_REDIS: " in told
    assert "port is a number up to 65535" in told
    assert "hunter2" not in told
