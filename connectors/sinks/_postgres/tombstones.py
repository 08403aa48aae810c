"""What stays of deleted rows and of truncations, so that an older row which comes behind them does not come back.

Both lie in the ledger's schema. `penstock_tombstones_SCHEMA.TABLE` has a row for each key that was deleted: the columns of the
key as the table has them (`k1`, `k2`, …), the order of the deletion, and when it was written. `penstock_truncations` has for each
table the order of its last truncation. They are the table's, not a pipeline's: all pipelines that share table and ledger's schema
share them. Everything here runs on the session's thread.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from connectors._postgres import LONGEST_NAME, TableName, quoted, quoted_list
from connectors.sinks._postgres.table import Table
from penstock.errors import EnvironmentFault

if TYPE_CHECKING:
    import psycopg

TRUNCATIONS = "penstock_truncations"

_PREFIX = "penstock_tombstones_"
_COLUMNS = """
SELECT a.attname::pg_catalog.text, pg_catalog.format_type(a.atttypid, a.atttypmod)
FROM pg_catalog.pg_attribute AS a
WHERE a.attrelid = pg_catalog.to_regclass(%s) AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum
"""


def name_of(table: TableName) -> str:
    """Of the table's tombstones; where it would be too long, its end is a digest."""
    name = f"{_PREFIX}{table}"
    if len(name.encode()) <= LONGEST_NAME:
        return name
    digest = hashlib.blake2b(str(table).encode(), digest_size=8).hexdigest()
    return name.encode()[: LONGEST_NAME - len(digest) - 1].decode(errors="ignore") + "_" + digest


def key_columns(key: Sequence[str]) -> list[str]:
    """The columns of the tombstones that hold the key's."""
    return [f"k{place}" for place in range(1, len(key) + 1)]


def find(connection: psycopg.Connection[Any], schema: str, table: Table, key: Sequence[str], order: str) -> str | None:
    """The table of tombstones, in SQL; None where there is none. Changes nothing.

    :raises EnvironmentFault: `sink.tombstones`: it is there for another key, or for another type.
    """
    sql = quoted(schema, name_of(table.name))
    there = connection.execute(_COLUMNS, (sql,)).fetchall()
    if not there:
        return None
    _check(table, key, order, sql, there)
    return sql


def prepare(
    connection: psycopg.Connection[Any], schema: str, table: Table, key: Sequence[str], order: str, *, deletes: bool, expire: bool
) -> str | None:
    """Make the table of tombstones, unless it is there.

    :param deletes: the sink deletes rows; without, tombstones count where somebody else has left some.
    :param expire: they are given up after a while, and looked for by age.
    :returns: its name in SQL; None where there is none.
    :raises EnvironmentFault: `sink.tombstones`: it is there for another key, or for another type.
    """
    there = find(connection, schema, table, key, order)
    if there is None and not deletes:
        return None
    name = name_of(table.name)
    sql = quoted(schema, name)
    connection.execute(
        f"CREATE TABLE IF NOT EXISTS {quoted(schema, TRUNCATIONS)} "
        '("table" pg_catalog.text PRIMARY KEY, "order" pg_catalog.text NOT NULL, "at" pg_catalog.timestamptz NOT NULL)'.encode()
    )
    if there is None:
        _create(connection, table, key, order, sql)
    if expire:
        index = quoted(f"{name[: LONGEST_NAME - 3].encode()[: LONGEST_NAME - 3].decode(errors='ignore')}_at")
        connection.execute(f"CREATE INDEX IF NOT EXISTS {index} ON {sql} (removed_at)".encode())
    return sql


def _create(connection: psycopg.Connection[Any], table: Table, key: Sequence[str], order: str, sql: str) -> None:
    """With the very types and collations of the table, so that keys are equal here where they are there."""
    columns = ", ".join(f"{quoted(name)} AS {own}" for name, own in zip(key, key_columns(key), strict=True))
    names = quoted_list(key_columns(key))
    connection.execute(
        f'CREATE TABLE {sql} AS SELECT {columns}, {quoted(order)} AS "order", pg_catalog.now() AS removed_at '  # noqa: S608 - quoted
        f"FROM {table.sql} WHERE false; ALTER TABLE {sql} ADD PRIMARY KEY ({names}), "
        'ALTER "order" SET NOT NULL, ALTER removed_at SET NOT NULL'.encode()
    )


def _check(table: Table, key: Sequence[str], order: str, sql: str, there: Sequence[tuple[str, str]]) -> None:
    wanted = [table.columns[name].type for name in (*key, order)]
    found = [kind for name, kind in there if name != "removed_at"]
    if found == wanted:
        return
    raise EnvironmentFault(
        "sink.tombstones",
        f"the deletions of {table.name} are remembered for another key or order",
        why=f"{sql} holds {', '.join(found)}; {', '.join((*key, order))} are {', '.join(wanted)}",
        help=f"ALTER TABLE {sql} where a column has another type now; or DROP TABLE {sql}, which forgets what was deleted",
    )


def literal(text: str) -> str:
    """As an SQL string; `standard_conforming_strings` is on, as it always is."""
    return "'" + text.replace("'", "''") + "'"
