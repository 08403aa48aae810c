"""One PostgreSQL table as the sink sees it: its columns, what may be done to it, how one is made.

Names reach a statement only after they were found among the table's own columns, or, when the table is made, passed an
allow-list; and always quoted (Invariant 12). Everything here runs on the session's thread.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from connectors._postgres import TableName, quoted
from connectors.sinks._asked import OnConflict
from connectors.sinks._postgres.plan import Rules
from connectors.sinks._postgres.rows import Column
from connectors.sinks._postgres.types import TYPES, PgType, converters
from penstock.errors import EnvironmentFault

if TYPE_CHECKING:
    import psycopg

_TABLE = """
SELECT c.oid::pg_catalog.int8, c.relkind::pg_catalog.text, pg_catalog.row_security_active(c.oid),
       EXISTS (SELECT FROM pg_catalog.pg_constraint AS f
               WHERE f.conrelid = c.oid AND f.confrelid = c.oid AND f.contype = 'f'),
       EXISTS (SELECT FROM pg_catalog.pg_constraint AS u
               WHERE u.conrelid = c.oid AND u.contype IN ('p', 'u', 'x') AND u.condeferrable),
       EXISTS (SELECT FROM pg_catalog.pg_trigger AS g WHERE g.tgrelid = c.oid AND NOT g.tgisinternal AND g.tgtype & 66 = 0),
       ARRAY(SELECT r.rulename::pg_catalog.text FROM pg_catalog.pg_rewrite AS r
             WHERE r.ev_class = c.oid AND r.ev_type <> '1' ORDER BY r.rulename)
FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname = %s AND c.relname = %s
"""
"""Bits 2 and 64 of a trigger's type: BEFORE, INSTEAD OF."""

_COLUMNS = """
SELECT a.attname::pg_catalog.text, a.atttypid::pg_catalog.int8, a.atttypmod,
       pg_catalog.format_type(a.atttypid, a.atttypmod), pg_catalog.format_type(a.atttypid, -1),
       t.typarray <> 0 AND t.typdelim = ',' AND t.typcategory <> 'A' AND t.typtype IN ('b', 'e', 'r', 'm'),
       a.attidentity::pg_catalog.text, a.attgenerated::pg_catalog.text, coalesce(c.collisdeterministic, true),
       (a.attnotnull OR (t.typtype = 'd' AND t.typnotnull))
           AND NOT a.atthasdef AND a.attidentity = '' AND (t.typtype <> 'd' OR t.typdefault IS NULL)
FROM pg_catalog.pg_attribute AS a JOIN pg_catalog.pg_type AS t ON t.oid = a.atttypid
     LEFT JOIN pg_catalog.pg_collation AS c ON c.oid = a.attcollation
WHERE a.attrelid = %s::pg_catalog.oid AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum
"""
"""Types with their length and precision, and without: a cast to `bit(4)` would cut what an assignment refuses. Arrays of arrays
do not exist, and unnest would make several columns of a composite, so their parameters are arrays of text."""

