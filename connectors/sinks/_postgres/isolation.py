"""Which operations of a batch the server refuses: as few as there can be, so that all others go in.

In pieces, each undone to a savepoint where it is refused, and divided there. Operations that may need others (a row that refers
to a later one, values that rows exchange) are tried again behind all that went in, and then together. Everything here runs on
the session's thread, in a transaction that the caller has begun.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from connectors.sinks._postgres.plan import Rules, plan
from connectors.sinks._postgres.refusals import Refused, divided, reason
from connectors.sinks._postgres.rows import Op
from connectors.sinks._postgres.statements import Statements
from connectors.sinks._postgres.table import Table
from penstock.errors import Permanent

if TYPE_CHECKING:
    import psycopg

MOST_ROUNDS = 64
"""How often rows that may need each other are tried together, each time without those that one violation is about."""

_SAVEPOINT = b"SAVEPOINT penstock_piece; SET CONSTRAINTS ALL DEFERRED"
_UNDO = b"ROLLBACK TO SAVEPOINT penstock_piece"
_KEEP = b"RELEASE SAVEPOINT penstock_piece"


class Isolation:
    """Of one batch.

    :param checked: constraints that may wait are checked behind each piece; False: not here.
    """

    def __init__(
        self,
        connection: psycopg.Connection[Any],
        statements: Statements,
        table: Table,
        key: Sequence[str],
        rules: Rules,
        *,
        checked: bool,
    ) -> None:
        self._connection = connection
        self._statements = statements
        self._table = table
        self._decided = tuple(key) if rules.on_conflict == "error" else ()
        self._rules = rules
        self._checked = checked

    def refused(self, ops: Sequence[Op]) -> dict[int, Permanent]:
        """Carry out all that are accepted. Cost: three statements for each refused operation, or twice the logarithm of their
        number where the server does not say which it was; and `MOST_ROUNDS`, where rows may need each other.

        :returns: by event index, why the others are refused.
        """
        alone = self._among_themselves(ops, self._behind(ops, self._pieces(ops)))
        return {op.event: self._reason(refusal, op) for op in ops if (refusal := alone.get(op.event)) is not None}

    def _pieces(self, ops: Sequence[Op]) -> dict[int, Refused]:
        """Those that are refused alone, in their places."""
        alone: dict[int, Refused] = {}
        pending: list[Sequence[Op]] = [ops]
        while pending:
            piece = pending.pop()
            refusal = self._try(piece)
            if refusal is None:
                continue
            if len(piece) == 1:
                alone[piece[0].event] = refusal
            else:
                pending.extend(reversed(divided(piece, refusal)))
        return alone

    def _behind(self, ops: Sequence[Op], alone: dict[int, Refused]) -> dict[int, Refused]:
        """Those that are refused behind all others, too: rows that refer to a later one are not to blame."""
        while True:
            again = [op for op in ops if op.event in alone and alone[op.event].may_pass_with(self._table)]
            still = self._pieces(again) if again else {}
            passed = [op.event for op in again if op.event not in still]
            if not passed:
                return alone
            alone = {event: still.get(event, refusal) for event, refusal in alone.items() if event not in passed}

    def _among_themselves(self, ops: Sequence[Op], alone: dict[int, Refused]) -> dict[int, Refused]:
        """Those that are refused together with all that might satisfy them, too."""
        left = [op for op in ops if op.event in alone and alone[op.event].may_pass_among(self._table)]
        for _ in range(MOST_ROUNDS):
            if len(left) < 2:
                break
            refusal = self._try(left)
            if refusal is None:
                return {event: found for event, found in alone.items() if event not in {op.event for op in left}}
            blamed = [op for op in left if op is refusal.op or alone[op.event].signature == refusal.signature]
            blamed = blamed or [self._culprit(left, refusal)]
            left = [op for op in left if op not in blamed]
        return alone

    def _culprit(self, ops: Sequence[Op], refusal: Refused) -> Op:
        """The last of the shortest beginning that is refused in the same way."""
        passes, fails = 0, len(ops)
        while fails - passes > 1:
            middle = (passes + fails) // 2
            found = self._try(ops[:middle], keep=False)
            if found is not None and found.signature == refusal.signature:
                fails = middle
            else:
                passes = middle
        return ops[fails - 1]

    def _try(self, piece: Sequence[Op], *, keep: bool = True) -> Refused | None:
        """Why these are refused at once, undone; None where they are carried out."""
        self._connection.execute(_SAVEPOINT)
        refusal, counted = None, self._statements.counted
        try:
            self._statements.run(plan(piece, self._rules))
            if self._checked:
                self._statements.check_deferred()
        except Refused as error:
            refusal = error
        if refusal is not None or not keep:
            self._connection.execute(_UNDO)
            self._statements.uncount(counted)
        self._connection.execute(_KEEP)
        return refusal

    def _reason(self, refused: Refused, op: Op) -> Permanent:
        column = refused.column
        if column is None and refused.of_a_value:  # which the server did not say: ask for each
            for name, value in zip(op.names, op.row, strict=True):
                if self._is_refused(f"SELECT $1::pg_catalog.text::{self._table.columns[name].type}", value):
                    column = name
                    break
        return reason(refused, op, self._table, self._decided, column)

    def _is_refused(self, statement: str, value: str | None) -> bool:
        from psycopg import DataError, IntegrityError, NotSupportedError, ProgrammingError, RawCursor

        self._connection.execute(b"SAVEPOINT penstock_value")
        try:
            with RawCursor(self._connection) as cursor:
                cursor.execute(statement.encode(), [value], prepare=False)
        except (DataError, IntegrityError, NotSupportedError, ProgrammingError):
            self._connection.execute(b"ROLLBACK TO SAVEPOINT penstock_value")
            return True
        return False
