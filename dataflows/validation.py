"""From the text of a pipeline file to a `Pipeline`, or to every mistake in it.

What does not fit a section's model is reported and cut out, and the rest is still checked for sense, so that one run
names all mistakes, and none twice.
"""

from __future__ import annotations

import difflib
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from dataflows.consistency import check_sense
from dataflows.locate import Document, Path, read_yaml
from dataflows.pipeline import Mistake, Pipeline
from dataflows.wording import Problem, listing, worded

MAX_ROUNDS = 30
"""How often a section is cut and tried again."""
_ROLES = {"event_id": "string", "entity": "string", "event_time": "datetime"}
_GONE = object()


def validate(text: str, file: str) -> tuple[Pipeline | None, list[Mistake]]:
    """Check a whole file. Returns the pipeline if it can be used, and all mistakes."""
    document = read_yaml(text)
    problems = [Problem(fault.path, fault.what, fault.expected) for fault in document.faults]
    places = [fault.place for fault in document.faults]
    sections: dict[str, Any] = {}
    if isinstance(document.data, dict) and (document.data or not problems):
        reader = _Sections(document)
        sections = reader.read()
        problems += reader.problems
        faults = {fault.path for fault in document.faults if len(fault.path) > 1}
        cut = {problem.path for problem in reader.problems if problem.path} | faults | reader.missing
        for complaint in check_sense(sections, cut):
            nearest = closest(complaint.found, complaint.valid) if complaint.found is not None else None
            problems.append(Problem(reader.original(complaint.path), complaint.what, complaint.expected, nearest))
    elif not problems:
        problems.append(Problem((), "the file is not a map of sections", listing(Pipeline.model_fields)))
    places += [document.place(problem.path) for problem in problems[len(places) :]]
    mistakes = [
        Mistake(file, place.line, place.column, show(problem.path), problem.what, problem.expected, problem.nearest)
        for problem, place in zip(problems, places, strict=True)
    ]
    if mistakes:
        return None, sorted(mistakes, key=lambda mistake: (mistake.line, mistake.column))
    return Pipeline.model_construct(**sections), []


def show(path: Path) -> str:
    """Write a path as in `policy.rules[2].when`."""
    text = ""
    for step in path:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    return text


def closest(name: str, valid: Iterable[str]) -> str | None:
    """The valid name most like this one, if any is."""
    folded = {option.lower(): option for option in valid}
    found = difflib.get_close_matches(name.lower()[:100], folded, n=1, cutoff=0.6)
    return folded[found[0]] if found else None


