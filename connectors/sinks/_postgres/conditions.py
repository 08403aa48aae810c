"""Parts of statements that compare rows of the table, or its tombstones, with parameters. No I/O.

Parameters are rows k of columns c0, c1, …, in the order of the names that are given.
"""

from __future__ import annotations

from collections.abc import Sequence

from connectors._postgres import quoted
from connectors.sinks._postgres.ordering import Ordering
from connectors.sinks._postgres.rows import Column
from connectors.sinks._postgres.table import Table
from connectors.sinks._postgres.tombstones import key_columns


def equals(table: Table, column: Column) -> str:
    """The operator by which the table takes two values of the column for one."""
    return table.equals.get(column.name, "OPERATOR(pg_catalog.=)")


def same_key(table: Table, key: Sequence[str], names: Sequence[str]) -> str:
    """That a row of the table, t, has the key of one of the parameters."""
    parts = [(table.columns[name], list(names).index(name)) for name in key]
    return " AND ".join(f"t.{quoted(column.name)} {equals(table, column)} k.c{place}{column.cast}" for column, place in parts)


def buried(table: Table, key: Sequence[str], names: Sequence[str]) -> str:
    """That a tombstone, b, is of the key of one of the parameters."""
    parts = [(own, table.columns[name], list(names).index(name)) for own, name in zip(key_columns(key), key, strict=True)]
    return " AND ".join(f"b.{own} {equals(table, column)} k.c{place}{column.cast}" for own, column, place in parts)


def order_in(ordering: Ordering, names: Sequence[str]) -> str:
    """The order of one of the parameters."""
    return f"k.c{list(names).index(ordering.column.name)}{ordering.column.cast}"


def unnest(columns: Sequence[Column], *, ordinality: bool = False) -> str:
    """The parameters, an array for each column; with `ordinality` n, their number from 1 on."""
    parameters = ", ".join(f"${place}::{column.parameter}" for place, column in enumerate(columns, 1))
    names = [*(f"c{place}" for place in range(len(columns))), *(["n"] if ordinality else [])]
    return f"unnest({parameters}){' WITH ORDINALITY' if ordinality else ''} AS k({', '.join(names)})"
