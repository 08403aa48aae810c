"""Whether rows that were delivered are in a SQLite table. Reads on a connection that cannot write, beside a run that does.

A row is compared as the table would hold it: it is put into a table of the same column types in memory, and read from there.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from itertools import islice
from typing import Any, TypeVar

import msgspec

from connectors.sinks._asked import Asked
from connectors.sinks._digests import Wanted
from connectors.sinks._sqlite.changes import OrderedChanges
from connectors.sinks._sqlite.shaping import Shaping
from connectors.sinks._sqlite.table import Row, Table, Writer, quote
from connectors.sinks._table_inspection import Digest
from penstock.errors import Permanent
from penstock.state.sqlite_database import Database

T = TypeVar("T")

_BUSY_TIMEOUT = 5.0
_ROWS_AT_ONCE = 10_000
_STEPS = 100_000
"""Of SQLite's virtual machine, after which it looks whether to go on: about a millisecond."""

_FOLD: Mapping[str, Callable[[bytes], bytes] | None] = {
    "BINARY": None,
    "NOCASE": bytes.lower,
    "RTRIM": lambda text: text.rstrip(b" "),
}
"""By collation, what makes the same of texts that it takes for equal."""

_encode = msgspec.msgpack.Encoder().encode


class Reader:
    """A connection on a thread of its own.

    :ivar memory: a database beside it that can be written, used inside of `run`.
    """

    memory: sqlite3.Connection

    def __init__(self, database: Database, executor: ThreadPoolExecutor) -> None:
        self._database = database
        self._executor = executor
        self._connection: sqlite3.Connection | None = None
        self._closing = False

    async def run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """`work(connection)`, which sees one moment."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, self._run, work)

    def _run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        with self._database.errors():
            connection = self._connection or self._connect()
            connection.execute("BEGIN")
            try:
                return work(connection)
            finally:
                connection.execute("ROLLBACK")

    def _connect(self) -> sqlite3.Connection:
        """Opened for writing, though nothing can be written: who opens a WAL database for reading alone leaves files behind."""
        uri = f"{self._database.path.absolute().as_uri()}?mode=rw"
        connection = sqlite3.connect(uri, uri=True, isolation_level=None, timeout=_BUSY_TIMEOUT)
        connection.execute("PRAGMA query_only = ON")
        connection.set_progress_handler(lambda: self._closing, _STEPS)
        self.memory = sqlite3.connect(":memory:", isolation_level=None)
        self.memory.text_factory = bytes
        self._connection = connection
        return connection

    async def close(self) -> None:
        """What is under way is broken off."""
        self._closing = True
        if self._connection is not None:
            for connection in (self._connection, self.memory):
                await asyncio.get_running_loop().run_in_executor(self._executor, connection.close)


@asynccontextmanager
async def reader_of(database: Database) -> AsyncIterator[Reader]:
    """Connected at the first `run`."""
    executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"sqlite inspection {database.path.name}")
    reader = Reader(database, executor)
    try:
        yield reader
    finally:
        await reader.close()
        executor.shutdown(wait=False)


class _Mirror:
    """A table in memory with the column types of the sink's: gives rows back as that would hold them. Used inside of `run`."""

    def __init__(self, reader: Reader, table: Table) -> None:
        self._reader = reader
        self._table = table
        self._names: tuple[str, ...] | None = None

    def stored(self, names: tuple[str, ...], rows: Sequence[Sequence[Any]]) -> list[tuple[Any, ...]]:
        """Text as its bytes, for some may be no UTF-8."""
        connection = self._reader.memory
        if names != self._names:
            kinds = [self._table.columns[name].declared for name in names]
            columns = ", ".join(f"c{place} {quote(kind) if kind else ''}" for place, kind in enumerate(kinds))
            connection.execute("DROP TABLE IF EXISTS mirror")
            connection.execute(f"CREATE TABLE mirror ({columns})")
            self._names = names
        connection.execute("BEGIN")
        connection.executemany(f"INSERT INTO mirror VALUES ({', '.join('?' * len(names))})", rows)  # noqa: S608 - question marks
        found = connection.execute("SELECT * FROM mirror ORDER BY rowid").fetchall()
        connection.execute("ROLLBACK")
        return found


