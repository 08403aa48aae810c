"""What `pipe doctor` looks at for a `postgres` sink: the table, its columns and key, grants, and the ledger's schema.

    await examine_server(config, context, WHAT, sink_checks(wanted))

Collaborators: `connectors._postgres_doctor` for the server.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from connectors._postgres import TableName, quoted, quoted_list
from penstock._postgres_checks import Check, check_schema, check_writable, who
from penstock.spi import Finding

if TYPE_CHECKING:
    import psycopg

_TABLE = """
SELECT c.oid, c.relkind::text AS kind, has_schema_privilege(n.oid, 'USAGE') AS visible,
       row_security_active(c.oid) AS secured,
       ARRAY(SELECT p FROM unnest('{SELECT,INSERT,UPDATE,DELETE,TRUNCATE}'::text[]) AS p
             WHERE has_table_privilege(c.oid, p)) AS granted
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname::text = %s AND c.relname::text = %s AND c.relkind = ANY ('{r,p,v,m,f}')
"""
_COLUMNS = """
SELECT attname::text, attnotnull, attnotnull AND NOT atthasdef AND attidentity = '', attgenerated <> ''
FROM pg_attribute WHERE attrelid = %s AND attnum > 0 AND NOT attisdropped ORDER BY attnum
"""
_UNIQUE = """
SELECT ARRAY(SELECT a.attname::text FROM unnest(i.indkey) WITH ORDINALITY AS k(number, place)
             JOIN pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = k.number
             WHERE k.place <= i.indnkeyatts ORDER BY k.place),
       coalesce((to_jsonb(i)->>'indnullsnotdistinct')::bool, false)
FROM pg_index AS i
WHERE i.indrelid = %s AND i.indisunique AND i.indisvalid AND i.indimmediate AND i.indpred IS NULL
      AND NOT 0 = ANY (i.indkey::int2[])
