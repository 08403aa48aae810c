"""What `pipe doctor` looks at for a `postgres` sink: the table, its columns and key, grants, and the ledger's schema.

Collaborators: `_postgres.table`, whose checks a run makes too; `penstock._postgres_checks` for the server.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from connectors._postgres import TableName, parse_table, quoted
from connectors._postgres_doctor import examine_server
from connectors.sinks._postgres.config import PostgresSinkConfig, needed_privileges, order_of
from connectors.sinks._postgres.keys import check_key
from connectors.sinks._postgres.ordering import Order, check_order
from connectors.sinks._postgres.table import Table, check_columns, check_grants, load
from penstock._postgres_checks import Check, check_schema, check_writable, who
from penstock.errors import EnvironmentFault
from penstock.spi import Context, Finding

if TYPE_CHECKING:
    import psycopg

WHAT = "the sink's database"

_NOT_NULL = """
SELECT attname::text, NOT atthasdef AND attidentity = '' FROM pg_attribute
WHERE attrelid = %s AND attnum > 0 AND NOT attisdropped AND attnotnull ORDER BY attnum
"""
_SEQUENCES = """
SELECT a.attname::text, s.sequencename::text, s.last_value,
       least(s.max_value, CASE a.atttypid WHEN 21 THEN 32767 WHEN 23 THEN 2147483647 ELSE s.max_value END)
FROM pg_depend AS d JOIN pg_attribute AS a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
     JOIN pg_class AS c ON c.oid = d.objid AND c.relkind = 'S' JOIN pg_namespace AS n ON n.oid = c.relnamespace
     JOIN pg_sequences AS s ON (s.schemaname, s.sequencename) = (n.nspname, c.relname)
WHERE d.refobjid = %s AND d.classid = 'pg_class'::regclass AND d.deptype IN ('a', 'i')
      AND s.increment_by > 0 AND NOT s.cycle AND s.last_value IS NOT NULL
"""
_NEARLY = 0.9
_SAME_NULLS = """
SELECT EXISTS (SELECT FROM pg_index AS i WHERE i.indrelid = %s AND i.indisunique
               AND (to_jsonb(i)->>'indnullsnotdistinct')::bool)
