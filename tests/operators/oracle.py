"""An independent reading of deploy/pipelines/CONTRACT.md: the standard library's JSON, and jsonschema.

It shares no code with `operators`: it takes the published schema as plain JSON. It is slow, one event at a time, and
gives every reason that applies at the first level where one does.
"""

import calendar
import json
import math
import re
import sys
from dataclasses import dataclass

from jsonschema import Draft202012Validator, FormatChecker, ValidationError, validators

MAX_SAFE = 2**53 - 1
sys.setrecursionlimit(max(sys.getrecursionlimit(), 10_000))


@dataclass(frozen=True)
class Oracle:
    """Labels events by the written rules."""

    schema: dict
    format: str = "cloudevents"
    max_bytes: int = 65_536
    max_depth: int = 8

    def reasons(self, value, headers=()):
        """Give the set of reasons to reject the event; empty when it must pass."""
        if value is None:
            return {"tombstone"}
        if value == b"":
            return {"empty"}
        if len(value) > self.max_bytes:
            return {"too_large"}
        structured = False
        if self.format == "cloudevents":
            structured = mode(headers)
            if isinstance(structured, str):
                return {structured}
        try:
            tree = parse(value, self.max_depth)
            if structured:
                tree = payload_of(tree)
        except Refused as refused:
            return set(refused.args)
        return payload_reasons(self.schema, tree)


class Refused(Exception):
    """With the reasons."""


@dataclass(frozen=True)
class Token:
    """A number as it was written."""

    text: str


def parse(value, max_depth):
    try:
        text = value.decode("utf-8", "strict")
    except UnicodeDecodeError:
        raise Refused("invalid_utf8") from None
    if nesting(text) > 900:  # deeper than the standard library can read, and than any contract allows
        raise Refused("too_deep", "invalid_json", "duplicate_key")
    try:
        tree = json.loads(
            text, object_pairs_hook=Pairs, parse_int=Token, parse_float=Token, parse_constant=refuse_constant
        )
    except (json.JSONDecodeError, RecursionError):
        raise Refused("invalid_json", *({"number_out_of_range"} if has_infinity(text) else ())) from None
    rules = {
        "invalid_json": any(has_surrogate(string) for string in strings_of(tree)),
        "number_out_of_range": any(not math.isfinite(float(token.text)) for token in tokens_of(tree)),
        "too_deep": depth_of(tree) > max_depth,
        "duplicate_key": repeats(tree),
        "nul_character": any("\0" in string for string in strings_of(tree)),
    }
    if broken := [reason for reason, holds in rules.items() if holds]:
        raise Refused(*broken)
    return plain(tree)


class Pairs(list):
    """The members of an object, repeated names included."""


def refuse_constant(_):
    raise json.JSONDecodeError("constant", "", 0)


def nesting(text):
    """The deepest nesting of brackets outside of strings, well-formed or not."""
    deep = now = 0
    for bracket in re.findall(r'"(?:[^"\\]|\\.)*"|[\[\]{}]', text, re.DOTALL):
        now += {"[": 1, "{": 1, "]": -1, "}": -1}.get(bracket, 0)
        deep = max(deep, now)
    return deep


def has_infinity(text):
    numbers = re.findall(r'"(?:[^"\\]|\\.)*"|(-?[0-9]+(?:[.][0-9]+)?(?:[eE][+-]?[0-9]+)?)', text, re.DOTALL)
    return any(number and not math.isfinite(float(number)) for number in numbers)


def walk(tree):
    yield tree
    if isinstance(tree, Pairs):
        for name, child in tree:
            yield name
            yield from walk(child)
    elif isinstance(tree, list):
        for child in tree:
            yield from walk(child)


def strings_of(tree):
    return (node for node in walk(tree) if isinstance(node, str))


def tokens_of(tree):
    return (node for node in walk(tree) if isinstance(node, Token))


def has_surrogate(string):
    return any(0xD800 <= ord(character) <= 0xDFFF for character in string)


def depth_of(tree):
    children = [child for _, child in tree] if isinstance(tree, Pairs) else tree if isinstance(tree, list) else None
    return 0 if children is None else 1 + max(map(depth_of, children), default=0)


def repeats(tree):
    return any(isinstance(node, Pairs) and len({name for name, _ in node}) < len(node) for node in walk(tree))


def plain(tree):
    """Builtins: a number without fraction and exponent is an int, every other one a float."""
    if isinstance(tree, Pairs):
        return {name: plain(child) for name, child in tree}
    if isinstance(tree, list):
        return [plain(child) for child in tree]
    if isinstance(tree, Token):
        if re.fullmatch("-?[0-9]+", tree.text) is None:
            return float(tree.text)
        return int(tree.text) if len(tree.text) < 400 else 10**400
    return tree


def mode(headers):  # noqa: PLR0911  # one rule, one line
    """True for structured, False for binary mode, or a reason."""
    found = {}
    for name, data in headers:
        if name in ("content-type", "ce_specversion", "ce_id", "ce_source", "ce_type"):
            if name in found:
                return "bad_header"
            found[name] = data
    if "content-type" in found:
        data = found.pop("content-type")
        if data is None or len(data) > 1024 or not data.isascii():
            return "bad_header"
        kind = media(data.decode("ascii"))
        if kind != "json":
            return True if kind == "structured" else kind
    if len(found) < 4:
        return "missing_header"
    for data in found.values():
        try:
            if not 1 <= len(data or b"") <= 1024:
                return "bad_header"
            data.decode("utf-8")
        except UnicodeDecodeError:
            return "bad_header"
    return False if found["ce_specversion"] == b"1.0" else "bad_header"


