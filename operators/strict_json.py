r"""JSON read strictly, many values at a time: what two readers could read differently is not read at all.

orjson refuses invalid UTF-8, byte order marks, lone surrogates, NaN and infinities, also `1e400`. It does not see
duplicate names and takes U+0000 and any depth up to 1,024; those are found here, by counting.

*Duplicate names.* In a JSON text each member has one colon outside of strings, and strings may have more. Written
again, the tree has the colons of the text, except those of members that were overwritten (at least one each) and with
those that the text wrote `\u003a`. So without that escape the counts are equal if and only if no name is repeated, and
never the other way round: one count over a whole batch clears all its values.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import orjson

from operators.wire import Reason


class _RepeatedName(Exception):
    pass


def read(values: Sequence[bytes], max_depth: int) -> list[Any]:
    """Read each value into a tree of builtins, or into the `Reason` why it cannot be read: `type(x) is Reason`."""
    trees = [_read_one(value) for value in values]
    # Depth comes first: `orjson.dumps` stops at 254 levels, and the standard library reads recursively.
    for i in _with_brackets(values, more_than=max_depth):
        if type(trees[i]) is not Reason and _depth(trees[i]) > max_depth:
            trees[i] = Reason.TOO_DEEP
    good = [i for i, tree in enumerate(trees) if type(tree) is not Reason]
    text = b"".join([values[i] for i in good])
    written = orjson.dumps([trees[i] for i in good])
    # A search for one byte takes a thirtieth of the time of a search for six, and most batches have no escapes.
    hidden = b"\\" in text and (b"\\u003" in text or b"\\u0000" in text)
    if hidden or _colons(text) != _colons(written):
        for i in good:
            trees[i] = _refuse_hidden(values[i], trees[i])
    return trees


def _read_one(value: bytes) -> Any:
    try:
        return orjson.loads(value)
    except orjson.JSONDecodeError as error:
        return _why(value, error.msg)


def _with_brackets(values: Sequence[bytes], more_than: int) -> list[int]:
    """Give the indices of the values with more opening brackets, in strings or not: no other can be nested deeper."""
    text = b"".join(values)
    if text.count(b"{") + text.count(b"[") <= more_than:
        return []
    codes = np.frombuffer(text, np.uint8)  # in UTF-8, ASCII bytes are characters
    brackets = np.flatnonzero((codes == ord("{")) | (codes == ord("[")))
    ends = np.cumsum([len(value) for value in values])
    counts = np.bincount(np.searchsorted(ends, brackets, side="right"))
    return np.flatnonzero(counts > more_than).tolist()


def _colons(text: bytes) -> int:
    return int(np.count_nonzero(np.frombuffer(text, np.uint8) == ord(":")))  # five times faster than `text.count`


def _why(value: bytes, message: str) -> Reason:
    try:
        value.decode("utf-8")
    except UnicodeDecodeError:
        return Reason.INVALID_UTF8
    if message.startswith("number is infinity"):
        return Reason.NUMBER_OUT_OF_RANGE
    return Reason.TOO_DEEP if message.startswith("depth limit") else Reason.INVALID_JSON


def _refuse_hidden(value: bytes, tree: Any) -> Any:
    names_may_repeat = b"\\u003" in value or _colons(value) != _colons(orjson.dumps(tree))
    if names_may_repeat and _repeats_a_name(value):
        return Reason.DUPLICATE_KEY
    return Reason.NUL_CHARACTER if b"\\u0000" in value and _has_nul(tree) else tree


def _repeats_a_name(value: bytes) -> bool:
    def members(pairs: list[tuple[str, Any]]) -> None:
        if len({name for name, _ in pairs}) != len(pairs):
            raise _RepeatedName

    try:
        # Numbers stay text: the standard library refuses integers of more than 4,300 digits.
        json.loads(value, object_pairs_hook=members, parse_int=str, parse_float=str)
    except (_RepeatedName, RecursionError):
        return True  # too deep to read, where the tree is not: the deep member was overwritten
    return False


def _depth(tree: Any) -> int:
    depth, level = 0, [tree]
    while level := [node for node in level if isinstance(node, (dict, list))]:
        depth += 1
        level = [child for node in level for child in (node.values() if isinstance(node, dict) else node)]
    return depth


def _has_nul(tree: Any) -> bool:
    level = [tree]
    while level:
        if any(isinstance(node, str) and "\x00" in node for node in level):
            return True
        names = [name for node in level if isinstance(node, dict) for name in node]
        values = [child for node in level if isinstance(node, dict) for child in node.values()]
        level = names + values + [child for node in level if isinstance(node, list) for child in node]
    return False
