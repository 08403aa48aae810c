"""Whether rows that were delivered are in a PostgreSQL table. Reads on a connection whose transactions are read-only.

The server compares, and makes the digests, of parameters as of rows of the table: so a value is the same where it is the same to
the table, whatever its text. Each look is one statement, which sees one moment; none stays open between two.

Source: PostgreSQL manual, COPY ("COPY TO"), SET TRANSACTION ("READ ONLY").
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from connectors._postgres import make_session, quoted
from connectors.sinks._asked import Asked, Kind
from connectors.sinks._digests import Wanted
from connectors.sinks._postgres import ledger
from connectors.sinks._postgres.conditions import buried, order_in, same_key, unnest
from connectors.sinks._postgres.config import PostgresSinkConfig, order_of
from connectors.sinks._postgres.doctor import WHAT
from connectors.sinks._postgres.events import Shaping
from connectors.sinks._postgres.ordering import Ordering, ordering_there
from connectors.sinks._postgres.rows import Column, Op, array_text
from connectors.sinks._postgres.table import Table, check_grants
from connectors.sinks._table_config import reading, reading_of_keys
from connectors.sinks._table_inspection import Digest, KeyInspection, NoTable, RowInspection
from penstock.errors import ComponentError, Permanent
from penstock.inspection import Inspection
from penstock.postgres import Session
from penstock.spi import Context

if TYPE_CHECKING:
    import psycopg

DEADLINE = 300.0
"""Seconds for which the server may say nothing."""

_READ_ONLY = {
    "default_transaction_read_only": "on",
    "enable_hashjoin": "off",  # keys are looked up through their index, however many rows the table has
    "enable_mergejoin": "off",
}
_ROWS_AT_ONCE = 10_000
_AS_TEXT = frozenset((16, 17, 18, 19, 20, 21, 23, 26, 28, 29, 1082, 1083, 1114, 1184, 2950, 3220, 5069))
"""OIDs of types whose equal values have equal texts."""
_STRINGS = frozenset((25, 1042, 1043))
_NUMERIC, _FLOATS = 1700, frozenset((700, 701))


@asynccontextmanager
async def inspection(
    config: PostgresSinkConfig, context: Context, look: Callable[[psycopg.Connection[Any]], Table | None], missing: ComponentError
) -> AsyncIterator[Inspection]:
    """See `Verifying`.

    :param look: the table as it is, once it was found to be what the configuration says.
    :param missing: where it is not there.
    """
    settings = {**ledger.settings(config.ledger_schema), **_READ_ONLY}
    session = make_session(config, context, what=WHAT, settings=settings, deadline=DEADLINE)
    await session.open()
    try:
        table = await session.run(look)
        if table is None:
            yield NoTable(missing)
        else:
            yield await session.run(partial(_into, session, table, config, context))
    finally:
        await session.close()


def _into(
    session: Session, table: Table, config: PostgresSinkConfig, context: Context, connection: psycopg.Connection[Any]
) -> Inspection:
    check_grants(connection, table, ["SELECT"])
    hidden = ", or row security hides it" if table.row_security else ""
    seed = context.random.getrandbits(62)
    if not config.key:
        why = f"no row of {table.name} has its values, or fewer than were delivered{hidden}"
        return RowInspection(PostgresRows(session, table, seed), reading(config, context), why, removes=config.removes)
    order, ordering = order_of(config), None
    if order is not None:
        ordering = ordering_there(connection, table, config.names_of_key, order, config.ledger_schema)
    keys = PostgresKeys(session, table, config, ordering, seed)
    why = f"no row of {table.name} has its key{hidden}"
    return KeyInspection(keys, reading_of_keys(config, context), why, removes=config.removes)


class _Looking:
    """What both ways to look have in common."""

    def __init__(self, session: Session, table: Table, shaping: Shaping) -> None:
        self._session = session
        self._table = table
        self._shaping = shaping

    async def _answers(
        self, kind: Kind, contents: Sequence[Mapping[str, Any]], statement: Callable[[tuple[str, ...]], str]
    ) -> list[Digest | None]:
        """By content, what the statement says of the number of its row; None where it says nothing.

        :param statement: of the columns of the parameters; gives the numbers of rows, from 1 on, each with a digest.
        """
        asked: list[Asked] = [(kind, content) for content in contents]
        ops, failed = self._shaping.shape(asked)
        found: dict[int, Digest] = dict(failed)
        shapes: dict[tuple[str, ...], list[Op]] = {}
        for op in ops:
            shapes.setdefault(op.names, []).append(op)
        for names, some in shapes.items():
            found |= await self._session.run(partial(_ask, statement(names), some))
        return [found.get(place) for place in range(len(contents))]


class PostgresKeys(_Looking):
    """See `Keys`.

    :param seed: of the digests.
    """

    def __init__(self, session: Session, table: Table, config: PostgresSinkConfig, ordering: Ordering | None, seed: int) -> None:
        super().__init__(session, table, Shaping(table, config.names_of_key, config.on_conflict, ordering))
        self._key = config.names_of_key
        self._ordering = ordering
        self._seed = seed

    async def missing(self, contents: Sequence[Mapping[str, Any]]) -> list[Digest | None]:
        """See `Keys`."""
        return await self._answers("put", contents, lambda names: f"{self._select(names)} WHERE {self._absent(names)}")

    async def digests(self, contents: Sequence[Mapping[str, Any]]) -> list[Digest]:
        """See `Keys`."""
        return [each for each in await self._answers("delete", contents, self._select) if each is not None]

    def _select(self, names: tuple[str, ...]) -> str:
        columns = self._table.columns
        parts = [self._comparable(columns[name], f"k.c{names.index(name)}::{columns[name].type}") for name in self._key]
        digest = _digest([part for part in parts if part is not None], self._seed)
        return f"SELECT k.n, {digest} FROM {unnest(_columns(self._table, self._ordering, names), ordinality=True)}"  # noqa: S608 - quoted

    def _absent(self, names: tuple[str, ...]) -> str:
        same = same_key(self._table, self._key, names)
        absent = f"NOT EXISTS (SELECT FROM {self._table.sql} AS t WHERE {same})"
        ordering = self._ordering
        if ordering is None or ordering.tombstones is None:
            return absent
        new, grave = order_in(ordering, names), buried(self._table, self._key, names)
        newer = ordering.compare('b."order"', ">", new)
        return (
            f"{absent} AND {ordering.survives(new)} "
            f"AND NOT EXISTS (SELECT FROM {ordering.tombstones} AS b WHERE {grave} AND {newer})"
        )

    def _comparable(self, column: Column, value: str) -> str | None:
        """What is the same for all values that the key takes for one; None where nothing is known: the key then counts as equal
        in this column, so that some deletions excuse more than they removed."""
        text = f"({value})::pg_catalog.text"
        if column.oid in _AS_TEXT or (column.oid in _STRINGS and column.name not in self._table.collated):
            return text
        if column.oid == _NUMERIC:
            return f"pg_catalog.regexp_replace({text}, '(\\.[0-9]*[1-9])0+$|\\.0*$', '\\1')"
        return f"({value})::pg_catalog.float8 OPERATOR(pg_catalog.+) 0" if column.oid in _FLOATS else None


class PostgresRows(_Looking):
    """See `Rows`.

    :param seed: of the digests.
    """

    def __init__(self, session: Session, table: Table, seed: int) -> None:
        super().__init__(session, table, Shaping(table, (), "error"))
        self._seed = seed

    async def digests(self, names: tuple[str, ...], contents: Sequence[Mapping[str, Any]]) -> list[Digest]:
        """See `Rows`."""
        return [each for each in await self._answers("put", contents, self._select) if each is not None]

    def _select(self, names: tuple[str, ...]) -> str:
        columns = _columns(self._table, None, names)
        digest = _digest([f"k.c{place}::{column.type}" for place, column in enumerate(columns)], self._seed)
        return f"SELECT k.n, {digest} FROM {unnest(columns, ordinality=True)}"  # noqa: S608 - names are quoted

    async def see(self, names: tuple[str, ...], wanted: Wanted) -> None:
        """See `Rows`. Closing the session breaks it off."""
        digest = _digest([f"t.{quoted(name)}" for name in names], self._seed)
        statement = f"COPY (SELECT {digest} FROM {self._table.sql} AS t) TO STDOUT"  # noqa: S608 - names are quoted

        def work(connection: psycopg.Connection[Any]) -> None:
            with connection.cursor() as cursor, cursor.copy(statement.encode()) as copy:
                for count, line in enumerate(copy):
                    if not wanted.left:
                        break
                    wanted.see(int(bytes(line)))
                    if count % _ROWS_AT_ONCE == 0:
                        self._session.progress()

        await self._session.run(work)


def _columns(table: Table, ordering: Ordering | None, names: Sequence[str]) -> list[Column]:
    return [ordering.column if ordering and name == ordering.column.name else table.columns[name] for name in names]


def _digest(values: Sequence[str], seed: int) -> str:
    """Of these values, in SQL."""
    return f'pg_catalog.hashtextextended((ROW({", ".join(values)})::pg_catalog.text) COLLATE pg_catalog."C", {seed})'


def _ask(statement: str, ops: Sequence[Op], connection: psycopg.Connection[Any]) -> dict[int, Digest]:
    """By event, what the statement says of its row. Of several, one that the server cannot read costs no other."""
    from psycopg import RawCursor, errors

    try:
        values = [array_text(column) for column in zip(*[op.row for op in ops], strict=True)]
        found = RawCursor(connection).execute(statement.encode(), values).fetchall()
    except (errors.DataError, errors.IntegrityError, UnicodeEncodeError) as error:
        if len(ops) == 1:
            return {ops[0].event: _unreadable(error)}
        half = len(ops) // 2
        return _ask(statement, ops[:half], connection) | _ask(statement, ops[half:], connection)
    return {ops[number - 1].event: digest for number, digest in found}


def _unreadable(error: Exception) -> Permanent:
    return Permanent("sink.value", "the server cannot read a value of the event", why=type(error).__name__)
