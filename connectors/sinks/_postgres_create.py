"""A table made for the events: after a JSON Schema, or after the events that come first."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from connectors._postgres import LONGEST_NAME, TableName, quoted, quoted_list
from penstock.errors import EnvironmentFault

if TYPE_CHECKING:
    import psycopg

_FORMATS = {"date-time": "timestamptz", "date": "date", "uuid": "uuid"}
_OF_SCHEMA = {"string": "text", "integer": "bigint", "number": "numeric", "boolean": "boolean"}
_OF_VALUES: Mapping[frozenset[type], str] = {
    frozenset({bool}): "boolean",
    frozenset({int}): "bigint",
    frozenset({float}): "numeric",
    frozenset({int, float}): "numeric",
    frozenset({dict}): "jsonb",
    frozenset({list}): "jsonb",
    frozenset({dict, list}): "jsonb",
}


def is_column(name: str) -> bool:
    """Whether data may name a column so: letters, digits and underscores (Invariant 12)."""
    return name.isidentifier() and len(name.encode()) <= LONGEST_NAME


def types_of_values(names: Iterable[str], rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """For each column a type that takes its values in all these rows; text where they have several types, or none."""
    found = {}
    for name in names:
        classes = frozenset(type(row[name]) for row in rows if row.get(name) is not None)
        found[name] = _OF_VALUES.get(classes, "text")
        if found[name] == "bigint" and any(not -(1 << 63) <= row[name] < 1 << 63 for row in rows if row.get(name) is not None):
            found[name] = "numeric"
    return found


def types_of_schema(schema: Any, where: str) -> dict[str, str]:
    """A column for each of the schema's properties.

    :raises EnvironmentFault: `sink.schema`: it names none, or one that can be no column.
    """
    properties = schema.get("properties") if isinstance(schema, dict) else None
    if not isinstance(properties, dict) or not properties:
        raise EnvironmentFault("sink.schema", f"the schema {where} names no properties", help="make the table yourself")
    strange = [name for name in properties if not is_column(name)]
    if strange:
        raise EnvironmentFault(
            "sink.schema",
            f"the schema {where} names a property {strange[0][:LONGEST_NAME]!r}, which can be no column",
            help="make the table yourself, and name the columns: columns: {NAME: JQ}",
        )
    return {name: _type(each) for name, each in properties.items()}


def _type(schema: Any) -> str:
    if not isinstance(schema, dict):
        return "jsonb"
    kind = schema.get("type")
    kinds = [each for each in (kind if isinstance(kind, list) else [kind]) if each != "null"]
    if len(kinds) != 1:
        return "jsonb"
    if kinds == ["string"]:
        return _FORMATS.get(schema.get("format", ""), "text")
    return _OF_SCHEMA.get(kinds[0], "jsonb")


def create(connection: psycopg.Connection[Any], name: TableName, columns: Mapping[str, str], key: Sequence[str]) -> None:
    """Make the table, unless somebody was quicker.

    :raises EnvironmentFault: `sink.no_grant`, `sink.missing_schema`.
    """
    from psycopg import errors

    lines = [f"{quoted(column)} {kind}{' NOT NULL' if column in key else ''}" for column, kind in columns.items()]
    if key:
        lines.append(f"PRIMARY KEY ({quoted_list(key)})")
    try:
        connection.execute(f"CREATE TABLE IF NOT EXISTS {quoted(*name)} ({', '.join(lines)})".encode())
    except errors.InsufficientPrivilege as error:
        user = connection.info.user
        raise EnvironmentFault(
            "sink.no_grant",
            f"user {user} may not make the table {name}",
            help=f"GRANT USAGE, CREATE ON SCHEMA {quoted(name.schema)} TO {quoted(user)}",
        ) from error
    except errors.InvalidSchemaName as error:
        raise EnvironmentFault(
            "sink.missing_schema", f"there is no schema {name.schema}", help=f"CREATE SCHEMA {quoted(name.schema)}"
        ) from error
