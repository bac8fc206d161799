"""Measure events for the windows of views: what each feature takes from each event, by SQL, once for a whole batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from bytewax.dataflow import Stream, operator

from models.expressions import Expression, ExpressionRefused, Expressions, Kind, parse, try_out
from operators.batch import Batch, Column, Item
from operators.stage import stage
from operators.view_keys import keys_of
from state.open_key import Value
from state.view_windows import ViewWindows


@dataclass(frozen=True, slots=True)
class Measure:
    """What a feature takes from an event."""

    of: str | None
    """SQL over contract fields; None for the event itself."""
    where: str | None = None
    """SQL; where it is not true, nothing is taken."""

    @property
    def name(self) -> str:
        """What the view's panes call it: the same as long as it means the same."""
        return (self.of or "") + (f" WHERE {self.where}" if self.where else "")


@dataclass(frozen=True, slots=True)
class Measured:
    """A batch as the windows of one view take it."""

    keys: list[str | None]
    """(n,); None where the event is not for this view."""
    values: dict[str, Sequence[Value]]
    """Measure to (n,) numbers, NaN for nothing, or texts, None for nothing."""


class Measurer:
    """Measures for several views together."""

    def __init__(self, views: Sequence[tuple[ViewWindows, Sequence[Measure]]], schema: Mapping[str, str]) -> None:
        """Compile and try out, which starts Polars' threads.

        Args:
            views: each with the measures that its features name.
            schema: contract field to its type, without what the guard withholds.

        Raises:
            ExpressionRefused: an expression cannot be used.
        """
        self._views = tuple(views)
        self._schema = schema
        self._names: dict[tuple[str, Kind], str] = {}
        """SQL and what is asked of it to the name of its result."""
        self._compiled: list[Expression] = []
        for view, measures in self._views:
            self._compile(view.where, "boolean")
            for measure in measures:
                self._compile(measure.where, "boolean")
                self._compile(measure.of, _kind(view, measure))
        self._expressions = Expressions(self._compiled)

    def _compile(self, source: str | None, kind: Kind) -> None:
        if source is None or (source, kind) in self._names:
            return
        name = self._names[source, kind] = f"{kind} {len(self._compiled)}"  # no field is called so
        self._compiled.append(compile_measure(name, source, self._schema, kind))

    def work(self, columns: Mapping[str, Column], n: int) -> dict[str, Measured]:
        """Measure n events.

        Args:
            columns: contract fields, as in a batch; with the key of each view.
            n: how many.

        Returns:
            View to what its windows take.
        """
        found = self._expressions.values(columns, n)
        return {view.name: self._measured(view, measures, columns, found, n) for view, measures in self._views}

    def _measured(
        self,
        view: ViewWindows,
        measures: Sequence[Measure],
        columns: Mapping[str, Column],
        found: Mapping[str, Any],
        n: int,
    ) -> Measured:
        values: dict[str, Sequence[Value]] = {}
        taken = np.full(n, view.counts_events)
        for measure in measures:
            column = found[self._names[measure.of, _kind(view, measure)]] if measure.of is not None else np.ones(n)
            has = (
                np.isfinite(column)
                if isinstance(column, np.ndarray)
                else np.array([v is not None for v in column], np.bool_)
            )
            if measure.where is not None:
                has &= found[self._names[measure.where, "boolean"]] == 1
            taken |= has
            values[measure.name] = _where(has, column)
        if view.where is not None:
            taken &= found[self._names[view.where, "boolean"]] == 1
        keys = keys_of(columns[view.key])
        return Measured(keys if taken.all() else _where(taken, keys), values)


@operator
def measure(step_id: str, up: Stream[Item], *, measurer: Measurer) -> Stream[Item]:
    """Measure events for the windows of views.

    In: decoded batches. Out: the same with columns that only `measured_in` reads; no contract field is called so.
    Leaves: nothing. State: none.
    """

    def work(batch: Batch) -> Batch:
        columns = dict(batch.columns)
        for view, measured in measurer.work(batch.columns, len(batch)).items():
            columns[_key_column(view)] = measured.keys
            columns |= {_value_column(view, name): list(values) for name, values in measured.values.items()}
        return replace(batch, columns=columns)

    return stage("measure", up, work)


def measured_in(batch: Batch, view: ViewWindows) -> Measured:
    """What the windows of a view take of a batch, or a piece of one, that was measured."""
    values = {name: batch.columns[_value_column(view.name, name)] for name in view.measures}
    return Measured(
        list(batch.columns[_key_column(view.name)]), {name: list(column) for name, column in values.items()}
    )


def _key_column(view: str) -> str:
    return f"{view} key"


def _value_column(view: str, name: str) -> str:
    return f"{view} value {name}"


def compile_measure(name: str, source: str, schema: Mapping[str, str], kind: Kind) -> Expression:
    """Compile an expression; where a text is asked for, a number will do.

    Raises:
        ExpressionRefused: it cannot be used.
    """
    compiled = parse(name, source, schema, kind)
    try:
        try_out(compiled)
    except ExpressionRefused:
        if kind != "string":
            raise
        compiled = parse(name, source, schema, "number")
        try_out(compiled)
    return compiled


def _kind(view: ViewWindows, measure: Measure) -> Kind:
    return "string" if view.may_be_text(measure.name) else "number"


def _where(has: npt.NDArray[np.bool_], column: Column) -> list[Any]:
    """The column (n,), without a value where `has` (n,) is false."""
    if isinstance(column, np.ndarray):
        numbers: list[float] = (column if has.all() else np.where(has, column, np.nan)).tolist()
        return numbers
    return [value if kept else None for value, kept in zip(column, has.tolist(), strict=True)]
