"""The shape of the code: small files, words that say something, and imports that go one way."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGES = ("dataflows", "operators", "state", "models", "console")
ENVIRONMENT = {"environ", "getenv", "environb", "getenvb"}
SAY_NOTHING = {"utils", "util", "helpers", "helper", "manager", "managers", "base", "common", "misc", "core"}
HEAVY = {"river", "presidio_analyzer", "spacy", "onnxruntime", "polars", "sklearn", "scipy"}


def files_of(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in Path(folder).rglob("*.py"))


def test_files_are_short() -> None:
    limits = [(path, 400 if path.parts[0] == "tests" else 300) for path in files_of(*PACKAGES, "deploy", "tests")]
    lines = {str(path): len(path.read_text().splitlines()) for path, _ in limits}

    assert {str(path): lines[str(path)] for path, limit in limits if lines[str(path)] > limit} == {}


def test_names_say_something() -> None:
    names = {str(path): set(path.stem.strip("_").split("_")) for path in files_of(*PACKAGES)}

    assert {path for path, words in names.items() if words & SAY_NOTHING} == set()


def test_tests_are_not_packages() -> None:
    assert list(Path("tests").rglob("__init__.py")) == []


def test_every_file_and_package_says_what_it_is_for() -> None:
    silent = [str(path) for path in files_of(*PACKAGES) if ast.get_docstring(ast.parse(path.read_text())) is None]

    assert silent == []


def test_only_the_edges_read_the_environment() -> None:
    readers = set()
    for path in files_of(*PACKAGES):
        for node in ast.walk(ast.parse(path.read_text())):
            named = isinstance(node, ast.Attribute) and node.attr in ENVIRONMENT
            imported = isinstance(node, ast.ImportFrom) and any(name.name in ENVIRONMENT for name in node.names)
            if named or imported:
                readers.add(path)

    assert {str(path) for path in readers if path.parts[0] != "console"} <= {
        "dataflows/settings.py",
        "dataflows/wiring.py",
    }


def test_packages_import_only_what_lies_below_them() -> None:
    told = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"], capture_output=True, text=True, check=False
    )

    assert told.returncode == 0, told.stdout[-3000:] + told.stderr


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"]])
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import sys; from console.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print('LOADED', *sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    told = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=60, check=False
    )
    loaded = re.search(r"(?m)^LOADED (.*)$", told.stdout)

    assert loaded is not None, told.stdout + told.stderr
    assert set(loaded[1].split()) & HEAVY == set()
