from state.retry_budget import RetryBudget


def test_retries_are_a_tenth_of_what_succeeded_and_ten_at_once():
    budget = RetryBudget()

    assert [budget.take() for _ in range(11)] == [True] * 10 + [False]
    for _ in range(9):
        budget.earn()
    assert not budget.take()
    budget.earn()
    budget.earn()
    assert budget.take()
    assert not budget.take()
