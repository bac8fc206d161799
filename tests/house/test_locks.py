"""The locks: every pin has hashes, nothing names a machine or an index, and they hold what pyproject.toml asks for."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

LOCKS = Path("deploy/locks")
PROJECT: dict[str, Any] = tomllib.loads(Path("pyproject.toml").read_text())
GROUPS = {"run": [], "demo": ["demo", "build"], "dev": ["dev"]}
PIN = re.compile(r"^([a-z0-9][a-z0-9-]*)==(\S+?)(?: ;.*?)?(?: \\)?$")


def name_of(requirement: str) -> str:
    """The project's name in a requirement, normalised as the locks write it."""
    return re.sub(r"[-_.]+", "-", re.split(r"[\s\[<>=!~;]", requirement, maxsplit=1)[0]).lower()


def asked_for(group: str) -> set[str]:
    """Names in a dependency group and in the groups that it includes."""
    names: set[str] = set()
    for entry in PROJECT["dependency-groups"][group]:
        names |= asked_for(entry["include-group"]) if isinstance(entry, dict) else {name_of(entry)}
    return names


def pins(lock: str) -> dict[str, set[str]]:
    """Name to versions: one file serves two Python versions, so some have two."""
    found: dict[str, set[str]] = {}
    for line in (LOCKS / f"{lock}.txt").read_text().splitlines():
        if match := PIN.match(line):
            found.setdefault(match[1], set()).add(match[2])
    return found


def test_the_locks_are_those_that_are_known() -> None:
    assert {path.stem for path in LOCKS.glob("*.txt")} == {*GROUPS, "uv"}


@pytest.mark.parametrize("lock", [*GROUPS, "uv"])
def test_every_line_is_a_pin_with_hashes_or_says_why_it_is_there(lock: str) -> None:
    lines = (LOCKS / f"{lock}.txt").read_text().splitlines()
    pinned = [number for number, line in enumerate(lines) if PIN.match(line)]
    others = [
        line for line in lines if not PIN.match(line) and not re.match(r"^ +(--hash=sha256:[0-9a-f]{64}|#)", line)
    ]

    assert pinned
    assert others == []
    assert all("--hash=sha256:" in lines[number + 1] for number in pinned)


@pytest.mark.parametrize("lock", [*GROUPS, "uv"])
def test_no_lock_names_an_index_or_a_machine(lock: str) -> None:
    text = (LOCKS / f"{lock}.txt").read_text()

    assert re.findall(r"(?m)^.*(?://|--(?:extra-)?index-url|--find-links|@ |file:|/home/|/root/|/tmp/).*$", text) == []


@pytest.mark.parametrize("lock", GROUPS)
def test_locks_are_in_step_with_pyproject(lock: str) -> None:
    wanted = {name_of(requirement) for requirement in PROJECT["project"]["dependencies"]}
    for group in GROUPS[lock]:
        wanted |= asked_for(group)

    text = (LOCKS / f"{lock}.txt").read_text()
    direct = set(
        re.findall(r"(?m)^([a-z0-9-]+)==(?:.*\n)(?: +--hash.*\n)+(?: +#.*\n)*? +#.* penstock \(pyproject", text)
    )

    assert wanted - set(pins(lock)) == set(), "not in the lock: run `make lock`"
    assert direct - wanted == set(), "no longer asked for: run `make lock`"


def test_exact_versions_of_pyproject_are_those_of_the_locks() -> None:
    exact = {
        name_of(requirement): requirement.partition("==")[2]
        for requirement in PROJECT["project"]["dependencies"]
        if "==" in requirement
    }

    assert exact
    assert {name: pins("run")[name] for name in exact} == {name: {version} for name, version in exact.items()}


def test_a_smaller_lock_is_part_of_a_larger_one() -> None:
    assert pins("run").items() <= pins("demo").items() <= pins("dev").items()


def test_the_makefile_installs_the_uv_that_is_locked() -> None:
    version = re.search(r"(?m)^UV_VERSION := (\S+)$", Path("Makefile").read_text())

    assert version is not None
    assert pins("uv") == {"uv": {version[1]}}
