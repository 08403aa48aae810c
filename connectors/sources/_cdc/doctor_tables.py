"""What `pipe doctor` finds out about the tables of a `postgres_cdc` source: what they are, who may read them, which row an
UPDATE or DELETE names (their replica identity), and which values an update leaves out.

Source: PostgreSQL manual, "Logical Replication", "Publication" and "Restrictions"; ALTER TABLE, REPLICA IDENTITY.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from connectors._postgres import TableName, parse_table, quoted
from connectors.sources._cdc.config import PostgresCdcConfig
from penstock._postgres_checks import who
from penstock.spi import Finding

if TYPE_CHECKING:
    import psycopg

_NAMED = """
SELECT c.oid, n.nspname::text AS schema, c.relname::text AS name, c.relkind::text AS kind, c.relpersistence::text AS persistence,
       CASE WHEN c.relispartition THEN pg_partition_root(c.oid)::oid END AS root,
       has_schema_privilege(n.oid, 'USAGE') AS visible, has_table_privilege(c.oid, 'SELECT') AS readable,
       pg_has_role(c.relowner, 'USAGE') AS owned, pg_get_userbyid(c.relowner)::text AS owner
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE (n.nspname::text, c.relname::text) IN (SELECT * FROM unnest(%s::text[], %s::text[])) AND c.relkind = ANY ('{r,p,v,m,f}')
   OR n.nspname::text = ANY(%s::text[]) AND c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.relpersistence = 'p'
