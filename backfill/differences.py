"""What differs between two JSON values, place by place. Numbers are compared by value (`1` is `1.0`), keys in any order.

A place is named as in jq, `.data.items[].price`: elements of an array share theirs, so that one cause is one place.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

Kind = Literal["added", "removed", "changed", "type"]
_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class Difference(NamedTuple):
    """One difference.

    :ivar path: where, as in jq.
    :ivar kind: `added` or `removed`: only the new, or only the old, has something there; `type`: of another JSON type.
    """

    path: str
    kind: Kind
    before: Any
    after: Any


def differences(before: Any, after: Any) -> Iterator[Difference]:
    """From the outside in; nothing where they are equal. Nesting of any depth."""
    pending: list[Pair] = [(before, after, "")]
    while pending:
        old, new, place = pending.pop()
        if isinstance(old, dict) and isinstance(new, dict):
            pending.extend(_members(old, new, place))
        elif isinstance(old, list) and isinstance(new, list):
            pending.extend(_elements(old, new, place))
        elif old is _NOTHING:
            yield Difference(place, "added", None, new)
        elif new is _NOTHING:
            yield Difference(place, "removed", old, None)
        elif _type(old) != _type(new):
            yield Difference(place, "type", old, new)
        elif old != new:
            yield Difference(place, "changed", old, new)


def member(path: str, key: str) -> str:
    """The path of an object's member."""
    return f"{path}.{key}" if _PLAIN.fullmatch(key) else f'{path}.["{key}"]'


class _Nothing:
    """Stands for what is not there."""


_NOTHING = _Nothing()
Pair = tuple[Any, Any, str]


def _members(old: dict[str, Any], new: dict[str, Any], path: str) -> Iterator[Pair]:
    for key in reversed([*old, *(key for key in new if key not in old)]):
        yield old.get(key, _NOTHING), new.get(key, _NOTHING), member(path, key)


def _elements(old: list[Any], new: list[Any], path: str) -> Iterator[Pair]:
    for index in reversed(range(max(len(old), len(new)))):
        before = old[index] if index < len(old) else _NOTHING
        after = new[index] if index < len(new) else _NOTHING
        yield before, after, f"{path}[]"


def _type(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, (int, float)):
        return "number"
    return "string" if isinstance(value, str) else "array" if isinstance(value, list) else "object"
