from state.breaker import Breaker


class Clock:
    def __init__(self):
        self.at = 100.0

    def __call__(self):
        return self.at


def test_it_opens_after_failures_in_a_row_and_lets_one_trial_through_after_the_reset():
    clock = Clock()
    breaker = Breaker(failures=3, reset=5.0, now=clock)
    for _ in range(2):
        breaker.failed()
    before = breaker.allows()
    breaker.failed()

    assert before
    assert breaker.is_open
    assert not breaker.allows()
    clock.at += 5.0
    assert breaker.allows()
    breaker.failed()
    assert not breaker.allows()
    clock.at += 5.0
    breaker.succeeded()
    assert breaker.allows()
    assert not breaker.is_open


def test_a_success_between_failures_keeps_it_closed():
    breaker = Breaker(failures=2, reset=5.0, now=Clock())
    for _ in range(5):
        breaker.failed()
        breaker.succeeded()

    assert not breaker.is_open


def test_what_was_away_and_is_seen_again_is_tried_at_once():
    clock = Clock()
    breaker = Breaker(1, 10.0, clock)
    breaker.failed()
    assert not breaker.allows()
    breaker.try_soon()

    assert breaker.allows()
    breaker.failed()
    assert not breaker.allows()