def media(text):
    kind, *parameters = [part.strip().lower() for part in text.split(";")]
    if re.fullmatch(r"[\w!#$%&'*+.^`|~-]+/[\w!#$%&'*+.^`|~-]+", kind, re.ASCII) is None:
        return "bad_header"
    for parameter in parameters:
        name, _, setting = parameter.partition("=")
        if name.strip() == "charset" and setting.strip().strip('"') not in ("utf-8", "us-ascii"):
            return "unsupported_content_type"
    if kind == "application/cloudevents+json":
        return "structured"
    if kind.startswith("application/cloudevents"):
        return "unsupported_content_type"
    return "json" if kind in ("application/json", "text/json") or kind.endswith("+json") else "unsupported_content_type"


ENVELOPE = {
    "type": "object",
    "required": ["specversion", "id", "source", "type"],
    "properties": {
        "specversion": {"const": "1.0"},
        **{name: {"type": "string", "minLength": 1, "maxLength": 1024} for name in ("id", "source", "type")},
        **{
            name: {"type": ["string", "null"], "minLength": 1, "maxLength": 1024}
            for name in ("subject", "time", "dataschema", "datacontenttype")
        },
    },
}


def payload_of(tree):
    faults = {error.validator for error in Draft202012Validator(ENVELOPE).iter_errors(tree)}
    if not isinstance(tree, dict):
        raise Refused("not_an_object")
    if faults:
        raise Refused("missing_attribute" if "required" in faults else "bad_attribute")
    kind = tree.get("datacontenttype")
    if "data_base64" in tree or (kind is not None and (not kind.isascii() or media(kind) != "json")):
        raise Refused("unsupported_content_type")
    if "data" not in tree:
        raise Refused("missing_attribute")
    return tree["data"]


formats = FormatChecker(formats=())


@formats.checks("date")
def is_date(text):
    if not isinstance(text, str):
        return True
    match = re.fullmatch(r"([0-9]{4})-([0-9]{2})-([0-9]{2})", text)
    return match is not None and exists(*map(int, match.groups()))


@formats.checks("date-time")
def is_datetime(text):
    if not isinstance(text, str):
        return True
    match = re.fullmatch(
        r"([0-9]{4})-([0-9]{2})-([0-9]{2})[Tt]([0-9]{2}):([0-9]{2}):([0-9]{2})(?:\.[0-9]{1,9})?(?:[Zz]|([+-])([0-9]{2}):([0-9]{2}))",
        text,
    )
    if match is None:
        return False
    year, month, day, hour, minute, second = map(int, match.groups()[:6])
    sign, off_hour, off_minute = match[7], int(match[8] or 0), int(match[9] or 0)
    if not (
        exists(year, month, day) and hour < 24 and minute < 60 and second < 60 and off_hour < 24 and off_minute < 60
    ):
        return False
    minutes = hour * 60 + minute - (-1 if sign == "-" else 1) * (off_hour * 60 + off_minute)
    before_first = (year, month, day) == (1, 1, 1) and minutes < 0
    after_last = (year, month, day) == (9999, 12, 31) and minutes >= 24 * 60
    return not before_first and not after_last


def exists(year, month, day):
    return 1 <= year <= 9999 and 1 <= month <= 12 and 1 <= day <= calendar.monthrange(year, month)[1]


def strict_pattern(validator, pattern, instance, schema):
    """Like the standard keyword, but `$` is the end of the string and not also before a last line feed."""
    if isinstance(instance, str) and not re.search(pattern.replace("$", r"\Z"), instance):
        yield ValidationError("does not match")


def is_number(_, value):
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def is_integer(_, value):
    return isinstance(value, int) and not isinstance(value, bool)


def as_double(limit):
    def compare(validator, bound, instance, schema):
        if is_number(None, instance):
            number = instance if schema.get("type") == "integer" else float(instance)
            if (number < bound) if limit == "minimum" else (number > bound):
                yield ValidationError(limit)

    return compare


STRICT = validators.extend(
    Draft202012Validator,
    validators={"pattern": strict_pattern, "minimum": as_double("minimum"), "maximum": as_double("maximum")},
    type_checker=Draft202012Validator.TYPE_CHECKER.redefine("number", is_number).redefine("integer", is_integer),
)

REASONS = {"required": "missing_field", "additionalProperties": "unknown_field", "type": "wrong_type"}


def payload_reasons(schema, tree):
    if not isinstance(tree, dict):
        return {"not_an_object"}
    errors = list(STRICT(schema, format_checker=formats).iter_errors(tree))
    return {reason for error in errors for reason in reasons_of(error)}


def reasons_of(error):
    if error.validator == "anyOf":  # a nullable field
        return {reason for inner in error.context if inner.schema != {"type": "null"} for reason in reasons_of(inner)}
    far = is_number(None, error.instance) and abs(error.instance) > MAX_SAFE
    if far and (error.schema.get("type") == "integer"):
        return {"number_out_of_range"}
    if error.validator == "enum" and not isinstance(error.instance, str):
        return {"wrong_type"}
    return {REASONS.get(error.validator, "constraint")}
