"""Puts operations into one table, all or none, and says which events are to blame where the server refuses one.

Collaborators: `_postgres.statements` (what is sent), `_postgres.isolation` (who is to blame). Everything here runs on the
session's thread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from connectors.sinks._asked import OnConflict
from connectors.sinks._postgres.isolation import Isolation
from connectors.sinks._postgres.ordered import OrderedStatements
from connectors.sinks._postgres.ordering import Ordering
from connectors.sinks._postgres.plan import plan
from connectors.sinks._postgres.refusals import Outdated, Refused
from connectors.sinks._postgres.rows import Op
from connectors.sinks._postgres.statements import BEGIN, Statements
from connectors.sinks._postgres.table import Table
from penstock.errors import ComponentError

if TYPE_CHECKING:
    import psycopg

_IDLE = 0
"""libpq's PQTRANS_IDLE."""


class Writer:
    """Writes to one table. Holds nothing of a connection.

    :param ordering: of its rows, where they have an order.
    :param stale: told after each commit how many operations changed nothing, being older than what is there.
    """

    def __init__(
        self,
        table: Table,
        key: Sequence[str],
        on_conflict: OnConflict,
        ordering: Ordering | None = None,
        stale: Callable[[int], None] = lambda count: None,
    ) -> None:
        self.table = table
        self._key = tuple(key)
        self._on_conflict = on_conflict
        self._ordering = ordering
        self._stale = stale
        self._rules = table.rules(key, on_conflict, ordered=ordering is not None)

    @property
    def divides(self) -> bool:
        """Whether a batch may come in parts: no row of one needs rows of a later one."""
        return not (self.table.dependent or self.table.watched)

    def write_parts(self, connection: psycopg.Connection[Any], parts: Iterable[Sequence[Op]], then: Callable[[], None]) -> bool:
        """All operations and `then` in one transaction, or nothing. A part is made while the server works on those before.

        :returns: False where something is refused, or the table was altered: nothing was written, and `write` says why.
        :raises psycopg.Error: anything that is neither.
        """
        statements = self._statements(connection, unaltered=False)
        try:
            with _ended(connection):
                statements.begin_and_run(plan(ops, self._rules) for ops in parts)
                then()
                statements.commit()
        except (Refused, Outdated):
            return False
        self._stale(statements.stale)
        return True

    def write(
        self,
        connection: psycopg.Connection[Any],
        ops: Sequence[Op],
        then: Callable[[], None],
        *,
        unaltered: bool = False,
    ) -> dict[int, ComponentError]:
        """All operations and `then` in one transaction, or nothing.

        :param unaltered: somebody has looked, after `Outdated`: the table is as this writer knows it.
        :returns: by event index, what was refused; then nothing was written.
        :raises Outdated: the table was altered, or a statement is wrong as it would be then.
        :raises psycopg.Error: anything that is not an event's fault.
        """
        statements = self._statements(connection, unaltered=unaltered)
        try:
            with _transaction(connection):
                statements.run(plan(ops, self._rules))
                then()
                statements.commit()
        except Refused as refusal:
            statements.check_columns()  # it may be refused for what was altered
            if unaltered:
                self._check_statements(connection, statements, ops, refusal)
            return self._isolate(connection, statements, ops, then)
        self._stale(statements.stale)
        return {}

    def _statements(self, connection: psycopg.Connection[Any], *, unaltered: bool) -> Statements:
        if self._ordering is not None:
            return OrderedStatements(connection, self.table, self._key, self._ordering, unaltered=unaltered)
        return Statements(connection, self.table, self._key, self._on_conflict, unaltered=unaltered)

    def _check_statements(
        self, connection: psycopg.Connection[Any], statements: Statements, ops: Sequence[Op], refusal: Refused
    ) -> None:
        """:raises psycopg.Error: the server refuses the statements whatever their rows are."""
        with _transaction(connection):
            try:
                statements.without_rows(ops)
            except Refused as error:
                raise error.error or refusal from error

    def _isolate(
        self, connection: psycopg.Connection[Any], statements: Statements, ops: Sequence[Op], then: Callable[[], None]
    ) -> dict[int, ComponentError]:
        """Constraints that may wait are checked at the end first, and where only that refuses, behind each piece."""
        if not any(op.kind == "truncate" for op in ops):  # which checks them itself
            refused = self._one_by_one(connection, statements, ops, then, checked=False)
            if refused is not None:
                return refused
        return self._one_by_one(connection, statements, ops, then, checked=True) or {}

    def _one_by_one(
        self,
        connection: psycopg.Connection[Any],
        statements: Statements,
        ops: Sequence[Op],
        then: Callable[[], None],
        *,
        checked: bool,
    ) -> dict[int, ComponentError] | None:
        """:returns: None where only the check at the end refuses. Empty where all is written: nothing was wrong but the order."""
        with _transaction(connection):
            statements.uncount(0)
            isolation = Isolation(connection, statements, self.table, self._key, self._rules, checked=checked)
            refused: dict[int, ComponentError] = dict(isolation.refused(ops))
            if refused:
                return refused
            try:
                statements.check_deferred()
            except Refused:
                if checked:
                    raise
                return None
            then()
            statements.commit()
        self._stale(statements.stale)
        return refused


@contextmanager
def _transaction(connection: psycopg.Connection[Any]) -> Iterator[None]:
    """Whoever does not commit inside has done nothing."""
    connection.execute(BEGIN)
    with _ended(connection):
        yield


@contextmanager
def _ended(connection: psycopg.Connection[Any]) -> Iterator[None]:
    try:
        yield
    finally:
        if not connection.closed and connection.info.transaction_status != _IDLE:
            connection.execute(b"ROLLBACK")
