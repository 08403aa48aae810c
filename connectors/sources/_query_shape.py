"""What the `postgres` source finds out about its table or query before it reads: columns, types, key, order.

Everything here runs on the session's thread, with names qualified, and in the caller's transaction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from connectors._pg_types import TYPES_QUERY, NumericMode, TypeCatalog
from connectors._pg_values import Converter
from connectors._postgres import TableName, quoted
from connectors.sources._query_order import NUMBER, TIME, OrderColumn, order_column
from penstock.errors import EnvironmentFault

if TYPE_CHECKING:
    import psycopg

_KEY = """
SELECT i.indisprimary, i.indpred IS NULL AND i.indimmediate AND i.indisvalid,
       ARRAY(SELECT a.attname::pg_catalog.text FROM pg_catalog.unnest(i.indkey) WITH ORDINALITY AS k(number, place)
             JOIN pg_catalog.pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = k.number
             WHERE k.place <= i.indnkeyatts ORDER BY k.place),
       0 = ANY (i.indkey::pg_catalog.int2[])
FROM pg_catalog.pg_index AS i WHERE i.indrelid = $1::pg_catalog.regclass AND i.indisunique
"""
_NOT_NULL = """
SELECT a.attname::pg_catalog.text FROM pg_catalog.pg_attribute AS a
WHERE a.attrelid = $1::pg_catalog.regclass AND a.attnum > 0 AND a.attnotnull AND NOT a.attisdropped
"""
_CACHE = """
SELECT s.seqrelid::pg_catalog.regclass::pg_catalog.text, s.seqcache FROM pg_catalog.pg_sequence AS s
WHERE s.seqrelid = pg_catalog.pg_get_serial_sequence($1, $2)::pg_catalog.regclass AND s.seqcache > 1
"""
_TIMESTAMP, _TIMESTAMPTZ = 1114, 1184


@dataclass(frozen=True, slots=True)
class Ask:
    """What the configuration asks for; see `PostgresConfig`."""

    table: TableName | None
    query: str | None
    columns: tuple[str, ...]
    cursor: tuple[str, ...]
    key: tuple[str, ...]
    time: str | None
    numeric: NumericMode

    @property
    def relation(self) -> str:
        """What stands behind FROM, under the name q."""
        if self.table is not None:
            return f"{quoted(*self.table)} AS q"
        return f"(\n{(self.query or '').strip().rstrip(';')}\n) AS q"


class Column(NamedTuple):
    """A column of a result: its type, and the type's modifier, -1 without one."""

    oid: int
    modifier: int

    @property
    def is_coarse(self) -> bool:
        """Whether it is a time without microseconds."""
        return self.oid in (_TIMESTAMP, _TIMESTAMPTZ) and 0 <= self.modifier < 6


@dataclass(frozen=True, slots=True)
class Shape:
    """The columns as they are now.

    :ivar names: of the data.
    :ivar oids: their types, as a result gives them.
    :ivar order: cursor and key: what rows are read in the order of, unique together.
    :ivar key: places of the key's columns in `order`.
    :ivar time: the column of events' times and of ranges.
    :ivar nullable: names of `order` that may be NULL, for all the table says.
    :ivar coarse: names of `order` that are times of fewer than six digits.
    """

    relation: str
    names: tuple[str, ...]
    oids: tuple[int, ...]
    converters: tuple[Converter, ...]
    order: tuple[OrderColumn, ...]
    key: tuple[int, ...]
    time: OrderColumn | None
    nullable: tuple[str, ...]
    coarse: tuple[str, ...]


def look(connection: psycopg.Connection[Any], ask: Ask) -> Shape:
    """Describe what is read.

    :raises EnvironmentFault: `source.unknown_column`, `source.no_key`, `source.key_not_unique`, `source.unordered_type`.
    """
    described = describe(connection, f"SELECT * FROM {ask.relation} LIMIT 0")  # noqa: S608 - quoted, or the user's own
    found = {name: column.oid for name, column in described.items()}
    types = _types(connection, found.values())
    key = _key(connection, ask)
    _require(list(found), (*ask.columns, *ask.cursor, *key, *((ask.time,) if ask.time else ())))
    names = ask.columns or tuple(found)
    order = tuple(dict.fromkeys((*ask.cursor, *key)))
    return Shape(
        ask.relation,
        names,
        tuple(found[name] for name in names),
        tuple(types.converter(found[name], numeric=ask.numeric) for name in names),
        tuple(order_column(name, found[name], types.name(found[name])) for name in order),
        tuple(order.index(name) for name in key),
        _time(ask.time, found, types),
        _nullable(connection, ask, order),
        tuple(name for name in order if described[name].is_coarse),
    )


