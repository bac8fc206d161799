"""From the pipeline file to the stages as plain objects. Opens nothing: what needs opening is handed in."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from dataflows.pipeline import Pipeline
from dataflows.places import places_of
from dataflows.views import view_of
from models.expressions import Expressions
from models.policy import Policy, Rule
from operators.decide import Decider
from operators.decode import Decoder
from operators.dedupe import Dedupe
from operators.emit import Encoder
from operators.enrich import Enricher, ViewRule
from operators.guard import Guard, Scans
from operators.recall import Recall
from operators.score import Releases, Scorer
from operators.stage import Work
from state.features import FeatureStore
from state.vault import Vault
from state.window_spec import Feature, WindowSpec


@dataclass(frozen=True, slots=True)
class Stages:
    """The stages of one pipeline in one process, in the order in which an event meets them."""

    decoder: Decoder
    guard: Guard
    dedupe: Callable[[int], Dedupe]
    """Lane to the lane's memory."""
    recall: Callable[[int], Recall]
    """Lane to the lane's memory."""
    enricher: Enricher
    scorer: Scorer
    decider: Decider
    encoder: Encoder

    def in_order(self, lane: int) -> tuple[tuple[str, Work], ...]:
        """Verb and work of each stage, as `dataflows.decisions` wires them, with new memories for a lane."""
        dedupe, recall = self.dedupe(lane), self.recall(lane)
        dedupe.open({})
        recall.open({})
        return (
            ("decode", self.decoder.work),
            ("guard", self.guard.work),
            ("dedupe", dedupe.work),
            ("recall", recall.work),
            ("enrich", self.enricher.work),
            ("score", self.scorer.work),
            ("decide", self.decider.work),
            ("emit", self.encoder.work),
        )


def build_stages(
    pipeline: Pipeline,
    *,
    vault: Vault,
    scanner: Scans | None,
    store: FeatureStore,
    catalog: Releases,
    now: Callable[[], float] = time.time,
) -> Stages:
    """Build every stage.

    Expressions are tried out here, which starts Polars' threads: call it in the process that decides, after the fork.

    Args:
        pipeline: the pipeline file.
        vault: seals what is held back.
        scanner: finds personal data; None where the pipeline scans nothing.
        store: the feature views.
        catalog: the releases in force, and their models.
        now: Unix seconds.

    Raises:
        ExpressionRefused: an expression cannot be used.
        ValueError: a stage cannot be had as the file asks.
    """
    decider = Decider(policy_of(pipeline), pipeline.columns)
    return Stages(
        decoder=Decoder(pipeline.contract, pipeline=pipeline.pipeline, vault=vault),
        guard=guard_of(pipeline, scanner, vault),
        dedupe=dedupe_of(pipeline, now),
        recall=partial(Recall, spec=windows_of(pipeline)),
        enricher=Enricher(store, views_of(pipeline), outcomes=pipeline.policy.outcomes, now=now),
        scorer=_scorer(pipeline, catalog),
        decider=decider,
        encoder=Encoder(
            pipeline=pipeline.pipeline,
            policy_version=decider.policy.version,
            policy_digest=decider.digest,
            features=logged_features(pipeline),
            now=now,
        ),
    )


def dedupe_of(pipeline: Pipeline, now: Callable[[], float] = time.time) -> Callable[[int], Dedupe]:
    """Lane to the lane's memory of event ids."""
    spec = pipeline.dedupe
    return partial(Dedupe, pipeline=pipeline.pipeline, window=spec.window, max_ids=spec.max_ids, now=now)


def guard_of(pipeline: Pipeline, scanner: Scans | None, vault: Vault) -> Guard:
    """The pipeline's privacy rules; `scanner` is None where nothing is scanned."""
    spec = pipeline.guard
    return Guard(
        pipeline=pipeline.pipeline,
        fields=spec.fields,
        default=spec.default,
        event_id=pipeline.contract.event_id,
        entity=pipeline.contract.entity,
        on_finding=spec.on_finding,
        key_action=spec.key,
        header_action=spec.headers,
        scanner=scanner,
        vault=vault,
    )


def policy_of(pipeline: Pipeline) -> Policy:
    """The pipeline's policy."""
    spec = pipeline.policy
    rules = tuple(Rule(rule.name, rule.when, rule.outcome, rule.reason) for rule in spec.rules)
    return Policy(spec.version, spec.outcomes, spec.default, spec.on_unknown, rules)


def windows_of(pipeline: Pipeline) -> WindowSpec:
    """What each lane's windows are asked for."""
    spec = pipeline.recall
    return WindowSpec(
        tuple(
            Feature(name, feature.function, _ms(feature.window.total_seconds()), feature.of)
            for name, feature in spec.features.items()
        ),
        pane_ms=_ms(spec.pane.total_seconds()),
        lateness_ms=_ms(spec.allowed_lateness.total_seconds()),
        include_late=spec.on_late == "include",
    )


def views_of(pipeline: Pipeline) -> list[ViewRule]:
    """The feature views and what holds where a value is missing or stale."""
    return [
        ViewRule(
            view=view_of(pipeline, name),
            key=spec.key,
            max_age=spec.max_age.total_seconds() if spec.max_age else math.inf,
            on_missing=spec.on_missing,
            on_stale=spec.on_stale,
            defaults=spec.defaults,
        )
        for name, spec in pipeline.views.items()
    ]


def logged_features(pipeline: Pipeline) -> Sequence[str]:
    """The columns that go into the decision: what models, fallbacks and rules used and what is no field of the event.

    A derived feature brings what it was derived from, so that a decision can be made again from its record.
    """
    rules = policy_of(pipeline).compile(pipeline.columns, attempt=False)
    fallbacks = {name: spec.fallback for name, spec in pipeline.models.items() if spec.fallback is not None}
    used = {column for spec in pipeline.models.values() for column in spec.inputs} | set(rules.columns)
    used |= set(Expressions.compile(fallbacks, pipeline.columns, "number", attempt=False).columns)
    for expression in reversed(
        Expressions.compile(pipeline.features, pipeline.columns, "number", attempt=False).expressions
    ):
        if expression.name in used:
            used |= set(expression.uses)
    hidden = pipeline.contract.fields.keys() | pipeline.models.keys()
    return [column for column in pipeline.columns if column in used and column not in hidden]


def _scorer(pipeline: Pipeline, catalog: Releases) -> Scorer:
    columns = pipeline.columns
    return Scorer(
        places_of(pipeline),
        catalog,
        derived=Expressions.compile(pipeline.features, columns, "number").numbers if pipeline.features else None,
        fallbacks={
            name: Expressions.compile({name: spec.fallback}, columns, "number").numbers
            for name, spec in pipeline.models.items()
            if spec.fallback is not None
        },
    )


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
