"""The engine as the demo starts it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from console import scenery
from console.scenery import Engine, Servers


def test_the_seal_key_reaches_the_engine_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[tuple[Any, dict[str, str]]] = []
    monkeypatch.setattr(scenery, "Child", lambda _name, command, _log, *, env: started.append((command, env)))
    monkeypatch.delenv("PENSTOCK_SEAL_KEY", raising=False)
    servers = Servers("mock", "at_least_once", "", "127.0.0.1:1", "redis://127.0.0.1:1/0")
    Engine(tmp_path / "p.yaml", servers, slots=1, key="secret", artefacts=tmp_path, folder=tmp_path).start()

    [(command, env)] = started
    assert env == {"PENSTOCK_SEAL_KEY": "secret"}
    assert not any("secret" in word for word in command)
    assert "PENSTOCK_SEAL_KEY" not in os.environ