ORDER BY 2, 3
"""
_PARTS = """
SELECT c.oid, n.nspname::text AS schema, c.relname::text AS name, c.relreplident::text AS identity,
       EXISTS (SELECT FROM pg_index AS i WHERE i.indrelid = c.oid AND i.indisprimary) AS has_key,
       coalesce((SELECT array_agg(a.attname::text ORDER BY a.attnum) FROM pg_index AS i
                 JOIN pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey)
                 WHERE i.indrelid = c.oid AND i.indisvalid AND i.indimmediate
                   AND CASE c.relreplident WHEN 'd' THEN i.indisprimary WHEN 'i' THEN i.indisreplident END), '{}') AS key,
       CASE WHEN c.reltoastrelid = 0 THEN 0 ELSE pg_relation_size(c.reltoastrelid) END AS large,
       coalesce((SELECT array_agg(a.attname::text ORDER BY a.attnum) FROM pg_attribute AS a
                 WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attlen = -1
                   AND a.attstorage <> 'p'), '{}') AS wide
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.oid = %s AND c.relkind = 'r' OR c.oid IN (SELECT t.relid FROM pg_partition_tree(%s) AS t WHERE t.isleaf)
ORDER BY 2, 3
"""
_NAME_OF = (
    "SELECT n.nspname::text, c.relname::text FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace WHERE c.oid = %s"
)
_KINDS = {"v": "a view", "m": "a materialized view", "f": "a foreign table"}
_IDENTITIES = {"d": "DEFAULT", "f": "FULL", "n": "NOTHING", "i": "an index"}
_BEFORE = re.compile(r"\.before\b")
_OR_BEFORE = re.compile(r"//\s*\.before\b")


class Part(msgspec.Struct, frozen=True):
    """A table that holds rows: the table itself, or a partition of it.

    :ivar identity: as in pg_class.relreplident; `key`: the columns that it names, none of FULL and where its index is missing.
    :ivar large: bytes of values that are stored apart; `wide`: the columns that can have such.
    """

    oid: int
    schema: str
    name: str
    identity: str
    has_key: bool
    key: list[str]
    large: int
    wide: list[str]

    @property
    def title(self) -> str:
        return f"{self.schema}.{self.name}"

    @property
    def sql(self) -> str:
        return quoted(self.schema, self.name)


class Named(msgspec.Struct):
    """A table that the configuration names, or one of a schema that it names."""

    oid: int
    schema: str
    name: str
    kind: str
    persistence: str
    root: int | None
    visible: bool
    readable: bool
    owned: bool
    owner: str
    parts: list[Part] = []

    @property
    def title(self) -> str:
        return f"{self.schema}.{self.name}"

    @property
    def sql(self) -> str:
        return quoted(self.schema, self.name)


class Reading(msgspec.Struct, frozen=True):
    """What decides whether a table fits.

    :ivar published: operations that the publication has, or will have.
    """

    config: PostgresCdcConfig
    published: Collection[str]

    @property
    def reads_rows(self) -> bool:
        """Whether events need more than the stream tells."""
        return self.config.toast == "reselect" or self.config.snapshot.mode != "never"

    @property
    def wants_before(self) -> bool:
        where = self.config.where or ""
        return self.config.include_before or bool(_BEFORE.search(_OR_BEFORE.sub("", where)))

    def keeps(self, column: str) -> bool:
        columns = self.config.columns
        return column not in self.config.exclude_columns and (columns is None or column in columns)


def tables_of(connection: psycopg.Connection[Any], config: PostgresCdcConfig) -> list[Named]:
    """The tables that there are, with their parts."""
    names = [parse_table(text) for text in config.tables]
    lists = ([name.schema for name in names], [name.table for name in names], list(config.schemas))
    found = [msgspec.convert(row, Named) for row in _rows(connection, _NAMED, lists)]
    for table in found:
        table.parts = [msgspec.convert(row, Part) for row in _rows(connection, _PARTS, (table.oid, table.oid))]
    return found


def check_names(connection: psycopg.Connection[Any], config: PostgresCdcConfig, found: Sequence[Named]) -> Iterator[Finding]:
    """Whether what is named is there, and of a kind whose changes are logged."""
    there = {TableName(table.schema, table.name) for table in found}
    for text in config.tables:
        if (name := parse_table(text)) not in there:
            yield Finding("error", "source.no_table", f"there is no table {name}", help="correct `tables`, or CREATE TABLE …")
    for table in found:
        yield from _check_kind(connection, table)
    schemas = {name for (name,) in connection.execute("SELECT nspname::text FROM pg_namespace")}
    for schema in config.schemas:
        if schema not in schemas:
            yield Finding("error", "source.no_schema", f"there is no schema {schema}", help="correct `schemas`")


def _check_kind(connection: psycopg.Connection[Any], table: Named) -> Iterator[Finding]:
    if table.kind in _KINDS:
        yield Finding(
            "error",
            "source.no_table",
            f"{table.title} is {_KINDS[table.kind]}, whose changes are not logged",
            help="name the tables behind it",
        )
    elif table.root is not None:
        root = TableName(*(connection.execute(_NAME_OF, (table.root,)).fetchone() or ("?", "?")))
        yield Finding(
            "error",
            "source.partition",
            f"{table.title} is a partition of {root}",
            "changes are published as those of the root",
            f"tables: [{root}]",
        )
    elif table.persistence == "u":
        yield Finding(
            "error",
            "source.unlogged_table",
            f"{table.title} is UNLOGGED: its changes are not in the WAL",
            help=f"ALTER TABLE {table.sql} SET LOGGED",
        )
    elif table.persistence == "t":
        yield Finding(
            "error", "source.unlogged_table", f"{table.title} is a temporary table: its changes are not in the WAL",
            help="make it a table that stays",
        )  # fmt: skip


def fitting(tables: Sequence[Named]) -> list[Named]:
    """Those whose changes can be published."""
    return [table for table in tables if table.kind in "rp" and table.root is None and table.persistence == "p"]


def check_grants(connection: psycopg.Connection[Any], tables: Sequence[Named], reading: Reading) -> Iterator[Finding]:
    """Whether the rows may be read: the stream needs no grant; a snapshot does, and values that are read again."""
    role = who(connection).role
    lacking = [table for table in fitting(tables) if not (table.visible and table.readable)]
    for table in lacking:
        usage = "" if table.visible else f"GRANT USAGE ON SCHEMA {quoted(table.schema)} TO {role}; "
        yield Finding(
            "error" if reading.reads_rows else "warning",
            "source.no_select",
            f"{role} may not read {table.title}",
            "changes come without it; a snapshot of the rows that are there does not, nor values that are read again",
            f"{usage}GRANT SELECT ON TABLE {table.sql} TO {role}",
        )
    if tables and not lacking:
        yield Finding("ok", "source.select", f"{role} may read {_some([table.title for table in fitting(tables)])}")


def check_rows(tables: Sequence[Named], reading: Reading) -> Iterator[Finding]:
    """Whether each change says which row it is of, and has what the pipeline uses of it."""
    for table in fitting(tables):
        found = [finding for part in table.parts for finding in _check_part(part, reading)]
        yield from found
        if not found:
            kinds = sorted({_IDENTITIES[part.identity] for part in table.parts}) or ["of no partition yet"]
            more = f", {len(table.parts)} partitions" if table.kind == "p" else ""
            yield Finding("ok", "source.replica_identity", f"{table.title}: replica identity {' and '.join(kinds)}{more}")


def _check_part(part: Part, reading: Reading) -> Iterator[Finding]:
    nameless = _nameless(part)
    changes = [name for name in ("update", "delete") if name in reading.published]
    if nameless is not None and changes:
        yield nameless
        return
    if part.identity == "f" and not part.has_key:
        yield Finding(
            "warning",
            "source.no_key",
            f"{part.title} has no primary key",
            "a changed key cannot be told from a changed row",
            f"ALTER TABLE {part.sql} ADD PRIMARY KEY (…)",
        )
    if part.identity != "f" and reading.wants_before and "update" in reading.config.operations:
        yield Finding(
            "error",
            "source.no_before",
            f"{part.title} does not log rows as they were: `before` is null in updates, and holds only the key in deletes",
            f"its replica identity is {_IDENTITIES[part.identity]}",
            f"ALTER TABLE {part.sql} REPLICA IDENTITY FULL",
        )
    wide = [name for name in part.wide if reading.keeps(name) and name not in part.key]
    if part.identity != "f" and part.large and wide and reading.config.toast == "fail" and "update" in reading.published:
        yield _unchanged(part, wide)


def _nameless(part: Part) -> Finding | None:
    """The user's own UPDATE and DELETE fail where the row cannot be named."""
    fails = "UPDATE and DELETE on it fail for everybody as soon as it is published"
    full = f"ALTER TABLE {part.sql} REPLICA IDENTITY FULL"
    if part.identity == "n":
        help = f"ALTER TABLE {part.sql} REPLICA IDENTITY {'DEFAULT' if part.has_key else 'FULL'}"
        return Finding("error", "source.replica_identity_nothing", f"{part.title} has REPLICA IDENTITY NOTHING", fails, help)
    if part.identity == "d" and not part.key:
        what = "a deferrable primary key, which is no replica identity" if part.has_key else "no primary key"
        return Finding(
            "error",
            "source.no_primary_key",
            f"{part.title} has {what}",
            fails,
            full if part.has_key else f"ALTER TABLE {part.sql} ADD PRIMARY KEY (…); or {full}",
        )
    if part.identity == "i" and not part.key:
        what = f"{part.title} has lost the index of its replica identity"
        return Finding(
            "error",
            "source.replica_identity_index",
            what,
            fails,
            f"ALTER TABLE {part.sql} REPLICA IDENTITY USING INDEX …; or {full}",
        )
    return None


def _unchanged(part: Part, wide: Sequence[str]) -> Finding:
    return Finding(
        "warning",
        "source.unchanged_values",
        f"{part.title} keeps {part.large:,} bytes of large values apart ({_some(wide)})",
        "an update that leaves such a value as it was does not send it: with `toast: fail` its event becomes a dead letter",
        f"ALTER TABLE {part.sql} REPLICA IDENTITY FULL; or toast: placeholder; or leave the columns out: exclude_columns",
    )


def _some(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= 4 else f"{', '.join(names[:3])} and {len(names) - 3} more"


def _rows(connection: psycopg.Connection[Any], sql: str, parameters: Sequence[Any]) -> list[dict[str, Any]]:
    from psycopg.rows import dict_row

    with connection.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(sql.encode(), parameters).fetchall()
