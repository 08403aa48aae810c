"""A psycopg connection as the SQL modules take one: their text translated, and every string stored.

PostgreSQL's text holds no NUL, which JSON and SQLite hold: it travels as an escape (`_ESCAPE` and a letter), and comes back as it
was. The order of strings that hold a NUL is not kept, nor needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from penstock.state.dialect import Parameters, to_postgres

if TYPE_CHECKING:
    import psycopg

_IDLE = 0
"""libpq's PQTRANS_IDLE."""

_FEW = 4
"""Rows up to which a statement for each is quicker than the driver's pipeline."""

_ESCAPE = "\U0010fffe"


def _nothing() -> None:
    """Nobody watches the statements."""


class PostgresConnection:
    """`dialect.Connection` over a psycopg connection, on whose thread it is used. Transactions are the caller's.

    :param answered: called after each statement.
    """

    def __init__(self, connection: psycopg.Connection[Any], answered: Callable[[], None] = _nothing) -> None:
        self._connection = connection
        self._answered = answered

    @property
    def in_transaction(self) -> bool:
        """False where the connection was lost: the server has undone what was not committed."""
        return not self._connection.closed and self._connection.info.transaction_status != _IDLE

    def execute(self, sql: str, parameters: Parameters = (), /) -> _Cursor:
        cursor = self._connection.execute(to_postgres(sql).encode(), _stored(parameters))
        self._answered()
        return _Cursor(cursor)

    def executemany(self, sql: str, parameters: Iterable[Parameters], /) -> None:
        rows = list(parameters)
        if len(rows) <= _FEW:
            for row in rows:
                self.execute(sql, row)
            return
        with self._connection.cursor() as cursor:
            cursor.executemany(to_postgres(sql).encode(), [_stored(row) for row in rows])
        self._connection.execute(b"")  # the driver ends with a Flush, which does not start idle_in_transaction_session_timeout
        self._answered()


class _Cursor:
    def __init__(self, cursor: psycopg.Cursor[Any]) -> None:
        self._cursor = cursor

    @property
    def rowcount(self) -> int:
        return self._cursor.rowcount

    def fetchone(self) -> Any:
        row = self._cursor.fetchone()
        return None if row is None else _shown(row)

    def fetchall(self) -> list[Any]:
        return [_shown(row) for row in self._cursor.fetchall()]


def _stored(parameters: Parameters) -> Parameters:
    if isinstance(parameters, Mapping):
        return {name: _escaped(value) for name, value in parameters.items()}
    return [_escaped(value) for value in parameters]


def _escaped(value: Any) -> Any:
    if isinstance(value, str):
        if "\x00" in value or _ESCAPE in value:
            return value.replace(_ESCAPE, _ESCAPE + "e").replace("\x00", _ESCAPE + "0")
    elif isinstance(value, list):
        return [_escaped(one) for one in value]
    return value


def _shown(row: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple([_plain(value) if isinstance(value, str) and _ESCAPE in value else value for value in row])


def _plain(text: str) -> str:
    return text.replace(_ESCAPE + "0", "\x00").replace(_ESCAPE + "e", _ESCAPE)
