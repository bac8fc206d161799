"""The claims that are replayed: nothing from the future, the declared shares, the same for the same seed."""

import json
import random
import time
from collections import Counter
from datetime import UTC, date, datetime, timedelta

import pytest

from deploy.pipelines.claims import claims, texts

pytest.importorskip("faker")
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


@pytest.fixture(scope="module")
def rows():
    return claims.read()


@pytest.fixture(scope="module")
def planned():
    return list(claims.stream(7, 8000, now=lambda: NOON))


def data_of(event):
    whole = json.loads(event.value)
    return whole.get("data", whole)


def test_read_gives_every_claim_in_order_of_report(rows):
    assert len(rows) == 34_244
    assert rows == sorted(rows, key=lambda c: (c.report_date, c.number))
    assert {c.line for c in rows} == {"Auto", "Home"}
    assert all(c.closed_on > c.report_date for c in rows)


def test_training_ends_before_replay_begins(rows):
    training, replayed = claims.split(rows)

    assert len(training) == int(34_244 * 0.4)
    assert training[-1].report_date <= replayed[0].report_date
    assert not {c.number for c in training} & {c.number for c in replayed}


def test_some_policyholders_are_frequent(rows):
    counts = Counter(c.holder for c in rows)

    assert 5_000 < len(counts) <= claims.HOLDERS
    assert counts.most_common(1)[0][1] > 5 * len(rows) / claims.HOLDERS


def test_history_knows_only_what_was_closed_before(rows):
    found = claims.histories(rows)

    for claim, known in random.Random(1).sample(list(zip(rows, found, strict=True)), 300):
        first = claim.report_date - claims.HISTORY
        closed = [c for c in rows if c.holder == claim.holder and first <= c.closed_on < claim.report_date]
        assert known.claims_3y == len(closed)
        assert known.paid_3y == pytest.approx(sum(c.paid for c in closed))
    assert sum(h.claims_3y > 0 for h in found) > 10_000


def test_history_at_a_day_ignores_later_claims(rows):
    day = date(2012, 8, 18)

    known = claims.history_at(rows, day)

    assert known == claims.history_at([c for c in rows if c.closed_on < day], day)
    assert len(known) == claims.HOLDERS


def test_outcome_is_the_payment_at_the_close(rows):
    claim = next(c for c in rows if c.number == 3)

    assert claims.outcome(claim) == claims.Outcome(True, 115744.7737, date(2010, 2, 17))


def test_stream_has_the_declared_shares(planned):
    share = {kind: count / len(planned) for kind, count in Counter(p.kind for p in planned).items()}

    assert share["pii"] == pytest.approx(claims.PII_SHARE, abs=0.008)
    for kind in ("broken", "duplicate", "late"):
        assert share[kind] == pytest.approx(0.01, abs=0.005)
    assert {p.detail for p in planned if p.kind == "broken"} == set(claims.BREAKS)
    assert {p.detail for p in planned if p.kind == "pii"} == set(texts.PII_TYPES)


def test_stream_is_the_same_for_the_same_seed(planned):
    assert list(claims.stream(7, 500, now=lambda: NOON)) == planned[:500]
    assert list(claims.stream(8, 500, now=lambda: NOON)) != planned[:500]


def test_replay_uses_no_claim_of_the_training(rows, planned):
    training = {f"CL-{c.number:06d}" for c in claims.split(rows)[0]}

    assert not training & {data_of(p)["claim_id"] for p in planned if p.kind == "clean"}


def test_key_is_the_policyholder_and_the_event_has_no_outcome(planned):
    event = data_of(next(p for p in planned if p.kind == "clean"))

    assert set(event) == {
        *("claim_id", "policyholder_id", "noticed_at", "accident_date", "report_date", "line", "claim_type"),
        *("policy_limit", "deductible", "description", "contact_name", "contact_email", "contact_phone"),
    }
    assert all(data_of(p)["policyholder_id"].encode() == p.key for p in planned if p.kind in ("clean", "late", "pii"))


def test_both_cloudevents_modes_occur_and_name_the_event(planned):
    clean = [p for p in planned if p.kind == "clean"]
    structured = [p for p in clean if dict(p.headers)["content-type"] == b"application/cloudevents+json"]
    binary = [p for p in clean if dict(p.headers)["content-type"] == b"application/json"]

    assert len(structured) > len(clean) / 10
    assert len(binary) > len(clean) / 2
    assert len(structured) + len(binary) == len(clean)
    assert all(json.loads(p.value)["id"] == data_of(p)["claim_id"] for p in structured)
    assert all(dict(p.headers)["ce_id"].decode() == data_of(p)["claim_id"] for p in binary)


def test_duplicate_repeats_an_earlier_event_of_the_same_entity(planned):
    seen = set()
    for p in planned:
        if p.kind == "duplicate":
            assert (p.key, p.value, p.headers) in seen
        elif p.kind == "clean":
            seen.add((p.key, p.value, p.headers))


def test_ids_are_unique_but_for_duplicates(planned):
    ids = [data_of(p)["claim_id"] for p in planned if p.kind in ("clean", "late", "pii")]

    assert len(ids) == len(set(ids))


def test_late_events_are_dated_an_hour_earlier(planned):
    late = [data_of(p)["noticed_at"] for p in planned if p.kind == "late"]

    assert set(late) == {"2026-01-01T11:00:00.000Z"}


def test_claims_come_again_with_new_ids_beyond_the_end(monkeypatch, rows):
    monkeypatch.setattr(claims, "read", lambda: rows[:100])

    ids = [data_of(p)["claim_id"] for p in claims.stream(3, 200) if p.kind in ("clean", "late", "pii")]

    assert len(ids) == len(set(ids))
    assert any(i.endswith("-4") for i in ids)


def test_each_event_is_dated_when_it_is_taken():
    clock = iter(NOON + timedelta(seconds=i) for i in range(100))
    first, second, *_ = [p for p in claims.stream(7, 20, now=lambda: next(clock)) if p.kind == "clean"]

    assert data_of(first)["noticed_at"] < data_of(second)["noticed_at"]


def test_making_events_is_fast():
    list(claims.stream(1, 1))  # imports and pools
    began = time.process_time()
    list(claims.stream(1, 20_000))

    assert 20_000 / (time.process_time() - began) > 5_000


def test_view_rows_cover_every_holder():
    rows = list(claims.view_rows(1, 10, now=lambda: NOON))

    assert len(rows) == claims.HOLDERS
    assert {r.view for r in rows} == {"holder"}
    assert all(r.as_of == (NOON - timedelta(days=1)).timestamp() for r in rows)


def test_invented_numbers_have_right_check_digits():
    rng = random.Random(5)
    for _ in range(50):
        card = texts.credit_card(rng).replace(" ", "")
        iban = texts.iban(rng)

        assert texts.luhn_sum([int(d) for d in card]) % 10 == 0
        assert int(iban[4:] + "1314" + iban[2:4]) % 97 == 1
