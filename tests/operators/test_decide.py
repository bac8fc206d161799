from dataclasses import replace

import numpy as np
import pytest

from models.expressions import ExpressionRefused
from models.policy import Policy, Rule
from operators.batch import Batch
from operators.decide import Decider

POLICY = Policy(
    version="1",
    outcomes=("approve", "review", "flag"),
    default="approve",
    on_unknown="review",
    rules=(
        Rule("severe", "severity > 30000", "review", "SEVERITY_HIGH"),
        Rule("odd", "CAST(code AS DOUBLE) > 5", "flag", "CODE_ODD"),
    ),
)
SCHEMA = {"severity": "number", "code": "string"}
SEVERITY = [100.0, 40_000.0, np.nan, 40_000.0, np.inf]
CODE = ["1", "1", "1", "x", "9"]


def batch(rows=slice(None), **changes):
    severity = np.array(SEVERITY)[rows]
    n = len(severity)
    empty = Batch(
        "claims.events", np.zeros(n, np.int32), np.arange(n), np.zeros(n, np.int64), [None] * n, [None] * n, [[]] * n
    )
    return replace(empty, columns={"severity": severity, "code": CODE[rows]}, forced=[None] * n, **changes)


def test_each_row_gets_an_outcome_and_its_reasons():
    decided = Decider(POLICY, SCHEMA).work(batch())

    assert decided.outcomes == ["approve", "review", "review", "review", "flag"]
    assert decided.reasons == [
        (), ("SEVERITY_HIGH",), ("UNKNOWN_SEVERE",), ("SEVERITY_HIGH", "UNKNOWN_ODD"), ("SEVERITY_HIGH", "CODE_ODD"),
    ]  # fmt: skip


def test_nothing_is_lost_and_batch_size_does_not_matter():
    decider = Decider(POLICY, SCHEMA)

    whole = decider.work(batch())
    rows = [decider.work(batch(slice(i, i + 1))) for i in range(5)]

    assert whole.outcomes == [row.outcomes[0] for row in rows]
    assert whole.reasons == [row.reasons[0] for row in rows]
    assert whole.offset.tolist() == list(range(5))


def test_a_forced_outcome_counts():
    decided = Decider(POLICY, SCHEMA).work(replace(batch(), forced=["review", None, None, None, None]))

    assert (decided.outcomes[0], decided.reasons[0]) == ("review", ("DEGRADED",))


def test_a_column_that_no_stage_brought_is_unknown():
    decided = Decider(POLICY, SCHEMA).work(replace(batch(), columns={}))

    assert decided.outcomes == ["review"] * 5
    assert decided.reasons == [("UNKNOWN_SEVERE", "UNKNOWN_ODD")] * 5


def test_rules_that_cannot_be_used_are_refused_when_it_is_built():
    with pytest.raises(ExpressionRefused, match="odd: no column is called 'code'"):
        Decider(POLICY, {"severity": "number"})
