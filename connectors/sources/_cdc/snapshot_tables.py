"""What a snapshot has to know of a table before it reads it: key, columns, filters, size. And the SQL that follows from it.

Everything here runs on a session's thread, under `SESSION_SETTINGS`: names are qualified, values print as in the stream.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from connectors._postgres import TableName, parse_table, quoted, sql_name
from connectors.sources._cdc.config import PostgresCdcConfig
from connectors.sources._cdc.snapshot_keys import KeyColumn, compare, find_keys, ordering
from penstock.errors import EnvironmentFault

if TYPE_CHECKING:
    import psycopg

_ALL = "SELECT schemaname::text, tablename::text FROM pg_publication_tables WHERE pubname = %s ORDER BY 1, 2"
_PUBLISHED = "SELECT to_jsonb(t) FROM pg_publication_tables AS t WHERE pubname = %s AND schemaname = %s AND tablename = %s"
_TABLE = """
SELECT c.oid::int8, c.relkind = 'p', c.relreplident::text,
       has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT'), row_security_active(c.oid),
       current_user::text,
       CASE c.relkind WHEN 'p' THEN ARRAY(SELECT t.relid::oid::int8 FROM pg_partition_tree(c.oid) AS t)
       ELSE ARRAY[c.oid::int8] END
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname = %s AND c.relname = %s AND c.relkind IN ('r', 'p')
"""
_SIZE = "SELECT sum(pg_table_size(oid))::int8, sum(greatest(reltuples, 0))::int8 FROM pg_class WHERE oid = ANY(%s::oid[])"
_COLUMNS = """
SELECT a.attname::text, a.atttypid::int8, format_type(a.atttypid, a.atttypmod), a.attgenerated::text <> '', a.atttypmod
FROM pg_attribute AS a WHERE a.attrelid = %s AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum
"""
_GENERATED_PUBLISHED = 180000


class Layout(msgspec.Struct, frozen=True):
    """A table as it is read.

    :ivar parts: OIDs of the table and its partitions.
    :ivar columns: what is selected, with the OIDs of the types; the first `emitted` of them are those of events.
    :ivar conditions: of rows that are read, as SQL.
    :ivar row_bytes: of a row on disk, on average; 0 where nobody knows.
    :ivar look: type OID and modifier of each column of events.
    :ivar masked: columns because of which a table with a key has none here.
    """

    oid: int
    schema: str
    name: str
    partitioned: bool
    parts: tuple[int, ...]
    key: tuple[KeyColumn, ...]
    columns: tuple[tuple[str, int], ...]
    emitted: int
    conditions: tuple[str, ...]
    row_bytes: int
    look: Mapping[str, tuple[int, int]] = {}
    masked: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        return sql_name(self.schema, self.name)

    @property
    def relation(self) -> str:
        """What stands behind FROM and LOCK TABLE: children of a table that is not partitioned are published by themselves."""
        return ("" if self.partitioned else "ONLY ") + quoted(self.schema, self.name)

    @property
    def key_names(self) -> tuple[str, ...]:
        return tuple(column.name for column in self.key)

    @property
    def key_types(self) -> tuple[str, ...]:
        return tuple(column.type for column in self.key)

    @property
    def key_collations(self) -> tuple[str, ...]:
        """Of the index; none where no column has one."""
        found = tuple(column.sorted_by for column in self.key)
        return found if any(found) else ()

    @property
    def key_places(self) -> tuple[int, ...]:
        """Of the key's columns among `columns`."""
        names = [name for name, _ in self.columns]
        return tuple(names.index(column.name) for column in self.key)

    def chunk_rows(self, rows: int, size: int) -> int:
        """Rows that are about a batch."""
        return max(1, min(rows, size // self.row_bytes if self.row_bytes else rows))

    @property
    def _selected(self) -> str:
        return ", ".join(quoted(name) for name, _ in self.columns)

    def rows_sql(self, *, behind: bool) -> str:
        """The rows of a chunk: parameters are the key it begins behind, where it does, and its last key."""
        width = len(self.key)
        parts = [compare(self.key, ">", 1)] * behind + [compare(self.key, "<=", 1 + width * behind)]
        where = self._all(parts)
        return f"SELECT {self._selected} FROM {self.relation} WHERE {where} ORDER BY {ordering(self.key)}"  # noqa: S608 - names are quoted

    def bounds_sql(self, rows: int, count: int, *, behind: bool) -> str:
        """The last keys of so many chunks of so many rows, and whether nothing lies behind each."""
        keys = ", ".join(f"{quoted(column.name)} AS k{n}" for n, column in enumerate(self.key))
        names = ", ".join(f"k{n}" for n in range(len(self.key)))
        where = self._all([compare(self.key, ">", 1)] * behind)
        return (  # names are quoted, conditions are the server's or the configuration's
            f"SELECT {names}, more IS NULL FROM (SELECT {keys}, row_number() OVER w AS n, lead(1) OVER w AS more "  # noqa: S608
            f"FROM {self.relation} WHERE {where} WINDOW w AS (ORDER BY {ordering(self.key)}) "
            f"ORDER BY {ordering(self.key)} LIMIT {rows * count}) AS q WHERE n % {rows} = 0 OR more IS NULL ORDER BY n"
        )

    def whole_sql(self) -> str:
        """All rows, each behind its physical place."""
        places = f"tableoid::int8::text || ctid::text, {self._selected}"
        return f"SELECT {places} FROM {self.relation} WHERE {self._all([])}"  # noqa: S608 - as above

    def _all(self, parts: Sequence[str]) -> str:
        return " AND ".join((*parts, *(f"({condition}\n)" for condition in self.conditions))) or "true"


def published(connection: psycopg.Connection[Any], publication: str) -> list[TableName]:
    """Every table of the publication, partitioned ones as they are published."""
    return [TableName(*row) for row in connection.execute(_ALL, (publication,))]


def inspect(connection: psycopg.Connection[Any], config: PostgresCdcConfig, publication: str, table: TableName) -> Layout:
    """The table as the server has it now.

    :raises EnvironmentFault: `source.no_table`, `source.no_select`, `snapshot.row_security`, `snapshot.not_published`.
    """
    row = connection.execute(_TABLE, table).fetchone()
    if row is None:
        raise EnvironmentFault("source.no_table", f"there is no table {table}", help="correct its name, or CREATE TABLE …")
    oid, partitioned, identity, readable, secured, role, parts = row
    found = connection.execute(_PUBLISHED, (publication, *table)).fetchone()
    if found is None:
        raise _unpublished(publication, table)
    _refuse_unreadable(table, role, readable=readable, secured=secured)
    described = connection.execute(_COLUMNS, (oid,)).fetchall()
    types = {name: kind for name, kind, *_ in described}
    modifiers = {name: modifier for name, *_, modifier in described}
    key, masked = unmasked(find_keys(connection, oid, identity), config.mask)
    emitted = _emitted(config, found[0], described, connection.info.server_version)
    names = [*emitted, *(column.name for column in key if column.name not in emitted)]
    size, rows = connection.execute(_SIZE, (parts,)).fetchone() or (0, 0)
    return Layout(
        oid,
        table.schema,
        table.table,
        partitioned,
        tuple(parts),
        key,
        tuple((name, types[name]) for name in names),
        len(emitted),
        _conditions(config, found[0], table),
        size // rows if rows and size else 0,
        {name: (types[name], modifiers[name]) for name in emitted},
        masked,
    )


def unmasked(keys: Sequence[tuple[KeyColumn, ...]], mask: Collection[str]) -> tuple[tuple[KeyColumn, ...], tuple[str, ...]]:
    """The best key whose values may be stored (Invariant 9); where there is none, the masked columns of the best."""
    key = next((key for key in keys if not any(column.name in mask for column in key)), ())
    masked = tuple(column.name for column in keys[0] if column.name in mask) if keys and not key else ()
    return key, masked


def _refuse_unreadable(table: TableName, role: str, *, readable: bool, secured: bool) -> None:
    if not readable:
        raise EnvironmentFault(
            "source.no_select",
            f"{role} may not read {table}",
            why="changes can be read without, but no snapshot of the rows that are there",
            help=f"GRANT USAGE ON SCHEMA {quoted(table.schema)} TO {quoted(role)}; "
            f"GRANT SELECT ON TABLE {quoted(*table)} TO {quoted(role)}; or `snapshot: {{ mode: never }}`",
        )
    if secured:
        raise EnvironmentFault(
            "snapshot.row_security",
            f"row security hides rows of {table} from {role}",
            why="the change stream has the changes of all rows, and a snapshot would lack some of them",
            help=f"ALTER ROLE {quoted(role)} BYPASSRLS; or `snapshot: {{ mode: never }}`",
        )


def _unpublished(publication: str, table: TableName) -> EnvironmentFault:
    return EnvironmentFault(
        "snapshot.not_published",
        f"the publication {publication} does not have the table {table}",
        why="a snapshot of rows whose changes are not read would never be brought up to date",
        help=f"ALTER PUBLICATION {quoted(publication)} ADD TABLE {quoted(*table)}",
    )


def _emitted(config: PostgresCdcConfig, found: Mapping[str, Any], described: Sequence[Any], version: int) -> list[str]:
    """Columns of events: those that the stream has, too."""
    sent = found.get("attnames")
    names = [
        name
        for name, _, _, generated, _ in described
        if (sent is None or name in sent) and (not generated or version >= _GENERATED_PUBLISHED)
    ]
    if config.columns is not None:
        return [name for name in names if name in config.columns]
    return [name for name in names if name not in config.exclude_columns]


def _conditions(config: PostgresCdcConfig, found: Mapping[str, Any], table: TableName) -> tuple[str, ...]:
    chosen = next((sql for text, sql in config.snapshot.select.items() if parse_table(text) == table), None)
    return tuple(condition for condition in (found.get("rowfilter"), chosen) if condition)
