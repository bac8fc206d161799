import numpy as np

from models.policy import DEGRADED, Judge, Policy, Rule

POLICY = Policy(
    version="1",
    outcomes=("approve", "review", "flag"),
    default="approve",
    on_unknown="review",
    rules=(
        Rule("severe", "severity > 30000", "review", "SEVERITY_HIGH"),
        Rule("frequent", "claims_1d >= 3", "flag", "CLAIMS_FREQUENT"),
    ),
)


def judge(severe, frequent, forced=()):
    truths = {"severe": np.array(severe, np.int8), "frequent": np.array(frequent, np.int8)}
    return Judge(POLICY).judge(truths, len(severe), list(forced))


def test_the_worst_of_all_rules_that_hold_decides_and_each_gives_its_reason():
    outcomes, reasons = judge([0, 1, 0, 1], [0, 0, 1, 1])

    assert outcomes == ["approve", "review", "flag", "flag"]
    assert reasons == [(), ("SEVERITY_HIGH",), ("CLAIMS_FREQUENT",), ("SEVERITY_HIGH", "CLAIMS_FREQUENT")]


def test_an_unknown_rule_demands_the_fail_safe_outcome_and_says_which_rule():
    outcomes, reasons = judge([-1, -1], [0, 1])

    assert outcomes == ["review", "flag"]
    assert reasons == [("UNKNOWN_SEVERE",), ("UNKNOWN_SEVERE", "CLAIMS_FREQUENT")]


def test_a_forced_outcome_makes_a_decision_more_severe_and_never_milder():
    outcomes, reasons = judge([0, 0, 0], [0, 1, 1], ["review", "review", None])

    assert outcomes == ["review", "flag", "flag"]
    assert reasons == [(DEGRADED,), ("CLAIMS_FREQUENT", DEGRADED), ("CLAIMS_FREQUENT",)]


def test_a_policy_without_rules_gives_its_default():
    policy = Policy("1", ("approve", "review"), "approve", "review")

    assert Judge(policy).judge({}, 2, []) == (["approve", "approve"], [(), ()])


def test_the_digest_changes_with_anything_that_can_change_a_decision():
    others = [
        Policy("2", *POLICY_PARTS),
        Policy("1", ("review", "approve", "flag"), *POLICY_PARTS[1:]),
        Policy("1", *POLICY_PARTS[:1], "review", *POLICY_PARTS[2:]),
        Policy("1", *POLICY_PARTS[:2], "flag", *POLICY_PARTS[3:]),
        Policy("1", *POLICY_PARTS[:3], POLICY.rules[::-1]),
    ]

    assert len({POLICY.digest, *(other.digest for other in others)}) == 6
    assert Policy("1", *POLICY_PARTS).digest == POLICY.digest


POLICY_PARTS = (POLICY.outcomes, POLICY.default, POLICY.on_unknown, POLICY.rules)
