"""Violations in words: `.UnitPrice must be greater than 0 (it is 0)`."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from jsonschema_rs import ValidationError

from penstock.errors import Violation

_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_SHOWN = 60
_NAME_SHOWN = 200
_ALTERNATIVES = 4
_ARTICLES = {
    "array": "a list",
    "boolean": "true or false",
    "integer": "an integer",
    "null": "null",
    "number": "a number",
    "object": "an object",
    "string": "a string",
}
_FORMATS = {
    "date": "a date such as 2010-12-01",
    "date-time": "a time such as 2010-12-01T08:26:00Z",
    "time": "a time of day such as 08:26:00Z",
    "duration": "a duration such as PT5M",
    "email": "an e-mail address",
    "uri": "a URI",
    "uuid": "a UUID",
    "ipv4": "an IPv4 address",
    "ipv6": "an IPv6 address",
}
_LIMITS = {
    "minimum": "must be at least {}",
    "maximum": "must be at most {}",
    "exclusiveMinimum": "must be greater than {}",
    "exclusiveMaximum": "must be less than {}",
}
_COUNTS = {
    "minLength": ("at least", "character"),
    "maxLength": ("at most", "character"),
    "minItems": ("at least", "item"),
    "maxItems": ("at most", "item"),
    "minProperties": ("at least", "field"),
    "maxProperties": ("at most", "field"),
}
_PHRASES = {
    "uniqueItems": "must not hold the same item twice",
    "contains": "must hold an item of the required form",
    "not": "has a form that is ruled out",
    "additionalItems": "has more items than allowed",
    "unevaluatedItems": "has more items than allowed",
}


def jq_path(parts: Sequence[str | int]) -> str:
    """`.items[3].price`, `.["unit price"]`; `.` for the whole."""
    text = "".join(_part(part) for part in parts)
    return text if text.startswith(".") else f".{text}"


def _part(part: str | int) -> str:
    if isinstance(part, int):
        return f"[{part}]"
    part = _short(part, _NAME_SHOWN)
    return f".{part}" if _PLAIN.fullmatch(part) else f"[{json.dumps(part, ensure_ascii=False)}]"


def describe(error: ValidationError, data: Any, *, hidden: bool) -> Iterator[Violation]:
    """One violation, or one for each field that is one too many.

    :param data: all that was validated.
    :param hidden: the value is a secret and may not be shown.
    """
    rule, parts = _rule(error), list(error.instance_path)
    details = error.kind.as_dict()
    extra = error.schema_path[-1:] == ["additionalProperties"] != parts[-1:]
    if rule == "false" and extra and isinstance(found := _at(data, parts), dict):
        rule, details = "additionalProperties", {"unexpected": list(found)}  # the library names only a first value
    if "unexpected" in details and rule not in ("additionalItems", "unevaluatedItems"):
        for name in details["unexpected"]:
            yield _violation([*parts, name], rule, "is not allowed here")
    elif "property" in details:
        yield _violation([*parts, details["property"]], rule, "is missing")
    else:
        yield _violation(parts, rule, _phrase(error, rule, hidden=hidden))


def _at(data: Any, parts: Sequence[str | int]) -> Any:
    for part in parts:
        data = data[part]
    return data


def _violation(parts: list[str | int], rule: str, phrase: str) -> Violation:
    path = jq_path(parts)
    return Violation(path, rule, f"{path if parts else 'the data'} {phrase}")


def _rule(error: ValidationError) -> str:
    """The keyword that is broken; `false` for a schema that allows nothing."""
    last = error.schema_path[-1] if error.schema_path else ""
    return "false" if type(error.kind).__name__ == "FalseSchema" or not isinstance(last, str) else last


def _phrase(error: ValidationError, rule: str, *, hidden: bool) -> str:
    details = error.kind.as_dict()
    if rule in _COUNTS and "limit" in details:
        return _count(rule, details["limit"], error.instance, hidden=hidden)
    if rule in _PHRASES:
        return _PHRASES[rule]
    if rule in ("anyOf", "oneOf"):
        return _alternatives(error, hidden=hidden)
    if type(error.kind).__name__ == "PropertyNames":
        return f"has a field whose name is not allowed: {_show(details['error'].instance)}"
    if rule == "false":
        return "is not allowed here"
    demand = _demand(rule, details)
    return demand + ("" if hidden else f" (it is {_show(error.instance)})")


def _demand(rule: str, details: dict[str, Any]) -> str:
    if rule in _LIMITS:
        return _LIMITS[rule].format(_show(details["limit"]))
    make = _DEMANDS.get(rule)
    return make(details) if make else f"breaks the rule {rule!r} of its schema"


_DEMANDS: dict[str, Callable[[dict[str, Any]], str]] = {
    "type": lambda found: f"must be {_or([_ARTICLES.get(name, name) for name in sorted(found['types'], key='null'.__eq__)])}",
    "enum": lambda found: f"must be {_or([_show(option) for option in found['options']])}",
    "const": lambda found: f"must be {_show(found['expected_value'])}",
    "pattern": lambda found: f"must match the pattern {found['pattern']}",
    "format": lambda found: f"must be {_FORMATS.get(found['format'], 'of the format ' + found['format'])}",
    "multipleOf": lambda found: f"must be a multiple of {_show(found['multiple_of'])}",
}


def _count(rule: str, limit: int, value: Any, *, hidden: bool) -> str:
    bound, unit = _COUNTS[rule]
    if bound == "at least" and limit == 1:
        return "must not be empty"
    phrase = f"must have {bound} {limit} {unit}{'' if limit == 1 else 's'}"
    return phrase if hidden else f"{phrase} (it has {len(value)})"


def _alternatives(error: ValidationError, *, hidden: bool) -> str:
    """What the alternatives ask for, where few words say it."""
    if type(error.kind).__name__ == "OneOfMultipleValid":
        return "fits more than one of the forms of which it must fit exactly one"
    demands = []
    for errors in error.kind.as_dict()["context"]:
        inner = errors[0] if len(errors) == 1 else None
        if inner is None or len(inner.instance_path) != len(error.instance_path):
            return "fits none of the allowed forms"
        demands.append(_alternative(inner))
    if not 0 < len(demands) <= _ALTERNATIVES:
        return "fits none of the allowed forms"
    return "; or ".join(demands) + ("" if hidden else f" (it is {_show(error.instance)})")


def _alternative(error: ValidationError) -> str:
    missing = error.kind.as_dict().get("property")
    return f"must have {jq_path([missing])}" if missing is not None else _phrase(error, _rule(error), hidden=True)


def _or(choices: list[str]) -> str:
    return choices[0] if len(choices) == 1 else f"{', '.join(choices[:-1])} or {choices[-1]}"


def _show(value: Any) -> str:
    """A value in a message: as JSON, shortened; containers by their kind alone, since a secret may be inside."""
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, (list, tuple)):
        return "a list"
    return _short(json.dumps(value, ensure_ascii=False, default=str), _SHOWN)


def _short(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"
