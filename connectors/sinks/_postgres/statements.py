"""The statements that put operations into one table, on one connection, inside a transaction that the caller has begun.

New rows without a conflict clause are copied into the table; with one they travel as an array a column. Through a temporary table
they would take one and a half times as long, and make the server forget its plans at each commit.

Rows that lack a column which a new row must have are updated where they are there, and inserted, and so refused, only where they
are not: PostgreSQL looks at NOT NULL before it looks for a conflict. Everything here runs on the session's thread.

Source: PostgreSQL manual, COPY, INSERT ("ON CONFLICT Clause"), SET CONSTRAINTS.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from itertools import groupby
from typing import TYPE_CHECKING, Any

from connectors._postgres import quoted, quoted_list
from connectors.sinks._asked import OnConflict
from connectors.sinks._postgres.conditions import equals, same_key, unnest
from connectors.sinks._postgres.plan import Layer, Step, Truncation
from connectors.sinks._postgres.refusals import Outdated, Refused, blaming
from connectors.sinks._postgres.rows import Column, Op, array_text, block
from connectors.sinks._postgres.table import Table, overriding_of, signature_of

if TYPE_CHECKING:
    import psycopg

BEGIN = b"BEGIN; SET CONSTRAINTS ALL DEFERRED"
"""Constraints that may wait do, so that rows of several statements may satisfy them together."""

_ROWS_AT_ONCE = 1000
_NO_PIPELINE = 0
"""libpq's PQ_PIPELINE_OFF."""


