import pytest
from hypothesis import given
from hypothesis import strategies as st

from state.latest import Known, Latest


def known(offset, revision=0, lane=0, event_id="E", body=b"b"):
    return Known(lane, offset, revision, event_id, body)


@pytest.fixture
def latest():
    table = Latest()
    yield table
    table.close()


def test_the_highest_revision_of_an_origin_stays_whatever_the_order(latest):
    latest.take([known(7, 1, body=b"1"), known(7, 0, body=b"0"), known(7, 2, body=b"2"), known(7, 1, body=b"again")])
    latest.take([known(8, 0, body=b"8")])

    assert latest.of(0, 7) == (2, b"2")
    assert latest.of(0, 8) == (0, b"8")
    assert latest.of(1, 7) is None
    assert len(latest) == 2


def test_an_event_id_is_found_at_its_lowest_offset_in_its_own_lane(latest):
    latest.take(
        [known(9, event_id="A"), known(5, event_id="A"), known(1, lane=1, event_id="B"), known(2, event_id=None)]
    )

    assert latest.first_with(0, "A") == 5
    assert latest.first_with(1, "B") == 1
    assert latest.first_with(0, "B") is None


@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2**62), st.integers(0, 9), st.text(max_size=3)), max_size=40),
    st.integers(1, 7),
)
def test_latest_is_what_a_dictionary_says(rows, size):
    table, expected = Latest(), {}
    for at in range(0, len(rows), size):
        table.take(Known(*place, text, text.encode()) for *place, text in rows[at : at + size])
    for lane, offset, revision, text in rows:
        if (lane, offset) not in expected or revision > expected[lane, offset][0]:
            expected[lane, offset] = revision, text.encode()

    assert {place: table.of(*place) for place in expected} == expected
    assert len(table) == len(expected)
    table.close()
