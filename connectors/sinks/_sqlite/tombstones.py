"""What stays of deleted rows and of truncations, so that an older row which comes behind them does not come back.

`penstock_tombstones_TABLE` has a row for each key that was deleted: the columns of the key, typed and collated as the table's
(`k1`, `k2`, …), the order of the deletion, and when it was written, in seconds since 1970. `penstock_truncations` has for each
table the order of its last truncation. They are the table's: all pipelines that write to it share them.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from connectors.sinks._sqlite.table import Table, quote
from penstock.errors import EnvironmentFault

_FORGOTTEN_AT_ONCE = 3
"""Tombstones that are given up for each that is written, where they are older than their retention: more than come in."""


class Tombstones:
    """Of one table.

    :param collations: of the key's columns where they are unique.
    :param retention: seconds for which a deletion is remembered; None: for good.
    """

    def __init__(self, table: Table, key: Sequence[str], collations: Sequence[str], retention: float | None) -> None:
        self._table = table
        self._key = [table.columns[name] for name in key]
        self._collations = collations
        self._retention = retention
        self._name = f"penstock_tombstones_{table.name}"
        own = [f"k{place}" for place in range(1, len(key) + 1)]
        same = " AND ".join(f"{name} = ?" for name in own)
        sql, values = quote(self._name), ", ".join("?" * (len(own) + 2))
        self.look = f'(SELECT "order" FROM {sql} WHERE {same})'  # noqa: S608 - quoted
        self._add = (
            f'INSERT INTO {sql} ({", ".join(own)}, "order", removed_at) VALUES ({values}) '  # noqa: S608 - quoted
            f'ON CONFLICT ({", ".join(own)}) DO UPDATE SET "order" = excluded."order", removed_at = excluded.removed_at'
        )
        self._remove = f"DELETE FROM {sql} WHERE {same}"  # noqa: S608 - quoted
        oldest = f"SELECT rowid FROM {sql} WHERE removed_at < ? ORDER BY removed_at LIMIT {_FORGOTTEN_AT_ONCE}"  # noqa: S608
        self._forget = f"DELETE FROM {sql} WHERE rowid IN ({oldest})"  # noqa: S608 - quoted

    def are_there(self, connection: sqlite3.Connection) -> bool:
        """Whether the tables are, for this key.

        :raises EnvironmentFault: `sink.tombstones`: they are there for another key.
        """
        return bool(self._check(connection))

    def _check(self, connection: sqlite3.Connection) -> list[tuple[str, str]]:
        """The columns of the tombstones; none where there is no such table."""
        found = connection.execute("SELECT name, type FROM pragma_table_xinfo(?)", (self._name,)).fetchall()
        if found and [(name, kind) for name, kind in found if name not in ("order", "removed_at")] != self._columns():
            raise self._of_another_key([kind for _, kind in found[:-2]])
        return found

    def _columns(self) -> list[tuple[str, str]]:
        """Of the key: names and types."""
        return [(f"k{place}", column.declared) for place, column in enumerate(self._key, 1)]

    def prepare(self, connection: sqlite3.Connection, *, deletes: bool) -> bool:
        """Make the tables, unless they are there.

        :param deletes: the sink deletes rows; without, tombstones count where somebody else has left some.
        :returns: whether they are there.
        :raises EnvironmentFault: `sink.tombstones`: they are there for another key.
        """
        if not self._check(connection) and not deletes:
            return False
        wanted = self._columns()
        sql = quote(self._name)
        columns = ", ".join(
            f"{name} {quote(kind) if kind else ''} NOT NULL COLLATE {quote(collation)}"
            for (name, kind), collation in zip(wanted, self._collations, strict=True)
        )
        primary = ", ".join(name for name, _ in wanted)
        connection.execute(
            "CREATE TABLE IF NOT EXISTS penstock_truncations "
            '("table" TEXT PRIMARY KEY COLLATE NOCASE, "order" NOT NULL, "at" REAL NOT NULL)'
        )
        connection.execute(
            f'CREATE TABLE IF NOT EXISTS {sql} ({columns}, "order" NOT NULL, removed_at REAL NOT NULL, PRIMARY KEY ({primary}))'
        )
        if self._retention is not None:
            connection.execute(f"CREATE INDEX IF NOT EXISTS {quote(self._name + '_at')} ON {sql} (removed_at)")
        return True

    def _of_another_key(self, found: Sequence[str]) -> EnvironmentFault:
        names, kinds = ", ".join(column.name for column in self._key), ", ".join(column.declared for column in self._key)
        return EnvironmentFault(
            "sink.tombstones",
            f"the deletions of {self._table.name} are remembered for another key",
            why=f"{self._name} holds {', '.join(found)}; {names} are {kinds}",
            help=f"DROP TABLE {quote(self._name)} forgets what was deleted, and begins anew",
        )

    def add(self, connection: sqlite3.Connection, key: Sequence[object], order: object, now: float) -> None:
        """A deletion; some that are older than their retention go."""
        connection.execute(self._add, (*key, order, now))
        if self._retention is not None:
            connection.execute(self._forget, (now - self._retention,))

    def remove(self, connection: sqlite3.Connection, key: Sequence[object]) -> None:
        """The row is there again."""
        connection.execute(self._remove, key)

    def truncated(self, connection: sqlite3.Connection) -> object:
        """The order of the last truncation; None where there was none."""
        found = connection.execute('SELECT "order" FROM penstock_truncations WHERE "table" = ?', (self._table.name,)).fetchone()
        return found[0] if found else None

    def truncate(self, connection: sqlite3.Connection, order: object, now: float) -> None:
        """Remember it, and forget the deletions before it, by the function `penstock_gives_way` of the connection."""
        connection.execute(f'DELETE FROM {quote(self._name)} WHERE penstock_gives_way("order")')  # noqa: S608 - quoted
        connection.execute(
            'INSERT INTO penstock_truncations VALUES (?, ?, ?) ON CONFLICT ("table") '
            'DO UPDATE SET "order" = excluded."order", "at" = excluded."at"',
            (self._table.name, order, now),
        )


def collations(connection: sqlite3.Connection, table: str, key: Sequence[str]) -> list[str]:
    """By which the unique index of these columns compares them; BINARY for the rowid, which has none."""
    indexes = connection.execute('SELECT name FROM pragma_index_list(?) WHERE "unique" AND NOT partial', (table,)).fetchall()
    for (index,) in indexes:
        rows = connection.execute("SELECT name, coll FROM pragma_index_xinfo(?) WHERE key", (index,)).fetchall()
        found = dict(rows)
        if len(rows) == len(key) and found.keys() == set(key):
            return [found[name] for name in key]
    return ["BINARY"] * len(key)
