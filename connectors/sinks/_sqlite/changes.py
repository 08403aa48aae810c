"""Puts what events ask of one table into it, one after the other: rows, deletions, truncation; an older one changes nothing where
rows have an order. Used on the connection's thread, inside the caller's transaction, which is the only one that writes.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from itertools import groupby
from operator import itemgetter

from connectors.sinks._asked import Kind
from connectors.sinks._sqlite.orders import Order, newer, order_of, refuse_stored, stored_order
from connectors.sinks._sqlite.table import Row, Writer, quote
from connectors.sinks._sqlite.tombstones import Tombstones
from penstock.errors import ComponentError, Permanent

REFUSALS = (sqlite3.IntegrityError, sqlite3.DataError, UnicodeEncodeError)
"""A row's fault; the last: a lone surrogate."""


class Changes:
    """Into one table whose rows have no order."""

    def __init__(self, writer: Writer) -> None:
        self.writer = writer

    def put(
        self, connection: sqlite3.Connection, kinds: Sequence[Kind], rows: Sequence[Row], now: float
    ) -> tuple[dict[int, ComponentError], int]:
        """Carry out all in order.

        :param kinds: of each row.
        :param now: seconds since 1970.
        :returns: those that the table refuses, by event index, each with its reason; and how many changed nothing, being older
            than what is there.
        """
        refused: dict[int, ComponentError] = {}
        for kind, run in groupby(zip(kinds, rows, strict=True), key=itemgetter(0)):
            some = [row for _, row in run]
            if kind == "put":
                refused |= self.writer.put(connection, some)
                continue
            for row in some:
                statement = self.writer.deletion if kind == "delete" else self.writer.truncation
                self._refusing(connection, kind, row, refused, statement)
        return refused, 0

    def _refusing(
        self, connection: sqlite3.Connection, kind: Kind, row: Row, refused: dict[int, ComponentError], statement: str
    ) -> None:
        try:
            connection.execute(statement, row[2])
        except REFUSALS as error:
            refused[row[0]] = self._reason(connection, kind, error)

    def _reason(self, connection: sqlite3.Connection, kind: Kind, error: Exception) -> Permanent:
        """Of a statement that is undone; a trigger may have undone the transaction, outside of which nothing must be written."""
        if not connection.in_transaction:
            raise error
        if kind == "truncate":
            return Permanent("sink.truncate", f"table {self.writer.table.name} was not emptied: {error}")
        return self.writer.reason(error)


class OrderedChanges(Changes):
    """Into one table whose rows have an order.

    :param column: that holds it.
    :param tombstones: of its deleted rows; None: nobody deletes.
    """

    def __init__(self, writer: Writer, column: str, tombstones: Tombstones | None) -> None:
        super().__init__(writer)
        self._column = writer.table.columns[column]
        self._tombstones = tombstones
        there = f"(SELECT {quote(column)} FROM {quote(writer.table.name)} WHERE {writer.same})"  # noqa: S608 - quoted
        self._look = f"SELECT {there}, {tombstones.look if tombstones else 'NULL'}"

    def put(
        self, connection: sqlite3.Connection, kinds: Sequence[Kind], rows: Sequence[Row], now: float
    ) -> tuple[dict[int, ComponentError], int]:
        refused: dict[int, ComponentError] = {}
        stale = 0
        floor = self._floor(connection)
        for kind, row in zip(kinds, rows, strict=True):
            try:
                if kind == "truncate":
                    stale += not self._truncate(connection, row, floor, now)
                    floor = self._floor(connection)
                else:
                    stale += not self._one(connection, kind, row, floor, now)
            except REFUSALS as error:
                refused[row[0]] = self._reason(connection, kind, error)
            except Permanent as error:
                refused[row[0]] = error
        return refused, stale

    def _floor(self, connection: sqlite3.Connection) -> object:
        """The order of the last truncation."""
        return None if self._tombstones is None else self._tombstones.truncated(connection)

    def _one(self, connection: sqlite3.Connection, kind: Kind, row: Row, floor: object, now: float) -> bool:
        """Whether it is carried out: nothing there is newer.

        :raises Permanent: `sink.order`: it cannot be said.
        """
        _, names, values = row
        key = self._key(row)
        buried, wins = self._compare(connection, row, key, floor)
        if not wins:
            return False
        if kind == "put":
            connection.execute(self.writer.statement(names, 1), values)
            if buried is not None and self._tombstones is not None:
                self._tombstones.remove(connection, key)
        else:
            self._delete(connection, key, values[names.index(self._column.name)], now)
        return True

    def _key(self, row: Row) -> list[object]:
        _, names, values = row
        return [values[names.index(name)] for name in self.writer.key]

    def _compare(self, connection: sqlite3.Connection, row: Row, key: Sequence[object], floor: object) -> tuple[object, bool]:
        """The order of its key's tombstone, and whether nothing there is newer than the row or deletion.

        :raises Permanent: `sink.order`: it cannot be said.
        """
        _, names, values = row
        new = order_of(values[names.index(self._column.name)], self._column)
        there, buried = connection.execute(self._look, key if self._tombstones is None else [*key, *key]).fetchone()
        return buried, self._passes(new, there) and self._passes(new, buried) and self._passes(new, floor)

    def is_stale(self, connection: sqlite3.Connection, row: Row) -> bool:
        """Whether something newer is there, or is remembered. Changes nothing.

        :raises Permanent: `sink.order`: it cannot be said.
        """
        return not self._compare(connection, row, self._key(row), self._floor(connection))[1]

    def _passes(self, new: Order, old: object) -> bool:
        """Whether a stored order gives way; none does: its row was there before there was one."""
        if old is None:
            return True
        stored = stored_order(old)
        if stored is None:
            raise refuse_stored(self._column)
        return newer(new, stored, self._column)

    def _delete(self, connection: sqlite3.Connection, key: Sequence[object], order: object, now: float) -> None:
        assert self._tombstones is not None
        connection.execute(self.writer.deletion, key)
        self._tombstones.add(connection, key, order, now)

    def _truncate(self, connection: sqlite3.Connection, row: Row, floor: object, now: float) -> bool:
        """Newer rows stay, so that it does not matter when the truncation comes."""
        assert self._tombstones is not None
        (value,) = row[2]
        new = order_of(value, self._column)
        if not self._passes(new, floor):
            return False

        def gives_way(old: object) -> int | None:
            stored = stored_order(old)
            return int(newer(new, stored, self._column)) if stored is not None and stored.kind == new.kind else None

        connection.create_function("penstock_gives_way", 1, gives_way, deterministic=True)
        table, column = quote(self.writer.table.name), quote(self._column.name)
        strange = f"SELECT 1 FROM {table} WHERE {column} IS NOT NULL AND penstock_gives_way({column}) IS NULL LIMIT 1"  # noqa: S608
        if connection.execute(strange).fetchone():
            raise Permanent("sink.order", f"some of {self._column.name} in table {table} do not compare with a {new.kind}")
        connection.execute(f"DELETE FROM {table} WHERE {column} IS NULL OR penstock_gives_way({column})")  # noqa: S608 - quoted
        self._tombstones.truncate(connection, value, now)
        return True
