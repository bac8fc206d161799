"""Does a view make sense: its key, its source, what stands in for it, and who may read it. No line numbers here."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta

from dataflows.guarding import key_complaint
from dataflows.locate import Path
from dataflows.pipeline import DeliverySpec, EnrichSpec, GuardSpec, ModelSpec, PolicySpec
from dataflows.view_spec import ViewSpec
from dataflows.wording import Complaint, listing
from operators.contract import ContractSpec

INTERVALS = 4
"""Of the tide, by which it may be old though all is well: two until it is told, and as much until it is in Redis."""


@dataclass(frozen=True, slots=True)
class Around:
    """What views are checked against. A section that could not be read is None, and nothing is complained about it."""

    contract: ContractSpec | None
    guard: GuardSpec | None
    policy: PolicySpec | None
    models: Mapping[str, ModelSpec] | None
    enrich: EnrichSpec | None
    delivery: DeliverySpec | None
    hidden: Callable[[str], bool]
    """Whether a name may belong to something that could not be read."""
    reported: Callable[[Path], bool]
    """Whether there is a complaint about the path already."""


def view_complaints(name: str, view: ViewSpec, around: Around) -> Iterator[Complaint]:
    """What cannot be meant in one view."""
    path: Path = ("views", name)
    yield from _key(path, view, around)
    if view.source is not None and view.max_age is None and not around.reported((*path, "max_age")):
        what = "a view of Feast needs max_age: its ttl is not in Redis, where an expired value looks like any other"
        yield Complaint(path, what, "max_age: the ttl of the feature view, such as 2h")
    if view.source is not None and view.windows:
        yield Complaint((*path, "source"), "the view has a source, and windows that are computed", "two views")
    yield from _age(path, view, around)
    yield from _rules(path, view, around)
    yield from _grants(path, view, around)


def _key(path: Path, view: ViewSpec, around: Around) -> Iterator[Complaint]:
    contract = around.contract
    if contract is None:
        return
    if view.key in contract.fields:
        action = around.guard.action(view.key) if around.guard else "allow"
        yield from key_complaint(
            (*path, "key"), view.key, contract.fields[view.key].type, action, loaded=not view.windows
        )
    elif not around.hidden(view.key):
        what = f"the contract has no field '{view.key}'"
        yield Complaint((*path, "key"), what, "a field of the contract", view.key, tuple(contract.fields))


def _age(path: Path, view: ViewSpec, around: Around) -> Iterator[Complaint]:
    """A windowed view must not be stale where its jobs keep up: a quiet key is as old as the tide that was cached."""
    if view.max_age is None or not view.windows or around.enrich is None or around.delivery is None:
        return
    if any(map(around.reported, ((*path, "max_age"), ("enrich",), ("delivery",)))):
        return
    cache = around.enrich.cache
    least = (cache.max_age if cache.entries else timedelta()) + INTERVALS * around.delivery.tide_interval
    if view.max_age < least:
        what = "a key without new events would be called stale although the jobs keep up"
        expected = f"at least {least.total_seconds():g}s: enrich.cache.max_age and {INTERVALS} delivery.tide_interval"
        yield Complaint((*path, "max_age"), what, expected)


def _rules(path: Path, view: ViewSpec, around: Around) -> Iterator[Complaint]:
    """Defaults and outcomes."""
    for rule, others in (("on_missing", ("default",)), ("on_stale", ("default", "last_known"))):
        chosen = getattr(view, rule)
        valid = (*others, *(around.policy.outcomes if around.policy else ()))
        if around.policy is not None and chosen not in valid:
            yield Complaint((*path, rule), f"'{chosen}' is no outcome of the policy", listing(valid), chosen, valid)
    yield from _of_view((*path, "defaults"), view.defaults, view, around)
    for feature, value in view.defaults.items():
        kind = view.kinds.get(feature)
        if kind is not None and value is not None and isinstance(value, str) != (kind == "string"):
            what = f"the default of '{feature}' has another type"
            yield Complaint((*path, "defaults", feature), what, f"a {kind}")
        elif kind == "number" and value is not None and not _finite(value):
            yield Complaint((*path, "defaults", feature), f"the default of '{feature}' is not finite", "a number")
    if "default" in (view.on_missing, view.on_stale) and not around.reported((*path, "defaults")):
        missing = [feature for feature in view.kinds if feature not in view.defaults]
        if missing:
            what = f"no default for {', '.join(missing)}, which on_missing or on_stale asks for"
            yield Complaint((*path, "defaults"), what, "a value (or null) for each feature")


def _finite(value: float | int | str) -> bool:
    try:
        return math.isfinite(float(value))
    except OverflowError:
        return False


def _grants(path: Path, view: ViewSpec, around: Around) -> Iterator[Complaint]:
    """Names of features and models. A misspelt model would be one that may not read."""
    yield from _of_view((*path, "grants"), view.grants, view, around)
    if around.models is None or around.reported(("models",)):
        return
    for feature, models in view.grants.items():
        for i, model in enumerate(models):
            if model not in around.models:
                what = f"the pipeline has no model '{model}'"
                valid = tuple(around.models)
                yield Complaint((*path, "grants", feature, i), what, listing(valid) if valid else "", model, valid)


def _of_view(path: Path, named: Iterable[str], view: ViewSpec, around: Around) -> Iterator[Complaint]:
    """Complain about what is no feature of the view."""
    for feature in named:
        declared = ((*path[:-1], part, feature) for part in ("features", "windows"))
        if feature not in view.kinds and not any(map(around.reported, declared)):
            what = f"the view has no feature '{feature}'"
            yield Complaint((*path, feature), what, "a feature of the view", feature, tuple(view.kinds))
