"""What pydantic finds wrong with a pipeline file, in words for the person who wrote it."""

from __future__ import annotations

import types
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from dataflows.locate import Path
from dataflows.pipeline import Pipeline


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong, and where."""

    path: Path
    what: str
    expected: str
    nearest: str | None = None


@dataclass(frozen=True, slots=True)
class Complaint:
    """One thing that cannot be meant, in a section that has passed its model."""

    path: Path
    what: str
    expected: str
    found: str | None = None
    """The name that was not valid, for a hint."""
    valid: Iterable[str] = ()


def worded(
    path: Path,
    detail: ErrorDetails,
    closest: Callable[[str, Iterable[str]], str | None],
    root: type[BaseModel] = Pipeline,
) -> Problem:
    """Say what an error of pydantic means.

    Args:
        path: where in the file; for something that is missing, its own path.
        detail: pydantic's account.
        closest: from a name and valid names to the most similar one.
        root: the model of the whole file.
    """
    context, last, found = detail.get("ctx") or {}, path[-1], detail.get("input")
    if detail["type"] == "missing":
        return Problem(path[:-1], f"'{last}' is missing", f"a value for '{last}'")
    match detail["type"]:
        case "extra_forbidden":
            valid = _names_at(path[:-1], root)
            return Problem(path, f"unknown key '{last}'", listing(valid), closest(str(last), valid))
        case "literal_error":
            valid = _options_at(path, root) or tuple(str(context.get("expected", "")).split("'")[1::2])
            return Problem(
                path, f"{_shown(found)} is not a word that fits here", listing(valid), closest(str(found), valid)
            )
        case "string_pattern_mismatch":
            return Problem(path, f"{_shown(found)} is not written as it must be", f"text like {context.get('pattern')}")
        case "value_error":
            said = str(context.get("error", detail["msg"]))
            expected = said.startswith("expected ")
            return Problem(path, f"{_shown(found)} does not fit", said[9:]) if expected else Problem(path, said, "")
    if detail["type"] == "string_type" and isinstance(found, bool | int | float):
        kind = "true or false" if isinstance(found, bool) else "a number"
        what, wanted = f"without quotes this is {kind}, not text", f"'{last}' in quotes"
    else:
        wanted = detail["msg"].removeprefix("Input should be ").removeprefix("Input should ")
        what, wanted = f"{_shown(found)} does not fit", wanted[:1].lower() + wanted[1:]
    return Problem(path, what, wanted)


def listing(names: Iterable[str]) -> str:
    """Write names as in `one of a, b, c`, at most thirty."""
    listed = list(names)
    return "one of " + ", ".join(listed[:30]) + (" …" if len(listed) > 30 else "")


def _names_at(path: Path, root: type[BaseModel]) -> tuple[str, ...]:
    """The keys that the section's model knows at a path of the file."""
    here = _annotation_at(path, root)
    if isinstance(here, type) and issubclass(here, BaseModel):
        return tuple(info.alias or name for name, info in here.model_fields.items())
    return ()


def _shown(found: Any) -> str:
    """A value of the pipeline file, which is no event's."""
    if isinstance(found, str | int | float) and len(str(found)) <= 60:
        return f"'{found}'"
    for kind, words in ((dict, "a map"), (list, "a list"), (str, "a long text"), (types.NoneType, "nothing")):
        if isinstance(found, kind):
            return words
    return "this value"


def _options_at(path: Path, root: type[BaseModel]) -> tuple[str, ...]:
    here = _annotation_at(path, root)
    return tuple(map(str, typing.get_args(here))) if typing.get_origin(here) is Literal else ()


def _annotation_at(path: Path, root: type[BaseModel]) -> Any:
    """The type that the models give to a path of the file, or None."""
    here: Any = root
    for step in path:
        here = inside(here, step)
    return bare(here)


def inside(here: Any, step: str | int) -> Any:
    """The type that a type gives to one of its members, or None."""
    here = bare(here)
    if isinstance(here, type) and issubclass(here, BaseModel):
        return next((info.annotation for name, info in here.model_fields.items() if step in (name, info.alias)), None)
    origin, arguments = typing.get_origin(here), typing.get_args(here)
    if origin in (dict, Mapping):
        return arguments[1]
    return arguments[0] if origin in (tuple, list) else None


def bare(here: Any) -> Any:
    """Without `Annotated` and without `| None`."""
    while True:
        if typing.get_origin(here) is typing.Annotated:
            here = typing.get_args(here)[0]
        elif typing.get_origin(here) in (typing.Union, types.UnionType):
            here = next((branch for branch in typing.get_args(here) if branch is not types.NoneType), None)
        else:
            return here