@dataclass(slots=True)
class _Sections:
    """Reads each section into its model, as far as it can be read."""

    document: Document
    problems: list[Problem] = field(default_factory=list)
    missing: set[Path] = field(default_factory=set)
    """Sections that could not be read at all."""
    gone: dict[Path, list[int]] = field(default_factory=dict)
    """List to the original numbers of its items that were cut."""

    def read(self) -> dict[str, Any]:
        data: dict[str, Any] = self.document.data
        sections: dict[str, Any] = {}
        known = Pipeline.model_fields
        for key in data:
            if key not in known:
                self._report(Problem((key,), f"unknown section '{key}'", listing(known), closest(key, known)))
        for name, info in known.items():
            if name in data:
                adapter: TypeAdapter[Any] = TypeAdapter(
                    typing.cast("type[Any]", typing.Annotated[info.annotation, info])
                )
                section = self._read_section(name, adapter, data[name])
                if section is not None:
                    sections[name] = section
                else:
                    self.missing.add((name,))
            elif info.is_required():
                self.missing.add((name,))
                self._report(Problem((), f"the section '{name}' is missing", f"a section '{name}'"))
            else:
                sections[name] = info.get_default(call_default_factory=True)
        return sections

    def original(self, path: Path) -> Path:
        """The path in the file of a path in what is left."""
        steps: list[str | int] = []
        for step in path:
            steps.append(self._number(tuple(steps), step) if isinstance(step, int) else step)
        return tuple(steps)

    def _number(self, path: Path, left: int) -> int:
        """The original number of an item of a list: counts up past each item that was cut."""
        for number in self.gone.get(path, ()):
            left += number <= left
        return left

    def _report(self, problem: Problem) -> None:
        if problem not in self.problems:
            self.problems.append(problem)

    def _read_section(self, name: str, adapter: TypeAdapter[Any], data: Any) -> Any:
        """Validate, cut what is wrong, and try again until the rest fits or nothing is left."""
        holder = {name: data}
        for _ in range(MAX_ROUNDS):
            if name == "contract":
                self._mend_roles(holder, data)
            try:
                return adapter.validate_python(holder[name])
            except ValidationError as error:
                found = [(_trimmed(detail, name, holder), detail) for detail in error.errors(include_url=False)]
            for path, detail in found:
                here = self.original(path)
                if not (detail["type"] == "missing" and any(problem.path == here for problem in self.problems)):
                    self._report(worded(here, detail, closest))
            for path, detail in found:
                if path[-1] == "function" and (path[:2] == ("recall", "features") or path[2:3] == ("windows",)):
                    _put(holder, path, "count")  # which needs nothing, so that the rest of the feature can be read
                else:
                    _put(holder, (path[:-1] or path) if detail["type"] == "missing" else path, _GONE)
            self._sweep(holder, (), holder)
            if name not in holder:
                break
        return None

    def _mend_roles(self, holder: dict[str, Any], original: Any) -> None:
        """Point `event_id`, `entity` and `event_time` at a field that fits, so that the rest can be read."""
        contract = holder["contract"]
        fields = contract.get("fields") if isinstance(contract, dict) else None
        if not isinstance(fields, dict) or not fields:
            return
        for role, kind in _ROLES.items():
            name = contract.get(role)
            if not isinstance(name, str) or _fits(fields.get(name), kind):
                continue
            if name not in original["fields"]:
                nearest = closest(name, fields)
                self._report(Problem(("contract", role), f"no field is called '{name}'", listing(fields), nearest))
            elif name in fields and isinstance(fields[name], dict) and "type" in fields[name]:
                what = f"'{name}' is not a required {kind} that is never null"
                self._report(Problem(("contract", role), what, f"a field of type {kind}"))
            fit = next((field for field, spec in fields.items() if _fits(spec, kind)), None)
            if fit is None:
                fit = f"{role}_"
                holder["contract"] = contract = contract | {"fields": {**fields, fit: {"type": kind}}}
            holder["contract"] = contract = contract | {role: fit}

    def _sweep(self, here: Any, path: Path, parent: Any) -> None:
        """Take out what `_put` has marked, and note which items of lists went."""
        if isinstance(here, dict):
            for key in [key for key, value in here.items() if value is _GONE]:
                del here[key]
            for key, value in here.items():
                self._sweep(value, (*path, key), here)
        elif isinstance(here, list):
            if any(value is _GONE for value in here):
                numbers = [self.original((*path, i))[-1] for i, value in enumerate(here) if value is _GONE]
                listed = self.gone.setdefault(self.original(path), [])
                listed += [number for number in numbers if isinstance(number, int)]
                listed.sort()
                here[:] = [value for value in here if value is not _GONE]
            for i, value in enumerate(here):
                self._sweep(value, (*path, i), here)


def _fits(spec: Any, kind: str) -> bool:
    return (
        isinstance(spec, dict)
        and spec.get("type") == kind
        and spec.get("required") is not False
        and not spec.get("nullable")
    )


def _trimmed(detail: ErrorDetails, name: str, holder: Mapping[str, Any]) -> Path:
    """The error's path without what is not in the file, such as the branches of a union."""
    path: list[str | int] = []
    here: Any = holder
    steps: Path = (name, *detail["loc"])
    for i, step in enumerate(steps):
        inside = (isinstance(here, dict) and step in here) or (isinstance(here, list) and isinstance(step, int))
        if not inside and not (detail["type"] == "missing" and i == len(steps) - 1):
            break
        path.append(step)
        here = here[step] if inside else None
    return tuple(path)


def _put(holder: dict[str, Any], path: Path, value: Any) -> None:
    """Change what is at a path; the containers on the way are copied, so the document stays as it is."""
    here: Any = holder
    for step in path[:-1]:
        if here[step] is _GONE:
            return
        here[step] = here[step].copy()
        here = here[step]
    here[path[-1]] = value
