"""From a case file to a `Case`, or to every mistake in it, each with its line and the nearest valid name."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from console.case_file import Case, CaseInvalid
from dataflows.locate import Document, read_yaml
from dataflows.locate import Path as Where
from dataflows.pipeline import Mistake
from dataflows.validation import closest, show
from dataflows.wording import Problem, bare, inside, listing, worded
from operators.wire import Decision, Duplicate, Quarantine, Rejection

_KINDS: dict[str, type[BaseModel]] = {
    "decision": Decision, "rejection": Rejection, "quarantine": Quarantine, "duplicate": Duplicate
}  # fmt: skip
"""What a first record can be."""


def read_case(path: Path) -> Case:
    """Read a case file.

    Raises:
        CaseInvalid: with every mistake in it, ordered by line.
    """
    try:
        document = read_yaml(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise CaseInvalid(f"could not be read: {error}") from None
    case: Case | None = None
    problems = [Problem(fault.path, fault.what, fault.expected) for fault in document.faults]
    places = [fault.place for fault in document.faults]
    if isinstance(document.data, dict) and (document.data or not problems):
        problems += _expectations(document.data.get("expect"))
        try:
            case = Case.model_validate(document.data)
        except ValidationError as error:
            problems += _worded(document, error)
        else:
            problems += _counts(case)
    elif not problems:
        problems.append(Problem((), "the file is not a map", listing(Case.model_fields)))
    if case is None or problems:
        places += [document.place(problem.path) for problem in problems[len(places) :]]
        mistakes = [
            Mistake(str(path), at.line, at.column, show(each.path), each.what, each.expected, each.nearest)
            for each, at in zip(problems, places, strict=True)
        ]
        raise CaseInvalid(*map(str, sorted(mistakes, key=lambda mistake: (mistake.line, mistake.column))))
    return case


def _worded(document: Document, error: ValidationError) -> list[Problem]:
    problems: list[Problem] = []
    for detail in error.errors(include_url=False):
        path: Where = detail["loc"]
        while path not in document.places and not (detail["type"] == "missing" and path[:-1] in document.places):
            path = path[:-1]  # a branch of a union is not in the file
        if all(path != problem.path for problem in problems):
            problems.append(worded(path, detail, closest, Case))
    meant = [f"'{each.nearest}' is missing" for each in problems if each.nearest]
    return [each for each in problems if each.what not in meant]


def _counts(case: Case) -> list[Problem]:
    events, expected = len(case.events), len(case.expect)
    what = f"{events} events and {expected} expectations"
    return [] if events == expected else [Problem(("expect",), what, "one for each event")]


def _expectations(expect: Any) -> Iterator[Problem]:
    """Kinds and keys that no first record has: they could never come out."""
    for number, expected in enumerate(expect if isinstance(expect, list) else ()):
        if not isinstance(expected, dict):
            continue
        path: Where = ("expect", number)
        kind = str(expected.get("kind"))
        if "kind" in expected and kind not in _KINDS:
            what = f"'{kind[:60]}' is no kind of record"
            yield Problem((*path, "kind"), what, listing(_KINDS), closest(kind, _KINDS))
        models = [_KINDS[kind]] if kind in _KINDS else list(_KINDS.values())
        valid = list(dict.fromkeys(name for model in models for name in model.model_fields))
        for key, value in expected.items():
            holder = next((model for model in models if key in model.model_fields), None)
            if holder is None:
                whose = f"no {kind} has" if kind in _KINDS else "no record has"
                yield Problem((*path, key), f"unknown key '{key}', which {whose}", listing(valid), closest(key, valid))
            else:
                yield from _within((*path, key), value, inside(holder, key))


def _within(path: Where, value: Any, annotation: Any) -> Iterator[Problem]:
    """Unknown keys in the parts of a record, such as `policy`; maps by the pipeline's own names have none."""
    kind = bare(annotation)
    if isinstance(value, list):
        for number, item in enumerate(value):
            yield from _within((*path, number), item, inside(kind, number))
    elif isinstance(value, dict):
        names = kind.model_fields if isinstance(kind, type) and issubclass(kind, BaseModel) else value
        for key, inner in value.items():
            if key in names:
                yield from _within((*path, key), inner, inside(kind, key))
            else:
                yield Problem((*path, key), f"unknown key '{key}'", listing(names), closest(key, names))
