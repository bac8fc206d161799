"""What Polars finds wrong with an expression, in words for the person who wrote it.

Polars' own text names its types and its parser; it changes with its version, so what is not known here gets a general
word, which is never wrong.
"""

from __future__ import annotations

import re

_SYNTAX = (
    (r"Unterminated string literal", "a text is not closed: a ' is missing"),
    (r"Expected close delimiter", 'a name is not closed: a " is missing'),
    (r"unsupported function '(\w+)'", "there is no function '{}'"),
    (r"no function matches .*: `(\w+)\(", "'{}' does not take these arguments"),
    (r"datatype \"?(\w+)\"? is not", "there is no type '{}'"),
    (r"operator (\w+) is not", "it has an operator that cannot be used"),
    (r"found '(\w+)' clause", "it begins with {}, as a whole query does"),
    (r"found unexpected token '(.{1,40})'", "'{}' stands where the expression should end"),
    (r"pattern must be a string", "the pattern after LIKE is no text in single quotes"),
)
_TYPES = (
    (r"cannot compare .*(string|str\b).* numeric|cannot compare .*numeric.* (string|str\b)",
     "text is compared with a number"),
    (r"cannot compare", "values of different types are compared"),
    (r"is_in", "the list after IN has values of another type"),
    (r"(arithmetic on dtypes|arithmetic).*\bstr\b", "text is used in a calculation"),
    (r"for dtype `str`|for dtype `String`", "a function of numbers is given text"),
    (r"expected `String`", "a function of text is given something else"),
    (r"expected `Boolean`", "a condition is needed where something else stands"),
    (r"^[&|^] on ", "AND and OR join conditions, and one side is none"),
)  # fmt: skip
_UNFINISHED = re.compile(r"([-+*/%<>=(,]|\b(and|or|not|in|is|like|between|then|when|case|else))\s*$", re.IGNORECASE)
_TEXT = re.compile(r"'(?:[^']|'')*'|\"[^\"]*\"")


def syntax_words(source: str, said: str) -> str:
    """Why a text is no expression, from the text and what Polars said about it."""
    for pattern, words in _SYNTAX:
        if found := re.search(pattern, said):
            return words.format(*found.groups())
    plain = _TEXT.sub("x", source)
    if not plain.strip():
        return "it is empty"
    if _UNFINISHED.search(plain):
        return f"it ends after '{plain.split()[-1][-20:]}', where something must follow"
    opened, closed = plain.count("("), plain.count(")")
    if opened != closed:
        return f"it has {opened} opening and {closed} closing parentheses"
    return "it cannot be read as SQL"


def type_words(said: str) -> str:
    """Why the types of an expression do not fit, from what Polars said."""
    return next((words for pattern, words in _TYPES if re.search(pattern, said)), "values of different types meet")
