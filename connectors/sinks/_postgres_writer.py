"""Puts operations into one table: the statements, and which event is to blame where the server refuses one.

New rows without a conflict clause are copied into the table; with one they travel as an array a column. Through a temporary table
they would take one and a half times as long, and make the server forget its plans at each commit. Everything here runs on the
session's thread.

Source: PostgreSQL manual, COPY, INSERT ("ON CONFLICT Clause"), appendix A, "PostgreSQL Error Codes".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any

from connectors._postgres import quoted, quoted_list
from connectors.sinks._postgres_plan import OnConflict, Step, Truncation, plan
from connectors.sinks._postgres_refusals import Outdated, Refused, blaming, divided, is_of_a_statement, misread_value, reason
from connectors.sinks._postgres_rows import Column, Op, array_text, block
from connectors.sinks._postgres_table import Table, overriding_of, signature_of
from connectors.sinks._postgres_types import READ_AS_PROGRAMS
from penstock.errors import ComponentError, Permanent

if TYPE_CHECKING:
    import psycopg

_ROWS_AT_ONCE = 1000
_IDLE = 0
"""libpq's PQTRANS_IDLE."""


class Writer:
    """Writes to one table. Holds nothing of a connection."""

    def __init__(self, table: Table, key: Sequence[str], on_conflict: OnConflict) -> None:
        self.table = table
        self._key = tuple(key)
        self._on_conflict = on_conflict
        self._rules = table.rules(key, on_conflict)
        self._conflicts = bool(key) and on_conflict != "error"

    def write(
        self, connection: psycopg.Connection[Any], ops: Sequence[Op], then: Callable[[], None]
    ) -> dict[int, ComponentError]:
        """All operations and `then` in one transaction, or nothing.

        :returns: by event index, what was refused; then nothing was written.
        :raises Outdated: the table was altered.
        :raises psycopg.Error: anything that is not an event's fault.
        """
        from psycopg import Error

        try:
            self._at_once(connection, ops, then)
        except (Outdated, Error) as error:
            cause = error.__cause__ if isinstance(error, Outdated) else error
            if not isinstance(cause, Error) or not is_of_a_statement(cause):
                raise
            misread = self._misread(connection, ops)
            if not misread:
                raise
            return misread
        except Refused:
            checked_within = any(op.kind == "truncate" for op in ops)
            refused = None if checked_within else self._one_by_one(connection, ops, then, deferred=True)
            return self._one_by_one(connection, ops, then, deferred=False) or {} if refused is None else refused
        return {}

    def _misread(self, connection: psycopg.Connection[Any], ops: Sequence[Op]) -> dict[int, ComponentError]:
        """The events whose values their types read as names or programs, and refuse as wrong ones: `regclass`, `tsquery`,
        `jsonpath`. The server gives such errors the codes of wrong statements, so each value is tried alone."""
        refused: dict[int, ComponentError] = {}
        with _transaction(connection):
            for op in ops:
                for name, value in zip(op.names, op.row, strict=True):
                    column = self.table.columns[name]
                    if column.oid in READ_AS_PROGRAMS and value is not None and op.event not in refused:
                        error = _refusal(connection, f"SELECT $1::pg_catalog.text::{column.type}", value)
                        if error is not None:
                            refused[op.event] = misread_value(name, error)
        return refused

    def _at_once(self, connection: psycopg.Connection[Any], ops: Sequence[Op], then: Callable[[], None]) -> None:
        with _transaction(connection):
            self._run(connection, plan(ops, self._rules))
            then()
            _commit(connection)

    def _one_by_one(
        self, connection: psycopg.Connection[Any], ops: Sequence[Op], then: Callable[[], None], *, deferred: bool
    ) -> dict[int, ComponentError] | None:
        """Find who is to blame: in pieces, each undone where it is refused, and divided there. Cost: three statements for each
        refused event, or twice the logarithm of their number where the server does not say which it was.

        :param deferred: constraints that are checked at the end are; False: after each piece.
        :returns: None where only the check at the end refuses. Empty where all is written: nothing was wrong but the order.
        """
        refused: dict[int, ComponentError] = {}
        with _transaction(connection):
            self._pieces(connection, ops, refused, deferred=deferred)
            if refused:
                return refused if deferred else self._still_refused(connection, ops, refused)
            if deferred:
                try:
                    _check_deferred(connection)
                except Refused:
                    return None
            then()
            _commit(connection)
        return refused

    def _still_refused(
        self, connection: psycopg.Connection[Any], ops: Sequence[Op], refused: dict[int, ComponentError]
    ) -> dict[int, ComponentError]:
        """Those that are refused behind all others, too: rows that refer to a later one are not to blame. Rows that only together
        satisfy a deferred constraint stay with the bad ones."""
        left = refused
        while left:
            again: dict[int, ComponentError] = {}
            self._pieces(connection, [op for op in ops if op.event in left], again, deferred=False)
            if len(again) == len(left):
                return left
            left = again
        return refused

    def _pieces(
        self, connection: psycopg.Connection[Any], ops: Sequence[Op], refused: dict[int, ComponentError], *, deferred: bool
    ) -> None:
        pending: list[Sequence[Op]] = [ops]
        while pending:
            piece = pending.pop()
            connection.execute(b"SAVEPOINT penstock_piece")
            try:
                self._run(connection, plan(piece, self._rules))
                if not deferred:
                    _check_deferred(connection)
            except Refused as error:
                connection.execute(b"ROLLBACK TO SAVEPOINT penstock_piece")
                if len(piece) == 1:
                    refused[piece[0].event] = self._reason(connection, error, piece[0])
                else:
                    pending.extend(reversed(divided(piece, error)))
            connection.execute(b"RELEASE SAVEPOINT penstock_piece")

    def _reason(self, connection: psycopg.Connection[Any], refused: Refused, op: Op) -> Permanent:
        column = refused.column
        if column is None and refused.of_a_value:  # which the server did not say: ask for each
            for name, value in zip(op.names, op.row, strict=True):
                if _refusal(connection, f"SELECT $1::pg_catalog.text::{self.table.columns[name].type}", value) is not None:
                    column = name
                    break
        return reason(refused, op, self.table, self._key if self._on_conflict == "error" else (), column)

    # ---- statements

    def _run(self, connection: psycopg.Connection[Any], steps: Sequence[Step]) -> None:
        for step in steps:
            if isinstance(step, Truncation):
                self._truncate(connection, step.op)
                continue
            if step.deletes:
                self._delete(connection, step.deletes)
            for ops in step.puts:
                self._put(connection, ops[0].names, ops)
        # Behind the first statement that touched the table, so that nobody can alter it before this transaction ends.
        if signature_of(connection, self.table.oid) != self.table.signature:
            raise Outdated

    def _put(self, connection: psycopg.Connection[Any], names: tuple[str, ...], ops: Sequence[Op]) -> None:
        columns = quoted_list(names)
        if not self._conflicts and not self.table.row_security:
            self._copy(connection, f"{self.table.sql} ({columns})", ops)
            return
        found = [self.table.columns[name] for name in names]
        values = ", ".join(f"c{place}{column.cast}" for place, column in enumerate(found))
        self._execute(
            connection,
            f"INSERT INTO {self.table.sql} ({columns}) {overriding_of(found)}"  # noqa: S608 - names are quoted
            f"SELECT {values} FROM {_unnest(found)}{self._clause(names)}",
            ops,
        )

    def _clause(self, names: tuple[str, ...]) -> str:
        if not self._conflicts:
            return ""
        update = ", ".join(f"{quoted(name)} = EXCLUDED.{quoted(name)}" for name in names if name not in self._key)
        action = f"DO UPDATE SET {update}" if update and self._on_conflict == "update" else "DO NOTHING"
        return f" ON CONFLICT ({quoted_list(self._key)}) {action}"

    def _truncate(self, connection: psycopg.Connection[Any], op: Op) -> None:
        _check_deferred(connection)  # a table with checks to come is not truncated
        with self._blaming([op]):
            connection.execute(f"TRUNCATE {self.table.sql}".encode())
        connection.execute(b"SET CONSTRAINTS ALL DEFERRED")

    def _delete(self, connection: psycopg.Connection[Any], ops: Sequence[Op]) -> None:
        table, found = self.table.sql, [self.table.columns[name] for name in self._key]
        if len(found) == 1 and not found[0].cast:
            statement = f"DELETE FROM {table} WHERE {quoted(*self._key)} {self._equals(found[0])} ANY ($1::{found[0].parameter})"  # noqa: S608 - as above
        else:
            same = " AND ".join(
                f"t.{quoted(column.name)} {self._equals(column)} k.c{place}{column.cast}" for place, column in enumerate(found)
            )
            statement = f"DELETE FROM {table} AS t USING {_unnest(found)} WHERE {same}"  # noqa: S608 - as above
        self._execute(connection, statement, ops)

    def _equals(self, column: Column) -> str:
        return self.table.equals.get(column.name, "OPERATOR(pg_catalog.=)")

    def _execute(self, connection: psycopg.Connection[Any], statement: str, ops: Sequence[Op]) -> None:
        """A statement whose parameters are arrays, one a column."""
        from psycopg import RawCursor

        text = statement.encode()
        for start in range(0, len(ops), _ROWS_AT_ONCE):
            some = ops[start : start + _ROWS_AT_ONCE]
            with self._blaming(some), RawCursor(connection) as cursor:
                cursor.execute(text, [array_text(values) for values in zip(*[op.row for op in some], strict=True)])

    def _copy(self, connection: psycopg.Connection[Any], target: str, ops: Sequence[Op]) -> None:
        with self._blaming(ops):
            parts = [ops[start : start + _ROWS_AT_ONCE] for start in range(0, len(ops), _ROWS_AT_ONCE)]
            blocks = [block([op.row for op in part]) for part in parts]
            with connection.cursor() as cursor, cursor.copy(f"COPY {target} FROM STDIN".encode()) as copy:
                for data in blocks:
                    copy.write(data)

    def _blaming(self, ops: Sequence[Op]) -> AbstractContextManager[None]:
        return blaming(ops, secured=self.table.row_security)


