"""Values that nobody should send, from a seed: random bytes, mutated valid events, hostile JSON. Some are still valid.

    values = generate(seed=7, n=10_000, valid_event=orjson.dumps(envelope))

`valid_event` is a JSON object; its members are attacked, and those of the objects in it.
"""

import json
import random

BAD_JSON = [
    *rb'''
null true 0 "" [] {} { } [ ] " {}{} {}x [1,] {"a":1,} {'a':1} {a:1} NaN Infinity -Infinity [NaN] 01 +1 1. .5 1e 0x10
- --1 1e400 -1e400 1e-400 [1e400] "\ud800" "\udc00\ud800" "\ud83d\ude00" "\x" "\u12" {"a":1,"a":1}
{"a":1,"\u0061":2} {"a":{"b":1,"b":2}} [{"a":1,"a":2}] {":":1,":":2} {"":1,"":2} [[[[[[[[[]]]]]]]]] [[[[[[[[]]]]]]]]
'''.split(),
    b"", b" ", b"\n", b"// x\n{}", b"1" + b"0" * 400, b"[" + b"9" * 5000 + b"]", b'"\x00"', b'"\x1f"', b'"\x7f"',
    b"\xef\xbb\xbf{}", b"\xff\xfe{\x00}\x00", b'{"\xed\xa0\x80":1}', b'"\xc0\xaf"', b'"\xf4\x90\x80\x80"',
    b'"\xe2\x82"', b"\x80", b"[" * 1000 + b"]" * 1000, b"[" * 100_000, b'{"a":' * 200 + b"1" + b"}" * 200,
    b'{"a":' * 5000, b'{"a":' + b"[" * 1010 + b"]" * 1010 + b',"a":1}', b"[[]," * 3000,
]  # fmt: skip

ODD_VALUES = [
    *rb'''
null true false 0 -0 -0.0 0.0 1 -1 1.0 1e2 1E+2 1e400 1e308 -1e309 1e-400 9007199254740991 9007199254740992
-9007199254740991 -9007199254740993 9223372036854775807 9223372036854775808 18446744073709551616
1000000000000000000000000000000 0.1e1 NaN Infinity 10000000 10000000.000000001 10000001 -0.000001 "" "0" "1" "NaN"
"true" [] {} [1] {"a":1} ["Auto"] "\u0000" "a\u0000b" "\\u0000" "\ud800" "\ud83d\ude00" "\u003a:" "{[:]}" ":::::::"
"\"" "\n" "a\n" "PH-123456\n" "PH-123456" "PH-\u0661\u0662\u0663456" "PH-12345" "ph-123456" "Auto" "Home" "auto"
"A\u0075to" "PD" "2026-02-28" "2026-02-29" "2024-02-29" "2023-02-29" "1900-02-29" "2000-02-29" "0000-01-01"
"0001-01-01" "9999-12-31" "10000-01-01" "2026-1-1" "2026-13-01" "2026-00-10" "2026-04-31" "20260401" "2026-W01-1"
"2026-04-01T00:00:00Z" "2026-04-01T00:00:00" "2026-04-01t00:00:00z" "2026-04-01T24:00:00Z" "2026-04-01T23:59:60Z"
"2016-12-31T23:59:60Z" "2026-04-01T00:60:00Z" "2026-04-01T00:00:00.Z" "2026-04-01T00:00:00.123456789Z"
"2026-04-01T00:00:00.1234567890Z" "2026-04-01T00:00:00,5Z" "2026-04-01T00:00:00+00:00" "2026-04-01T00:00:00-00:00"
"2026-04-01T00:00:00+23:59" "2026-04-01T00:00:00+24:00" "2026-04-01T00:00:00+01:60" "2026-04-01T00:00:00+0100"
"2026-04-01T00:00:00+01" "2026-04-01T00:00Z" "0001-01-01T00:00:00+00:01" "0001-01-01T00:00:00-00:01"
"9999-12-31T23:59:59-00:01" "9999-12-31T23:59:59.999999999Z" "0000-12-31T23:59:00-00:01" "2026-02-30T00:00:00Z"
"2026-04-01T00:00:00Z\n" "\u0032026-04-01" "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"
"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx" "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx" "application/json"
"application/xml" "text/json;charset=latin1" "1.0" "1.1" 1.0 [[[[[[[]]]]]]] [[[[[[]]]]]] [[[[[]]]]]
{"x":{"x":{"x":{"x":{"x":{"x":1}}}}}} {"a":1,"a":2}
'''.split(),
    b'" "', b'"Auto "', b'"\xc3\xa9"', b'"e\xcc\x81"', b'"\xe2\x80\xa8"', b'"2026-04-01 "', b'"2026-04-01 00:00:00Z"',
    b'"\xd9\xa2026-04-01"', b'"APPLICATION/cloud+JSON; charset=utf-8"', b"1" + b"0" * 308, b"1" + b"0" * 309,
    b"[" * 300 + b"]" * 300, *(b'"%b"' % (b"x" * n) for n in (200, 201, 2000, 2001, 40_000)),
    *(b'"%b"' % ("\U0001f600".encode() * n) for n in (40, 41, 200)),
]  # fmt: skip

ODD_NAMES = [
    *rb'''
"extra" "" "\u0000" "a\u0000" "\ud800" "__proto__" "data" "data_base64" "subject" "datacontenttype" "dataschema"
"time" "\u003a" "Line" "lin\u0065" "claim\u005fid"
'''.split(),
    b'"\xff"', b'"line "',
]  # fmt: skip


