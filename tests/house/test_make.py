"""The commands: `make help` lists them all, and set-up says plainly what is missing."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

MAKEFILE = Path("Makefile").read_text()


def run(*order: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        order, env={**os.environ, **environment}, capture_output=True, text=True, timeout=60, check=False
    )


def add_python(folder: Path, name: str, *, fits: bool, has_venv: bool) -> None:
    """A program that answers the three questions that are put to a Python."""
    program = folder / name
    venv = f"*ensurepip*) exit {0 if has_venv else 1};;"
    version = "*'[:2])'*) echo 3.11;;"
    fitting = f"*exit*) exit {0 if fits else 1};;"
    path = f"*executable*) echo /found/{name};;"
    program.write_text(f'#!/bin/sh\ncase "$2" in {venv} {fitting} {path} {version} esac\n')
    program.chmod(0o755)


def test_help_lists_every_target_with_what_it_does() -> None:
    targets = set(re.findall(r"(?m)^([a-z]+):", MAKEFILE))
    listed = re.findall(r"(?m)^  make (\w+) +(\S.*)$", run("make", "help").stdout)

    assert {name for name, _ in listed} == targets
    assert all(meaning for _, meaning in listed)
    assert targets == set(re.search(r"(?m)^\.PHONY: (.*)$", MAKEFILE)[1].split())  # type: ignore[index]


def test_a_python_that_fits_and_can_make_an_environment_is_taken(tmp_path: Path) -> None:
    add_python(tmp_path, "python3", fits=False, has_venv=True)
    add_python(tmp_path, "python3.12", fits=True, has_venv=False)
    add_python(tmp_path, "python3.11", fits=True, has_venv=True)

    told = run("/bin/sh", "deploy/python.sh", PATH=str(tmp_path), PYTHON="")

    assert (told.returncode, told.stdout) == (0, "/found/python3.11\n")


@pytest.mark.parametrize(
    ("pythons", "message"),
    [
        ({"python3": {"fits": True, "has_venv": False}}, r"apt install python3\.11-venv"),
        ({"python3": {"fits": False, "has_venv": True}}, r"no Python 3\.11 or 3\.12 found .*apt install python3 "),
        ({}, r"no Python 3\.11 or 3\.12 found .*make PYTHON="),
    ],
)
def test_what_is_missing_is_named(tmp_path: Path, pythons: dict[str, dict[str, bool]], message: str) -> None:
    for name, abilities in pythons.items():
        add_python(tmp_path, name, **abilities)

    told = run("/bin/sh", "deploy/python.sh", PATH=str(tmp_path), PYTHON="")

    assert told.returncode == 1
    assert re.search(message, told.stderr)
