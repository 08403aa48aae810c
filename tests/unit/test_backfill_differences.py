"""What differs between two JSON values, and where."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backfill.differences import differences

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=12,
)


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ({"a": 1, "b": 2}, {"b": 2, "a": 1.0}, []),
        ({"a": 1}, {"a": 2}, [(".a", "changed", 1, 2)]),
        ({"a": 1}, {"a": "1"}, [(".a", "type", 1, "1")]),
        ({"a": 1}, {"a": True}, [(".a", "type", 1, True)]),
        ({"a": None}, {}, [(".a", "removed", None, None)]),
        ({}, {"a": None}, [(".a", "added", None, None)]),
        ({"a": [{"p": 1}, {"p": 2}]}, {"a": [{"p": 1}, {"p": 3}]}, [(".a[].p", "changed", 2, 3)]),
        ({"a": [1]}, {"a": [1, 2]}, [(".a[]", "added", None, 2)]),
        ({"a b": {"é": 1}}, {"a b": {"é": 2}}, [('.["a b"].["é"]', "changed", 1, 2)]),
        (9007199254740993, 9007199254740992, [("", "changed", 9007199254740993, 9007199254740992)]),
        (9007199254740993, 9007199254740992.0, [("", "changed", 9007199254740993, 9007199254740992.0)]),
    ],
)
def test_places_are_named_as_in_jq(before: Any, after: Any, expected: list[tuple[Any, ...]]) -> None:
    assert [tuple(each) for each in differences(before, after)] == expected


def test_several_are_told_from_the_outside_in_in_the_order_of_keys() -> None:
    before = {"b": 1, "a": {"x": 1, "y": 2}, "z": 0}
    after = {"a": {"x": 2, "y": 3}, "b": 2, "n": 0}
    assert [(each.path, each.kind) for each in differences(before, after)] == [
        (".b", "changed"),
        (".a.x", "changed"),
        (".a.y", "changed"),
        (".z", "removed"),
        (".n", "added"),
    ]


@given(JSON, JSON)
def test_nothing_differs_exactly_where_the_values_are_equal(one: Any, other: Any) -> None:
    assert list(differences(one, one)) == []
    assert (not list(differences(one, other))) == (typed(one) == typed(other))


def typed(value: Any) -> Any:
    """Where Python takes `True` for `1`."""
    if isinstance(value, bool):
        return ("boolean", value)
    if isinstance(value, list):
        return [typed(each) for each in value]
    return {key: typed(each) for key, each in value.items()} if isinstance(value, dict) else value


def test_a_value_nested_very_deeply_is_compared() -> None:
    deep: Any = 1
    other: Any = 2
    for _ in range(900):
        deep, other = [deep], [other]
    assert len(list(differences(deep, other))) == 1
