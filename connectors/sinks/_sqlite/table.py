"""One SQLite table as a sink sees it: what columns it has, how a row is put, which rows it refuses.

Names reach a statement only after they were found among the table's own columns, or, when the table is made, passed an
allow-list; and always quoted (Invariant 12).
"""

from __future__ import annotations

import secrets
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import Any

from connectors.sinks._asked import OnConflict
from connectors.sinks._sqlite.rows import Column, affinity_of, type_for
from penstock.errors import ComponentError, EnvironmentFault, Permanent

_ROWS_A_STATEMENT = 16  # 0.9 µs a row of six columns, against 1.45 one by one; 500 at once gain nothing more
_PLAIN = 0  # `hidden` of table_xinfo: neither generated nor hidden


Row = tuple[int, tuple[str, ...], Sequence[Any]]
"""A row on its way: its event's index in the batch, the names of its columns, its values."""


@dataclass(frozen=True, slots=True)
class Table:
    """A table as it stands in the database; `columns` are those that can be written, by name."""

    name: str
    columns: Mapping[str, Column]


def load(connection: sqlite3.Connection, name: str) -> Table | None:
    """The table, or None where there is none."""
    found = connection.execute(
        "SELECT name FROM sqlite_master WHERE type = 'table' AND name = ? COLLATE NOCASE", (name,)
    ).fetchone()
    if found is None:
        return None
    rows = connection.execute("SELECT name, type, hidden FROM pragma_table_xinfo(?)", found).fetchall()
    return Table(found[0], {column: Column(column, affinity_of(kind), kind) for column, kind, hidden in rows if hidden == _PLAIN})


def create(connection: sqlite3.Connection, name: str, first: Mapping[str, Any], key: Sequence[str]) -> None:
    """Make the table with these columns, typed by the affinity of their first values."""
    columns = [f"{quote(column)} {type_for(value)}{' NOT NULL' if column in key else ''}" for column, value in first.items()]
    primary = [f"PRIMARY KEY ({', '.join(map(quote, key))})"] if key else []
    connection.execute(f"CREATE TABLE IF NOT EXISTS {quote(name)} ({', '.join([*columns, *primary])})")


def quote(name: str) -> str:
    """As an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


class Writer:
    """Puts rows into one table. Used on the connection's thread, inside the caller's transaction.

    :ivar same: that a row has the key of the parameters, in SQL; `deletion` of such a row, `truncation` of all.
    """

    def __init__(self, table: Table, key: Sequence[str], on_conflict: OnConflict, collations: Sequence[str] = ()) -> None:
        self.table = table
        self.key = tuple(key)
        columns = [f"{quote(name)} = ? COLLATE {quote(by)}" for name, by in zip(key, collations, strict=False)]
        self.same = " AND ".join(columns)
        self.deletion = f"DELETE FROM {quote(table.name)} WHERE {self.same}"  # noqa: S608 - quoted
        self.truncation = f"DELETE FROM {quote(table.name)}"  # noqa: S608 - quoted
        self._on_conflict = on_conflict
        self._statements: dict[tuple[tuple[str, ...], int], str] = {}

    def check(self, connection: sqlite3.Connection) -> None:
        """:raises EnvironmentFault: `sink.no_unique_key`, where nothing in the table makes the key unique."""
        if not self.key or self._on_conflict == "error":
            return
        # A text of its own each time: EXPLAIN does not notice that the schema has changed since it was compiled, and a statement
        # that Python kept from the last time would read memory that SQLite has freed (seen as a segmentation fault).
        explain = f"EXPLAIN {self.statement(self.key, 1)} -- {secrets.token_hex(8)}"
        try:
            connection.execute(explain, [None] * len(self.key)).fetchall()
        except sqlite3.OperationalError as error:
            if "ON CONFLICT clause does not match" not in str(error):
                raise
            columns = ", ".join(map(quote, self.key))
            raise EnvironmentFault(
                "sink.no_unique_key",
                f"nothing makes {', '.join(self.key)} unique in table {self.table.name}",
                help=f"CREATE UNIQUE INDEX … ON {quote(self.table.name)} ({columns})",
            ) from error

    def put(self, connection: sqlite3.Connection, rows: Sequence[Row]) -> dict[int, ComponentError]:
        """Write all rows in order. Those that the table refuses, by event index, each with its reason; the others are written."""
        refused: dict[int, ComponentError] = {}
        self._put(connection, rows, refused)
        return refused

    def _put(self, connection: sqlite3.Connection, rows: Sequence[Row], refused: dict[int, ComponentError]) -> None:
        connection.execute("SAVEPOINT penstock_rows")
        try:
            for names, group in groupby(rows, key=itemgetter(1)):
                self._insert(connection, names, [values for _, _, values in group])
        except (sqlite3.IntegrityError, sqlite3.DataError, UnicodeEncodeError) as error:  # the last: a lone surrogate
            connection.execute("ROLLBACK TO penstock_rows")
            connection.execute("RELEASE penstock_rows")
            self._bisect(connection, rows, refused, error)
        else:
            connection.execute("RELEASE penstock_rows")

    def _bisect(
        self, connection: sqlite3.Connection, rows: Sequence[Row], refused: dict[int, ComponentError], error: Exception
    ) -> None:
        if len(rows) == 1:
            refused[rows[0][0]] = self.reason(error)
            return
        middle = len(rows) // 2
        self._put(connection, rows[:middle], refused)
        self._put(connection, rows[middle:], refused)

    def reason(self, error: Exception) -> Permanent:
        """Why the table refuses a row."""
        unique = getattr(error, "sqlite_errorcode", 0) in (sqlite3.SQLITE_CONSTRAINT_UNIQUE, sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY)
        return Permanent(
            "sink.conflict" if unique else "sink.constraint",
            f"table {self.table.name} refuses the row: {error}",
            help="on_conflict: update or ignore would take it" if unique and self._on_conflict == "error" else None,
        )

    def _insert(self, connection: sqlite3.Connection, names: tuple[str, ...], rows: Sequence[Sequence[Any]]) -> None:
        whole = len(rows) - len(rows) % _ROWS_A_STATEMENT
        if whole:
            many = self.statement(names, _ROWS_A_STATEMENT)
            for start in range(0, whole, _ROWS_A_STATEMENT):
                connection.execute(many, [value for row in rows[start : start + _ROWS_A_STATEMENT] for value in row])
        if whole < len(rows):
            connection.executemany(self.statement(names, 1), rows[whole:])

    def statement(self, names: tuple[str, ...], rows: int) -> str:
        """Puts so many rows of these columns."""
        statement = self._statements.get((names, rows))
        if statement is None:
            if len(self._statements) > 256:  # shapes that vary without end: start over instead of growing with the data
                self._statements.clear()
            statement = self._statements[names, rows] = self._build(names, rows)
        return statement

    def _build(self, names: tuple[str, ...], rows: int) -> str:
        values = ", ".join([f"({', '.join('?' * len(names))})"] * rows)
        # OR ABORT: a table declared with ON CONFLICT IGNORE would otherwise lose rows without a word.
        head = f"INSERT OR ABORT INTO {quote(self.table.name)} ({', '.join(map(quote, names))}) VALUES {values}"  # noqa: S608 - quoted
        if not self.key or self._on_conflict == "error":
            return head
        others = [quote(name) for name in names if name not in self.key]
        update = ", ".join(f"{name} = excluded.{name}" for name in others)
        action = f"DO UPDATE SET {update}" if others and self._on_conflict == "update" else "DO NOTHING"
        return f"{head} ON CONFLICT ({', '.join(map(quote, self.key))}) {action}"
