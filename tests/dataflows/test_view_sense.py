"""Views in the pipeline file: where they come from and who may read them, and what is said about mistakes."""

from __future__ import annotations

from pathlib import Path

import pytest

from dataflows.pipeline import PipelineInvalid, loads
from dataflows.places import place_of
from dataflows.view_spec import FeastSpec

CLAIMS = Path("deploy/pipelines/claims/pipeline.yaml").read_text(encoding="utf-8")
KEY = "    key: policyholder_id\n"


def holder(lines: str, **changes: str) -> str:
    """The claims pipeline with more said about its view."""
    text = CLAIMS.replace(KEY, KEY + "".join(f"    {line}\n" for line in lines.splitlines()), 1)
    for before, after in changes.items():
        assert before in text
        text = text.replace(before, after)
    return text


@pytest.mark.parametrize(
    "source, meant",
    [
        ("source: feast", FeastSpec()),
        ("source: { feast: {} }", FeastSpec()),
        ("source: { feast: { project: demo, view: stats_v2 } }", FeastSpec(project="demo", view="stats_v2")),
        (
            "source: { feast: { join_key: holder, key_type: int64, key_version: 2 } }",
            FeastSpec(join_key="holder", key_type="int64", key_version=2),
        ),
    ],
)
def test_one_line_says_that_a_view_is_feasts(source, meant):
    spec = loads(holder(source)).views["holder"]

    assert spec.source is not None
    assert spec.source.feast == meant


@pytest.mark.parametrize(
    "lines, where, said",
    [
        ("source: fest", "views.holder.source", "expected feast"),
        ("source: { feast: { projct: demo } }", "views.holder.source.feast.projct", "did you mean 'project'?"),
        ("source: { feast: { key_version: 1 } }", "views.holder.source.feast.key_version", "one of 2, 3"),
        ("source: { feast: { key_type: float } }", "views.holder.source.feast.key_type", "int64"),
        ("grants: { claims_3: [severity] }", "views.holder.grants.claims_3", "did you mean 'claims_3y'?"),
        ("grants: { claims_3y: [severty] }", "views.holder.grants.claims_3y[0]", "did you mean 'severity'?"),
        ("grants: { claims_3y: severity }", "views.holder.grants.claims_3y", ""),
    ],
)
def test_a_mistake_in_a_view_has_its_line_and_the_nearest_name(lines, where, said):
    text = holder(lines)
    with pytest.raises(PipelineInvalid) as caught:
        loads(text)
    [mistake] = caught.value.mistakes

    assert (mistake.where, mistake.line) == (where, text[: text.index(lines)].count("\n") + 1)
    assert said in str(mistake)


@pytest.mark.parametrize("number", [".inf", ".nan", f"1{'0' * 400}"])
def test_a_default_is_a_number_that_a_double_holds(number):
    text = holder("source: feast", **{"claims_3y: 0": f"claims_3y: {number}"})
    with pytest.raises(PipelineInvalid) as caught:
        loads(text)

    assert "views.holder.defaults.claims_3y: the default of 'claims_3y' is not finite" in str(caught.value)


def test_a_view_of_feast_must_say_when_it_is_stale():
    text = holder("source: feast").replace("    max_age: 30d\n", "", 1)
    with pytest.raises(PipelineInvalid) as caught:
        loads(text)
    [mistake] = caught.value.mistakes

    assert mistake.where == "views.holder"
    assert "its ttl is not in Redis" in str(mistake)


PAYMENTS = Path("deploy/pipelines/payments/pipeline.yaml").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "max_age, sections, least",
    [
        ("1.9s", "", "2s"),
        ("2s", "", None),
        ("10.9s", "enrich: { cache: { max_age: 10s } }", "11s"),
        ("11s", "enrich: { cache: { max_age: 10s } }", None),
        ("1s", "enrich: { cache: { entries: 0 } }", None),
        ("3s", "enrich: { cache: { entries: 0 } }\ndelivery: { tide_interval: 1s }", "4s"),
        ("1s", "enrich: { cache: { max_age: soon } }", None),
    ],
)
def test_a_quiet_key_may_not_look_stale_while_the_jobs_keep_up(max_age, sections, least):
    text = PAYMENTS.replace("max_age: 10s\n", f"max_age: {max_age}\n", 1).replace("max_age: 10s\n", "max_age: 1m\n")
    text += f"{sections}\n"
    try:
        loads(text)
        found = []
    except PipelineInvalid as invalid:
        found = [mistake for mistake in invalid.mistakes if mistake.where.startswith("views.")]

    assert [mistake.where for mistake in found] == ([] if least is None else ["views.card.max_age"])
    for mistake in found:
        assert mistake.line == text[: text.index(f"max_age: {max_age}")].count("\n") + 1
        assert f"expected at least {least}: enrich.cache.max_age" in str(mistake)


def test_a_model_that_could_not_be_read_is_not_called_unknown_too():
    text = holder("grants: { claims_3y: [severity] }").replace("  severity:\n", "  severity:\n    wrong: 1\n", 1)
    with pytest.raises(PipelineInvalid) as caught:
        loads(text)

    assert [mistake.where for mistake in caught.value.mistakes] == ["models.severity.wrong"]


@pytest.mark.parametrize(
    "grants, severity, online",
    [
        ("{}", (), ()),
        ("{ claims_3y: [severity, severity_online] }", (), ()),
        ("{ claims_3y: [severity], tenure_days: [severity_online] }", ("holder_tenure_days",), ("holder_claims_3y",)),
        ("{ paid_3y: [] }", ("holder_paid_3y",), ("holder_paid_3y",)),
    ],
)
def test_a_feature_without_a_grant_is_open_and_one_with_it_is_for_those_named(grants, severity, online):
    pipeline = loads(holder(f"grants: {grants}"))

    assert place_of(pipeline, "severity").closed == severity
    assert place_of(pipeline, "severity_online").closed == online


def test_a_derived_feature_is_no_way_around_a_grant_and_a_score_is_one_that_was_granted():
    derived = "\n  paid_share: holder_paid_3y / 36\n  paid_more: paid_share * 2.0\n  other: holder_claims_3y * 1.0\n#"
    text = holder("grants: { paid_3y: [severity] }").replace("features: # derived", "features:" + derived, 1)
    text = text.replace(
        "deductible, report_lag_days, holder_claims_3y, holder_paid_3y]",
        "deductible, report_lag_days, other, paid_more, severity]",
        1,
    )
    pipeline = loads(text)

    assert place_of(pipeline, "severity_online").closed == ("paid_more",)
    assert place_of(pipeline, "severity").closed == ()


def test_features_that_are_computed_can_be_granted_too():
    text = Path("deploy/pipelines/payments/pipeline.yaml").read_text(encoding="utf-8")
    views = """views:
  device:
    key: device_id
    windows: { cards_seen: { function: distinct, of: card_id, window: 1d } }
    defaults: { cards_seen: 0 }
    grants: { cards_seen: [] }
models: { fraud: { inputs: [amount, device_cards_seen] } }
policy: { version: "1", outcomes: [approve, review], default: approve, on_unknown: review }
"""
    text = text[: text.index("views:\n")] + views

    assert place_of(loads(text), "fraud").closed == ("device_cards_seen",)
    with pytest.raises(PipelineInvalid, match=r"did you mean 'cards_seen'\?"):
        loads(text.replace("grants: { cards_seen", "grants: { card_seen"))