def generate(seed: int, n: int, valid_event: bytes) -> list[bytes]:
    """Give `n` values; the same for the same arguments."""
    chance = random.Random(seed)
    event = json.loads(valid_event)
    kinds = [_random_bytes, _mutated_bytes, _bad_json, _odd_member, _odd_members, _spelled, _spelled, _padded]
    weights = [1, 3, 1, 6, 2, 3, 1, 1]
    return [chance.choices(kinds, weights)[0](chance, event, valid_event) for _ in range(n)]


def _random_bytes(chance, event, valid):
    return chance.randbytes(chance.choice([0, 1, 2, 3, 8, 50, 600]))


def _mutated_bytes(chance, event, valid):
    data = bytearray(valid)
    for _ in range(chance.choice([1, 1, 1, 2, 5])):
        i = chance.randrange(len(data) or 1)
        j = min(len(data), i + chance.choice([1, 1, 2, 10, 100]))
        how = chance.randrange(8)
        if how == 0:
            data[i:j] = b""
        elif how == 1:
            data[i:i] = data[i:j]
        elif how == 2 and data:
            data[i % len(data)] ^= 1 << chance.randrange(8)
        elif how == 3:
            data[i:j] = chance.randbytes(j - i)
        elif how == 4:
            data = data[:i]
        elif how == 5:
            data[i:i] = chance.choice(
                [b'"', b"{", b"}", b"[", b"]", b":", b",", b"\\", b"\x00", b"\xff", b" ", b"e9", b".0", b"\\u0000"]
            )
        elif how == 6:
            data[i:i] = chance.choice(BAD_JSON)[:100]
        else:
            data = data.replace(
                chance.choice([b" ", b",", b":", b'"', b"0", b"T", b"-"]), chance.choice([b"", b"  ", b"1", b"\t"]), 1
            )
    return bytes(data)


def _bad_json(chance, event, valid):
    return chance.choice(BAD_JSON)


def _odd_member(chance, event, valid):
    return _write(chance, event, {chance.choice(list(_places(event))): chance.choice(ODD_VALUES)})


def _odd_members(chance, event, valid):
    places = list(_places(event))
    return _write(
        chance, event, {place: chance.choice(ODD_VALUES) for place in chance.sample(places, min(3, len(places)))}
    )


def _spelled(chance, event, valid):
    """The same event, or one with a member more, fewer or twice, in another spelling."""
    return _write(chance, event, {}, chance.choice(["same", "same", "less", "more", "twice", "twice"]))


def _padded(chance, event, valid):
    space = chance.choice([b" ", b"\n", b"\t", b"\r", b"\x0b", b"\xc2\xa0", b"\x00", b","]) * chance.choice(
        [1, 3, 40_000]
    )
    return chance.choice([space + valid, valid + space, valid.replace(b",", b"," + space, 1)])


def _places(event, at=()):
    """Paths to all members, those of nested objects too."""
    for name, value in event.items():
        yield (*at, name)
        if isinstance(value, dict):
            yield from _places(value, (*at, name))


def _write(chance, event, odd, how="same"):
    """Write an object by hand, with its members shuffled, respelled and replaced as asked; `how` is for one object."""
    nested = {place[:-1] for place in _places(event)} - {()}
    target = () if not nested or chance.random() < 0.2 else chance.choice(sorted(nested))
    return _object(chance, event, odd, (how, target), ())


def _object(chance, event, odd, change, at):
    members = [[_name(chance, name), _value(chance, value, odd, change, (*at, name))] for name, value in event.items()]
    how, target = change
    if how != "same" and at == target:
        i = chance.randrange(len(members))
        if how == "less":
            del members[i]
        elif how == "more":
            members.append([chance.choice(ODD_NAMES), chance.choice(ODD_VALUES)])
        else:
            again = members[i][1] if chance.random() < 0.5 else chance.choice(ODD_VALUES)
            members.append([_name(chance, list(event)[i]), again])
    if chance.random() < 0.3:
        chance.shuffle(members)
    colon, comma = chance.choice([(b":", b","), (b": ", b", "), (b" :\n", b"\t,\r\n")])
    return b"{" + comma.join(name + colon + value for name, value in members) + b"}"


def _value(chance, value, odd, change, place):
    if place in odd:
        return odd[place]
    if isinstance(value, dict):
        return _object(chance, value, odd, change, place)
    text = json.dumps(value, ensure_ascii=chance.random() < 0.5).encode()
    return _escaped(chance, value) if isinstance(value, str) and chance.random() < 0.1 else text


def _name(chance, name):
    return _escaped(chance, name) if chance.random() < 0.1 else json.dumps(name).encode()


def _escaped(chance, text):
    """Some of the characters as escapes, in either case."""
    spell = chance.choice(["\\u%04x", "\\u%04X"])
    plain = json.dumps(text, ensure_ascii=False)[1:-1] if not text.isalnum() else text
    written = (
        plain
        if "\\" in plain
        else "".join("".join(spell % unit for unit in _units(c)) if chance.random() < 0.3 else c for c in plain)
    )
    return b'"' + written.encode() + b'"'


def _units(character):
    data = character.encode("utf-16-be")
    return [int.from_bytes(data[i : i + 2], "big") for i in range(0, len(data), 2)]