class Statements:
    """Into one table, by one connection.

    :param unaltered: the table is known to be as it was read: see `blaming`.
    """

    def __init__(
        self, connection: psycopg.Connection[Any], table: Table, key: Sequence[str], on_conflict: OnConflict, *, unaltered: bool
    ) -> None:
        self._connection = connection
        self._table = table
        self._key = tuple(key)
        self._on_conflict = on_conflict
        self._conflicts = bool(key) and on_conflict != "error"
        self._unaltered = unaltered

    @property
    def stale(self) -> int:
        """Operations that were not applied, for what is there is newer. Known once everything is carried out."""
        return 0

    @property
    def counted(self) -> int:
        """A mark for `uncount`."""
        return 0

    def uncount(self, mark: int) -> None:
        """What was counted since that mark is undone."""

    def run(self, steps: Sequence[Step]) -> None:
        """:raises Refused: one of the operations.
        :raises Outdated: the table was altered, or a statement is wrong that may be so because of that.
        """
        self._carry_out(steps)
        self.check_columns()  # behind the first statement that touched the table, so that nobody can alter it any more

    def begin_and_run(self, parts: Iterable[Sequence[Step]]) -> None:
        """Begin the transaction and `run`, while the next part is made: the server's answers are awaited at the end.

        :raises Refused: somewhere; not which of them.
        """
        with blaming((), secured=self._table.row_security):
            if self._copies:
                self._connection.execute(BEGIN)
                self._run_copying(parts)
                self.check_columns()
                return
            with self._connection.pipeline():
                for statement in BEGIN.split(b"; "):
                    self._connection.execute(statement, prepare=False)
                for steps in parts:
                    self._carry_out(steps)
            self.check_columns()

    def _run_copying(self, parts: Iterable[Sequence[Step]]) -> None:
        for names, run in groupby(parts, _names_of_rows):
            if names is None:
                for steps in run:
                    self._carry_out(steps)
            else:
                self._copy(names, (step.puts[0] for steps in run for step in steps if isinstance(step, Layer)))

    def _carry_out(self, steps: Sequence[Step]) -> None:
        for step in steps:
            if isinstance(step, Truncation):
                self._truncate(step.op)
                continue
            if step.deletes:
                self._delete(step.deletes)
            for ops in step.puts:
                self._put(ops[0].names, ops)

    def check_columns(self) -> None:
        """:raises Outdated: they are no longer as they were read."""
        if signature_of(self._connection, self._table.oid) != self._table.signature:
            raise Outdated

    def without_rows(self, ops: Sequence[Op]) -> None:
        """The statements of such operations, with no rows: what they are refused for is no row's fault.

        :raises Refused, Outdated: as `run`.
        """
        for kind, names in dict.fromkeys((op.kind, op.names) for op in ops):
            if kind == "put":
                self._insert(names, [])
            elif kind == "delete":
                self._delete([])

    def check_deferred(self) -> None:
        """:raises Refused: a constraint that waited is not satisfied. Those that may wait do no longer."""
        with blaming((), unaltered=self._unaltered):
            self._connection.execute(b"SET CONSTRAINTS ALL IMMEDIATE")

    def commit(self) -> None:
        """:raises Refused: a constraint that waited is not satisfied."""
        with blaming((), unaltered=self._unaltered):
            self._connection.execute(b"COMMIT")

    # ---- rows

    @property
    def _copies(self) -> bool:
        return not self._conflicts and not self._table.row_security

    def _put(self, names: tuple[str, ...], ops: Sequence[Op]) -> None:
        if self._conflicts and not self._table.required.issubset(names):
            for start in range(0, len(ops), _ROWS_AT_ONCE):
                new = self._without_those_there(names, ops[start : start + _ROWS_AT_ONCE])
                if new:
                    self._insert(names, new)
            return
        self._insert(names, ops)

    def _insert(self, names: tuple[str, ...], ops: Sequence[Op]) -> None:
        if self._copies:
            with self._blaming(ops):
                self._copy(names, [ops[start : start + _ROWS_AT_ONCE] for start in range(0, len(ops), _ROWS_AT_ONCE)])
            return
        self._execute(self._insertion(names), len(names), ops)

    def _insertion(self, names: tuple[str, ...]) -> str:
        columns, found = quoted_list(names), self._found(names)
        values = ", ".join(f"c{place}{column.cast}" for place, column in enumerate(found))
        return (
            f"INSERT INTO {self._table.sql} ({columns}) {overriding_of(found)}"  # noqa: S608 - names are quoted
            f"SELECT {values} FROM {unnest(found)}{self._clause(names)}"
        )

    def _clause(self, names: tuple[str, ...]) -> str:
        if not self._conflicts:
            return ""
        update = ", ".join(f"{quoted(name)} = EXCLUDED.{quoted(name)}" for name in self._updated(names))
        action = f"DO UPDATE SET {update}" if update else "DO NOTHING"
        return f" ON CONFLICT ({quoted_list(self._key)}) {action}"

    def _updated(self, names: Sequence[str]) -> list[str]:
        return [name for name in names if name not in self._key] if self._on_conflict == "update" else []

    def _without_those_there(self, names: tuple[str, ...], ops: Sequence[Op]) -> Sequence[Op]:
        """Update the rows that are there; the operations of the others.

        :raises Refused: two of them concern one row, and have to come one after the other.
        """
        table, found = self._table.sql, self._found(names)
        same = same_key(self._table, self._key, names)
        assigned = ", ".join(f"{quoted(name)} = k.c{names.index(name)}{self._cast(name)}" for name in self._updated(names))
        may, stays = self._conditions(names)
        update = f"UPDATE {table} AS t SET {assigned} FROM k WHERE {same}{may} RETURNING 1" if assigned else ""  # noqa: S608 - as above
        with self._blaming(ops):
            rows = self._ask(
                f"WITH k AS MATERIALIZED (SELECT * FROM {unnest(found, ordinality=True)})"  # noqa: S608 - as above
                f"{f', u AS ({update})' if update else ''} "
                f"SELECT k.n, {'(SELECT pg_catalog.count(*) FROM u)' if update else '0'}, {stays} "
                f"FROM k JOIN {table} AS t ON {same}",
                len(names),
                ops,
            ).fetchall()
        stale = sum(stays for _, _, stays in rows)
        if update and rows and rows[0][1] != len(rows) - stale:  # two texts of a key; or it was just deleted, or is hidden
            if len(ops) > 1:
                raise Refused(None, None)
            return ops
        self._left(stale)
        there = {number for number, *_ in rows}
        return [op for number, op in enumerate(ops, 1) if number not in there]

    def _conditions(self, names: Sequence[str]) -> tuple[str, str]:
        """Of a row of the table, t, and one of the parameters, k: what more it takes to update it, and that it stays as it is."""
        return "", "false"

    def _left(self, count: int) -> None:
        """So many operations were not applied."""

    def _copy(self, names: Sequence[str], parts: Iterable[Sequence[Op]]) -> None:
        statement = f"COPY {self._table.sql} ({quoted_list(names)}) FROM STDIN"
        with self._connection.cursor() as cursor, cursor.copy(statement.encode()) as copy:
            for ops in parts:
                copy.write(block([op.row for op in ops]))

    def _truncate(self, op: Op) -> None:
        self.check_deferred()  # a table with checks to come is not truncated
        with self._blaming([op]):
            self._connection.execute(f"TRUNCATE {self._table.sql}".encode())
        self._connection.execute(b"SET CONSTRAINTS ALL DEFERRED")

    def _delete(self, ops: Sequence[Op]) -> None:
        table, found = self._table.sql, self._found(self._key)
        if len(found) == 1 and not found[0].cast:
            statement = (
                f"DELETE FROM {table} WHERE {quoted(*self._key)} {equals(self._table, found[0])} ANY ($1::{found[0].parameter})"  # noqa: S608 - as above
            )
        else:
            same = same_key(self._table, self._key, self._key)
            statement = f"DELETE FROM {table} AS t USING {unnest(found)} WHERE {same}"  # noqa: S608 - as above
        self._execute(statement, len(found), ops)

    # ---- parts of statements

    def _found(self, names: Sequence[str]) -> list[Column]:
        return [self._table.columns[name] for name in names]

    def _cast(self, name: str) -> str:
        return self._table.columns[name].cast

    def _execute(self, statement: str, width: int, ops: Sequence[Op]) -> None:
        """A statement whose parameters are arrays, one a column; with no rows, too."""
        for start in range(0, max(len(ops), 1), _ROWS_AT_ONCE):
            some = ops[start : start + _ROWS_AT_ONCE]
            with self._blaming(some):
                self._sent(self._ask(statement, width, some), some)

    def _sent(self, cursor: psycopg.RawCursor[Any], ops: Sequence[Op]) -> None:
        """A statement of these operations is on its way; its answer may not be there yet."""

    def _ask(self, statement: str, width: int, ops: Sequence[Op]) -> psycopg.RawCursor[Any]:
        from psycopg import RawCursor

        values = [array_text(column) for column in zip(*[op.row for op in ops], strict=True)] if ops else ["{}"] * width
        # psycopg takes a statement for prepared that it has sent behind one that fails
        prepare = None if self._connection.info.pipeline_status == _NO_PIPELINE else False
        return RawCursor(self._connection).execute(statement.encode(), values, prepare=prepare)

    def _blaming(self, ops: Sequence[Op]) -> AbstractContextManager[None]:
        return blaming(ops, secured=self._table.row_security, unaltered=self._unaltered)


def _names_of_rows(steps: Sequence[Step]) -> tuple[str, ...] | None:
    """The columns, where these are rows of the same columns and nothing else."""
    if len(steps) != 1 or not isinstance(steps[0], Layer) or steps[0].deletes or len(steps[0].puts) != 1:
        return None
    return steps[0].puts[0][0].names
