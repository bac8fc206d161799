import contextlib
import random
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dataflows.guarding import PHONE_REGIONS
from dataflows.locate import MAX_BYTES
from dataflows.pipeline import Pipeline, PipelineInvalid, Recogniser, load, loads

FILE = Path("deploy/pipelines/claims/pipeline.yaml")
CLAIMS = FILE.read_text(encoding="utf-8")


def mistakes(text):
    with pytest.raises(PipelineInvalid) as caught:
        loads(text, "claims.yaml")
    return caught.value.mistakes


def planted(*changes):
    text = CLAIMS
    for before, after in changes:
        assert text.count(before) >= 1, before
        text = text.replace(before, after, 1)
    return text


def line_of(text, part):
    return text[: text.index(part)].count("\n") + 1


@pytest.mark.parametrize(
    "path", sorted(Path("deploy/pipelines").glob("*/pipeline.yaml")), ids=lambda path: path.parent.name
)
def test_the_pipelines_of_the_repository_load(path):
    assert load(path).pipeline == path.parent.name


def test_durations_topics_and_columns():
    claims = load(FILE)

    assert claims.enrich.timeout == timedelta(milliseconds=50)
    assert claims.views["holder"].max_age == timedelta(days=30)
    assert claims.delivery.min_commit_interval == timedelta(milliseconds=5)
    assert claims.topic("decisions") == "claims.decisions"
    assert claims.topic("registry") == "penstock.registry"
    assert loads(CLAIMS + "\ntopics: { decisions: out.claims }\n").topic("decisions") == "out.claims"
    assert claims.columns["noticed_at"] == "datetime"
    assert claims.columns["holder_paid_3y"] == "number"
    assert "contact_name" not in claims.columns  # dropped
    assert "contact_phone" not in claims.columns  # masked


def test_a_pipeline_cannot_be_changed():
    with pytest.raises(Exception, match="frozen"):
        load(FILE).pipeline = "other"


TEN = [
    ("event_id: claim_id", "event_id: claim_ID", "claim_id"),
    ("accident_date: { type: date }", "accident_date: { type: dat }", "date"),
    ("max_bytes: 32768", "max_byte: 32768", "max_bytes"),
    ("contact_name: drop", "contact_nam: drop", "contact_name"),
    ("sum, of: policy_limit", "sum, of: polcy_limit", "policy_limit"),
    ("on_missing: default", "on_missing: reviw", "review"),
    ("report_date - accident_date", "report_date - acident_date", "accident_date"),
    ("inputs: [is_home, policy_limit, deductible, d", "inputs: [is_hom, policy_limit, deductible, d", "is_home"),
    ('when: "severity > 30000"', 'when: "sevrity > 30000"', "severity"),
    ("outcome: flag", "outcome: flagg", "flag"),
]


def test_ten_planted_mistakes_give_file_line_and_nearest_valid_name_in_one_go():
    text = planted(*[(before, after) for before, after, _ in TEN])

    found = mistakes(text)

    expected = sorted((line_of(text, after), nearest) for _, after, nearest in TEN)
    assert [(mistake.line, mistake.nearest) for mistake in found] == expected
    assert {mistake.file for mistake in found} == {"claims.yaml"}
    assert str(found[0]).startswith("claims.yaml:7: contract.event_id: no field is called 'claim_ID'")
    assert str(found[0]).endswith("; did you mean 'claim_id'?")


@pytest.mark.parametrize("before, after, nearest", TEN)
def test_each_planted_mistake_is_found_alone(before, after, nearest):
    text = planted((before, after))

    assert [(mistake.line, mistake.nearest) for mistake in mistakes(text)] == [(line_of(text, after), nearest)]


