"""What `pipe doctor` looks at for a `postgres` source: table, grants, columns, key, cursor, and an index that serves its order.

Collaborators: `_query_shape`, whose checks a run makes too; `penstock._postgres_checks` for the server.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from connectors._postgres import PostgresFields, quoted, quoted_list
from connectors._postgres_doctor import examine_server
from connectors.sources._query_shape import Ask, check_cursor, check_sequence, look
from penstock._postgres_checks import who
from penstock.errors import EnvironmentFault
from penstock.spi import Context, Finding

if TYPE_CHECKING:
    import psycopg

WHAT = "the source's database"

LARGE = 10_000
"""Rows above which a table without an index for the order is worth a word."""

_TABLE = """
SELECT c.oid, has_schema_privilege(n.oid, 'USAGE'), has_table_privilege(c.oid, 'SELECT'), row_security_active(c.oid),
       c.reltuples::int8, pg_relation_size(c.oid) > 8192 * 1000
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname::text = %s AND c.relname::text = %s AND c.relkind = ANY ('{r,p,v,m,f}')
"""
_INDEXES = """
SELECT ARRAY(SELECT a.attname::text FROM unnest(i.indkey) WITH ORDINALITY AS k(number, place)
             JOIN pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = k.number
             WHERE k.place <= i.indnkeyatts ORDER BY k.place)
FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indexrelid JOIN pg_am AS m ON m.oid = c.relam
WHERE i.indrelid = %s AND i.indisvalid AND i.indpred IS NULL AND m.amname = 'btree' AND NOT 0 = ANY (i.indkey::int2[])
"""


async def examine(config: PostgresFields, context: Context, ask: Ask, *, waits: bool) -> list[Finding]:
    """See `penstock.spi.Examined`.

    :param waits: rows are read when the transactions of their time have ended: those must be visible.
    :raises ComponentError: the server cannot be reached.
    """

    def rows(connection: psycopg.Connection[Any]) -> Iterator[Finding]:
        if ask.table is None:
            yield from _check_shape(connection, ask, None)
            return
        row = connection.execute(_TABLE, tuple(ask.table)).fetchone()
        if row is None:
            yield Finding("error", "source.no_table", f"there is no table {ask.table}", help="correct `table`, or CREATE TABLE …")
            return
        oid, visible, readable, secured, count, is_large = row
        if not (visible and readable):
            yield _grant(connection, ask, visible=visible)
            return
        if secured:
            yield _hidden(connection, ask)
        yield from _check_shape(connection, ask, oid if count > LARGE or (count < 0 and is_large) else None)

    def order(connection: psycopg.Connection[Any]) -> Iterator[Finding]:
        try:
            check_sequence(connection, ask)
        except EnvironmentFault as fault:
            yield Finding.of(fault)
        (standby,) = connection.execute("SELECT pg_is_in_recovery()").fetchone() or (False,)
        if standby:
            yield Finding(
                "error",
                "source.standby",
                "the server is a hot standby, which does not know what runs on its primary",
                help="declare how long a transaction may take after it took its cursor's value: lag: 30s",
            )

    return await examine_server(config, context, WHAT, [rows, *([order] if waits else [])])


def _grant(connection: psycopg.Connection[Any], ask: Ask, *, visible: bool) -> Finding:
    table = ask.table or ("", "")
    role = who(connection).role
    usage = "" if visible else f"GRANT USAGE ON SCHEMA {quoted(table[0])} TO {role}; "
    help = f"{usage}GRANT SELECT ON TABLE {quoted(*table)} TO {role}"
    return Finding("error", "source.no_select", f"{role} may not read {ask.table}", help=help)


def _hidden(connection: psycopg.Connection[Any], ask: Ask) -> Finding:
    role = who(connection).role
    message = f"row security hides rows of {ask.table} from {role}"
    return Finding("warning", "source.row_security", message, "they are left out silently", f"ALTER ROLE {role} BYPASSRLS")


def _check_shape(connection: psycopg.Connection[Any], ask: Ask, large: int | None) -> Iterator[Finding]:
    """:param large: the table's oid, where it is worth an index."""
    try:
        shape = look(connection, ask)
        if ask.cursor:
            check_cursor(shape, ask)
    except EnvironmentFault as fault:
        yield Finding.of(fault)
        return
    names = [column.name for column in shape.order]
    yield Finding("ok", "source.columns", f"{len(shape.names)} columns, read in the order of {', '.join(names)}")
    if ask.table is not None:
        yield from _check_null(ask, shape.nullable)
        if large is not None:
            yield _index(connection, ask, large, names)


def _check_null(ask: Ask, nullable: Sequence[str]) -> Iterator[Finding]:
    table = quoted(*(ask.table or ("", "")))
    for name in nullable:
        yield Finding(
            "warning",
            "source.null_cursor",
            f"{name} of {ask.table} may be NULL",
            "a row without it has no place in the order: the run stops at the first one",
            f"ALTER TABLE {table} ALTER COLUMN {quoted(name)} SET NOT NULL",
        )


def _index(connection: psycopg.Connection[Any], ask: Ask, oid: int, names: Sequence[str]) -> Finding:
    table = quoted(*(ask.table or ("", "")))
    for (columns,) in connection.execute(_INDEXES, (oid,)):
        if columns[: len(names)] == list(names):
            return Finding("ok", "source.index", f"an index gives the rows in the order of {', '.join(names)}")
    return Finding(
        "warning",
        "source.no_index",
        f"no index of {ask.table} gives its rows in the order of {', '.join(names)}",
        "each read sorts the whole table",
        f"CREATE INDEX CONCURRENTLY ON {table} ({quoted_list(names)})",
    )
