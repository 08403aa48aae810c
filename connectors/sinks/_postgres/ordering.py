"""By what the rows of one table are ordered, and the statements' conditions that follow from it. No I/O but `ordering_of`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from connectors._postgres import quoted
from connectors.sinks._postgres import tombstones
from connectors.sinks._postgres.order_types import TEXT_TYPES, Parse, orderable
from connectors.sinks._postgres.rows import Column
from connectors.sinks._postgres.table import Table
from penstock.errors import EnvironmentFault

if TYPE_CHECKING:
    import psycopg


@dataclass(frozen=True, slots=True)
class Order:
    """What the configuration says.

    :ivar column: the column's name; `made`: the sink fills it by itself.
    :ivar deletes: rows are deleted or truncated.
    :ivar retention: seconds for which deletions are remembered; None: for good.
    """

    column: str
    made: bool
    deletes: bool
    retention: float | None


@dataclass(frozen=True, slots=True)
class Ordering:
    """The table's.

    :ivar column: as the sink fills it.
    :ivar parse: makes of its texts what compares as the server compares the values.
    :ivar tombstones: the table of deleted keys, in SQL; None: nobody deletes.
    :ivar truncations: the table of truncations, in SQL.
    :ivar table: the table's name there, as an SQL string.
    """

    column: Column
    parse: Parse
    tombstones: str | None
    truncations: str
    table: str
    retention: float | None

    @property
    def collate(self) -> str:
        """Behind one side of a comparison."""
        return ' COLLATE pg_catalog."C"' if self.column.oid in TEXT_TYPES else ""

    def compare(self, left: str, operator: str, right: str) -> str:
        """Of two orders, as SQL names them."""
        return f"{left}{self.collate} OPERATOR(pg_catalog.{operator}) {right}"

    def loses(self, row: str, new: str) -> str:
        """That the row of the table gives way: it is older or as old, or has no order, for it was there before there was one."""
        mine = f"{row}.{quoted(self.column.name)}"
        return f"({mine} IS NULL OR {self.compare(mine, '<=', new)})"

    def wins(self, row: str, new: str) -> str:
        """That the row of the table is newer."""
        return self.compare(f"{row}.{quoted(self.column.name)}", ">", new)

    @property
    def truncated(self) -> str:
        """The order of the last truncation, a subquery; NULL where there was none."""
        return (
            f'(SELECT f."order"::{self.column.type} FROM {self.truncations} AS f '  # noqa: S608 - quoted
            f'WHERE f."table" OPERATOR(pg_catalog.=) {self.table})'
        )

    def survives(self, new: str) -> str:
        """That an order is not older than the last truncation."""
        return f"coalesce({self.compare(new, '>=', self.truncated)}, true)"


def ordering_of(connection: psycopg.Connection[Any], table: Table, key: Sequence[str], order: Order, schema: str) -> Ordering:
    """:param schema: the ledger's, which is there.
    :raises EnvironmentFault: `sink.order_type`, `sink.tombstones`.
    """
    check_order(table, order)
    expire = order.retention is not None
    sql = tombstones.prepare(connection, schema, table, key, order.column, deletes=order.deletes, expire=expire)
    return _ordering(table, order, sql, schema)


def ordering_there(connection: psycopg.Connection[Any], table: Table, key: Sequence[str], order: Order, schema: str) -> Ordering:
    """As `ordering_of`, with the tables that are there: makes none."""
    return _ordering(table, order, tombstones.find(connection, schema, table, key, order.column), schema)


def _ordering(table: Table, order: Order, buried: str | None, schema: str) -> Ordering:
    found = orderable(table.columns[order.column])
    if found is None:
        raise unordered(table, order.column)
    truncations = quoted(schema, tombstones.TRUNCATIONS)
    return Ordering(*found, buried, truncations, tombstones.literal(str(table.name)), order.retention)


def check_order(table: Table, order: Order) -> None:
    """:raises EnvironmentFault: `sink.order_type`; `sink.unknown_column`, of the column that the sink fills by itself."""
    if order.made and order.column not in table.columns:
        add = f"ALTER TABLE {table.sql} ADD COLUMN {order.column}"
        raise EnvironmentFault(
            "sink.unknown_column",
            f"table {table.name} has no column {order.column}, where the order of each row is kept",
            why="order_by is a program, and its value has to stand beside the row that it orders",
            help=f"{add} timestamptz (for times; numeric for numbers, text for text); or order_by: COLUMN",
        )
    if order.column in table.columns and orderable(table.columns[order.column]) is None:
        raise unordered(table, order.column)


def unordered(table: Table, column: str) -> EnvironmentFault:
    return EnvironmentFault(
        "sink.order_type",
        f"column {column} of table {table.name} cannot order rows: it is {table.columns[column].type}",
        help="order by timestamptz, timestamp, date, bigint, integer, smallint, numeric, double precision, pg_lsn or text",
    )
