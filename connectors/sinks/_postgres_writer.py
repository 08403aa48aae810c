"""Puts operations into one table: the statements, and which event is to blame where the server refuses one.

New rows without a conflict clause are copied straight into the table; with one they are copied into a temporary table of the same
columns first, a few rows excepted. Everything here runs on the session's thread.

Source: PostgreSQL manual, COPY, INSERT ("ON CONFLICT Clause"), appendix A, "PostgreSQL Error Codes".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any

from connectors._postgres import quoted, quoted_list
from connectors.sinks._postgres_plan import Layer, OnConflict, Step, Truncation, plan
from connectors.sinks._postgres_refusals import Outdated, Refused, blaming, divided, reason
from connectors.sinks._postgres_rows import Op, block
from connectors.sinks._postgres_table import Table, overriding_of, signature_of
from penstock.errors import ComponentError

if TYPE_CHECKING:
    import psycopg

FEW = 8
"""Rows up to which statements with parameters are quicker than a temporary table."""

_ROWS_A_BLOCK = 1000
_MOST_STAGES = 64
_IDLE = 0
"""libpq's PQTRANS_IDLE."""


class Writer:
    """Writes to one table, in transactions of the caller's. Its temporary tables belong to one connection."""

    def __init__(self, table: Table, key: Sequence[str], on_conflict: OnConflict) -> None:
        self.table = table
        self._key = tuple(key)
        self._on_conflict = on_conflict
        self._rules = table.rules(key, on_conflict)
        self._conflicts = bool(key) and on_conflict != "error"
        self._few = FEW
        self._connection: psycopg.Connection[Any] | None = None
        self._stages: dict[tuple[str, ...], str] = {}
        self._used: set[str] = set()
        self._made = 0

    def write(
        self, connection: psycopg.Connection[Any], ops: Sequence[Op], then: Callable[[], None]
    ) -> dict[int, ComponentError]:
        """All operations and `then` in one transaction, or nothing.

        :returns: by event index, what was refused; then nothing was written.
        :raises Outdated: the table was altered.
        :raises psycopg.Error: anything that is not an event's fault.
        """
        try:
            self._at_once(connection, ops, then)
        except Refused:
            refused = self._one_by_one(connection, ops, then, deferred=True)
            return self._one_by_one(connection, ops, then, deferred=False) or {} if refused is None else refused
        return {}

    def _at_once(self, connection: psycopg.Connection[Any], ops: Sequence[Op], then: Callable[[], None]) -> None:
        steps = plan(ops, self._rules)
        self._prepare(connection, self._shapes(steps))
        with self._transaction(connection):
            self._run(connection, steps)
            then()
            _commit(connection)

    def _one_by_one(
        self, connection: psycopg.Connection[Any], ops: Sequence[Op], then: Callable[[], None], *, deferred: bool
    ) -> dict[int, ComponentError] | None:
        """Find who is to blame: in pieces, each undone where it is refused, and divided there. Cost: some statements for each
        refused event, twenty or so where the server does not say which it was.

        :param deferred: constraints that are checked at the end are; False: after each piece.
        :returns: None where only the check at the end refuses. Empty where all is written: nothing was wrong but the order.
        """
        self._few = 0  # COPY says which column it was
        refused: dict[int, ComponentError] = {}
        try:
            self._prepare(connection, {self._key if op.kind == "delete" else op.names for op in ops if op.kind != "truncate"})
            with self._transaction(connection):
                self._pieces(connection, ops, refused, deferred=deferred)
                if refused:
                    return refused
                if deferred:
                    try:
                        _check_deferred(connection)
                    except Refused:
                        return None
                then()
                _commit(connection)
        finally:
            self._few = FEW
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
                    refused[piece[0].event] = reason(error, piece[0], self.table, self._on_conflict)
                else:
                    pending.extend(reversed(divided(piece, error)))
            connection.execute(b"RELEASE SAVEPOINT penstock_piece")

    @contextmanager
    def _transaction(self, connection: psycopg.Connection[Any]) -> Iterator[None]:
        """Whoever does not commit inside has done nothing."""
        self._used.clear()
        connection.execute(b"BEGIN")
        try:
            yield
        finally:
            if not connection.closed and connection.info.transaction_status != _IDLE:
                connection.execute(b"ROLLBACK")

    # ---- statements

    def _run(self, connection: psycopg.Connection[Any], steps: Sequence[Step]) -> None:
        for step in steps:
            if isinstance(step, Truncation):
                with self._blaming([step.op]):
                    connection.execute(f"TRUNCATE {self.table.sql}".encode())
                continue
            if step.deletes:
                self._delete(connection, step.deletes)
            for names, ops in step.puts.items():
                self._put(connection, names, ops)
        # Behind the first statement that touched the table, so that nobody can alter it before this transaction ends.
        if signature_of(connection, self.table.oid) != self.table.signature:
            raise Outdated

    def _put(self, connection: psycopg.Connection[Any], names: tuple[str, ...], ops: Sequence[Op]) -> None:
        columns = quoted_list(names)
        if not self._staged(ops) and not self._small(ops):
            self._copy(connection, f"{self.table.sql} ({columns})", ops)
            return
        insert = f"INSERT INTO {self.table.sql} ({columns}) {overriding_of([self.table.columns[name] for name in names])}"
        clause = self._clause(names)
        if self._small(ops):
            values = ", ".join(f"${place}" for place in range(1, len(names) + 1))
            statement = f"{insert}VALUES ({values}){clause}"
            self._execute(connection, statement, ops)
            return
        stage = self._fill(connection, names, ops)
        with self._blaming(ops):
            connection.execute(f"{insert}SELECT {columns} FROM {stage}{clause}".encode())  # noqa: S608 - as above

    def _clause(self, names: tuple[str, ...]) -> str:
        if not self._conflicts:
            return ""
        update = ", ".join(f"{quoted(name)} = EXCLUDED.{quoted(name)}" for name in names if name not in self._key)
        action = f"DO UPDATE SET {update}" if update and self._on_conflict == "update" else "DO NOTHING"
        return f" ON CONFLICT ({quoted_list(self._key)}) {action}"

    def _delete(self, connection: psycopg.Connection[Any], ops: Sequence[Op]) -> None:
        table, key = self.table.sql, self._key
        if len(ops) <= self._few:
            condition = " AND ".join(f"{quoted(name)} = ${place}" for place, name in enumerate(key, 1))
            self._execute(connection, f"DELETE FROM {table} WHERE {condition}", ops)  # noqa: S608 - names are quoted
            return
        stage = self._fill(connection, key, ops)
        if len(key) == 1:
            condition = f"{quoted(*key)} = ANY (ARRAY(SELECT {quoted(*key)} FROM {stage}))"  # noqa: S608 - as above
            statement = f"DELETE FROM {table} WHERE {condition}"  # noqa: S608 - as above
        else:
            condition = " AND ".join(f"t.{quoted(name)} = s.{quoted(name)}" for name in key)
            statement = f"DELETE FROM {table} AS t USING {stage} AS s WHERE {condition}"  # noqa: S608 - as above
        with self._blaming(ops):
            connection.execute(statement.encode())

    def _execute(self, connection: psycopg.Connection[Any], statement: str, ops: Sequence[Op]) -> None:
        """A few operations, as parameters of a statement: texts without a type, which the server reads as the columns' types."""
        from psycopg import RawCursor

        with self._blaming(ops), RawCursor(connection) as cursor:
            cursor.executemany(statement.encode(), [op.row for op in ops])

    def _copy(self, connection: psycopg.Connection[Any], target: str, ops: Sequence[Op]) -> None:
        with self._blaming(ops):
            blocks = [block([op.row for op in ops[start : start + _ROWS_A_BLOCK]]) for start in range(0, len(ops), _ROWS_A_BLOCK)]
            with connection.cursor() as cursor, cursor.copy(f"COPY {target} FROM STDIN".encode()) as copy:
                for data in blocks:
                    copy.write(data)

    def _blaming(self, ops: Sequence[Op]) -> AbstractContextManager[None]:
        return blaming(ops, secured=self.table.row_security)

    # ---- temporary tables

    def _staged(self, ops: Sequence[Op]) -> bool:
        return (self._conflicts or self.table.row_security) and len(ops) > self._few

    def _small(self, ops: Sequence[Op]) -> bool:
        return (self._conflicts or self.table.row_security) and len(ops) <= self._few

    def _shapes(self, steps: Sequence[Step]) -> set[tuple[str, ...]]:
        """Columns of the temporary tables that the steps fill."""
        layers = [step for step in steps if isinstance(step, Layer)]
        shapes = {names for layer in layers for names, ops in layer.puts.items() if self._staged(ops)}
        return shapes | {self._key for layer in layers if len(layer.deletes) > self._few}

    def _prepare(self, connection: psycopg.Connection[Any], shapes: Iterable[tuple[str, ...]]) -> None:
        """Make the temporary tables that are missing, before the transaction that fills them."""
        if connection is not self._connection:
            connection.execute(b"DISCARD TEMPORARY")  # those of a writer that knew the table as it was
            self._connection, self._stages = connection, {}
        missing = [names for names in shapes if names not in self._stages]
        if missing and len(self._stages) >= _MOST_STAGES:  # shapes that vary without end: start over
            for names in set(self._stages).difference(shapes):
                connection.execute(f"DROP TABLE {self._stages.pop(names)}".encode())
        for names in missing:
            self._made += 1
            stage = quoted("pg_temp", f"penstock_stage_{self._made}")
            columns = ", ".join(f"{quoted(name)} {self.table.columns[name].type}" for name in names)
            connection.execute(f"CREATE TEMPORARY TABLE {stage} ({columns}) ON COMMIT DELETE ROWS".encode())
            self._stages[names] = stage

    def _fill(self, connection: psycopg.Connection[Any], names: tuple[str, ...], ops: Sequence[Op]) -> str:
        stage = self._stages[names]
        if stage in self._used:
            connection.execute(f"DELETE FROM {stage}".encode())  # noqa: S608 - a name of this module's own
        self._used.add(stage)
        self._copy(connection, f"{stage} ({quoted_list(names)})", ops)
        return stage


def _check_deferred(connection: psycopg.Connection[Any]) -> None:
    with blaming(()):
        connection.execute(b"SET CONSTRAINTS ALL IMMEDIATE")


def _commit(connection: psycopg.Connection[Any]) -> None:
    with blaming(()):
        connection.execute(b"COMMIT")