SIGNATURE = """
SELECT pg_catalog.string_agg(
    pg_catalog.concat_ws(' ', a.attnum, a.attname, a.atttypid, a.atttypmod, a.attidentity, a.attgenerated,
                         a.attnotnull, a.atthasdef), ',' ORDER BY a.attnum)
FROM pg_catalog.pg_attribute AS a WHERE a.attrelid = %s::pg_catalog.oid AND a.attnum > 0 AND NOT a.attisdropped
"""
_GRANTS = """
SELECT ARRAY(SELECT p FROM pg_catalog.unnest(%s::pg_catalog.text[]) AS p
             WHERE NOT CASE WHEN p IN ('DELETE', 'TRUNCATE') THEN pg_catalog.has_table_privilege(c.oid, p)
                       ELSE pg_catalog.has_any_column_privilege(c.oid, p) END),
       pg_catalog.has_schema_privilege(c.relnamespace, 'USAGE'),
       current_user::pg_catalog.text
FROM pg_catalog.pg_class AS c WHERE c.oid = %s::pg_catalog.oid
"""
_EQUALS = """
SELECT a.attname::pg_catalog.text, n.nspname::pg_catalog.text, o.oprname::pg_catalog.text
FROM pg_catalog.pg_index AS i
     CROSS JOIN ROWS FROM (pg_catalog.unnest(i.indkey), pg_catalog.unnest(i.indclass)) AS k(number, class)
     JOIN pg_catalog.pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = k.number
     JOIN pg_catalog.pg_opclass AS c ON c.oid = k.class
     JOIN pg_catalog.pg_am AS m ON m.oid = c.opcmethod AND m.amname = 'btree'
     JOIN pg_catalog.pg_amop AS p ON p.amopfamily = c.opcfamily AND p.amopstrategy = 3
          AND p.amoplefttype = c.opcintype AND p.amoprighttype = c.opcintype
     JOIN pg_catalog.pg_operator AS o ON o.oid = p.amopopr
     JOIN pg_catalog.pg_namespace AS n ON n.oid = o.oprnamespace
WHERE i.indrelid = %s::pg_catalog.oid AND i.indisunique AND i.indisvalid ORDER BY i.indisprimary, i.indexrelid
"""
"""The operators by which unique indexes compare columns, the primary key's last: they need not be in `pg_catalog`."""

_TABLES = ("r", "p")
_ONE_TEXT = frozenset((16, 20, 21, 23, 26))
"""OIDs of key types whose equal values have, converted, equal texts: bool and integers from numbers, text of most collations."""
_TEXTS = frozenset((25, 1043))


@dataclass(frozen=True, slots=True)
class Table:
    """A table as it stands in the database; `columns` are those that can be written, by name.

    :ivar signature: changes with its columns (`SIGNATURE`).
    :ivar generated: columns that the table computes.
    :ivar row_security: COPY is refused.
    :ivar dependent: rows refer to rows of the same table.
    :ivar collated: columns whose equal texts may differ.
    :ivar partitioned: rows lie in other tables.
    :ivar equals: by column, the operator that compares it in a unique index, as SQL names it.
    :ivar required: columns without which no row can be made: NOT NULL, and no default.
    :ivar deferrable: unique or exclusion constraints may be satisfied by several rows together.
    :ivar watched: triggers look at rows behind the statement that wrote them.
    """

    name: TableName
    oid: int
    signature: str
    columns: Mapping[str, Column]
    generated: frozenset[str]
    row_security: bool
    dependent: bool
    collated: frozenset[str]
    partitioned: bool
    equals: Mapping[str, str]
    required: frozenset[str]
    deferrable: bool
    watched: bool

    @property
    def sql(self) -> str:
        """Qualified and quoted."""
        return quoted(*self.name)

    def is_as(self, other: Table) -> bool:
        """Whether nothing was altered in between."""
        return (self.oid, self.signature, self.row_security) == (other.oid, other.signature, other.row_security)

    def rules(self, key: Sequence[str], on_conflict: OnConflict, *, ordered: bool = False) -> Rules:
        """How operations on it may be put together."""
        plain = all(
            self.columns[name].oid in _ONE_TEXT or (self.columns[name].oid in _TEXTS and name not in self.collated)
            for name in key
        )
        return Rules(bool(key), on_conflict, strict=self.dependent or not plain, ordered=ordered)


def load(connection: psycopg.Connection[Any], name: TableName) -> Table | None:
    """The table, or None where there is none.

    :raises EnvironmentFault: `sink.missing_table`: it is a view, or something else that is no table; `sink.rules`.
    """
    found = connection.execute(_TABLE, name).fetchone()
    if found is None:
        return None
    oid, kind, row_security, dependent, deferrable, watched, rules = found
    if kind not in _TABLES:
        raise EnvironmentFault(
            "sink.missing_table", f"{name} is no table, so that no rows can be put into it", help="name a table"
        )
    if rules:
        raise EnvironmentFault(
            "sink.rules",
            f"table {name} has the rule {rules[0]}",
            why="ON CONFLICT cannot be used with rules, and COPY passes them by",
            help=f"make a trigger of it, and DROP RULE {quoted(rules[0])} ON {quoted(*name)}",
        )
    signature = signature_of(connection, oid)
    rows = connection.execute(_COLUMNS, (oid,)).fetchall()
    types = {number: PgType(*values) for number, *values in connection.execute(TYPES).fetchall()}
    columns = {row[0]: _column(row, types) for row in rows if not row[7]}
    generated = frozenset(row[0] for row in rows if row[7])
    collated = frozenset(row[0] for row in rows if not row[8])
    return Table(
        name=name,
        oid=oid,
        signature=signature,
        columns=columns,
        generated=generated,
        row_security=row_security,
        dependent=dependent,
        collated=collated,
        partitioned=kind == "p",
        equals=_equals(connection, oid),
        required=frozenset(row[0] for row in rows if row[9]) - generated,
        deferrable=deferrable,
        watched=watched,
    )


