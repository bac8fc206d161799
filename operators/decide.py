"""Decide: rules over every column of a batch give each event an outcome with reasons."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from bytewax.dataflow import Stream, operator

from models.policy import Judge, Policy
from operators import metrics
from operators.batch import Batch, Item
from operators.stage import stage


class Decider:
    """Applies one policy to batches."""

    def __init__(self, policy: Policy, schema: Mapping[str, str]) -> None:
        """Compile the rules and try them out, which starts Polars' threads: not before a fork.

        Args:
            policy: the rules.
            schema: every column a rule may use, and its contract type.

        Raises:
            ExpressionRefused: a rule cannot be used.
        """
        self.policy = policy
        self.digest = policy.digest
        self._rules = policy.compile(schema)
        self._judge = Judge(policy)

    def work(self, batch: Batch) -> Batch:
        """Fill `outcomes` and `reasons`. A rule that cannot be computed for an event is unknown."""
        truths = self._rules.truths(batch.columns, len(batch))
        outcomes, reasons = self._judge.judge(truths, len(batch), batch.forced)
        metrics.count_decisions(outcomes)
        return replace(batch, outcomes=outcomes, reasons=reasons)


@operator
def decide(step_id: str, up: Stream[Item], *, decider: Decider) -> Stream[Item]:
    """Give every event its outcome and reasons, one pass of the rules per batch.

    In: batches with scores. Out: the same rows with `outcomes` and `reasons`.
    Rejects: nothing; an unknown rule demands the policy's `on_unknown`.
    State: none.
    Delivery: pure; the same columns give the same decision.
    """
    return stage("decide", up, decider.work)
