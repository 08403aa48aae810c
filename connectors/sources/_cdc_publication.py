"""The publication: made where it is missing, and held against the configuration; what it lacks is named with the SQL for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from connectors._postgres import TableName, parse_table, quoted
from connectors.sources._cdc_config import PostgresCdcConfig
from penstock.errors import EnvironmentFault

if TYPE_CHECKING:
    import psycopg

_PUBLICATION = "SELECT pg_catalog.to_jsonb(p) FROM pg_catalog.pg_publication AS p WHERE p.pubname = %s"
_PUBLISHED = (
    "SELECT schemaname::pg_catalog.text, tablename::pg_catalog.text FROM pg_catalog.pg_publication_tables WHERE pubname = %s"
)
_TABLES = """
SELECT n.nspname::pg_catalog.text, c.relname::pg_catalog.text
FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.relpersistence = 'p'
"""
_WITH_SCHEMAS = 150000


def check_server(connection: psycopg.Connection[Any]) -> None:
    """:raises EnvironmentFault: `source.wal_level`."""
    (level,) = connection.execute("SHOW wal_level").fetchone() or ("unknown",)
    if level != "logical":
        raise EnvironmentFault(
            "source.wal_level",
            f"the server's wal_level is {level}, and changes can be read with logical only",
            help="ALTER SYSTEM SET wal_level = 'logical', then restart the server",
        )


def prepare_publication(connection: psycopg.Connection[Any], config: PostgresCdcConfig, name: str, *, fresh: bool) -> None:
    """:param fresh: there is no slot yet, so that the publication may be made now: of changes before it, none could be read.
    :raises EnvironmentFault: `source.no_table`, `publication.missing`, `publication.tables`, `publication.operations`.
    """
    present = {TableName(*row) for row in connection.execute(_TABLES)}
    tables = [parse_table(text) for text in config.tables]
    row = connection.execute(_PUBLICATION, (name,)).fetchone()
    if row is None:
        _refuse_absent(tables, present)
        command = _create(connection, config, name, tables)
        if config.publication.create == "never" or not fresh:
            raise EnvironmentFault(
                "publication.missing",
                f"there is no publication {name}",
                why=None if fresh else "the slot exists already: its earlier changes cannot be read with a publication made now",
                help=command,
            )
        connection.execute(command.encode())
        return
    _check(connection, config, name, row[0], tables, present)


def _check(
    connection: psycopg.Connection[Any],
    config: PostgresCdcConfig,
    name: str,
    found: dict[str, Any],
    tables: list[TableName],
    present: set[TableName],
) -> None:
    published = {TableName(*row) for row in connection.execute(_PUBLISHED, (name,))}
    lacking = [table for table in tables if table not in published]
    _refuse_absent(lacking, present)
    in_schemas = [schema for schema in config.schemas if any(t.schema == schema and t not in published for t in present)]
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


def _refuse_absent(tables: list[TableName], present: set[TableName]) -> None:
    absent = [str(table) for table in tables if table not in present]
    if absent:
        raise EnvironmentFault(
            "source.no_table", f"there is no table {', '.join(absent)}", help="correct `tables`; a partition is read by its root"
        )


def _create(connection: psycopg.Connection[Any], config: PostgresCdcConfig, name: str, tables: list[TableName]) -> str:
    if config.schemas and connection.info.server_version < _WITH_SCHEMAS:
        raise EnvironmentFault(
            "source.no_schemas", "this server cannot publish schemas", help="name `tables`, or use 15 or newer"
        )
    parts = [f"TABLE {_listed(tables)}"] * bool(tables) + [f"TABLES IN SCHEMA {_schemas(config.schemas)}"] * bool(config.schemas)
    return f"CREATE PUBLICATION {quoted(name)} FOR {', '.join(parts)} WITH (publish_via_partition_root = true)"


def _listed(tables: list[TableName]) -> str:
    return ", ".join(quoted(*table) for table in tables)


def _schemas(names: tuple[str, ...] | list[str]) -> str:
    return ", ".join(quoted(name) for name in names)
