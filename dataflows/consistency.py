"""Does a pipeline file make sense: names that exist, types that fit, one name space. No line numbers here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, get_args

from dataflows.guarding import guard_complaints
from dataflows.locate import Path, ancestors
from dataflows.pipeline import WITHHELD, Pipeline, Role
from dataflows.view_sense import Around, view_complaints
from dataflows.window_sense import window_complaints, window_sql
from dataflows.wording import Complaint, listing
from models.expressions import Expression, ExpressionRefused, Kind
from models.sql_tree import usable_name
from operators.measure import compile_measure

LONGEST_WINDOW = timedelta(days=1)


@dataclass(slots=True)
class Sense:
    """Checks sections that have passed their models. One that could not be read is absent and not complained about."""

    sections: Mapping[str, Any]
    cut: frozenset[Path]
    """Paths that are reported already: what depends on them is left alone."""
    complaints: list[Complaint] = field(default_factory=list)
    columns: dict[str, str] = field(default_factory=dict)
    """Columns so far and their contract types, without what the guard withholds."""
    fields: dict[str, str] = field(default_factory=dict)
    """Those of them that are contract fields."""
    taken: dict[str, Path] = field(default_factory=dict)
    """Every name and where it comes from."""

    def check(self) -> list[Complaint]:
        """Every complaint, stage by stage: each may use the columns of those before it."""
        self._contract()
        self._guard()
        self._recall()
        self._views()
        self._features()
        self._models()
        self._policy()
        self._topics()
        return self.complaints

    def _complain(
        self, path: Path, what: str, expected: str, found: str | None = None, valid: Iterable[str] = ()
    ) -> None:
        self.complaints.append(Complaint(path, what, expected, found, tuple(valid)))

    def _action(self, name: str) -> str:
        guard = self.sections.get("guard")
        return guard.action(name) if guard else "allow"

    def _take(self, name: str, kind: str, path: Path) -> None:
        """Put a name into the one name space."""
        if name in self.taken:
            self._complain(
                path, f"the name '{name}' is taken by {'.'.join(map(str, self.taken[name]))}", "a name of its own"
            )
            return
        if not usable_name(name):
            self._complain(
                path, f"'{name}' is a word of SQL and cannot be a column", f"another name, such as {name}_value"
            )
        self.taken[name] = path
        self.columns[name] = kind

    def _exists(self, name: str) -> bool:
        """Whether the file has the name at all, be it withheld by the guard or computed later."""
        return name in self.taken or any(name in (self.sections.get(part) or ()) for part in ("features", "models"))

    def _hidden(self, name: str) -> bool:
        """Whether the name may belong to something that could not be read."""
        if ("contract",) in self.cut or "contract" not in self.sections:
            return True
        for path in self.cut:
            match path:
                case ("contract", "fields", str(last), *_) | ("features", str(last)) | ("models", str(last)):
                    hides = last == name
                case ("recall", "features", str(last), *_) | ("views", _, "features" | "windows", str(last), *_):
                    hides = last == name or name.endswith("_" + last)
                case ("views", str(view)):
                    hides = name.startswith(view + "_")
                case ("recall" | "views" | "features" | "models",) | ("recall", "features"):
                    hides = True
                case _:
                    hides = False
            if hides:
                return True
        return False

    def _unread(self) -> list[str]:
        """Names that are in the file but could not be read; one of them may be the nearest."""
        names: list[str] = []
        for path in self.cut:
            match path:
                case ("contract", "fields", str(name), *_) | ("features" | "models", str(name), *_):
                    names.append(name)
                case ("recall", "features", str(name), *_):
                    names.append(name)
        return names

    def _reported(self, path: Path) -> bool:
        return any(part in self.cut for part in ancestors(path)) or any(cut[: len(path)] == path for cut in self.cut)

    def _contract(self) -> None:
        contract = self.sections.get("contract")
        if contract is None:
            return
        for name, spec in contract.fields.items():
            self._take(name, spec.type, ("contract", "fields", name))
        for name in contract.fields:
            if self._action(name) in WITHHELD:
                del self.columns[name]
        self.fields = dict(self.columns)

    def _guard(self) -> None:
        guard, contract = self.sections.get("guard"), self.sections.get("contract")
        if guard is not None and contract is not None:
            self.complaints += guard_complaints(guard, contract, self._hidden)

    def _recall(self) -> None:
        recall = self.sections.get("recall")
        if recall is None:
            return
        for name, spec in recall.features.items():
            path: Path = ("recall", "features", name)
            if spec.window > LONGEST_WINDOW or spec.window % recall.pane:
                where = (*path, "window")
                self._complain(where, f"the window of '{name}' does not fit", "a multiple of the pane, at most 1d")
            if spec.of is not None:
                self._numeric((*path, "of"), spec.of, self.fields, ("number", "integer"))
            elif spec.function in ("sum", "mean", "last") and not self._reported(path):
                self._complain(path, f"{spec.function} needs 'of'", "of: a numeric field of the contract")
            self._take(name, "number", path)

    def _numeric(self, path: Path, name: str, columns: Mapping[str, str], kinds: tuple[str, ...]) -> None:
        """Complain unless the name is one of the columns and a number."""
        if name not in columns:
            if self._action(name) in WITHHELD and name in self.taken:
                what = f"the guard {WITHHELD[self._action(name)]} '{name}', so nothing can be computed with it"
                self._complain(path, what, "allow, tokenise or scan")
            elif self._exists(name):
                self._complain(path, f"'{name}' is computed later than this", "a column that exists before")
            elif not self._hidden(name):
                valid = [*(column for column, kind in columns.items() if kind in kinds), *self._unread()]
                self._complain(path, f"no column is called '{name}'", "a numeric column", name, valid)
        elif columns[name] not in kinds:
            self._complain(path, f"'{name}' is a {columns[name]}", "a numeric column")

    def _views(self) -> None:
        get = self.sections.get
        around = Around(
            get("contract"), get("guard"), get("policy"), get("models"), get("enrich"), get("delivery"),
            hidden=self._hidden, reported=self._reported,
        )  # fmt: skip
        for view, spec in (get("views") or {}).items():
            self.complaints += view_complaints(view, spec, around)
            self.complaints += window_complaints(view, spec, self._reported)
            for where, source, kind in window_sql(view, spec):
                self._expression(where, source, kind, self.fields)
            for feature, given in spec.kinds.items():
                part = "windows" if feature in spec.windows else "features"
                self._take(f"{view}_{feature}", given, ("views", view, part, feature))

    def _features(self) -> None:
        for name, source in (self.sections.get("features") or {}).items():
            self._expression(("features", name), source, "number")
            self._take(name, "number", ("features", name))

    def _models(self) -> None:
        for name, spec in (self.sections.get("models") or {}).items():
            path: Path = ("models", name)
            for i, column in enumerate(spec.inputs):
                self._numeric(
                    (*path, "inputs", i), column, self.columns, ("number", "integer", "boolean", "date", "datetime")
                )
                if column in spec.inputs[:i]:
                    self._complain((*path, "inputs", i), f"'{column}' appears twice", "each input once")
            if spec.fallback is not None:
                self._expression((*path, "fallback"), spec.fallback, "number")
            self._take(name, "number", path)

    def _policy(self) -> None:
        policy = self.sections.get("policy")
        if policy is None:
            return
        self._outcome(("policy", "default"), policy.default)
        self._outcome(("policy", "on_unknown"), policy.on_unknown)
        for i, outcome in enumerate(policy.outcomes):
            if outcome in policy.outcomes[:i]:
                self._complain(("policy", "outcomes", i), f"'{outcome}' appears twice", "each outcome once")
        names: set[str] = set()
        for i, rule in enumerate(policy.rules):
            if rule.name in names:
                self._complain(
                    ("policy", "rules", i, "name"), f"two rules are called '{rule.name}'", "a name of its own"
                )
            names.add(rule.name)
            self._outcome(("policy", "rules", i, "outcome"), rule.outcome)
            self._expression(("policy", "rules", i, "when"), rule.when, "boolean")

    def _outcome(self, path: Path, outcome: str) -> None:
        outcomes = self.sections["policy"].outcomes
        if outcome not in outcomes and not self._reported(("policy", "outcomes")):
            self._complain(path, f"'{outcome}' is not among the outcomes", listing(outcomes), outcome, outcomes)

    def _expression(self, path: Path, source: str, kind: Kind, columns: Mapping[str, str] | None = None) -> None:
        """Complain about SQL that cannot be used; `columns` are those so far, if they are not said."""
        columns = self.columns if columns is None else columns
        try:
            expression = compile_measure("out", source, columns, kind)
        except ExpressionRefused as error:
            name = error.found
            if name is None or not (self._exists(name) or self._hidden(name)):
                self._complain(path, error.what, error.expected, name, (*error.valid, *self._unread()))
            elif self._exists(name):
                self._numeric(path, name, columns, ())
            return
        self._enums(path, expression)

    def _enums(self, path: Path, expression: Expression) -> None:
        """A text that the contract never lets in is a condition that never holds."""
        contract = self.sections.get("contract")
        for column, text in expression.texts:
            spec = contract.fields.get(column) if contract else None
            if spec is not None and spec.enum and text not in spec.enum:
                self._complain(path, f"'{column}' is never '{text}'", listing(spec.enum), text, spec.enum)

    def _topics(self) -> None:
        """No two roles may share a topic, be it by a name given or by default."""
        given, pipeline = self.sections.get("topics") or {}, self.sections.get("pipeline")
        whole = Pipeline.model_construct(pipeline=pipeline or "?", topics=given)
        taken: dict[str, str] = {}
        for role in sorted(get_args(Role), key=given.__contains__):  # a default name first: the given one is at fault
            name = whole.topic(role)
            if name in taken:
                self._complain(("topics", role), f"{taken[name]} and {role} share a topic", "a topic of its own")
            taken.setdefault(name, role)


def check_sense(sections: Mapping[str, Any], cut: Iterable[Path]) -> list[Complaint]:
    """Every complaint about sections that have passed their models; `cut` are the paths reported already."""
    return Sense(sections, frozenset(cut)).check()
