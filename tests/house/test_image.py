"""The image: installed from the lock, not root, and with every package in it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

PACKAGES = {"dataflows", "operators", "state", "models", "console"}
DOCKERFILE = Path("Dockerfile").read_text()
IGNORED = Path(".dockerignore").read_text().split()
COMPOSE: dict[str, Any] = YAML(typ="safe").load(Path("deploy/compose.yaml"))


def test_every_package_is_copied_and_reaches_the_builder() -> None:
    copied = set(re.findall(r"(?m)^COPY (?!--)(\S+) \1$", DOCKERFILE))

    assert copied >= PACKAGES
    assert all(Path(path).exists() for path in copied)
    assert all(any(path == kept or path.startswith(f"{kept}/") for kept in kept_paths()) for path in copied)


def kept_paths() -> list[str]:
    return [line[1:] for line in IGNORED if line.startswith("!")]


def test_what_is_installed_comes_from_the_locks_with_hashes() -> None:
    installs = re.findall(r"(?:pip install|uv pip sync) [^&\n]*", DOCKERFILE)

    assert len(installs) == 2
    assert all("--require-hashes" in install for install in installs)
    assert "run.txt" in installs[1]


def test_it_runs_as_a_numbered_user_that_is_not_root() -> None:
    users = re.findall(r"(?m)^USER (\S+)$", DOCKERFILE)

    assert users == ["10001:10001"]


def test_compose_brings_up_the_broker_that_the_tests_use_and_stores_no_key() -> None:
    services = COMPOSE["services"]
    version = re.search(
        r"<artifactId>kafka_2\.13</artifactId>\s*<version>([^<]+)<", Path("deploy/kafka/pom.xml").read_text()
    )

    assert version is not None
    assert services["kafka"]["image"] == f"apache/kafka:{version[1]}"
    assert services["penstock"]["environment"]["PENSTOCK_SEAL_KEY"].startswith("${PENSTOCK_SEAL_KEY:?")
    assert Path(services["penstock"]["command"][1]).exists()


def test_compose_makes_the_topics_of_the_pipeline_before_it_runs() -> None:
    topics, penstock = COMPOSE["services"]["topics"], COMPOSE["services"]["penstock"]

    assert (topics["command"][0], topics["command"][1]) == ("topics", penstock["command"][1])
    assert topics["environment"]["PENSTOCK_BOOTSTRAP"] == penstock["environment"]["PENSTOCK_BOOTSTRAP"]
    assert penstock["depends_on"]["topics"] == {"condition": "service_completed_successfully"}
