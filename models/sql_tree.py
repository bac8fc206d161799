"""The parsed tree of a SQL expression, as Polars writes it in JSON: what it uses, what is refused, what is changed.

The form belongs to Polars' version. A node that is not known here is refused, so that with a new version too much
may be refused, and never too little.
"""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Iterator
from typing import Any

import polars as pl
from polars.exceptions import PanicException, PolarsError

MAX_DEPTH = 60

_PLAIN = frozenset({"Column", "Literal", "BinaryExpr", "Ternary", "Cast", "Function"})
"""Kinds of node that look at one row at a time."""
_FUNCTIONS = frozenset(
    {"Abs", "Atan2", "Ceil", "Floor", "Exp", "Log", "Log1p", "Sign", "Coalesce", "MaxHorizontal", "MinHorizontal"}
    | {"FillNull", "Truncate"}
)
_GROUPS = {
    "Sql": {"Binary", "Round", "ToFloat", "IsIn"},
    "Pow": {"Generic", "Sqrt", "Cbrt"},
    "Trigonometry": {"ArcCos", "ArcSin", "ArcTan", "Cos", "Sin", "Tan", "Cot", "Degrees", "Radians"},
    "Truncate": {"decimals"},
    "Boolean": {"Not", "IsNull", "IsNotNull", "IsIn"},
    "TemporalExpr": {"Year", "Quarter", "Month", "Week", "Day", "WeekDay", "OrdinalDay", "Hour", "Minute", "Second"},
    "ListExpr": {"Get"},
    # No padding and no repeating: their length is a number, which could be a large one.
    "StringExpr": {
        "LenBytes",
        "LenChars",
        "ConcatHorizontal",
        "Strptime",
        "StartsWith",
        "EndsWith",
        "Contains",
        "Titlecase",
        "Slice",
        "Lowercase",
        "Uppercase",
        "StripChars",
        "StripCharsStart",
        "StripCharsEnd",
        "Normalize",
        "Replace",
        "Reverse",
        "Split",
        "Find",
    },
}
_PER_SECOND = {"Milliseconds": 1e3, "Microseconds": 1e6, "Nanoseconds": 1e9}
_NAMES = {
    "Agg": "an aggregate",
    "Len": "an aggregate",
    "Over": "a window",
    "Rolling": "a window",
    "SubPlan": "a subquery",
    "Explode": "more than one row for an event",
    "Alias": "a new name",
    "Selector": "several columns",
    "Filter": "an aggregate",
}


class Refused(Exception):
    """The tree holds something that a decision must not do."""


