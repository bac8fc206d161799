"""Windows that a pipeline file declares: what they become, and every mistake with its line and nearest name."""

from datetime import timedelta
from pathlib import Path

import pytest

from dataflows.pipeline import PipelineInvalid, load, loads
from dataflows.view_stages import fields_of, measurer_of, measures_of, view_windows, windowed_view, windowed_views
from operators.measure import Measure, Measurer
from state.view_windows import ViewWindows
from state.window_spec import Feature

FILE = Path("deploy/pipelines/payments/pipeline.yaml")
VIEWS = """\
views:
  device:
    key: device_id
    pane: 10s
    allowed_lateness: 5m
    on_late: ignore
    where: "channel = 'online'"
    windows:
      payments_1h: { function: count, window: 1h }
      cards_1d: { function: distinct, of: card_id, window: 1d }
      places: { function: distinct, of: "country || card_country", window: 1d }
      abroad_1h: { function: sum, of: "amount * 1.0", window: 1h, where: "country <> card_country" }
      today: { function: count, window: 1d, kind: tumbling }
      foreign: { function: count, window: 1h, where: "country <> card_country" }
      cards_seen: { function: distinct, of: card_id, window: 1h }
    max_age: 5s
    defaults: { payments_1h: 0, cards_1d: 0, places: 0, abroad_1h: 0, today: 0, foreign: 0, cards_seen: 0 }
"""
REST = """
features:
  shared: "LN(GREATEST(device_cards_seen, 1))"
policy: { version: "1", outcomes: [approve, review], default: approve, on_unknown: review }
"""
TEXT = FILE.read_text()
TEXT = TEXT[: TEXT.index("views:\n")] + VIEWS + REST


def planted(before, after):
    assert TEXT.count(before) == 1, before
    return TEXT.replace(before, after)


def mistakes(text):
    with pytest.raises(PipelineInvalid) as caught:
        loads(text, "payments.yaml")
    return caught.value.mistakes


def test_a_windowed_view_gives_columns_and_what_computes_them():
    pipeline = loads(TEXT)
    spec = pipeline.views["device"]
    view = view_windows("device", spec)

    assert windowed_views(pipeline) == ["device"]
    assert {name: kind for name, kind in pipeline.columns.items() if name.startswith("device_")} == {
        "device_id": "string", "device_type": "string",
        **{f"device_{feature}": "number" for feature in spec.windows},
    }  # fmt: skip
    assert (view.pane_ms, view.lateness_ms, view.include_late) == (10_000, 300_000, False)
    assert view.features[4] == Feature("today", "count", 86_400_000, None, "tumbling")
    assert view.features[3] == Feature("abroad_1h", "sum", 3_600_000, "amount * 1.0 WHERE country <> card_country")
    assert measures_of(spec)[0] == Measure("card_id")
    assert len(measures_of(spec)) == 4  # card_id is measured once
    assert set(fields_of(pipeline, ["device"])) == {
        "device_id",
        "channel",
        "card_id",
        "country",
        "card_country",
        "amount",
    }


def test_a_view_has_defaults_that_hold():
    spec = loads(planted("    pane: 10s\n    allowed_lateness: 5m\n    on_late: ignore\n", "")).views["device"]

    assert (spec.pane, spec.allowed_lateness, spec.on_late) == (timedelta(seconds=10), timedelta(minutes=10), "include")
    assert load("deploy/pipelines/claims/pipeline.yaml").views["holder"].windows == {}


def test_what_is_stored_has_another_digest_only_where_it_means_something_else():
    def digest(before="", after=""):
        return view_windows("device", loads(planted(before, after) if before else TEXT).views["device"]).digest

    assert digest() == digest("distinct, of: card_id, window: 1h", "distinct, of: card_id, window: 2h")
    assert digest() == digest("max_age: 5s", "max_age: 6s")
    others = [
        ("pane: 10s", "pane: 20s"),
        ("where: \"channel = 'online'", "where: \"channel = 'shop'"),
        ("amount * 1.0", "amount * 2.0"),
        ("key: device_id", "key: merchant_id"),
        (
            'window: 1h, where: "country <> card_country" }\n      cards',
            'window: 1h, where: "amount > 1" }\n      cards',
        ),
    ]
    assert len({digest(), *(digest(*other) for other in others)}) == 1 + len(others)