class _Looking:
    """What both ways to look have in common."""

    def __init__(self, reader: Reader, table: Table, shaping: Shaping) -> None:
        self._reader = reader
        self._mirror = _Mirror(reader, table)
        self._shaping = shaping

    def _shape(self, contents: Sequence[Mapping[str, Any]], kind: Any) -> tuple[list[Row], list[Digest | None]]:
        """Rows, and by index why there is none."""
        asked: list[Asked] = [(kind, content) for content in contents]
        rows, failed = self._shaping.shape(asked)
        return rows, [failed.get(index) for index in range(len(contents))]


class SqliteKeys(_Looking):
    """See `Keys`.

    :param collations: of the key's columns where they are unique.
    :param changes: where rows have an order.
    """

    def __init__(
        self,
        reader: Reader,
        table: Table,
        writer: Writer,
        collations: Sequence[str],
        changes: OrderedChanges | None,
    ) -> None:
        super().__init__(reader, table, Shaping(table, writer.key))
        self._writer = writer
        self._changes = changes
        self._folds = [_FOLD.get(collation, lambda text: b"") for collation in collations]
        self._there = f"SELECT 1 FROM {quote(table.name)} WHERE {writer.same}"  # noqa: S608 - quoted

    async def missing(self, contents: Sequence[Mapping[str, Any]]) -> list[Digest | None]:
        """See `Keys`."""
        rows, found = self._shape(contents, "put")

        def work(connection: sqlite3.Connection) -> None:
            absent: list[Row] = []
            for row in rows:
                if connection.execute(self._there, self._key(row)).fetchone() is None:
                    try:
                        if self._changes is None or not self._changes.is_stale(connection, row):
                            absent.append(row)
                    except Permanent as error:
                        found[row[0]] = error
            for row, digest in zip(absent, self._digests(absent), strict=True):
                found[row[0]] = digest

        await self._reader.run(work)
        return found

    async def digests(self, contents: Sequence[Mapping[str, Any]]) -> list[Digest]:
        """See `Keys`."""
        rows, found = self._shape(contents, "delete")

        def work(connection: sqlite3.Connection) -> None:
            for row, digest in zip(rows, self._digests(rows), strict=True):
                found[row[0]] = digest

        await self._reader.run(work)
        return [each for each in found if each is not None]

    def _key(self, row: Row) -> list[Any]:
        _, names, values = row
        return [values[names.index(name)] for name in self._writer.key]

    def _digests(self, rows: Sequence[Row]) -> list[int]:
        """Numbers that are equal have the same hash, whatever their class; texts are made the same by their collation."""
        stored = self._mirror.stored(self._writer.key, [self._key(row) for row in rows])
        return [hash(tuple(map(_folded, key, self._folds))) for key in stored]


class SqliteRows(_Looking):
    """See `Rows`."""

    def __init__(self, reader: Reader, table: Table) -> None:
        super().__init__(reader, table, Shaping(table, ()))
        self._table = table

    async def digests(self, names: tuple[str, ...], contents: Sequence[Mapping[str, Any]]) -> list[Digest]:
        """See `Rows`."""
        rows, found = self._shape(contents, "put")

        def work(connection: sqlite3.Connection) -> None:
            stored = self._mirror.stored(names, [values for _, _, values in rows]) if rows else []
            for row, values in zip(rows, stored, strict=True):
                found[row[0]] = hash(_encode(values))

        await self._reader.run(work)
        return [each for each in found if each is not None]

    async def see(self, names: tuple[str, ...], wanted: Wanted) -> None:
        """See `Rows`. In one go, so that all rows are of one moment; closing the reader breaks it off."""
        columns = ", ".join(map(quote, names))

        def work(connection: sqlite3.Connection) -> None:
            connection.text_factory = bytes
            cursor = connection.execute(f"SELECT {columns} FROM {quote(self._table.name)}")  # noqa: S608 - quoted
            while wanted.left and (rows := list(islice(cursor, _ROWS_AT_ONCE))):
                for row in rows:
                    wanted.see(hash(_encode(row)))

        await self._reader.run(work)


def _folded(value: Any, fold: Callable[[bytes], bytes] | None) -> Any:
    return fold(value) if fold is not None and isinstance(value, bytes) else value