def tree_of(expression: pl.Expr) -> Any:
    """The tree as JSON values. Raises `Refused` where it is not made of plain functions of one row."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "may break between versions": it stays inside this process
        tree = json.loads(expression.meta.serialize(format="json"))
    _check(tree, 0)
    return tree


def columns_of(tree: Any) -> tuple[str, ...]:
    """The columns used, each once, sorted."""
    return tuple(sorted({node["Column"] for node in _nodes(tree) if "Column" in node}))


def comparisons_of(tree: Any) -> Iterator[tuple[str, str]]:
    """Column and text of every `column = 'text'`."""
    for node in _nodes(tree):
        match node:
            case {"BinaryExpr": {"op": "Eq" | "NotEq", "left": left, "right": right}}:
                for one, other in ((left, right), (right, left)):
                    match one, other:
                        case {"Column": str(column)}, {"Literal": {"Scalar": {"String": str(text)}}}:
                            yield column, text


def usable_name(name: str) -> bool:
    """Can this name stand in SQL without quotes, in all the places where a column can?"""
    for source in (
        name,
        f"{name} > 1",
        f"1 < {name}",
        f"{name} IS NULL",
        f"coalesce({name}, 1)",
        f"- {name} + {name}",
        f"CASE WHEN {name} = 1 THEN {name} ELSE {name} END",
        f"{name} IN (1, 2) AND {name} BETWEEN {name} AND {name}",
    ):
        try:
            if columns_of(tree_of(pl.sql_expr(source))) != (name,):
                return False
        except (PolarsError, PanicException, Refused):
            return False
    return True


def rebuild(tree: Any) -> pl.Expr:
    """The expression again, with floats for decimals, and NULL wherever NaN or infinity would arise."""
    text = json.dumps(_changed(tree))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pl.Expr.deserialize(io.BytesIO(text.encode()), format="json")


def _kind(node: Any) -> str:
    return node if isinstance(node, str) else next(iter(node), "")


def _inputs(node: Any) -> list[Any]:
    body = node[_kind(node)]
    match _kind(node):
        case "BinaryExpr":
            return [body["left"], body["right"]]
        case "Ternary":
            return [body["predicate"], body["truthy"], body["falsy"]]
        case "Cast":
            return [body["expr"]]
        case "Function":
            return list(body["input"])
    return []


def _nodes(node: Any) -> Iterator[Any]:
    yield node
    for inner in _inputs(node):
        yield from _nodes(inner)


def _check(node: Any, depth: int) -> None:
    kind = _kind(node)
    if kind not in _PLAIN or isinstance(node, str):
        raise Refused(f"it uses {_NAMES.get(kind, kind)}, which would mix the events of a batch or make more of them")
    if depth > MAX_DEPTH:
        raise Refused(f"it is nested deeper than {MAX_DEPTH} levels")
    if kind == "Function":
        group, name = _function(node)
        if group not in _FUNCTIONS and name not in _GROUPS.get(group, ()):
            raise Refused(f"the function {name or group} is not one that looks at a single event")
    for inner in _inputs(node):
        _check(inner, depth + 1)


def _function(node: Any) -> tuple[str, str]:
    """Group and name of a function node, such as `StringExpr`, `Slice`."""
    function = node["Function"]["function"]
    if isinstance(function, str):
        return function, ""
    group = next(iter(function))
    inner = function[group]
    return group, inner if isinstance(inner, str) else next(iter(inner), "") if isinstance(inner, dict) else str(inner)


def _changed(node: Any) -> Any:
    kind = _kind(node)
    body = node[kind]
    match kind:
        case "Literal":
            return _number_literal(node)
        case "BinaryExpr":
            return {kind: body | {"left": _changed(body["left"]), "right": _changed(body["right"])}}
        case "Ternary":
            return {kind: {part: _changed(inner) for part, inner in body.items()}}
        case "Cast":
            cast: Any = {kind: body | {"expr": _changed(body["expr"])}}
            return _finite(cast) if "Float" in json.dumps(body["dtype"]) else cast
        case "Function":
            changed: Any = {kind: body | {"input": [_changed(inner) for inner in body["input"]]}}
            return _finite(changed) if _may_be_infinite(node) else changed
    return node


def _may_be_infinite(node: Any) -> bool:
    group, name = _function(node)
    if group == "Sql" and name == "Binary":
        return node["Function"]["function"]["Sql"]["Binary"] in ("Div", "Rem")
    return group in ("Log", "Log1p", "Exp", "Pow", "Trigonometry")


def _finite(node: Any) -> Any:
    """`CASE WHEN x is finite THEN x END`."""
    test = {"Function": {"input": [node], "function": {"Boolean": "IsFinite"}}}
    return {"Ternary": {"predicate": test, "truthy": node, "falsy": {"Literal": {"Scalar": {"Null": "Null"}}}}}


def _number_literal(node: Any) -> Any:
    """Decimals as floats; dates as days and timestamps as seconds since 1970, as the columns are."""
    scalar = node["Literal"].get("Scalar") if isinstance(node["Literal"], dict) else None
    match scalar:
        case {"Decimal": [digits, _, scale]}:
            return {"Literal": {"Dyn": {"Float": float(f"{digits}e-{scale}")}}}
        case {"Date": days}:
            return {"Literal": {"Dyn": {"Float": float(days)}}}
        case {"Datetime": [ticks, unit, _]}:
            return {"Literal": {"Dyn": {"Float": ticks / _PER_SECOND[unit]}}}
    return node
