"""Parity compares what a decision would read with the raw events: right when all is well, and told when it is not."""

import json
from collections.abc import Callable

import numpy as np
import pytest

from dataflows.parity import NotServed, Parity
from dataflows.pipeline import loads
from dataflows.view_stages import view_windows
from operators.batch import Batch
from operators.disguise import Tokeniser
from state.cache import AgingCache
from state.features import FeatureStore
from state.key_windows import KeyWindows
from state.link import MemoryLink, NoLink
from state.tides import Mark, tides_key
from state.vault import Vault
from state.versions import version
from state.views import redis_keys

NOON = 1_768_478_400_000
TEXT = """
pipeline: shop
contract:
  format: json
  event_id: id
  entity: card
  event_time: at
  fields:
    id: { type: string }
    card: { type: string }
    device: { type: string }
    at: { type: datetime }
    amount: { type: number }
guard: { default: allow, headers: allow }
views:
  device:
    key: device
    pane: 10s
    where: "amount < 1000"
    windows:
      cards_1h: { function: distinct, of: card, window: 1h }
      spent_1h: { function: sum, of: amount, window: 1h, where: "amount > 5" }
    max_age: 5s
    defaults: { cards_1h: 0, spent_1h: 0 }
policy: { version: "1", outcomes: [approve, review], default: approve, on_unknown: review }
"""
PIPELINE = loads(TEXT)
SPEC = view_windows("device", PIPELINE.views["device"])


def event(i: int, **changed: object) -> bytes:
    at = np.datetime_as_string(np.datetime64(NOON + i * 1000, "ms")) + "Z"
    return json.dumps(
        {"id": f"E{i}", "card": f"C{i % 7}", "device": f"D{i % 3}", "at": at, "amount": i, **changed}
    ).encode()


def batch(values: list[bytes], lane: int = 0, first: int = 0) -> Batch:
    n, offsets = len(values), np.arange(first, first + len(values))
    return Batch(
        "shop.events", np.full(n, lane, np.int32), offsets, NOON + offsets * 1000,
        [None] * n, list(values), [[]] * n, progress={lane: first + n},
    )  # fmt: skip


def served(rows: list[tuple[str, str, int, float]], tide_ms: int) -> dict[object, object]:
    """What Redis answers after the writer took these: device, card, time, amount."""
    windows = KeyWindows(SPEC)
    for at, (device, card, time, amount) in enumerate(rows):
        values = {of: [card if of == "card" else amount if amount > 5 else float("nan")] for of in SPEC.measures}
        windows.observe([device], [time], behind_ms=[0], values=values, lanes=[0], offsets=[at])
    keys = sorted({row[0] for row in rows})
    values = [version(NOON, 1) + (panes or b"") for panes in windows.read(keys)]
    tides = {b"lanes": b"1", b"0": Mark(NOON, 1, tide_ms).pack()}
    return {
        **dict(zip(redis_keys("shop", "device", keys), values, strict=True)),
        (b"HGETALL", tides_key("shop", "device")): tides,
    }


def compare(answers: dict[object, object], values: list[bytes], later: list[bytes] | None = None):
    parity = Parity(PIPELINE, vault=Vault.from_base64(Vault.generate()), scanner=None, share=1.0)
    parity.take(batch(values))
    more: Callable[[], None] = (lambda: parity.take(batch(later, first=len(values)))) if later else lambda: None
    link = MemoryLink(answers) if answers else NoLink()
    [found] = parity.compare(FeatureStore(link, "shop", cache=AgingCache(0, 0.0)), more)
    return found


EVENTS = [event(i) for i in range(60)]
ROWS = [(f"D{i % 3}", f"C{i % 7}", NOON + i * 1000, float(i)) for i in range(60)]


def test_what_is_served_rightly_is_compared_and_found_right() -> None:
    found = compare(served(ROWS, NOON + 3_600_000), EVENTS)

    assert (found.keys, found.compared, found.wrong, found.ratio) == (3, 3, 0, 0.0)


def test_what_no_job_takes_is_not_expected() -> None:
    """Broken, repeated, filtered and far too early ones."""
    values = [*EVENTS, b"{", EVENTS[5], event(60, amount=2000), event(61, at="2026-01-15T12:11:04Z")]

    found = compare(served(ROWS, NOON + 3_600_000), values)

    assert (found.compared, found.wrong) == (3, 0)


@pytest.mark.parametrize("left_out", [30, 59])
def test_an_event_that_is_not_in_the_value_is_found_with_its_feature_and_origin(left_out: int) -> None:
    rows = [row for at, row in enumerate(ROWS) if at != left_out]

    found = compare(served(rows, NOON + 3_600_000), EVENTS)

    assert (found.compared, found.wrong) == (3, 1)
    assert found.features["spent_1h"] == 1
    assert [each for each in found.named if "spent_1h" in each and "(from lane 0, offset 5" in each]


def test_a_key_of_which_nothing_is_stored_is_found() -> None:
    found = compare(served(ROWS, NOON + 3_600_000), [*EVENTS, event(60, device="D9")])

    assert (found.compared, found.wrong) == (4, 1)
    assert found.named == ["cards_1h, spent_1h (nothing is stored)"]


def test_events_that_come_while_values_are_read_are_no_mismatch() -> None:
    tide = NOON + 40_000
    for taken in (40, 50, 60):
        found = compare(served(ROWS[:taken], tide), EVENTS[:45], EVENTS[45:])
        assert (found.compared, found.wrong) == (3, 0), taken


def test_a_tokenised_entity_is_compared_as_of_the_lane_that_is_furthest_behind() -> None:
    """Its events are in a lane that the token does not tell: here in one that stands, beside one that goes on."""
    text = TEXT.replace("entity: card", "entity: device").replace("guard: {", "guard: { fields: { device: tokenise },")
    vault, values = Vault.from_base64(Vault.generate()), [event(i, device=f"D{i % 20}") for i in range(60)]
    tokens = [Tokeniser(vault).token("device", f"D{i}") for i in range(20)]
    taken = [(tokens[i % 20], *row[1:]) for i, row in enumerate(ROWS[:40])]
    tides = {b"lanes": b"2", b"0": Mark(NOON, 1, NOON + 3_600_000).pack(), b"1": Mark(NOON, 1, NOON + 40_000).pack()}
    answers = {**served(taken, NOON), (b"HGETALL", tides_key("shop", "device")): tides}
    parity = Parity(loads(text), vault=vault, scanner=None, share=1.0)
    parity.take(batch(values, lane=1))
    [found] = parity.compare(FeatureStore(MemoryLink(answers), "shop", cache=AgingCache(0, 0.0)), lambda: None)

    assert (found.keys, found.compared, found.wrong) == (20, 20, 0)


def test_an_unreadable_value_is_wrong_and_a_missing_tide_is_not_compared() -> None:
    answers = served(ROWS, NOON + 3_600_000)
    [key] = redis_keys("shop", "device", ["D1"])

    found = compare({**answers, key: b"x" * 60}, EVENTS)
    assert (found.compared, found.wrong, dict(found.features)) == (3, 1, {"unreadable": 1})
    assert found.named == ["a value that is none of this view as it is declared now"]
    found = compare({of: each for of, each in answers.items() if not isinstance(of, tuple)}, EVENTS)
    assert (found.keys, found.compared, found.ratio) == (3, 0, None)


def test_a_redis_that_does_not_answer_is_said() -> None:
    with pytest.raises(NotServed):
        compare({}, EVENTS)