def test_events_are_measured_as_declared():
    pipeline = loads(TEXT)
    columns = {
        "device_id": ["d1", "d2", "d1", None],
        "channel": ["online", "shop", "online", "online"],
        "card_id": ["c1", "c1", "c2", "c2"],
        "country": ["DE", "DE", None, "DE"],
        "card_country": ["FR", "FR", "DE", "DE"],
        "amount": [10.0, 20.0, 30.0, 40.0],
    }
    measured = measurer_of(pipeline, ["device"]).work(columns, 4)["device"]
    abroad, foreign = "amount * 1.0 WHERE country <> card_country", " WHERE country <> card_country"

    assert measured.keys == ["d1", None, "d1", None]
    assert measured.values["card_id"] == ["c1", "c1", "c2", "c2"]
    assert measured.values["country || card_country"] == ["DEFR", "DEFR", None, "DEDE"]
    assert repr(measured.values[abroad]) == repr([10.0, 20.0, float("nan"), float("nan")])
    assert repr(measured.values[foreign]) == repr([1.0, 1.0, float("nan"), float("nan")])


def test_an_event_from_which_no_feature_takes_anything_makes_no_pane():
    foreign = Measure(None, "country <> card_country")
    view = ViewWindows("device", "device_id", (Feature("foreign", "count", 3_600_000, foreign.name),), 10_000)
    columns = {"device_id": ["d", "d"], "country": ["DE", "FR"], "card_country": ["FR", "FR"]}
    measurer = Measurer([(view, [foreign])], dict.fromkeys(columns, "string"))

    assert measurer.work(columns, 2)["device"].keys == ["d", None]


@pytest.mark.parametrize(
    "before, after, nearest",
    [
        ("of: card_id, window: 1d", "of: card_idd, window: 1d", "card_id"),
        ("function: distinct, of: card_id, window: 1d", "function: distnct, of: card_id, window: 1d", "distinct"),
        ('"amount * 1.0"', '"amout * 1.0"', "amount"),
        ("\"channel = 'online'\"", "\"channel = 'onlin'\"", "online"),
        ("kind: tumbling", "kind: tumblin", "tumbling"),
        ("on_late: ignore", "on_late: ignor", "ignore"),
        ("payments_1h: 0", "payments_1hh: 0", "payments_1h"),
        ("payments_1h: { function: count, window: 1h }", "payments_1h: { functoin: count, window: 1h }", "function"),
    ],
)
def test_each_planted_mistake_is_found_by_line_with_the_nearest_name(before, after, nearest):
    text = planted(before, after)
    line = text[: text.index(after)].count("\n") + 1

    assert (line, nearest) in [(mistake.line, mistake.nearest) for mistake in mistakes(text)]


@pytest.mark.parametrize(
    "before, after, what",
    [
        (
            "count, window: 1h }\n      cards_1d",
            "count, window: 95s }\n      cards_1d",
            "no multiple of the view's pane",
        ),
        ('sum, of: "amount * 1.0"', "sum", "sum needs 'of'"),
        ('of: "amount * 1.0"', "of: card_id", "gives text"),
        ('of: "amount * 1.0"', 'of: "SUM(amount)"', "aggregate"),
        ('of: "amount * 1.0"', "of: payments_10m", "'payments_10m' is computed later than this"),
        ('of: "amount * 1.0"', "of: device_today", "no column is called 'device_today'"),
        ("\"channel = 'online'\"", '"amount"', "gives a number"),
        ("pane: 10s", "pane: 10ms", "that fit a record"),
        ("    windows:\n", "    features: { x: number }\n    windows:\n", "both features"),
        ("cards_1d: 0,", "", "no default for cards_1d"),
        ("device_id: allow", "device_id: drop", "the guard drops 'device_id'"),
        ("amount: allow", "amount: drop", "the guard drops 'amount'"),
    ],
)
def test_what_cannot_be_meant_is_refused(before, after, what):
    assert what in "\n".join(str(mistake) for mistake in mistakes(planted(before, after)))


def test_a_view_of_nothing_and_a_loaded_one_with_panes_are_refused():
    nothing = TEXT.replace(VIEWS, "views:\n  device: { key: device_id }\n")
    loaded = TEXT.replace(
        VIEWS,
        "views:\n  device: { key: device_id, pane: 1s, features: { cards_seen: number }, on_missing: review }\n",
    )

    assert "the view has no features" in str(mistakes(nothing)[0])
    assert [str(mistake).split(": ")[1:3] for mistake in mistakes(loaded)] == [
        ["views.device.pane", "'pane' is about windows, and the view has none; expected windows"]
    ]


def test_a_windowed_view_may_be_kept_by_a_token():
    assert loads(planted("device_id: allow", "device_id: tokenise")).views["device"].key == "device_id"


def test_only_a_tokenised_entity_may_be_in_any_lane():
    """What other keys name is sent on after the guard, by the token."""
    by_card = TEXT.replace("    key: device_id\n", "    key: card_id\n")
    lanes = [
        windowed_view(loads(text), "device").any_lane
        for text in (
            TEXT,
            planted("device_id: allow", "device_id: tokenise"),
            by_card,
            by_card.replace("card_id: allow", "card_id: tokenise"),
        )
    ]

    assert lanes == [False, False, False, True]
