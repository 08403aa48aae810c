"""Violations as a shopkeeper reads them, complete, with secrets hidden."""

from __future__ import annotations

from typing import Any

import pytest

from penstock.errors import ConfigProblem, Permanent, Violation
from registry.validation import Loaded, Validator, compile_schema


def compiled(schema: Any, **others: Any) -> Validator:
    def load(uri: str) -> Loaded:
        name = uri.removeprefix("registry:///").removesuffix("/1.json")
        if name not in others:
            raise ConfigProblem("registry.unknown_subject", uri)
        return Loaded(f"{name}@1", f"registry:///{name}/1.json", f"{name}/1.json", others[name])

    return compile_schema(Loaded("shop.order@1", "registry:///shop.order/1.json", "shop.order/1.json", schema), load)


def messages(schema: Any, data: Any, **others: Any) -> list[str]:
    return [violation.message for violation in compiled(schema, **others).violations(data)]


def test_all_violations_are_found_each_with_path_and_rule() -> None:
    schema = {
        "required": ["Description"],
        "properties": {"UnitPrice": {"exclusiveMinimum": 0}, "Quantity": {"type": "integer"}},
    }

    found = compiled(schema).violations({"UnitPrice": 0, "Quantity": "six"})

    assert sorted(found, key=lambda each: each.path) == [
        Violation(".Description", "required", ".Description is missing"),
        Violation(".Quantity", "type", '.Quantity must be an integer (it is "six")'),
        Violation(".UnitPrice", "exclusiveMinimum", ".UnitPrice must be greater than 0 (it is 0)"),
    ]


@pytest.mark.parametrize(
    ("rule", "value", "message"),
    [
        ({"type": "string"}, 1, ".x must be a string (it is 1)"),
        ({"type": ["null", "integer"]}, "a", '.x must be an integer or null (it is "a")'),
        ({"type": "array"}, {"a": 1}, ".x must be a list (it is an object)"),
        ({"type": "object"}, [1], ".x must be an object (it is a list)"),
        ({"type": "integer"}, 1.5, ".x must be an integer (it is 1.5)"),
        ({"minimum": 2**70}, 2**70 - 1, f".x must be at least {2**70} (it is {2**70 - 1})"),
        ({"maximum": 1.5}, 2, ".x must be at most 1.5 (it is 2)"),
        ({"exclusiveMaximum": 2}, 2, ".x must be less than 2 (it is 2)"),
        ({"minLength": 1}, "", ".x must not be empty"),
        ({"minLength": 3}, "ab", ".x must have at least 3 characters (it has 2)"),
        ({"maxLength": 1}, "ab", ".x must have at most 1 character (it has 2)"),
        ({"minItems": 1}, [], ".x must not be empty"),
        ({"maxItems": 1}, [1, 2], ".x must have at most 1 item (it has 2)"),
        ({"minProperties": 2}, {"a": 1}, ".x must have at least 2 fields (it has 1)"),
        ({"enum": ["GBP", "EUR"]}, "USD", '.x must be "GBP" or "EUR" (it is "USD")'),
        ({"const": True}, None, ".x must be true (it is null)"),
        ({"pattern": "^[0-9]+$"}, "a", '.x must match the pattern ^[0-9]+$ (it is "a")'),
        ({"format": "date-time"}, "now", '.x must be a time such as 2010-12-01T08:26:00Z (it is "now")'),
        ({"format": "hostname"}, "-", '.x must be of the format hostname (it is "-")'),
        ({"multipleOf": 0.01}, 0.005, ".x must be a multiple of 0.01 (it is 0.005)"),
        ({"uniqueItems": True}, [1, 1], ".x must not hold the same item twice"),
        ({"contains": {"type": "string"}}, [1], ".x must hold an item of the required form"),
        ({"not": {"type": "null"}}, None, ".x has a form that is ruled out"),
        ({"items": {"type": "string"}}, ["a", 1], ".x[1] must be a string (it is 1)"),
        ({"additionalProperties": False}, {"unit price": 1}, '.x["unit price"] is not allowed here'),
        ({"unevaluatedProperties": False}, {"a": 1}, ".x.a is not allowed here"),
        ({"propertyNames": {"pattern": "^a"}}, {"b": 1}, '.x has a field whose name is not allowed: "b"'),
        ({"prefixItems": [True], "items": False}, [1, 2], ".x[1] is not allowed here"),
        ({"dependentRequired": {"a": ["b"]}}, {"a": 1}, ".x.b is missing"),
        (False, 1, ".x is not allowed here"),
        ({"anyOf": [{"type": "string"}, {"type": "null"}]}, 1, ".x must be a string; or must be null (it is 1)"),
        ({"oneOf": [{"required": ["a"]}, {"required": ["b"]}]}, {}, ".x must have .a; or must have .b (it is an object)"),
        ({"oneOf": [True, True]}, 1, ".x fits more than one of the forms of which it must fit exactly one"),
        ({"anyOf": [{"properties": {"a": False}}, False]}, {"a": 1}, ".x fits none of the allowed forms"),
        ({"const": "a"}, "b" * 100, f'.x must be "a" (it is "{"b" * 58}…)'),
    ],
)
def test_each_rule_has_its_words(rule: Any, value: Any, message: str) -> None:
    assert messages({"properties": {"x": rule}}, {"x": value}) == [message]


