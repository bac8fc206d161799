"""A packed value is read as it was written, by no other view, and whatever else is stored is unreadable."""

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from state.versions import SIZE, parts, version
from state.views import Lack, LoadedView

HOLDER = LoadedView("holder", (("claims_3y", "number"), ("segment", "string"), ("paid", "number"), ("note", "string")))
DEVICE = LoadedView("device", (("seen_days", "number"), ("cards", "number")))
MOMENT = st.integers(-(2**50), 2**50)
NUMBER = st.none() | st.floats(allow_nan=False, allow_infinity=False)
TEXT = st.none() | st.text(max_size=9)


def unpack(view, *kept):
    """Each value as (as of, numbers, strings) or its lack."""
    n = len(kept)
    values = view.values([*kept, Lack.MISSING], np.arange(n), np.zeros(n, np.int64))
    rows = zip(values.as_of.tolist(), values.numbers.T.tolist(), zip(*values.strings, strict=True), strict=False)
    rows = (
        list(rows)
        if values.strings
        else [(a, x, ()) for a, x in zip(values.as_of, values.numbers.T.tolist(), strict=True)]
    )
    return [values.lacks.get(at, row) for at, row in enumerate(rows)]


@given(st.lists(st.tuples(MOMENT, NUMBER, TEXT, NUMBER, TEXT), min_size=1, max_size=5))
def test_values_are_read_as_they_were_written(rows):
    found = unpack(HOLDER, *[HOLDER.pack(at, (a, b, c, d)) for at, a, b, c, d in rows])

    for (as_of, numbers, strings), (at, a, b, c, d) in zip(found, rows, strict=True):
        assert as_of == at / 1000
        assert strings == (b, d)
        assert [None if math.isnan(x) else x for x in numbers] == [a, c]


def test_what_is_not_finite_is_missing():
    [(_, numbers, _)] = unpack(DEVICE, DEVICE.pack(0, (math.inf, math.nan)))

    assert np.isnan(numbers).all()


def test_a_value_of_another_version_of_the_view_is_not_misread():
    other = LoadedView("device", (("cards", "number"), ("seen_days", "number")))

    assert unpack(DEVICE, other.pack(0, (1, 2)), DEVICE.pack(5000, (3, 4))) == [Lack.UNREADABLE, (5.0, [3, 4], ())]


@given(
    st.binary(max_size=80)
    | st.builds(lambda rest: HOLDER.pack(0, (1, "a", 2, "b"))[:32] + rest, st.binary(max_size=40))
)
def test_whatever_is_stored_gives_a_row_or_unreadable(stored):
    [row] = unpack(HOLDER, stored)

    if row is not Lack.UNREADABLE:
        as_of, numbers, strings = row
        assert math.isfinite(as_of)
        assert not any(map(math.isinf, numbers))
        assert all(text is None or isinstance(text, str) for text in strings)


def test_a_lack_keeps_its_reason_and_stays_with_its_rows():
    good = DEVICE.pack(1000, (1, 2))
    kept = [Lack.UNAVAILABLE, good, b"garbage", Lack.MISSING]
    values = DEVICE.values(kept, np.array([1, 0, 2, -1, 1]), np.zeros(5, np.int64))

    assert values.lacks == {1: Lack.UNAVAILABLE, 2: Lack.UNREADABLE, 3: Lack.MISSING}
    assert np.isnan(values.numbers[:, [1, 2, 3]]).all()
    assert values.numbers[:, [0, 4]].T.tolist() == [[1, 2], [1, 2]]


@given(MOMENT, MOMENT, MOMENT, MOMENT)
def test_versions_compare_as_their_numbers_do(a, b, c, d):
    assert (version(a, b) < version(c, d)) == ((a, b) < (c, d))
    assert parts(version(a, b) + b"rest") == (a, b)
    assert len(version(a, b)) == SIZE
