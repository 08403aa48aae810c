"""Rows of a table or query by key: SQL, one read a call, and the batches made of it. Runs on the session's thread.

Each read is one transaction (REPEATABLE READ, READ ONLY) and begins behind the last row of the one before. Values come as text,
so that they are those of `postgres_cdc`; the columns of the order come a second time, as bytes that positions are made of.
"""

from __future__ import annotations

from binascii import a2b_hex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote

from connectors.sources._query_order import OrderColumn, field, position
from connectors.sources._query_shape import Shape
from penstock.errors import ComponentError, EnvironmentFault, Fatal, Permanent
from penstock.event import Event, encode
from penstock.spi import Batch

if TYPE_CHECKING:
    import psycopg

PARTITION = "rows"
_READ_BYTES = 8 << 20
_FIRST_ROWS = 200
_ROW_BYTES = 200
"""About what an event occupies beside its text."""


class Labels(NamedTuple):
    """What all events of a source have in common."""

    source: str
    type: str


class Row(NamedTuple):
    """A row as an event, and where it stands."""

    event: Event
    order: bytes
    values: tuple[str, ...]
    size: int
    fault: ComponentError | None


@dataclass(slots=True)
class Reader:
    """Reads on from `after`, in the order of `columns`.

    :ivar columns: what is sorted by; all of the shape's `order` are among them.
    :ivar after: the values of the last row that was read; empty at the beginning.
    :ivar limits: SQL conditions with `{}` for the number of each parameter, and their parameters, that rows must fulfil as well.
    :ivar also: further conditions, which have no parameter.
    """

    shape: Shape
    labels: Labels
    columns: tuple[OrderColumn, ...]
    most_rows: int
    after: tuple[str, ...] = ()
    upto: tuple[str, ...] = ()
    limits: tuple[tuple[str, str], ...] = ()
    also: tuple[str, ...] = ()
    rows: int = _FIRST_ROWS

    def read(self, connection: psycopg.Connection[Any]) -> tuple[list[Row], bool]:
        """The next rows, and whether these were the last for now.

        :raises Fatal: `source.key_not_unique`.
        """
        wanted = min(self.rows, self.most_rows)
        with transaction(connection):
            result = select(connection, *self._sql(wanted + 1))
        self._check_types(result)
        count = result.ntuples
        rows = [self._row(result, n) for n in range(count)]
        for one, other in pairwise(rows):
            if one.order == other.order:
                raise _not_unique(self.columns, one)
        self._adapt(rows)
        more = count > wanted
        if more:
            rows.pop()  # it was only looked at, to see whether it differs from the last one
        if rows:
            self.after = rows[-1].values
        return rows, not more

    def bound(self, connection: psycopg.Connection[Any]) -> tuple[str, ...]:
        """The values of the last row there is; empty where there is none.

        :raises EnvironmentFault: `source.null_cursor`.
        """
        shape = self.shape
        names = [part.sql for part in self.columns]
        nulls = " OR ".join(f"q.{_plain(name)} IS NULL" for name in shape.nullable)
        listed = ", ".join(f"{name}::pg_catalog.text" for name in names)
        last = ", ".join(f"{name} DESC NULLS LAST" for name in names)
        with transaction(connection):
            if nulls and select(connection, f"SELECT 1 FROM {shape.relation} WHERE {nulls} LIMIT 1", ()).ntuples:  # noqa: S608 - quoted names
                raise _null(self.columns)
            result = select(connection, f"SELECT {listed} FROM {shape.relation} ORDER BY {last} LIMIT 1", ())  # noqa: S608 - quoted names
        return self._values(result, 0, 0) if result.ntuples else ()

    def _sql(self, count: int) -> tuple[str, tuple[str, ...]]:
        shape = self.shape
        parameters: list[str] = []
        names = [*(f"q.{_plain(name)}" for name in shape.names)]
        names += [f"q.{_plain(part.name)}::pg_catalog.text" for part in self.columns]
        names += [part.send for part in self.columns]
        if shape.time is not None:
            names.append(f"q.{_plain(shape.time.name)}")
        where = list(self.also)
        for sign, values in ((">", self.after), ("<=", self.upto)):
            if values:
                casts = ", ".join(f"${len(parameters) + n + 1}::{part.type.cast}" for n, part in enumerate(self.columns))
                where.append(f"({', '.join(part.sql for part in self.columns)}) {sign} ({casts})")
                parameters += values
        for condition, value in self.limits:
            parameters.append(value)
            where.append(condition.format(f"${len(parameters)}"))
        conditions = f" WHERE {' AND '.join(where)}" if where else ""
        order = ", ".join(part.sql for part in self.columns)
        listed = ", ".join(names)
        sql = f"SELECT {listed} FROM {shape.relation}{conditions} ORDER BY {order} LIMIT {count}"  # noqa: S608 - quoted names
        return sql, tuple(parameters)

    def _check_types(self, result: Any) -> None:
        if any(result.ftype(i) != oid for i, oid in enumerate(self.shape.oids)):
            raise Fatal("source.changed_columns", "a column changed its type while it was read", help="run the pipeline again")

    def _row(self, result: Any, n: int) -> Row:
        shape, width, parts = self.shape, len(self.shape.names), len(self.columns)
        texts = [result.get_value(n, i) for i in range(width)]
        values = self._values(result, n, width)
        sent = [a2b_hex(result.get_value(n, width + parts + i)[2:]) for i in range(parts)]
        fields = [field(part.type.tag, data) for part, data in zip(self.columns, sent, strict=True)]
        order = b"".join(fields)
        time = None if shape.time is None else _moment(result.get_value(n, width + 2 * parts))
        data: dict[str, Any] = {}
        fault = None
        for name, convert, text in zip(shape.names, shape.converters, texts, strict=True):
            try:
                data[name] = None if text is None else convert(text)
            except (ValueError, Permanent) as error:
                fault = _fault(name, error)
                break
        event = Event(self._id(values), self.labels.source, self.labels.type, time=time, position=self._place(fields, order))
        if fault is None:
            event.decoded = data
        else:
            event.original = encode(
                {k: None if v is None else v.decode(errors="backslashreplace") for k, v in zip(shape.names, texts, strict=True)}
            )
        return Row(event, order, values, _ROW_BYTES + sum(len(text) for text in texts if text is not None), fault)

    def _place(self, fields: Sequence[bytes], order: bytes) -> bytes:
        """The position in the shape's own order, whatever the order is that rows are read in."""
        if self.columns == self.shape.order:
            return order
        by_name = dict(zip((part.name for part in self.columns), fields, strict=True))
        return b"".join(by_name[part.name] for part in self.shape.order)

    def _values(self, result: Any, n: int, first: int) -> tuple[str, ...]:
        found = [result.get_value(n, first + i) for i in range(len(self.columns))]
        if None in found:
            raise _null(self.columns)
        return tuple(value.decode() for value in found)

    def _id(self, values: tuple[str, ...]) -> str:
        """The key, and where rows come again with a higher cursor, `@` and the cursor."""
        by_name = dict(zip((part.name for part in self.columns), values, strict=True))
        names = [part.name for part in self.shape.order]
        key = [names[place] for place in self.shape.key]
        cursor = [name for name in names if name not in key]
        text = ",".join(quote(by_name[name], safe=" :+") for name in key)
        return text + ("@" + ",".join(quote(by_name[name], safe=" :+") for name in cursor) if cursor else "")

    def _adapt(self, rows: list[Row]) -> None:
        """As many rows the next time as fit a few megabytes."""
        size = sum(row.size for row in rows)
        if rows:
            self.rows = max(1, min(self.most_rows, 4 * self.rows, _READ_BYTES * len(rows) // size))


def batches(rows: Sequence[Row], count: int, most_bytes: int) -> Iterator[Batch]:
    """Rows in batches of at most so many, and so many bytes."""
    part: list[Row] = []
    size = 0
    for row in rows:
        if part and (len(part) == count or size + row.size > most_bytes):
            yield _batch(part, size)
            part, size = [], 0
        part.append(row)
        size += row.size
    if part:
        yield _batch(part, size)


def _batch(rows: list[Row], size: int) -> Batch:
    batch = Batch(PARTITION, [row.event for row in rows], position(rows[-1].order, rows[-1].values), None, size)
    batch.rejects = {n: row.fault for n, row in enumerate(rows) if row.fault is not None}
    batch.cut = lambda n: position(rows[n - 1].order, rows[n - 1].values)
    return batch


@contextmanager
def transaction(connection: psycopg.Connection[Any]) -> Iterator[None]:
    """One moment for all statements inside."""
    connection.execute(b"BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
    try:
        yield
    finally:
        if not connection.closed:
            connection.execute(b"ROLLBACK")


def select(connection: psycopg.Connection[Any], sql: str, parameters: tuple[str, ...]) -> Any:
    """The result, its values as text."""
    from psycopg import RawCursor

    with RawCursor(connection) as cursor:
        cursor.execute(sql.encode(), parameters, prepare=False)
        return cursor.pgresult


def _plain(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _moment(value: bytes | None) -> str | None:
    """RFC 3339; None for what CloudEvents cannot say: NULL, infinity, years before 1 and beyond 9999."""
    if value is None or value[-3:] != b"+00" or value[10:11] != b" ":
        return None
    return value[:10].decode() + "T" + value[11:-3].decode() + "Z"


def _fault(name: str, error: ValueError | Permanent) -> Permanent:
    if isinstance(error, Permanent):
        return Permanent(error.code, f"column {name}: {error.message}", why=error.why, help=error.help)
    return Permanent("decode.invalid_value", f"column {name} holds what its type never prints", why=str(error))


def _not_unique(columns: Sequence[OrderColumn], row: Row) -> Fatal:
    names = ", ".join(part.name for part in columns)
    return Fatal(
        "source.key_not_unique",
        f"two rows are equal in {names}: {', '.join(row.values)}",
        why="the next read begins behind the last row, and could not tell them apart",
        help="add a column to `key` that makes rows unique",
    )


def _null(columns: Sequence[OrderColumn]) -> EnvironmentFault:
    names = " OR ".join(f"{_plain(part.name)} IS NULL" for part in columns)
    return EnvironmentFault(
        "source.null_cursor",
        f"rows have no value in {' or '.join(part.name for part in columns)}, so that they have no place in the order",
        why="they would never be read",
        help=f"see them: … WHERE {names}; give them values, or leave them out by a `query` that says … IS NOT NULL",
    )
