from pathlib import Path

import pytest
from bytewax.testing import TestingSink, TestingSource

from console.diagram import Undrawn
from dataflows.decisions import wire
from dataflows.pipeline import load, loads
from dataflows.places import places_of
from dataflows.stages import logged_features, policy_of, views_of, windows_of
from tests.operators.passage import stages

FILE = Path("deploy/pipelines/claims/pipeline.yaml")


@pytest.fixture(scope="module")
def claims():
    return load(FILE)


def test_the_decision_logs_what_models_and_rules_used_and_no_field_of_the_event(claims):
    assert logged_features(claims) == [
        "claims_1d", "holder_claims_3y", "holder_paid_3y", "holder_tenure_days",
        "report_lag_days", "is_home", "deductible_share",
    ]  # fmt: skip


def test_a_derived_feature_brings_what_it_is_derived_from():
    text = FILE.read_text().replace("deductible / policy_limit ELSE", "deductible / last_limit ELSE")

    assert "last_limit" in logged_features(loads(text))


def test_numbers_carry_their_units_over(claims):
    windows = windows_of(claims)

    assert (windows.pane_ms, windows.lateness_ms, windows.include_late) == (60_000, 600_000, True)
    assert {feature.name: feature.window_ms for feature in windows.features}["claims_1h"] == 3_600_000
    assert [(place.name, place.budget_ms) for place in places_of(claims)] == [
        ("severity", 100),
        ("severity_online", 100),
    ]
    [rule] = views_of(claims)
    assert (rule.key, rule.max_age, rule.on_stale) == ("policyholder_id", 30 * 86_400, "last_known")


def test_the_plain_stages_are_in_the_order_of_the_flow():
    flow = wire(TestingSource([]), Undrawn(), TestingSink([]))
    steps = [step.step_id.removeprefix("decisions.") for step in flow.substeps]
    verbs = [verb for verb, _ in stages().in_order(0)]

    assert verbs == [step for step in steps[1:-1] if step not in ("by_lane", "together")]


def test_the_policy_keeps_its_order(claims):
    assert [rule.name for rule in policy_of(claims).rules] == ["severe", "models_disagree", "frequent", "late_report"]
