"""YAML text into plain values, with the line and column of each, so that every mistake can be pointed at."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

Path: TypeAlias = "tuple[str | int, ...]"

MAX_BYTES = 512 * 1024
"""A pipeline file of a thousand features is about 100 KiB."""
MAX_NODES = 50_000
"""Counted after aliases are followed, so that a small file cannot unfold into a large one."""
MAX_DEPTH = 32

_TAG = "tag:yaml.org,2002:"
_SCALARS = frozenset(_TAG + name for name in ("str", "int", "float", "bool", "null", "timestamp"))


@dataclass(frozen=True, slots=True)
class Place:
    """Where a value stands in its file."""

    line: int
    """From 1."""
    column: int
    """From 1."""


_START = Place(1, 1)


@dataclass(frozen=True, slots=True)
class Fault:
    """One reason why a text is not the YAML we accept."""

    place: Place
    path: Path
    what: str
    expected: str


@dataclass(frozen=True, slots=True)
class Document:
    """The values of one YAML document and where each stands."""

    data: Any
    places: Mapping[Path, Place]
    """Path to the place of its key, or of the item itself in a list; `()` is the document."""
    faults: tuple[Fault, ...]

    def place(self, path: Path) -> Place:
        """The place of a path, or of its nearest known ancestor."""
        while path and path not in self.places:
            path = path[:-1]
        return self.places.get(path, Place(1, 1))


@dataclass(slots=True)
class _Reader:
    places: dict[Path, Place] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    nodes: int = 0

    def read(self, node: Node, path: Path) -> Any:
        self.nodes += 1
        if self.nodes > MAX_NODES or len(path) > MAX_DEPTH:
            raise _TooMuch(_place(node), path)
        self.places.setdefault(path, _place(node))
        match node:
            case MappingNode():
                return self._mapping(node, path)
            case SequenceNode():
                return [self.read(item, (*path, i)) for i, item in enumerate(node.value)]
            case _:
                return self._scalar(node, path)

    def _mapping(self, node: MappingNode, path: Path) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, ScalarNode):
                self.faults.append(Fault(_place(key_node), path, "a key is not a plain name", "a name"))
                continue
            key = str(key_node.value)
            here = (*path, key)
            if key in values:
                first = self.places[here].line
                what = f"the key '{key}' appears twice, first in line {first}"
                self.faults.append(Fault(_place(key_node), here, what, "each key once"))
                continue
            self.places[here] = _place(key_node)
            values[key] = self.read(value_node, here)
        return values

    def _scalar(self, node: Node, path: Path) -> Any:
        tag, text = str(node.tag), str(node.value)
        if tag not in _SCALARS:
            self.faults.append(Fault(_place(node), path, f"the tag {tag} is not known here", "a plain value"))
            return None
        try:
            return _plain(tag.removeprefix(_TAG), text)
        except ValueError:
            self.faults.append(Fault(_place(node), path, "the value does not fit its tag", tag.removeprefix(_TAG)))
            return None


class _TooMuch(Exception):
    def __init__(self, place: Place, path: Path) -> None:
        super().__init__(place, path)
        self.place, self.path = place, path


def read_yaml(text: str) -> Document:
    """Read one YAML 1.2 document of maps, lists and plain scalars.

    Dates stay strings. Duplicate keys, tags and keys that are not names are faults and are left out of `data`; the
    rest is still read. Nothing is ever constructed from a tag.
    """
    if len(text) > MAX_BYTES:
        return _broken(_START, f"the file has more than {MAX_BYTES} characters", "a smaller file")
    node = _compose(text)
    if isinstance(node, Document):
        return node
    reader = _Reader()
    try:
        data = reader.read(node, ())
    except _TooMuch as stop:
        what = f"more than {MAX_NODES} values (after aliases) or nested deeper than {MAX_DEPTH} levels"
        return Document({}, reader.places, (*reader.faults, Fault(stop.place, stop.path[:4], what, "a smaller file")))
    return Document(data, reader.places, tuple(reader.faults))


def _compose(text: str) -> Node | Document:
    """The parser's nodes, or the document that says why there are none."""
    try:
        node = YAML(typ="safe", pure=True).compose(text)
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        place = Place(mark.line + 1, mark.column + 1) if mark else _START
        problem = getattr(error, "problem", None) or getattr(error, "reason", None) or "unreadable text"
        return _broken(place, f"not readable as YAML: {problem}", "one YAML document")
    except RecursionError:
        return _broken(_START, f"nested deeper than {MAX_DEPTH} levels", "a flatter file")
    except (ValueError, TypeError, AttributeError, LookupError, AssertionError, NotImplementedError) as error:
        # The parser's own slips on hostile text (found by fuzzing) are still only a file that cannot be read.
        return _broken(_START, f"not readable as YAML ({type(error).__name__})", "one YAML document")
    return node if node is not None else _broken(_START, "the file is empty", "a pipeline")


def ancestors(path: Path) -> Iterator[Path]:
    """The path itself, then each shorter one, down to the document."""
    for end in range(len(path), -1, -1):
        yield path[:end]


def _place(node: Node) -> Place:
    return Place(node.start_mark.line + 1, node.start_mark.column + 1)


def _broken(place: Place, what: str, expected: str) -> Document:
    return Document({}, {(): place}, (Fault(place, (), what, expected),))


def _plain(kind: str, text: str) -> Any:
    match kind:
        case "int":
            digits = text.replace("_", "")
            return int(digits, 0) if "x" in digits or "o" in digits else int(digits)
        case "float":
            return _float(text)
        case "bool":
            if text.lower() not in ("true", "false"):
                raise ValueError(text)
            return text.lower() == "true"
        case "null":
            return None
        case _:
            return text


def _float(text: str) -> float:
    lowered = text.lower().replace("_", "")
    if lowered.lstrip("+-") in (".inf", ".nan"):
        return float(lowered.replace(".", ""))
    return float(lowered)