def _unnest(columns: Sequence[Column]) -> str:
    """Rows of columns c0, c1, … from parameters."""
    parameters = ", ".join(f"${place}::{column.parameter}" for place, column in enumerate(columns, 1))
    return f"unnest({parameters}) AS k({', '.join(f'c{place}' for place in range(len(columns)))})"


def _refusal(connection: psycopg.Connection[Any], statement: str, value: str | None) -> psycopg.Error | None:
    from psycopg import DataError, IntegrityError, NotSupportedError, ProgrammingError, RawCursor

    connection.execute(b"SAVEPOINT penstock_value")
    try:
        with RawCursor(connection) as cursor:
            cursor.execute(statement.encode(), [value], prepare=False)
    except (DataError, IntegrityError, NotSupportedError, ProgrammingError) as error:
        connection.execute(b"ROLLBACK TO SAVEPOINT penstock_value")
        return error
    return None


@contextmanager
def _transaction(connection: psycopg.Connection[Any]) -> Iterator[None]:
    """Whoever does not commit inside has done nothing."""
    connection.execute(b"BEGIN")
    try:
        yield
    finally:
        if not connection.closed and connection.info.transaction_status != _IDLE:
            connection.execute(b"ROLLBACK")


def _check_deferred(connection: psycopg.Connection[Any]) -> None:
    with blaming(()):
        connection.execute(b"SET CONSTRAINTS ALL IMMEDIATE")


def _commit(connection: psycopg.Connection[Any]) -> None:
    with blaming(()):
        connection.execute(b"COMMIT")
