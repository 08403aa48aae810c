"""What the server's refusal of a row means, and which event it was.

Source: PostgreSQL manual, appendix A, "PostgreSQL Error Codes"; COPY's context (`COPY orders, line 3, column price: "abc"`),
whose words depend on the server's language, but not its punctuation.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from connectors.sinks._postgres.rows import Op, unwritable
from connectors.sinks._postgres.table import Table
from connectors.sinks._postgres.values import Unfit
from penstock.errors import EnvironmentFault, Permanent
from penstock.postgres import driver

if TYPE_CHECKING:
    import psycopg

_CLASSES = frozenset(("21", "22", "23", "44", "54", "P0"))
"""Cardinality (two rows of one key), data, constraints, a view's check, a limit (a value too long for an index), a trigger."""

_STATEMENT_CLASSES = frozenset(("42", "0A", "3F"))
"""Wrong statements: no such table, column, function or schema; other types; no unique index; not supported. Somebody has altered
the table, or what runs for a row (a trigger, a default, a check, a type) is wrong, or reads the row's value as a name."""

_EXHAUSTED = "2200H"
_FOREIGN_KEY = "23503"
_UNIQUE = ("23505", "23P01")
_NOT_NULL = "23502"
_KEY = re.compile(r"\(([^()]*)\)=\(")
"""A detail's `Key (id)=(1)`, in any language."""

_REFUSED_TRUNCATION = frozenset(("0A000", "42501"))
_POLICY = "42501"
_PLACE = re.compile(r"^COPY .*?, \S+ (\d+)(?:, \S+ ([^:\n]+))?", re.MULTILINE)
_WHOLE_ROW = frozenset((_NOT_NULL, "23514"))
"""Their details show the row's other values, which no message needs."""


class Refused(Exception):
    """The server refuses one of some operations.

    :ivar op: the one, where the server says so.
    :ivar error: its words; None where the text could not even be sent.
    """

    def __init__(self, op: Op | None, error: psycopg.Error | None) -> None:
        super().__init__()
        self.op = op
        self.error = error

    @property
    def column(self) -> str | None:
        """Which it was about, where the server says so."""
        if self.error is None:
            return None
        place = _PLACE.search(self.error.diag.context or "")
        return self.error.diag.column_name or (place[2] if place else None)

    @property
    def signature(self) -> tuple[str | None, ...]:
        """The same for two refusals of the same kind for the same values."""
        error = self.error
        if error is None:
            return ()
        return (error.sqlstate, error.diag.constraint_name, error.diag.message_detail or error.diag.message_primary)

    def may_pass_with(self, table: Table) -> bool:
        """Whether another row of the same table may satisfy what refused this one."""
        state = (self.error.sqlstate if self.error is not None else None) or ""
        if state in _UNIQUE:
            return True
        return table.dependent if state == _FOREIGN_KEY else _is_of_a_trigger(state)

    def may_pass_among(self, table: Table) -> bool:
        """Whether it may be satisfied in one statement, though neither row is accepted without the other."""
        state = (self.error.sqlstate if self.error is not None else None) or ""
        if state in _UNIQUE:
            return table.deferrable
        return table.dependent if state == _FOREIGN_KEY else table.watched and _is_of_a_trigger(state)

    @property
    def of_a_value(self) -> bool:
        """Whether it was a value, and no constraint of the table."""
        error = self.error
        state = (error.sqlstate or "") if error is not None else ""
        of_a_domain = error is not None and state[:2] == "23" and error.diag.datatype_name is not None
        return of_a_domain or state[:2] in ("22", *_STATEMENT_CLASSES)


class Outdated(Exception):
    """The table is no longer what the writer knows; nothing was written. Its cause is the server's error, if there is one."""


