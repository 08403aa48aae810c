"""Whether the table makes the declared key unique, in a way that the sink's statements can use.

Source: PostgreSQL manual, INSERT ("ON CONFLICT Clause"), CREATE TABLE ("WITHOUT OVERLAPS"), CREATE INDEX ("Building Indexes
Concurrently").
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from connectors._postgres import quoted, quoted_list
from connectors.sinks._asked import OnConflict
from connectors.sinks._postgres.table import Table
from penstock.errors import EnvironmentFault

if TYPE_CHECKING:
    import psycopg

_INDEXES = """
SELECT ARRAY(
           SELECT a.attname::pg_catalog.text FROM pg_catalog.unnest(i.indkey) WITH ORDINALITY AS k(number, place)
           JOIN pg_catalog.pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = k.number WHERE k.place <= i.indnkeyatts),
       r.relname::pg_catalog.text, c.conname::pg_catalog.text, coalesce(c.contype = 'p', false),
       i.indisvalid, i.indimmediate, i.indisexclusion, i.indpred IS NOT NULL
FROM pg_catalog.pg_index AS i JOIN pg_catalog.pg_class AS r ON r.oid = i.indexrelid
     LEFT JOIN pg_catalog.pg_constraint AS c ON c.conindid = i.indexrelid AND c.contype IN ('p', 'u', 'x')
WHERE i.indrelid = %s::pg_catalog.oid AND (i.indisunique OR i.indisexclusion) AND i.indexprs IS NULL ORDER BY i.indexrelid
"""
"""A constraint WITHOUT OVERLAPS has an index that is unique and of an exclusion constraint."""


class _Index(NamedTuple):
    columns: Sequence[str]
    name: str
    constraint: str | None
    primary: bool
    valid: bool
    immediate: bool
    excludes: bool
    partial: bool


def check_key(connection: psycopg.Connection[Any], table: Table, key: Sequence[str], on_conflict: OnConflict) -> None:
    """:raises EnvironmentFault: `sink.no_unique_key`: nothing makes the key unique; or, where rows are updated or ignored,
    nothing that ON CONFLICT can use."""
    if not key:
        return
    found = [_Index(*row) for row in connection.execute(_INDEXES, (table.oid,)).fetchall()]
    if on_conflict == "error" and any(index.valid and not index.partial and set(index.columns) <= set(key) for index in found):
        return  # a second row is refused, by whatever it is
    same = [index for index in found if sorted(index.columns) == sorted(key)]
    for index in same:
        if index.valid and not (index.immediate or index.excludes or index.partial):
            raise _deferrable(table, key, index)
    if not any(index.valid and not (index.excludes or index.partial) for index in same):
        raise _none(table, key, same)


def _deferrable(table: Table, key: Sequence[str], index: _Index) -> EnvironmentFault:
    kind = "PRIMARY KEY" if index.primary else "UNIQUE"
    return EnvironmentFault(
        "sink.no_unique_key",
        f"the constraint {index.constraint} of {table.name} is DEFERRABLE",
        where=_where(key),
        why="ON CONFLICT works with constraints only that hold at once",
        help=f"ALTER TABLE {table.sql} DROP CONSTRAINT {quoted(index.constraint or '')}, ADD {kind} ({quoted_list(key)})",
    )


def _none(table: Table, key: Sequence[str], same: Sequence[_Index]) -> EnvironmentFault:
    names, make = ", ".join(key), f"CREATE UNIQUE INDEX {'' if table.partitioned else 'CONCURRENTLY '}ON {table.sql}"
    message, why, help = f"nothing makes {names} unique in table {table.name}", None, f"{make} ({quoted_list(key)})"
    for index in same:
        if index.excludes:
            message = f"the constraint {index.constraint} of table {table.name} is an exclusion constraint (WITHOUT OVERLAPS)"
            why = "ON CONFLICT updates and finds rows by unique indexes only, which compare for equality"
            help = f"on_conflict: error, which needs no ON CONFLICT; or make the key unique, too: {help}"
        elif not index.valid:
            message = f"the index {index.name}, which would make {names} unique in table {table.name}, is not valid"
            why = "a CREATE INDEX CONCURRENTLY that failed leaves such an index: often there are rows with the same key"
            help = f"REINDEX INDEX CONCURRENTLY {quoted(table.name.schema, index.name)}"
        elif index.partial:
            message = f"the index {index.name} makes {names} unique in a part of table {table.name} only"
            why = "it has a WHERE clause"
    return EnvironmentFault("sink.no_unique_key", message, where=_where(key), why=why, help=help)


def _where(key: Sequence[str]) -> str:
    return f"key: [{', '.join(key)}]"