def test_each_field_too_many_is_a_violation_of_its_own() -> None:
    assert messages({"additionalProperties": False}, {"a": 1, "b": 2}) == [".a is not allowed here", ".b is not allowed here"]


def test_the_whole_of_the_data_is_called_the_data() -> None:
    assert compiled({"type": "object"}).violations(3) == [Violation(".", "type", "the data must be an object (it is 3)")]


SECRET = {"type": "integer", "writeOnly": True}


@pytest.mark.parametrize(
    "schema",
    [
        {"properties": {"pin": SECRET}},
        {"properties": {"pin": {"type": "integer", "format": "password"}}},
        {"properties": {"pin": {"type": "integer"}}, "allOf": [{"properties": {"pin": {"writeOnly": True}}}]},
        {"properties": {"pin": {"$ref": "#/$defs/secret"}}, "$defs": {"secret": SECRET}},
        {"properties": {"pin": {"$ref": "#secret"}}, "$defs": {"secret": SECRET | {"$anchor": "secret"}}},
        {"properties": {"pin": {"$ref": "#/$defs/a~1b/allOf/0"}}, "$defs": {"a/b": {"allOf": [SECRET]}}},
        {"properties": {"pin": {"$ref": "registry:///secret/1.json"}}},
        {"properties": {"pin": {"$ref": "registry:///secrets/1.json#/$defs/pin"}}},
        {"patternProperties": {"^p": SECRET}},
        {"additionalProperties": SECRET},
    ],
)
def test_the_value_of_a_secret_field_never_shows(schema: Any) -> None:
    others = {"secret": SECRET, "secrets": {"$defs": {"pin": {"$ref": "registry:///secret/1.json"}}}}

    assert messages(schema, {"pin": "hunter2"}, **others) == [".pin must be an integer"]


def test_what_is_inside_a_secret_field_is_secret_and_its_neighbours_are_not() -> None:
    schema = {"properties": {"card": {"writeOnly": True, "properties": {"no": {"type": "string"}}}, "n": {"type": "string"}}}

    assert sorted(messages(schema, {"card": {"no": 4111}, "n": 1})) == [
        ".card.no must be a string",
        ".n must be a string (it is 1)",
    ]


def test_a_reference_that_cannot_be_followed_hides_the_value() -> None:
    schema = {
        "$id": "https://shop.example/root",
        "properties": {"pin": {"$ref": "other"}},
        "$defs": {"o": {"$id": "https://shop.example/other", **SECRET}},
    }

    assert messages(schema, {"pin": "hunter2"}) == [".pin must be an integer"]


def test_a_failure_lists_every_violation_in_its_message() -> None:
    failure = compiled({"required": ["a", "b"]}).failure({})

    assert failure is not None
    assert (failure.code, failure.message, failure.why) == (
        "validate.failed",
        ".a is missing; .b is missing",
        "the data does not fit shop.order@1",
    )
    assert [violation.path for violation in failure.violations] == [".a", ".b"]
    assert compiled({}).failure({}) is None


@pytest.mark.parametrize("data", [b"bytes", {1: 2}, "\ud800", {"a": {1}}])
def test_data_that_is_no_json_is_a_failure_of_its_own(data: Any) -> None:
    with pytest.raises(Permanent) as caught:
        compiled({"type": "string", "minLength": 1, "additionalProperties": {}}).violations(data)

    assert caught.value.code == "validate.not_json"


@pytest.mark.parametrize("data", [2**70, 10**400, "a\0b", 1e308, "😀" * 1000, [[]] * 1000])
def test_any_json_value_can_be_validated(data: Any) -> None:
    assert compiled({}).violations(data) == []
    assert compiled({"type": ["integer", "string", "number", "array"]}).is_valid(data)