"""
_MAY_CREATE = "SELECT has_schema_privilege(oid, 'CREATE') FROM pg_namespace WHERE nspname = %s"


async def examine(config: PostgresSinkConfig, context: Context) -> list[Finding]:
    """See `penstock.spi.Examined`.

    :raises ComponentError: the server cannot be reached.
    """
    checks = [check_writable, _table_check(config), check_schema(config.ledger_schema, "sink.no_grant", "sink.ledger")]
    return await examine_server(config, context, WHAT, checks)


def _table_check(config: PostgresSinkConfig) -> Check:
    name = parse_table(config.table)

    def check(connection: psycopg.Connection[Any]) -> Iterator[Finding]:
        try:
            table = load(connection, name)
        except EnvironmentFault as fault:
            yield Finding.of(fault)
            return
        if table is None:
            yield from _check_absent(connection, name, create=config.create)
            return
        findings = [*_check_table(connection, table, config), *_check_rows(connection, table, config)]
        yield from findings
        if not any(finding.severity == "error" for finding in findings):
            yield Finding("ok", "sink.table", f"rows can be written to {name}")

    return check


def _check_absent(connection: psycopg.Connection[Any], name: TableName, *, create: bool) -> Iterator[Finding]:
    row, role = connection.execute(_MAY_CREATE, (name.schema,)).fetchone(), who(connection).role
    schema = quoted(name.schema)
    if not create:
        help = f"CREATE TABLE {quoted(*name)} (…), or create: true"
        yield Finding("error", "sink.missing_table", f"there is no table {name}", help=help)
    elif row is None:
        help = f"CREATE SCHEMA {schema} AUTHORIZATION {role}"
        yield Finding("error", "sink.missing_table", f"there is no schema {name.schema}", help=help)
    elif not row[0]:
        help = f"GRANT USAGE, CREATE ON SCHEMA {schema} TO {role}"
        yield Finding("error", "sink.no_grant", f"{role} may not create the table {name}", help=help)
    else:
        yield Finding("ok", "sink.table", f"the table {name} is made with the first event")


def _check_table(connection: psycopg.Connection[Any], table: Table, config: PostgresSinkConfig) -> Iterator[Finding]:
    """What a run would stop for. The key is looked at where it can be: its columns are there, and the table may be written."""
    key = tuple(config.key or ())
    order = order_of(config)
    named = (*key, *(config.columns or ()), *((order.column,) if order and order.column in table.columns else ()))
    faults = [
        _fault(lambda: _check_order(table, order)),
        _fault(lambda: check_grants(connection, table, needed_privileges(config))),
        _fault(lambda: check_columns(table, named, key, config.on_conflict)),
    ]
    if not any(faults):
        faults.append(_fault(lambda: check_key(connection, table, key, config.on_conflict)))
    yield from (Finding.of(fault) for fault in faults if fault is not None)


def _check_order(table: Table, order: Order | None) -> None:
    if order is not None:
        check_order(table, order)


def _fault(check: Callable[[], None]) -> EnvironmentFault | None:
    try:
        check()
    except EnvironmentFault as fault:
        return fault
    return None


def _check_rows(connection: psycopg.Connection[Any], table: Table, config: PostgresSinkConfig) -> Iterator[Finding]:
    """What single rows would fail for."""
    needed = dict(connection.execute(_NOT_NULL, (table.oid,)).fetchall())
    order = order_of(config)
    written = {*(config.key or ()), *(config.columns or ()), *((order.column,) if order else ())}
    lacking = [name for name, must in needed.items() if must and config.columns and name not in written]
    if lacking:
        message = f"{', '.join(lacking)} of {table.name} must have a value, and none is written"
        help = f"name it in `columns`; or ALTER TABLE {table.sql} ALTER COLUMN {quoted(lacking[0])} DROP NOT NULL"
        updates = bool(config.key) and config.on_conflict != "error"
        why = f"every {'new ' if updates else ''}row would become a dead letter"
        yield Finding("warning" if updates else "error", "sink.required_column", message, why, help)
    (same,) = connection.execute(_SAME_NULLS, (table.oid,)).fetchone() or (False,)
    for name in () if same else config.key or ():
        if name in table.columns and name not in needed:
            yield Finding(
                "warning",
                "sink.nullable_key",
                f"{name}, of the key of {table.name}, may be NULL",
                "two rows without it are not the same row to a unique index",
                f"ALTER TABLE {table.sql} ALTER COLUMN {quoted(name)} SET NOT NULL",
            )
    yield from _check_sequences(connection, table, written if config.columns else set())
    if table.row_security:
        role = who(connection).role
        message = f"row security of {table.name} applies to {role}"
        why = "rows that its policies refuse become dead letters, and rows that they hide are not updated"
        yield Finding("warning", "sink.row_security", message, why, f"ALTER ROLE {role} BYPASSRLS")


def _check_sequences(connection: psycopg.Connection[Any], table: Table, written: set[str]) -> Iterator[Finding]:
    """:param written: columns that get values of the events, and so none of their sequence."""
    for column, sequence, last, limit in connection.execute(_SEQUENCES, (table.oid,)).fetchall():
        if column not in written and last > limit * _NEARLY:
            yield Finding(
                "warning",
                "sink.sequence_exhausted",
                f"the sequence {sequence} of {column} in {table.name} has given {last} of {limit} numbers",
                "the run stops at the last one",
                f"ALTER TABLE {table.sql} ALTER COLUMN {quoted(column)} TYPE bigint; "
                f"ALTER SEQUENCE {quoted(table.name.schema, sequence)} AS bigint NO MAXVALUE",
            )