def describe(connection: psycopg.Connection[Any], sql: str) -> dict[str, Column]:
    """A query's columns by name, in order.

    :raises EnvironmentFault: `source.duplicate_column`.
    """
    from psycopg import RawCursor

    with RawCursor(connection) as cursor:
        result = cursor.execute(sql.encode(), prepare=False).pgresult
        columns = (
            []
            if result is None
            else [((result.fname(i) or b"").decode(), Column(result.ftype(i), result.fmod(i))) for i in range(result.nfields)]
        )
    names = [name for name, _ in columns]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise EnvironmentFault(
            "source.duplicate_column", f"the query gives two columns named {twice[0]}", help="name them apart: AS …"
        )
    return dict(columns)


def check_sequence(connection: psycopg.Connection[Any], ask: Ask) -> None:
    """A sequence that hands out numbers to each session in advance gives no order that waiting could restore.

    :raises EnvironmentFault: `source.cached_sequence`.
    """
    if ask.table is None:
        return
    for name in ask.cursor[:1]:
        row = _rows(connection, _CACHE, (quoted(*ask.table), name))
        if row:
            raise EnvironmentFault(
                "source.cached_sequence",
                f"the numbers of {name} come from {row[0][0]}, which hands out {row[0][1]} at a time to each session",
                why="a session uses up its numbers when rows with higher ones have long been read",
                help=f"ALTER SEQUENCE {row[0][0]} CACHE 1, or another cursor, such as a time",
            )


def _types(connection: psycopg.Connection[Any], oids: Any) -> TypeCatalog:
    builtin = TypeCatalog()
    if not builtin.missing(oids):
        return builtin
    return TypeCatalog.of(connection.execute(TYPES_QUERY.encode()).fetchall())


def _key(connection: psycopg.Connection[Any], ask: Ask) -> tuple[str, ...]:
    """The key that was given, or the table's; where the table can tell, it is unique together with the cursor."""
    if ask.table is None:
        return ask.key
    indexes = _rows(connection, _KEY, (quoted(*ask.table),))
    primary = next((tuple(names) for is_primary, _, names, _ in indexes if is_primary), ())
    key = ask.key or primary
    if not key:
        raise EnvironmentFault(
            "source.no_key", f"table {ask.table} has no primary key", help="name columns that are unique: key: [COLUMN]"
        )
    have = {*ask.cursor, *key}
    if not any(plain and not expression and set(names) <= have for _, plain, names, expression in indexes):
        raise EnvironmentFault(
            "source.key_not_unique",
            f"nothing in table {ask.table} makes {', '.join(sorted(have))} unique",
            why="rows that are equal in cursor and key could not be told apart at the end of a batch",
            help=f"CREATE UNIQUE INDEX CONCURRENTLY ON {quoted(*ask.table)} (…), or another key",
        )
    return key


def _nullable(connection: psycopg.Connection[Any], ask: Ask, order: Sequence[str]) -> tuple[str, ...]:
    if ask.table is None:
        return tuple(order)
    filled = {name for (name,) in _rows(connection, _NOT_NULL, (quoted(*ask.table),))}
    return tuple(name for name in order if name not in filled)


def _require(found: Sequence[str], names: Sequence[str]) -> None:
    missing = [name for name in names if name not in found]
    if missing:
        raise EnvironmentFault(
            "source.unknown_column", f"there is no column {missing[0]}", help=f"there are {', '.join(found[:20]) or 'none'}"
        )


def _time(name: str | None, found: dict[str, int], types: TypeCatalog) -> OrderColumn | None:
    if name is None:
        return None
    oid = found[name]
    if oid != _TIMESTAMPTZ:
        raise EnvironmentFault(
            "source.time_type",
            f"{name} says no moment: its type is {types.name(oid)}",
            help="a `query` can convert it: created_at AT TIME ZONE 'Europe/Berlin' AS created_at",
        )
    return order_column(name, oid, "timestamptz")


def check_cursor(shape: Shape, ask: Ask) -> None:
    """Of a cursor that is followed, later values must be higher: only numbers and times can promise that.

    :raises EnvironmentFault: `source.cursor_type`.
    """
    if ask.cursor and ask.cursor[0] in shape.coarse:
        raise EnvironmentFault(
            "source.cursor_type",
            f"the cursor {ask.cursor[0]} keeps fewer than six digits of a second",
            why="later transactions give the same times again, and their rows would sort before rows that were read",
            help=f"ALTER TABLE … ALTER COLUMN {quoted(ask.cursor[0])} TYPE timestamptz, or another cursor",
        )
    if ask.cursor and shape.order[0].type.tag not in (NUMBER, TIME):
        raise EnvironmentFault(
            "source.cursor_type",
            f"the cursor {ask.cursor[0]} is neither a number nor a timestamp",
            why="only what rises from row to row tells new rows from old ones",
            help="declare it as `key`, without `cursor`, to read the rows once in its order",
        )


def _rows(connection: psycopg.Connection[Any], sql: str, parameters: tuple[str, ...]) -> list[tuple[Any, ...]]:
    from psycopg import RawCursor

    with RawCursor(connection) as cursor:
        return cursor.execute(sql.encode(), parameters).fetchall()
