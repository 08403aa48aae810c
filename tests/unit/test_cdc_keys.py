"""The key of a table with REPLICA IDENTITY FULL, as a change has it that is older than what the server tells of the table."""

from __future__ import annotations

import pytest

from connectors.sources._cdc.keys import Key, NumberedColumn, key_of
from connectors.sources._pgoutput_messages import Column, Relation, ReplicaIdentity


def now(text: str) -> list[NumberedColumn]:
    """Columns in order: `*` a key, `-` dropped, `=` generated."""
    return [NumberedColumn(word.strip("*-="), "-" in word, "*" in word, "=" in word) for word in text.split()]


def then(text: str) -> Relation:
    columns = tuple(Column(name=name, key=True, type_oid=23, typmod=-1) for name in text.split())
    return Relation(1, "public", "t", ReplicaIdentity.FULL, columns)


@pytest.mark.parametrize(
    ("sent", "columns", "names", "doubtful"),
    [
        ("id a", "id* a", "id", ""),
        ("id a", "a id*", "id", ""),
        ("id a", "id a", "", ""),
        ("id a", "number* a", "number", ""),
        ("id a", "id* b", "id", ""),
        ("id a", "id* a c", "id", ""),
        ("id a", "id* - c", "id", ""),
        ("id a b", "number* other* b", "number other", ""),
        ("id a", "- number* a", "", "id"),
        ("id a", "- a", "", "id"),
        ("id a", "- a c*", "", "id"),
        ("id a", "", "", "id a"),
        ("a b", "a b id*", "", ""),
        ("a b", "a c", "", ""),
        ("id a", "id* g=* a", "id", ""),
        ("id g a", "id* g=* a", "id g", ""),
    ],
)
def test_the_key_is_found_by_name_and_by_number(sent: str, columns: str, names: str, doubtful: str) -> None:
    found = key_of(then(sent), now(columns), None)
    earlier = {"number": "id", "other": "a"}
    assert found == Key(tuple(earlier.get(name, name) for name in names.split()), tuple(doubtful.split()))


def test_what_was_found_before_is_remembered_where_it_can_be_found_no_more() -> None:
    known = key_of(then("id a"), now("id* a"), None)
    assert key_of(then("id a b"), [], known) == known
    assert key_of(then("a b"), [], known) == Key((), ("a", "b"))
    assert key_of(then("id a"), now("id a"), known) == Key()