"""
_MAY_CREATE = "SELECT has_schema_privilege(oid, 'CREATE') FROM pg_namespace WHERE nspname = %s"
_KINDS = {"v": "a view", "m": "a materialized view", "f": "a foreign table"}


class Wanted(msgspec.Struct, frozen=True):
    """What a sink will do.

    :ivar key: columns that identify a row; none: rows are appended.
    :ivar columns: those that are written; None: whatever the data has.
    :ivar privileges: of INSERT, UPDATE, DELETE, TRUNCATE, SELECT.
    :ivar create: the table is made where it is missing.
    :ivar ledger: the schema of the ledger; None: none is kept beside the rows.
    """

    table: TableName
    key: tuple[str, ...]
    columns: tuple[str, ...] | None
    privileges: tuple[str, ...]
    create: bool
    ledger: str | None

    @property
    def sql(self) -> str:
        return quoted(*self.table)


class _Table(msgspec.Struct, frozen=True):
    oid: int
    kind: str
    visible: bool
    secured: bool
    granted: list[str]


def sink_checks(wanted: Wanted) -> list[Check]:
    """Whether rows can be written, and the ledger beside them."""

    def table(connection: psycopg.Connection[Any]) -> Iterator[Finding]:
        found = _find(connection, wanted)
        if found is None:
            yield from _check_absent(connection, wanted)
        elif found.kind in _KINDS:
            message = f"{wanted.table} is {_KINDS[found.kind]}"
            yield Finding("error", "sink.missing_table", message, help="name a table")
        else:
            findings = [*_check_grants(connection, wanted, found), *_check_columns(connection, wanted, found)]
            findings += _check_key(connection, wanted, found)
            yield from findings
            if not any(finding.severity == "error" for finding in findings):
                yield Finding("ok", "sink.table", f"rows can be written to {wanted.table}")

    ledger = [] if wanted.ledger is None else [check_schema(wanted.ledger, "sink")]
    return [check_writable, table, *ledger]


def _find(connection: psycopg.Connection[Any], wanted: Wanted) -> _Table | None:
    from psycopg.rows import dict_row

    with connection.cursor(row_factory=dict_row) as cursor:
        row = cursor.execute(_TABLE, tuple(wanted.table)).fetchone()
    return None if row is None else msgspec.convert(row, _Table)


def _check_absent(connection: psycopg.Connection[Any], wanted: Wanted) -> Iterator[Finding]:
    if not wanted.create:
        help = f"CREATE TABLE {wanted.sql} (…), or create: true"
        yield Finding("error", "sink.missing_table", f"there is no table {wanted.table}", help=help)
        return
    row, role = connection.execute(_MAY_CREATE, (wanted.table.schema,)).fetchone(), who(connection).role
    schema = quoted(wanted.table.schema)
    if row is None:
        help = f"CREATE SCHEMA {schema} AUTHORIZATION {role}"
        yield Finding("error", "sink.missing_table", f"there is no schema {wanted.table.schema}", help=help)
    elif not row[0]:
        help = f"GRANT USAGE, CREATE ON SCHEMA {schema} TO {role}"
        yield Finding("error", "sink.no_grant", f"{role} may not create the table {wanted.table}", help=help)
    else:
        yield Finding("ok", "sink.table", f"the table {wanted.table} is made with the first event")


def _check_grants(connection: psycopg.Connection[Any], wanted: Wanted, found: _Table) -> Iterator[Finding]:
    role = who(connection).role
    lacking = [name for name in wanted.privileges if name not in found.granted]
    if lacking or not found.visible:
        usage = "" if found.visible else f"GRANT USAGE ON SCHEMA {quoted(wanted.table.schema)} TO {role}; "
        grant = f"GRANT {', '.join(lacking)} ON TABLE {wanted.sql} TO {role}" if lacking else ""
        what = f"lacks {', '.join([*lacking, *([] if found.visible else ['USAGE of its schema'])])} on"
        yield Finding("error", "sink.no_grant", f"{role} {what} {wanted.table}", help=(usage + grant).removesuffix("; "))
    if found.secured:
        message = f"row security of {wanted.table} applies to {role}"
        why = "rows that its policies refuse become dead letters, and rows that they hide are not updated"
        yield Finding("warning", "sink.row_security", message, why, f"ALTER ROLE {role} BYPASSRLS")


def _check_columns(connection: psycopg.Connection[Any], wanted: Wanted, found: _Table) -> Iterator[Finding]:
    columns = connection.execute(_COLUMNS, (found.oid,)).fetchall()
    names = [name for name, *_ in columns]
    written = tuple(dict.fromkeys((*wanted.key, *(wanted.columns or ()))))
    unknown = [name for name in written if name not in names]
    if unknown:
        add = ", ".join(f"ADD COLUMN {quoted(name)} …" for name in unknown)
        message = f"{wanted.table} has no column {', '.join(unknown)}"
        yield Finding("error", "sink.unknown_column", message, f"it has {', '.join(names)}", f"ALTER TABLE {wanted.sql} {add}")
    generated = [name for name, *_, is_generated in columns if is_generated and name in written]
    if generated:
        message = f"{', '.join(generated)} of {wanted.table} is generated, and takes no value"
        yield Finding("error", "sink.generated_column", message, help="leave it out of `columns`")
    required = [name for name, _, needed, _ in columns if needed and wanted.columns is not None and name not in written]
    if required:
        message = f"{', '.join(required)} of {wanted.table} must have a value, and none is written"
        help = f"name it in `columns`; or ALTER TABLE {wanted.sql} ALTER COLUMN {quoted(required[0])} DROP NOT NULL"
        yield Finding("error", "sink.required_column", message, "every row would become a dead letter", help)


def _check_key(connection: psycopg.Connection[Any], wanted: Wanted, found: _Table) -> Iterator[Finding]:
    if not wanted.key:
        return
    indexes = [(set(names), distinct) for names, distinct in connection.execute(_UNIQUE, (found.oid,))]
    fitting = [same_nulls for names, same_nulls in indexes if names == set(wanted.key)]
    if not fitting:
        concurrently = "" if found.kind == "p" else "CONCURRENTLY "
        yield Finding(
            "error",
            "sink.no_unique_key",
            f"nothing in {wanted.table} makes {', '.join(wanted.key)} unique",
            "a row that is there already is recognised by a unique index of just these columns",
            f"CREATE UNIQUE INDEX {concurrently}ON {wanted.sql} ({quoted_list(wanted.key)})",
        )
        return
    filled = {name for name, not_null, *_ in connection.execute(_COLUMNS, (found.oid,)) if not_null}
    yield from _check_nulls(wanted, [name for name in wanted.key if name not in filled and not any(fitting)])


def _check_nulls(wanted: Wanted, nullable: Sequence[str]) -> Iterator[Finding]:
    for name in nullable:
        yield Finding(
            "warning",
            "sink.nullable_key",
            f"{name}, of the key of {wanted.table}, may be NULL",
            "two rows without it are not the same row to a unique index",
            f"ALTER TABLE {wanted.sql} ALTER COLUMN {quoted(name)} SET NOT NULL",
        )
