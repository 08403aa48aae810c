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


_SYSTEM_COLUMNS = frozenset(("tableoid", "xmin", "cmin", "xmax", "cmax", "ctid"))


def is_column(name: str) -> bool:
    """Whether data may name a column so: letters, digits and underscores (Invariant 12), and no column that every table has."""
    return name.isidentifier() and name not in _SYSTEM_COLUMNS and len(name.encode()) <= LONGEST_NAME


def types_of_values(names: Iterable[str], rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """For each column a type that takes its values in all these rows; text where they have several types, or none."""
    found = {}
    for name in names:
        classes = frozenset(type(row[name]) for row in rows if row.get(name) is not None)
        found[name] = _OF_VALUES.get(classes, "text")
        if found[name] == "bigint" and any(not -(1 << 63) <= row[name] < 1 << 63 for row in rows if row.get(name) is not None):
            found[name] = "numeric"
    return found


def types_of_schema(schema: Any, where: str, columns: Iterable[str] | None, key: Sequence[str]) -> dict[str, str]:
    """The type of each column: of the schema's property with its name.

    :param columns: None: all properties are columns.
    :raises EnvironmentFault: `sink.schema`: a column is no property, or a property can be no column.
    """
    found = schema.get("properties") if isinstance(schema, dict) else None
    properties: Mapping[str, Any] = found if isinstance(found, dict) else {}
    names = list(properties if columns is None else columns)
    missing = [name for name in (*names, *key) if name not in properties]
    strange = [name for name in names if not is_column(name) and (columns is None or name in _SYSTEM_COLUMNS)]
    if missing or not names:
        what = f"no property {missing[0]}" if missing else "no properties"
        raise EnvironmentFault("sink.schema", f"the schema {where} has {what}", help="add it there, or make the table yourself")
    if strange:
        raise EnvironmentFault(
            "sink.schema",
            f"the schema {where} has a property {strange[0][:LONGEST_NAME]!r}, which can be no column",
            help="name the columns: columns: {NAME: JQ}",
        )
    return {name: _type(properties[name]) for name in names}


def _type(schema: Any) -> str:
    if not isinstance(schema, dict):
        return "jsonb"
    kind = schema.get("type")
    kinds = [str(each) for each in (kind if isinstance(kind, list) else [kind]) if each != "null"]
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
