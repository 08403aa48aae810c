"""The statements that put operations into a table whose rows have an order: an older one changes nothing.

Each is one round trip, and compares with the row that it finds under that row's lock, with the key's tombstone and with the last
truncation. Deletions, and rows where there are tombstones, come one program after the other to a table: a deletion that is not
yet committed would be unseen. Everything here runs on the session's thread.

Source: PostgreSQL manual, INSERT ("ON CONFLICT Clause"), WITH ("Data-Modifying Statements in WITH"), "Advisory Locks".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from connectors._postgres import quoted, quoted_list
from connectors.sinks._postgres.conditions import buried, equals, order_in, same_key, unnest
from connectors.sinks._postgres.ordering import Ordering
from connectors.sinks._postgres.plan import Step, Truncation
from connectors.sinks._postgres.rows import Column, Op
from connectors.sinks._postgres.statements import Statements
from connectors.sinks._postgres.table import Table, overriding_of
from connectors.sinks._postgres.tombstones import key_columns

if TYPE_CHECKING:
    import psycopg

_OLD, _NEW = 'b."order"', 'EXCLUDED."order"'
_FORGOTTEN_AT_ONCE = 2
"""Tombstones that are given up for each that is written, where they are older than their retention: more than come in."""


class OrderedStatements(Statements):
    """As `Statements`, for a key and `on_conflict: update`."""

    def __init__(
        self, connection: psycopg.Connection[Any], table: Table, key: Sequence[str], ordering: Ordering, *, unaltered: bool
    ) -> None:
        super().__init__(connection, table, key, "update", unaltered=unaltered)
        self._ordering = ordering
        self._answers: list[tuple[psycopg.RawCursor[Any] | None, int]] = []

    @property
    def stale(self) -> int:
        return sum(count - (0 if cursor is None else cursor.rowcount) for cursor, count in self._answers)

    @property
    def counted(self) -> int:
        return len(self._answers)

    def uncount(self, mark: int) -> None:
        del self._answers[mark:]

    def _sent(self, cursor: psycopg.RawCursor[Any], ops: Sequence[Op]) -> None:
        self._answers.append((cursor, len(ops)))

    def _left(self, count: int) -> None:
        self._answers.append((None, count))

    def _carry_out(self, steps: Sequence[Step]) -> None:
        if self._ordering.tombstones:  # until the transaction ends; behind a savepoint that is undone, anew
            lock = f"SELECT pg_catalog.pg_advisory_xact_lock(pg_catalog.hashtextextended({self._ordering.table}, 1))"
            self._connection.execute(lock.encode(), prepare=False)
        super()._carry_out(steps)
        self._left(sum(0 if isinstance(step, Truncation) else step.stale for step in steps))

    # ---- rows

    def _insertion(self, names: tuple[str, ...]) -> str:
        columns, found = quoted_list(names), self._found(names)
        into = f"INSERT INTO {self._table.sql} AS t ({columns}) {overriding_of(found)}"
        values = ", ".join(f"k.c{place}{column.cast}" for place, column in enumerate(found))
        ordering = self._ordering
        if not ordering.tombstones:
            return f"{into}SELECT {values} FROM {unnest(found)}{self._clause(names)}"  # noqa: S608 - names are quoted
        grave, new, tombstones = buried(self._table, self._key, names), order_in(ordering, names), ordering.tombstones
        return (
            f"WITH k AS MATERIALIZED (SELECT k.*, (SELECT {_OLD} FROM {tombstones} AS b WHERE {grave}) AS gone "  # noqa: S608 - quoted
            f"FROM {unnest(found)}), "
            f"d AS (DELETE FROM {tombstones} AS b USING k WHERE k.gone IS NOT NULL AND {grave}{self._among('b.k1', names)} "
            f"AND {ordering.compare(_OLD, '<=', new)}) "
            f"{into}SELECT {values} FROM k WHERE {ordering.survives(new)} "
            f"AND (k.gone IS NULL OR {ordering.compare('k.gone', '<=', new)}){self._clause(names)}"
        )

    def _clause(self, names: tuple[str, ...]) -> str:
        return f"{super()._clause(names)} WHERE {self._ordering.loses('t', f'EXCLUDED.{quoted(self._ordering.column.name)}')}"

    def _conditions(self, names: Sequence[str]) -> tuple[str, str]:
        ordering, new = self._ordering, order_in(self._ordering, names)
        return f" AND {ordering.loses('t', new)}", f"coalesce({ordering.wins('t', new)}, false)"

    # ---- deletions

    def _delete(self, ops: Sequence[Op]) -> None:
        ordering, names = self._ordering, (*self._key, self._ordering.column.name)
        found = self._found(names)
        same = same_key(self._table, self._key, names)
        own, new = ", ".join(key_columns(self._key)), order_in(ordering, names)
        values = ", ".join(f"k.c{place}{column.cast}" for place, column in enumerate(found))
        row, mine = f"t.{quoted(ordering.column.name)}", f"t.{quoted(self._key[0])}"
        self._execute(
            f"WITH k AS MATERIALIZED (SELECT k.*, (SELECT {row} FROM {self._table.sql} AS t WHERE {same}) AS there "  # noqa: S608 - quoted
            f"FROM {unnest(found)}), "
            f"d AS (DELETE FROM {self._table.sql} AS t USING k WHERE {same}{self._among(mine, names)} "
            f"AND {ordering.loses('t', new)}) "
            f'INSERT INTO {ordering.tombstones} AS b ({own}, "order", removed_at) SELECT {values}, pg_catalog.now() FROM k '
            f"WHERE {ordering.survives(new)} AND (k.there IS NULL OR {ordering.compare('k.there', '<=', new)}) "
            f'ON CONFLICT ({own}) DO UPDATE SET "order" = EXCLUDED."order", removed_at = EXCLUDED.removed_at '
            f"WHERE {ordering.compare(_OLD, '<=', _NEW)}",
            len(names),
            ops,
        )
        if ordering.retention is not None and ops:
            self._forget(ordering.retention, len(ops))

    def _forget(self, retention: float, deletions: int) -> None:
        table = self._ordering.tombstones
        self._connection.execute(
            f"DELETE FROM {table} WHERE ctid OPERATOR(pg_catalog.=) ANY (ARRAY(SELECT b.ctid FROM {table} AS b "  # noqa: S608 - quoted
            f"WHERE b.removed_at OPERATOR(pg_catalog.<) "
            f"(pg_catalog.now() OPERATOR(pg_catalog.-) pg_catalog.make_interval(secs => {retention!r})) "
            f"ORDER BY b.removed_at LIMIT {_FORGOTTEN_AT_ONCE * deletions + 1}))".encode(),
            prepare=False,
        )

    def _truncate(self, op: Op) -> None:
        """Newer rows stay, so that it does not matter when the truncation comes."""
        from psycopg import RawCursor

        ordering, order = self._ordering, op.row[0]
        new = f"$1::{ordering.column.type}"
        self.check_deferred()  # as for any truncation
        with self._blaming([op]):
            self._connection.execute(f"LOCK TABLE {self._table.sql} IN ACCESS EXCLUSIVE MODE".encode())
            cursor = RawCursor(self._connection)
            newer = f"SELECT EXISTS (SELECT FROM {self._table.sql} AS t WHERE {ordering.wins('t', new)})"  # noqa: S608 - quoted
            (some,) = cursor.execute(newer.encode(), [order], prepare=False).fetchone() or (True,)
            if some:
                older = f"DELETE FROM {self._table.sql} AS t WHERE {ordering.loses('t', new)}"  # noqa: S608 - quoted
                cursor.execute(older.encode(), [order], prepare=False)
            else:
                self._connection.execute(f"TRUNCATE {self._table.sql}".encode())
            buried = f"DELETE FROM {ordering.tombstones} AS b WHERE {ordering.compare(_OLD, '<=', new)}"  # noqa: S608 - quoted
            cursor.execute(buried.encode(), [order], prepare=False)
            self._sent(self._remember(order, new), [op])
        self._connection.execute(b"SET CONSTRAINTS ALL DEFERRED")

    def _remember(self, order: str | None, new: str) -> psycopg.RawCursor[Any]:
        from psycopg import RawCursor

        ordering, kind = self._ordering, self._ordering.column.type
        before = ordering.compare(f'f."order"::{kind}', "<=", f"{_NEW}::{kind}")
        return RawCursor(self._connection).execute(
            f'INSERT INTO {ordering.truncations} AS f ("table", "order", "at") '  # noqa: S608 - quoted
            f"VALUES ({ordering.table}, ({new})::pg_catalog.text, pg_catalog.now()) "
            f'ON CONFLICT ("table") DO UPDATE SET "order" = EXCLUDED."order", "at" = EXCLUDED."at" WHERE {before}'.encode(),
            [order],
            prepare=False,
        )

    # ---- parts of statements

    def _found(self, names: Sequence[str]) -> list[Column]:
        order = self._ordering.column
        return [order if name == order.name else column for name, column in zip(names, super()._found(names), strict=True)]

    def _among(self, column: str, names: Sequence[str]) -> str:
        """That the first column of a key is one of those in the parameters, where it is all of the key: implied by the join with
        them, but it lets the server use the index where it does not know how few they are."""
        key = self._table.columns[self._key[0]]
        if len(self._key) > 1 or key.cast:
            return ""
        return f" AND {column} {equals(self._table, key)} ANY (${list(names).index(key.name) + 1}::{key.parameter})"
