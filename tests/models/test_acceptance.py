"""Who is alive and who has accepted, from the admissions topic alone."""

from __future__ import annotations

from models.acceptance import HEARTBEAT_LIMIT_MS, Acceptances
from models.release import AdmissionRecord, HeartbeatRecord, RefusalReason


def beat(to: Acceptances, slot: str, at: int, pipeline: str = "claims") -> HeartbeatRecord:
    record = HeartbeatRecord(pipeline=pipeline, slot=slot, next_offset=0)
    to.add(record.key(), record.to_bytes(), at)
    return record


def answer(to: Acceptances, slot: str, of: int, at: int, *, accepted: bool = True) -> None:
    reason = None if accepted else RefusalReason.SHA256
    record = AdmissionRecord(pipeline="claims", of=of, slot=slot, accepted=accepted, reason=reason)
    to.add(record.key(), record.to_bytes(), at)


def test_acceptance_needs_every_live_slot() -> None:
    heard = Acceptances("claims")
    beat(heard, "g-0", 0)
    beat(heard, "g-1", 0)
    answer(heard, "g-0", 7, 10)

    assert not heard.all_accept(7)
    answer(heard, "g-1", 7, 20, accepted=False)
    assert not heard.all_accept(7)
    answer(heard, "g-1", 7, 30)
    assert heard.all_accept(7)
    assert not heard.all_accept(8)


def test_acceptance_is_never_given_by_nobody() -> None:
    heard = Acceptances("claims")
    answer(heard, "g-0", 7, 10)

    assert not heard.all_accept(7)


def test_acceptance_does_not_wait_for_a_slot_that_is_gone() -> None:
    heard = Acceptances("claims")
    beat(heard, "g-0", 0)
    beat(heard, "g-1", 0)
    answer(heard, "g-0", 7, HEARTBEAT_LIMIT_MS)
    beat(heard, "g-0", HEARTBEAT_LIMIT_MS)
    assert heard.live() == {"g-0", "g-1"}

    beat(heard, "g-0", HEARTBEAT_LIMIT_MS + 1)

    assert heard.live() == {"g-0"}
    assert heard.all_accept(7)


def test_acceptance_forgets_a_slot_that_says_goodbye() -> None:
    heard = Acceptances("claims")
    beat(heard, "g-0", 0)
    leaving = beat(heard, "g-1", 0)
    heard.add(leaving.key(), None, 1)

    assert heard.live() == {"g-0"}


def test_acceptance_hears_only_its_own_pipeline_and_skips_noise() -> None:
    heard = Acceptances("claims")
    beat(heard, "g-0", 0, pipeline="payments")
    heard.add(b"x", b"{", 1)
    heard.add(None, None, 2)

    assert heard.live() == frozenset()


def test_acceptance_keeps_answers_that_somebody_waits_for() -> None:
    heard = Acceptances("claims")
    for of in (3, 4, 5, 9):
        answer(heard, "g-0", of, 10)

    heard.keep({4}, below=6)

    assert [of for of in (3, 4, 5, 9) if heard.answers(of)] == [4, 9]