@pytest.mark.parametrize(
    "before, after, what",
    [
        ("window: 1h }", "window: 90s }", "does not fit"),
        ("claims_1d: { function: count, window: 1d }", "claims_1d: { function: count, window: 2d }", "does not fit"),
        ("timeout: 50ms", "timeout: 50", "'50' does not fit"),
        ("timeout: 50ms", "timeout: 0s", "'0s' does not fit"),
        ("on_late: include", "on_late: include\n  pane: 2m", "appears twice"),
        ("claim_id: allow", "claim_id: drop", "which is the event_id"),
        ("policyholder_id: allow", "policyholder_id: mask", "which is the entity"),
        ("deductible: allow", "deductible: tokenise", "only a string"),
        ("deductible: allow", "deductible: drop", "the guard drops 'deductible'"),
        ("line = 'Home'", "contact_name = 'Home'", "the guard drops 'contact_name'"),
        ("line = 'Home'", "contact_phone = 'Home'", "the guard masks 'contact_phone'"),
        ("line = 'Home'", "severity > 1", "computed later"),
        ("line = 'Home'", "line = 'Hom'", "'line' is never 'Hom'"),
        ("line = 'Home'", "line = 1", "types do not fit: text is compared with a number; 'line' is a string"),
        ("severity > 30000", "max(severity) > 30000", "aggregate"),
        ("severity > 30000", "severity", "gives a number"),
        ("severity > 30000", "severity >", "it ends after '>', where something must follow"),
        ('version: "1"', "version: 1", "without quotes this is a number, not text"),
        ("  is_home:", "  claims_1d:", "is taken by recall.features.claims_1d"),
        ("  is_home:", "  holder_paid_3y:", "is taken by views.holder.features.paid_3y"),
        ("  is_home:", "  limit:", "word of SQL"),
        ("  is_home:", "  is home:", "is not written as it must be"),
        ("function: sum, of: policy_limit,", "function: sum,", "sum needs 'of'"),
        ("function: sum, of: policy_limit", "function: sum, of: line", "'line' is a string"),
        ("function: sum, of: policy_limit", "function: sum, of: is_home", "computed later"),
        ("deductible_share, report_lag_days", "line, report_lag_days", "'line' is a string"),
        ("deductible_share, report_lag_days", "is_home, report_lag_days", "appears twice"),
        ("key: policyholder_id", "key: contact_name", "the guard drops 'contact_name'"),
        (", tenure_days: 0 }", " }", "no default for tenure_days"),
        ("tenure_days: 0 }", "tenure_days: none }", "another type"),
        ("name: frequent", "name: severe", "two rules are called"),
        ("outcomes: [approve, review, flag]", "outcomes: [approve, review, flag, review]", "appears twice"),
        ("default: approve", "default: allow", "not among the outcomes"),
        ("on_unknown: review", "on_unknown: ask", "not among the outcomes"),
        ("event_time: noticed_at", "event_time: line", "not a required datetime"),
        ("claim_id: { type: string,", "claim_id: { type: string, required: false,", "not a required string"),
        ("ge: 0, le: 10000000", "ge: 0, pattern: x", "cannot be used with type number"),
        ('pattern: "^[A-Za-z0-9-]+$"', 'pattern: "^[A-Za-z"', "pattern"),
        ("pipeline: claims", "pipeline: Claims!", "is not written as it must be"),
        ("pipeline: claims\n", "", "the section 'pipeline' is missing"),
        ("recognisers: [email, phone", "recognisers: [email, telephone", "is not a word that fits"),
        ("activation_delay: 2s", "activation_delay: 2s\ntopics: { events: a, decisions: a }", "share a topic"),
        ("activation_delay: 2s", "activation_delay: 2s\ntopics: { decisions: claims.events }", "events and decisions"),
        ("activation_delay: 2s", "activation_delay: 2s\ntopics: { events: penstock.registry }", "registry and events"),
        ("activation_delay: 2s", "activation_delay: 2s\ntopics: { event: a }", "is not a word that fits"),
        ("pane: 1m", "pane: 0.5ms", "'0.5ms' does not fit"),
        ("allowed_lateness: 10m", "allowed_lateness: 1.5ms", "'1.5ms' does not fit"),
        ("window: 1d\n", "window: 0.1ms\n", "'0.1ms' does not fit"),
        ("activation_delay: 2s", "activation_delay: 0.1ms", "'0.1ms' does not fit"),
        ("phone_regions: [US]", "phone_regions: [US, UK]", "no phone region is called 'UK'"),
        ("key: allow", "key: tokenise", "'tokenise' is not a word that fits"),
        ("headers: drop", "headers: mask", "'mask' is not a word that fits"),
        ("headers: drop", "headers: tokenise", "'tokenise' is not a word that fits"),
        ("key: policyholder_id", "key: policy_limit", "'policy_limit' is a number"),
        ("key: policyholder_id", "key: noticed_at", "'noticed_at' is a datetime"),
        ("key: policyholder_id", "key: contact_email", "the guard tokenises 'contact_email'"),
        ("key: policyholder_id", "key: contact_phone", "the guard masks 'contact_phone'"),
        ("policyholder_id: allow", "policyholder_id: tokenise", "the guard tokenises 'policyholder_id'"),
        ("threshold: 0.4", "threshold: 4", "does not fit"),
        ("threshold: 0.4", "threshold: !!python/object:os.system 4", "tag"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused(before, after, what):
    text = planted((before, after))

    found = mistakes(text)

    assert any(what in mistake.what for mistake in found), [str(mistake) for mistake in found]
    assert {mistake.line for mistake in found if what in mistake.what} != {1} or before.startswith("pipeline")


def test_an_unknown_function_does_not_hide_a_window_that_does_not_fit():
    text = planted(("{ function: count, window: 1d }", "{ function: cnt, window: 2d }"))

    assert [mistake.where for mistake in mistakes(text)] == [
        "recall.features.claims_1d.function", "recall.features.claims_1d.window",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "source, words",
    [
        ("line + 1 > 2", "text is used in a calculation; 'line' is a string"),
        ("line > 1", "text is compared with a number; 'line' is a string"),
        ("FOO(severity) > 1", "there is no function 'foo'"), ("LN(severity, 1) > 2", "'LN' does not take these"),
        ("ROUND(line) > 2", "a function of numbers is given text"), ("(severity > 1", "1 opening and 0 closing"),
        ("severity AND TRUE", "AND and OR join conditions"), ("severity > 'x", "a text is not closed"),
        ("severity IN (1, 'a')", "the list after IN"), ("severity ==== 1", "it cannot be read as SQL"),
    ],
)  # fmt: skip
def test_the_words_of_a_library_do_not_show_through(source, words):
    [found] = mistakes(planted(("severity > 30000", source)))

    assert words in str(found)
    for alien in ("dtype", "dyn int", "i32", "f64", "Expr", "parser"):
        assert alien not in str(found)


def test_a_default_of_the_guard_that_takes_the_event_id_is_pointed_at():
    text = planted(("default: scan", "default: mask"), ("    claim_id: allow\n", ""))

    [mistake] = mistakes(text)

    assert mistake.line == line_of(text, "default: mask")
    assert "which is the event_id" in mistake.what


def test_a_view_is_looked_up_by_text_or_by_a_whole_number_that_the_guard_leaves():
    number = ("deductible: { type: number, ge: 0, le: 1000000 }", "deductible: { type: integer }")

    assert loads(planted(number, ("key: policyholder_id", "key: deductible"))).views["holder"].key == "deductible"
    assert loads(planted(("policyholder_id: allow", "policyholder_id: scan")))


def test_a_section_that_cannot_be_read_hides_nothing_else():
    text = planted(("contract:\n  version: 1", "contract:\n  version: one"), ("outcome: flag", "outcome: flagg"))

    assert [mistake.nearest for mistake in mistakes(text)] == [None, "flag"]


def test_lines_are_right_after_items_of_a_list_could_not_be_read():
    text = planted(
        ("reason: SEVERITY_HIGH", "reson: SEVERITY_HIGH"),
        ("reason: CLAIMS_FREQUENT", "reason: 3"),
        ("> 1000", "> now()"),
    )

    found = mistakes(text)

    assert [mistake.where for mistake in found] == [
        "policy.rules[0]", "policy.rules[0].reson", "policy.rules[2].reason", "policy.rules[3].when",
    ]  # fmt: skip
    assert [mistake.line for mistake in found][2:] == [line_of(text, "reason: 3"), line_of(text, "> now()")]


@pytest.mark.parametrize(
    "text",
    ["", "null", "[]", "3", "a: [", "\x00", "\t", "- a\n- b", "[" * 2000, "{" * 1000, "a: &a [*a]",
     "? [a]\n: b", "---\na: 1\n---\nb: 2",
     "x: " + "9" * 10_000, "a" * (MAX_BYTES + 1),
     "pipeline: claims\ncontract: null\npolicy: []", "contract: {fields: {a: null}}"],
)  # fmt: skip
def test_hostile_text_is_a_list_of_mistakes(text):
    assert mistakes(text)


def test_aliases_cannot_unfold_into_a_large_file():
    bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
    bomb += "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 9))

    assert any("after aliases" in mistake.what for mistake in mistakes(bomb))


def test_a_file_that_cannot_be_read_is_a_mistake(tmp_path):
    (tmp_path / "latin.yaml").write_bytes(b"pipeline: \xe9")

    for path, what in [
        (tmp_path / "none.yaml", "No such file"),
        (tmp_path, "directory"),
        (tmp_path / "latin.yaml", "UTF-8"),
    ]:
        with pytest.raises(PipelineInvalid, match=what):
            load(path)


LINES = CLAIMS.splitlines(keepends=True)
ODD = [
    "~",
    "-1",
    "{}",
    "[]",
    "*x",
    "&x",
    "!!set",
    "'",
    '"',
    "NaN",
    "1e999",
    "0x",
    "\u2028",
    "\ud7ff",
    ": :",
    "- ",
    "9" * 30,
    "(",
    "SELECT",
]


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 2**32), st.integers(1, 6))
def test_a_mangled_file_gives_a_pipeline_or_mistakes_and_nothing_else(seed, cuts):
    chance = random.Random(seed)
    text = CLAIMS
    for _ in range(cuts):
        at, end = sorted(chance.choices(range(len(text)), k=2))
        match chance.randrange(4):
            case 0:
                text = text[:at] + text[min(end, at + 60) :]
            case 1:
                text = text[:at] + chance.choice(ODD) + text[at:]
            case 2:
                text = text.replace(chance.choice(LINES), chance.choice(LINES), 1)
            case 3:
                text = text[:at] + chance.choice(ODD) + text[at + chance.randrange(12) :]
    try:
        assert isinstance(loads(text), Pipeline)
    except PipelineInvalid as invalid:
        found = invalid.mistakes
        assert found


@settings(max_examples=40, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(max_size=9),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
        max_leaves=9,
    ),
    st.sampled_from(sorted(Pipeline.model_fields)),
)
def test_any_value_in_place_of_a_section_gives_mistakes_at_most(value, section):
    import json

    text = CLAIMS.replace(f"\n{section}:", f"\nx_{section}:", 1) + f"\n{section}: {json.dumps(value)}\n"
    with contextlib.suppress(PipelineInvalid):
        loads(text)


def test_the_recognisers_are_those_that_the_scanner_knows():
    from typing import get_args

    from models.pii_recognisers import KNOWN

    assert set(get_args(Recogniser)) == set(KNOWN)


def test_the_phone_regions_are_those_that_libphonenumber_knows():
    from phonenumbers import SUPPORTED_REGIONS

    assert set(PHONE_REGIONS) == set(SUPPORTED_REGIONS)
