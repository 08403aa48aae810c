"""The publication: made where it is missing, and held against the configuration; what it lacks is named with the SQL for it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from connectors._postgres import TableName, parse_table, quoted
from connectors.sources._cdc.config import PostgresCdcConfig
from connectors.sources._cdc.mask import Masks, masked_key
from penstock.errors import EnvironmentFault, Transient

if TYPE_CHECKING:
    import psycopg

_PUBLICATION = "SELECT pg_catalog.to_jsonb(p) FROM pg_catalog.pg_publication AS p WHERE p.pubname = %s"
_PUBLISHED = (
    "SELECT schemaname::pg_catalog.text, tablename::pg_catalog.text FROM pg_catalog.pg_publication_tables WHERE pubname = %s"
)
_TABLES = """
SELECT n.nspname::pg_catalog.text, c.relname::pg_catalog.text, c.oid::pg_catalog.int8, c.relkind = 'p'
FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p') AND (NOT c.relispartition OR %s) AND c.relpersistence = 'p'
"""
_COLUMNS = """
SELECT n.nspname::pg_catalog.text, c.relname::pg_catalog.text,
       pg_catalog.array_agg(a.attname::pg_catalog.text ORDER BY a.attnum)
FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
JOIN pg_catalog.pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
WHERE c.relkind IN ('r', 'p') GROUP BY 1, 2
"""
_KEYS = """
SELECT n.nspname::pg_catalog.text, c.relname::pg_catalog.text, pg_catalog.array_agg(a.attname::pg_catalog.text)
FROM pg_catalog.pg_index AS i JOIN pg_catalog.pg_class AS c ON c.oid = i.indrelid
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
JOIN pg_catalog.pg_attribute AS a ON a.attrelid = c.oid AND a.attnum = ANY (i.indkey)
WHERE CASE c.relreplident WHEN 'i' THEN i.indisreplident ELSE i.indisprimary END GROUP BY 1, 2
"""
_WITH_ROOTS = 130000
_WITH_SCHEMAS = 150000
_ATTEMPTS = 3
_DROPPED = "could not open relation with OID"
_SHOWN = 5
"""Tables whose columns an error lists."""


class _Found(NamedTuple):
    oid: int
    partitioned: bool


def check_server(connection: psycopg.Connection[Any]) -> None:
    """:raises EnvironmentFault: `source.wal_level`."""
    (level,) = connection.execute("SHOW wal_level").fetchone() or ("unknown",)
    if level != "logical":
        raise EnvironmentFault(
            "source.wal_level",
            f"the server's wal_level is {level}, and changes can be read with logical only",
            help="ALTER SYSTEM SET wal_level = 'logical', then restart the server",
        )


def refuse_standby(connection: psycopg.Connection[Any]) -> None:
    """Before tables are read beside the stream.

    :raises EnvironmentFault: `snapshot.standby`.
    """
    (standby,) = connection.execute("SELECT pg_catalog.pg_is_in_recovery()").fetchone() or (False,)
    if standby:
        raise EnvironmentFault(
            "snapshot.standby",
            "rows of tables cannot be read exactly beside the changes of a stand-by",
            why="it does not tell which transactions were in progress when they were read",
            help="connect to the primary; or `snapshot: { mode: never }`",
        )


def prepare_publication(connection: psycopg.Connection[Any], config: PostgresCdcConfig, name: str, *, fresh: bool) -> None:
    """:param fresh: there is no slot yet, so that the publication may be made now: of changes before it, none could be read.
    :raises EnvironmentFault: `source.no_table`, `source.no_partitions`, `source.no_schemas`, `publication.missing`,
        `publication.tables`, `publication.operations`.
    :raises Transient: `publication.busy`: tables come and go too fast to be looked at.
    """
    present = _tables(connection)
    tables = [parse_table(text) for text in config.tables]
    row = connection.execute(_PUBLICATION, (name,)).fetchone()
    if row is None:
        _make(connection, config, name, tables, present, fresh=fresh)
        return
    try:
        _check(connection, config, name, row[0], tables, present)
    except EnvironmentFault:
        if connection.execute(_PUBLICATION, (name,)).fetchone() is not None:
            raise
    else:
        return
    prepare_publication(connection, config, name, fresh=fresh)  # it went while its tables were listed: it lacks none of them


def _make(
    connection: psycopg.Connection[Any],
    config: PostgresCdcConfig,
    name: str,
    tables: list[TableName],
    present: Mapping[TableName, _Found],
    *,
    fresh: bool,
) -> None:
    _refuse_absent(tables, present)
    partitioned = [table for table in tables if present[table].partitioned]
    command = creation(name, tables, config.schemas, partitioned, connection.info.server_version)
    if config.publication.create == "never" or not fresh:
        raise EnvironmentFault(
            "publication.missing",
            f"there is no publication {name}",
            why=None if fresh else "the slot exists already: its earlier changes cannot be read with a publication made now",
            help=command,
        )
    connection.execute(command.encode())


def check_columns(connection: psycopg.Connection[Any], config: PostgresCdcConfig, publication: str) -> None:
    """Columns that the configuration names and no table has: what one would leave out, or mask, another would let through.

    :raises EnvironmentFault: `source.no_column`, with the columns that there are; `source.masked_key`.
    """
    given = {"columns": config.columns or (), "exclude_columns": config.exclude_columns, "mask": tuple(config.mask)}
    if not any(given.values()):
        return
    read = {parse_table(text) for text in config.tables}
    if not read and not config.schemas:
        read = {TableName(*row) for row in connection.execute(_PUBLISHED, (publication,))}
    columns = {
        TableName(schema, table): names
        for schema, table, names in connection.execute(_COLUMNS)
        if (schema, table) in read or schema in config.schemas
    }
    known = {name for names in columns.values() for name in names}
    unknown = [f"{name} ({field})" for field, names in given.items() for name in names if name not in known]
    if unknown:
        listed = [f"{table} has {', '.join(names)}" for table, names in sorted(columns.items())]
        more = f"; and {len(listed) - _SHOWN} more tables" if len(listed) > _SHOWN else ""
        raise EnvironmentFault(
            "source.no_column",
            f"no table that is read has the column {', '.join(unknown)}",
            why="; ".join(listed[:_SHOWN]) + more,
            help="names are as the server has them: upper and lower case count",
        )
    masks = Masks(config.mask, config.mask_key)
    for schema, table, key in connection.execute(_KEYS) if config.mask else ():
        same = masks.undistinguished(tuple(key))
        if same and (schema, table) in columns:
            raise masked_key(f"{schema}.{table}", same)


def _check(
    connection: psycopg.Connection[Any],
    config: PostgresCdcConfig,
    name: str,
    found: dict[str, Any],
    tables: list[TableName],
    before: Mapping[TableName, _Found],
) -> None:
    published, present = _published(connection, name), _tables(connection)
    lacking = [table for table in tables if table not in published]
    _refuse_absent(lacking, present)
    stood = {table.schema for table, found in present.items() if before.get(table) == found and table not in published}
    in_schemas = [schema for schema in config.schemas if schema in stood]  # a table that was made meanwhile says nothing
    if lacking or in_schemas:
        parts = [f"TABLE {_listed(lacking)}"] * bool(lacking) + [f"TABLES IN SCHEMA {_schemas(in_schemas)}"] * bool(in_schemas)
        raise EnvironmentFault(
            "publication.tables",
            f"the publication {name} lacks {', '.join([*map(str, lacking), *(f'tables of schema {s}' for s in in_schemas)])}",
            why="changes made before a table is added are not published",
            help=f"ALTER PUBLICATION {quoted(name)} ADD {', '.join(parts)}"
            + ("; a partitioned table also needs SET (publish_via_partition_root = true)" if not found.get("pubviaroot") else ""),
        )
    unpublished = [operation for operation in config.operations if not found.get(f"pub{operation}")]
    if unpublished:
        raise EnvironmentFault(
            "publication.operations",
            f"the publication {name} does not publish {', '.join(unpublished)}",
            help=f"ALTER PUBLICATION {quoted(name)} SET (publish = 'insert, update, delete, truncate'), or fewer `operations`",
        )


def _tables(connection: psycopg.Connection[Any]) -> dict[TableName, _Found]:
    """The tables that can be named: partitions where they cannot be published as their root."""
    rows = connection.execute(_TABLES, (connection.info.server_version < _WITH_ROOTS,))
    return {TableName(schema, table): _Found(oid, partitioned) for schema, table, oid, partitioned in rows}


def _published(connection: psycopg.Connection[Any], name: str) -> set[TableName]:
    """The server fails where a table is dropped while it lists those of a publication."""
    from psycopg.errors import InternalError_

    for _ in range(_ATTEMPTS):
        try:
            return {TableName(*row) for row in connection.execute(_PUBLISHED, (name,))}
        except InternalError_ as error:
            if _DROPPED not in (error.diag.message_primary or ""):
                raise
    raise Transient("publication.busy", f"tables of the publication {name} are dropped while they are listed")


def _refuse_absent(tables: list[TableName], present: Collection[TableName]) -> None:
    absent = [str(table) for table in tables if table not in present]
    if absent:
        raise EnvironmentFault(
            "source.no_table",
            f"there is no table {', '.join(absent)}",
            help="correct `tables`; a partition is read by its root, from PostgreSQL 13 on",
        )


def creation(
    name: str, tables: Sequence[TableName], schemas: Sequence[str], partitioned: Sequence[TableName], version: int
) -> str:
    """The SQL that makes a publication on a server of this version.

    :param partitioned: those of the tables that are.
    :raises EnvironmentFault: `source.no_schemas` before 15, `source.no_partitions` before 13.
    """
    if schemas and version < _WITH_SCHEMAS:
        raise EnvironmentFault(
            "source.no_schemas", "this server cannot publish schemas", help="name `tables`, or use 15 or newer"
        )
    if partitioned and version < _WITH_ROOTS:
        raise EnvironmentFault(
            "source.no_partitions",
            f"this server cannot publish {', '.join(map(str, partitioned))}, which is partitioned, as one table",
            help="name its partitions in `tables`, or use 13 or newer",
        )
    parts = [f"TABLE {_listed(tables)}"] * bool(tables) + [f"TABLES IN SCHEMA {_schemas(schemas)}"] * bool(schemas)
    roots = " WITH (publish_via_partition_root = true)" if version >= _WITH_ROOTS else ""
    return f"CREATE PUBLICATION {quoted(name)} FOR {', '.join(parts)}{roots}"


def _listed(tables: Sequence[TableName]) -> str:
    return ", ".join(quoted(*table) for table in tables)


def _schemas(names: Sequence[str]) -> str:
    return ", ".join(quoted(name) for name in names)
