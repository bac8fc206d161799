import pytest
from jsonschema import Draft202012Validator
from pydantic import ValidationError

from operators.contract import ContractSpec, FieldSpec, published_schema

FIELDS = {"id": {"type": "string"}, "who": {"type": "string", "max_length": 9}, "at": {"type": "datetime"}}


def contract(fields=None, **changes):
    return ContractSpec.model_validate(
        {"event_id": "id", "entity": "who", "event_time": "at", "fields": FIELDS | (fields or {})} | changes
    )


@pytest.mark.parametrize(
    "pattern", ["^[A-Za-z0-9-]+$", r"a\.b", "(?:ab)+|c", "é{2,3}", "[^a-z&-]", r"\[\]", ".", "[+-][0-9]"]
)
def test_contract_takes_portable_patterns(pattern):
    assert FieldSpec(type="string", pattern=pattern).pattern == pattern


@pytest.mark.parametrize(
    "pattern",
    [
        r"\d",
        r"[\w]",
        "a(?=b)",
        "(?i)a",
        r"(a)\1",
        "(a",
        "[a&&b]",
        "[a[b]]",
        "[[:alpha:]]",
        "[a--b]",
        "[]a]",
        "a{,3}",
        "(?P<x>a)",
        "((a{999}){999}){999}",
    ],
)
def test_contract_refuses_patterns_that_engines_read_differently(pattern):
    with pytest.raises(ValidationError, match="pattern"):
        FieldSpec(type="string", pattern=pattern)


@pytest.mark.parametrize(
    "spec, says",
    [
        ({"type": "number", "max_length": 3}, "max_length cannot be used with type number, which takes ge, le"),
        ({"type": "boolean", "enum": ["a"]}, "takes no constraint"),
        ({"type": "string", "min_length": 4, "max_length": 3}, "nothing could pass"),
        ({"type": "number", "ge": 4, "le": 3}, "nothing could pass"),
        ({"type": "number", "ge": float("nan")}, "must be numbers between"),
        ({"type": "integer", "le": 10**400}, "must be numbers between"),
        ({"type": "string", "enum": ["a"], "max_length": 3}, "enum goes alone: leave out max_length"),
        ({"type": "string", "from": "claim/id"}, "JSON Pointer"),
        ({"type": "text"}, "Input should be 'string'"),
        ({"type": "string", "lenght": 3}, "Extra inputs"),
    ],
)
def test_contract_says_what_is_wrong_with_a_field(spec, says):
    with pytest.raises(ValidationError, match=says):
        FieldSpec.model_validate(spec)


@pytest.mark.parametrize(
    "changes, says",
    [
        ({"entity": "nobody"}, "entity names no field: 'nobody'; fields are id, who, at"),
        ({"event_time": "id"}, "event_time must be a required datetime"),
        ({"fields": {"id": {"type": "string", "required": False}}}, "event_id must be a required string"),
        ({"fields": {"who": {"type": "string", "nullable": True}}}, "entity must be a required string"),
        (
            {"fields": {"a": {"type": "string", "from": "/x"}, "b": {"type": "string", "from": "/x/y"}}},
            "one within the other: /x/y",
        ),
        ({"fields": {"a": {"type": "string", "from": "/id"}}}, "same place"),
        ({"max_bytes": 0}, "greater than or equal"),
        ({"fields": {"not a name": {"type": "string"}}}, "should match pattern"),
    ],
)
def test_contract_says_what_is_wrong(changes, says):
    with pytest.raises(ValidationError, match=says):
        contract(**changes)


def test_contract_publishes_a_schema_that_is_one():
    schema = published_schema(
        contract({"n": {"type": "integer", "nullable": True, "required": False, "from": "/deep/er/n~1m"}})
    )

    Draft202012Validator.check_schema(schema)
    deep = schema["properties"]["deep"]["properties"]["er"]["properties"]
    assert deep["n/m"] == {
        "anyOf": [{"type": "integer", "minimum": -(2**53) + 1, "maximum": 2**53 - 1}, {"type": "null"}]
    }
    assert schema["required"] == ["id", "who", "at"]
    assert schema["properties"]["who"] == {"type": "string", "minLength": 1, "maxLength": 9}
    assert schema["properties"]["id"]["maxLength"] == 256


def test_contract_publishes_that_unknown_fields_are_dropped():
    assert published_schema(contract(unknown_fields="drop"))["additionalProperties"] is True