@contextmanager
def blaming(ops: Sequence[Op], *, secured: bool = False, unaltered: bool = False) -> Iterator[None]:
    """Inside, what the server refuses of these operations, in their order, becomes `Refused`, or `Outdated`.

    :param secured: policies of the table decide row by row what its user may do.
    :param unaltered: the table is as the statement takes it, so that what is wrong is wrong for a row.
    """
    psycopg = driver()
    try:
        yield
    except Unfit as error:
        raise Refused(None, None) from error
    except UnicodeEncodeError as error:  # psycopg's, of a parameter
        raise Refused(None, None) from error
    except psycopg.Error as error:
        if _is_truncation(ops) and error.sqlstate in _REFUSED_TRUNCATION:
            raise Refused(ops[0], error) from error
        if error.sqlstate == _EXHAUSTED:
            raise EnvironmentFault(
                "sink.sequence_exhausted",
                " ".join((error.diag.message_primary or str(error)).split()),
                help="give its column a larger type and the sequence a higher limit: ALTER SEQUENCE … AS bigint NO MAXVALUE",
            ) from error
        of_a_statement = _is_of_a_statement(error)
        if of_a_statement and not unaltered:
            raise Outdated from error
        if not (of_a_statement or _is_refusal(error) or (secured and error.sqlstate == _POLICY)):
            raise
        place = _PLACE.search(error.diag.context or "")
        line = int(place[1]) if place else 0
        raise Refused(ops[line - 1] if 0 < line <= len(ops) else None, error) from error


def _is_truncation(ops: Sequence[Op]) -> bool:
    return len(ops) == 1 and ops[0].kind == "truncate"


def _is_refusal(error: psycopg.Error) -> bool:
    """Whether a row is to blame. A class that begins with a letter from I on is a trigger's own, but for XX, internal errors."""
    state = error.sqlstate
    if state is None:
        return isinstance(error, driver().DataError)
    return state[:2] in _CLASSES or _is_of_a_trigger(state)


def _is_of_a_trigger(state: str) -> bool:
    """RAISE, and codes of one's own."""
    return "I" <= state[:1] <= "Z" and state[:2] != "XX"


def _is_of_a_statement(error: psycopg.Error) -> bool:
    state = error.sqlstate or ""
    return state[:2] in _STATEMENT_CLASSES and state != _POLICY


def divided(piece: Sequence[Op], refused: Refused) -> list[Sequence[Op]]:
    """Operations of which one is refused, in parts: that one alone, where it is known."""
    middle = len(piece) // 2
    for place, op in enumerate(piece):
        if op is refused.op:
            return [part for part in (piece[:place], piece[place : place + 1], piece[place + 1 :]) if part]
    return [piece[:middle], piece[middle:]]


def reason(refused: Refused, op: Op, table: Table, key: Sequence[str], column: str | None) -> Permanent:
    """Why this operation, alone, is refused.

    :param key: the columns whose conflicts `on_conflict` decides; empty where it does not.
    :param column: whose value it was, where that is known.
    """
    error = refused.error
    if error is None or error.sqlstate is None:
        return unwritable(op) or Permanent("sink.value", f"table {table.name} refuses the row: {error}")
    state, diag = error.sqlstate, error.diag
    said, of_a_statement = " ".join((diag.message_primary or str(error)).split()), _is_of_a_statement(error)
    if op.kind == "truncate":
        return Permanent(
            "sink.truncate", f"table {table.name} was not truncated: {said}", why=_why(error), help=diag.message_hint
        )
    if column and (state[:2] == "22" or of_a_statement):
        return Permanent("sink.value", f"column {column}: {said}", why=_why(error), help=diag.message_hint)
    unique = state in _UNIQUE
    names = [f"{what} {name}" for what, name in (("column", column), ("constraint", diag.constraint_name)) if name]
    place = f" ({', '.join(names)})" if names else ""
    help = diag.message_hint
    if unique and key and _is_about(error, key):
        help = "on_conflict: update or ignore would take it"
    elif state == _NOT_NULL and column in table.required and column not in op.names:
        help = f"only events for rows that are there may leave {column} out: send it, or give the column a default"
    elif of_a_statement:
        help = _OF_A_FUNCTION
    return Permanent(
        "sink.conflict" if unique else "sink.value" if state[:2] == "22" else "sink.constraint",
        f"table {table.name} refuses the row: {said}{place}",
        why=_why(error),
        help=help,
    )


_OF_A_FUNCTION = (
    "mend the trigger, default, check or type whose function it is. Functions run with the ledger's schema as search_path: "
    "have them name schemas, or ALTER FUNCTION … SET search_path = …"
)


def _is_about(error: psycopg.Error, key: Sequence[str]) -> bool:
    found = _KEY.search(error.diag.message_detail or "")
    return found is not None and sorted(found[1].split(", ")) == sorted(key)


def _why(error: psycopg.Error) -> str:
    detail = error.diag.message_detail
    if _is_of_a_statement(error):  # which function it was
        detail = detail or " ".join((error.diag.context or "").split())
    return f"SQLSTATE {error.sqlstate}" + (f": {detail}" if detail and error.sqlstate not in _WHOLE_ROW else "")