def _equals(connection: psycopg.Connection[Any], oid: int) -> dict[str, str]:
    found = connection.execute(_EQUALS, (oid,)).fetchall()
    return {column: f"OPERATOR({quoted(schema)}.{name})" for column, schema, name in found}


def signature_of(connection: psycopg.Connection[Any], oid: int) -> str:
    """Of the columns as they are now; empty where the table is gone."""
    found = connection.execute(SIGNATURE, (oid,)).fetchone()
    return (found[0] if found else None) or ""


def _column(row: Sequence[Any], types: Mapping[int, PgType]) -> Column:
    name, oid, modifier, declared, bare, has_array, identity, *_ = row
    parameter, cast = (f"{bare}[]", "") if has_array else ("pg_catalog.text[]", f"::{bare}")
    return Column(name, declared, oid, parameter, cast, converters(oid, modifier, types), identity == "a")


def check_columns(table: Table, wanted: Sequence[str], key: Sequence[str], on_conflict: OnConflict) -> None:
    """:raises EnvironmentFault: `sink.unknown_column`, `sink.generated_column`: a column that the configuration names."""
    unknown = [name for name in wanted if name not in table.columns]
    if unknown:
        generated = [name for name in unknown if name in table.generated]
        if generated:
            raise EnvironmentFault(
                "sink.generated_column",
                f"table {table.name} computes {', '.join(generated)} itself",
                help="leave it out of columns",
            )
        raise EnvironmentFault(
            "sink.unknown_column",
            f"table {table.name} has no column {', '.join(dict.fromkeys(unknown))} to write to",
            help=f"it has {', '.join(table.columns)}",
        )
    for name in wanted:
        if identity_fault(table, name, key, on_conflict):
            raise EnvironmentFault("sink.generated_column", identity_text(table, name), help=identity_help(table, name))


def identity_fault(table: Table, name: str, key: Sequence[str], on_conflict: OnConflict) -> bool:
    """Whether an update would have to set an identity column, which PostgreSQL refuses."""
    return table.columns[name].identity and on_conflict == "update" and bool(key) and name not in key


def identity_text(table: Table, name: str) -> str:
    return f"column {name} of table {table.name} is GENERATED ALWAYS AS IDENTITY, which no statement may change"


def identity_help(table: Table, name: str) -> str:
    return f"leave it out, or ALTER TABLE {table.sql} ALTER COLUMN {quoted(name)} SET GENERATED BY DEFAULT"


def check_grants(connection: psycopg.Connection[Any], table: Table, needed: Sequence[str]) -> None:
    """:raises EnvironmentFault: `sink.no_grant`, with the SQL that gives what is missing."""
    found = connection.execute(_GRANTS, (list(needed), table.oid)).fetchone()
    assert found is not None
    missing, usage, user = found
    statements = []
    if not usage:
        statements.append(f"GRANT USAGE ON SCHEMA {quoted(table.name.schema)} TO {quoted(user)}")
    if missing:
        statements.append(f"GRANT {', '.join(missing)} ON TABLE {table.sql} TO {quoted(user)}")
    if statements:
        raise EnvironmentFault(
            "sink.no_grant",
            f"user {user} may not do what the sink does to table {table.name}",
            help="; ".join(statements),
        )


def overriding_of(columns: Sequence[Column]) -> str:
    """What an INSERT of these columns says before its values."""
    return "OVERRIDING SYSTEM VALUE " if any(column.identity for column in columns) else ""
