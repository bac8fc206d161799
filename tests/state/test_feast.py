"""Rows of Feast that are not as Feast writes them, and keys of every type; what it writes is in tests/feast."""

import math
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from state.feast import _VALUE, KEY_TYPES, FeastView
from state.views import Lack

NUMBER = FeastView("v", (("x", "number"),), "p", "v", "id")
TEXT = FeastView("v", (("x", "string"),), "p", "v", "id")
TIME = b"\x08\x05\x10\x80\xca\xb5\xee\x01"  # 5.5 s


def value(**held):
    return _VALUE(**held).SerializeToString()


@pytest.mark.parametrize(
    "stored, number, text",
    [
        (b"", math.nan, None),
        (value(null_val=0), math.nan, None),
        (value(double_val=math.inf), math.nan, Lack.UNREADABLE),
        (value(double_val=math.nan), math.nan, Lack.UNREADABLE),
        (value(double_val=0.0), 0.0, Lack.UNREADABLE),  # protobuf leaves a plain 0 out, but not one that was chosen
        (value(bool_val=False), 0.0, Lack.UNREADABLE),
        (value(unix_timestamp_val=-(2**63)), math.nan, Lack.UNREADABLE),
        (value(int64_val=2**53 + 1), 2.0**53, Lack.UNREADABLE),
        (value(decimal_val="1.25"), 1.25, "1.25"),
        (value(decimal_val="abc"), Lack.UNREADABLE, "abc"),
        (value(string_val="1"), Lack.UNREADABLE, "1"),
        (value(bytes_val=b"\xff"), Lack.UNREADABLE, Lack.UNREADABLE),
        (b"\x12\x01\xff", Lack.UNREADABLE, Lack.UNREADABLE),  # a string that is no UTF-8
        (b"\x7a\x00", Lack.UNREADABLE, Lack.UNREADABLE),  # an empty list
        (None, Lack.UNREADABLE, Lack.UNREADABLE),
    ],
)
def test_a_value_is_read_as_what_the_column_is_or_not_at_all(stored, number, text):
    for view, expected in ((NUMBER, number), (TEXT, text)):
        row = view.row([TIME, stored])
        assert repr(row) == repr(expected if isinstance(expected, Lack) else (5.5, expected))


@given(st.lists(st.none() | st.binary(max_size=40), min_size=2, max_size=2))
def test_no_bytes_make_it_raise(stored):
    for view in (NUMBER, TEXT):
        row = view.row(stored)
        assert isinstance(row, Lack) or (len(row) == 2 and isinstance(row[0], float))


@pytest.mark.parametrize(
    "kind, key, written",
    [
        ("string", "Zürich", "Zürich".encode()),
        ("bytes", "ab", b"ab"),
        ("int32", "-7", struct.pack("<i", -7)),
        ("int64", "12345678901", struct.pack("<q", 12345678901)),
        ("unix_timestamp", "0", struct.pack("<q", 0)),
    ],
)
@pytest.mark.parametrize("version", [2, 3])
def test_a_key_is_the_join_key_then_type_length_and_value_then_the_project(kind, key, written, version):
    view = FeastView("v", (("x", "number"),), "proj", "v", "id", kind, version)
    head = struct.pack("<II", 2, 2) + b"id" if version == 3 else struct.pack("<I", 2) + b"id"
    count = struct.pack("<I", 1) if version == 3 else b""

    assert view.redis_key(key) == count + head + struct.pack("<II", KEY_TYPES[kind], len(written)) + written + b"proj"


@pytest.mark.parametrize("key", ["1.0", "01", "+1", " 1", "1_0", "٣", "9" * 30, "9" * 5000, ""])
def test_a_key_that_is_no_such_number_is_nobodys(key):
    view = FeastView("v", (("x", "number"),), "p", "v", "id", "int64")

    assert struct.unpack_from("<I", view.redis_key(key), 14)[0] == KEY_TYPES["string"]
