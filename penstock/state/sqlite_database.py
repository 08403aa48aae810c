"""One SQLite connection on one thread of its own, and what its errors mean to the engine.

Shared by the state store and by the sqlite sink. Every write is one `BEGIN IMMEDIATE … COMMIT`, flushed to the disk before it
returns (WAL, `synchronous=FULL`). SQLite undoes a transaction whose COMMIT it reports as failed, so within one process an error
means that nothing was written; what a crash leaves behind is read by the next claim.

Source: sqlite.org, "Result and Error Codes", "Write-Ahead Logging", "Atomic Commit".
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec

from penstock.errors import ComponentError, EnvironmentFault, Fatal, Unavailable
from penstock.files import DISK_FULL, make_directory_durably
from penstock.state.dialect import transaction

T = TypeVar("T")

BUSY_TIMEOUT = 5.0
"""Seconds that a statement waits for another process before it is reported."""

_PRAGMAS = (
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = FULL",
    "PRAGMA temp_store = MEMORY",
    "PRAGMA cache_size = -4000",  # KiB; more gained nothing, with keys in order or at random
    "PRAGMA journal_size_limit = 16777216",  # bytes; a WAL that a full disk or a long reader let grow shrinks again
)

_MAKE_SPACE = "make space on its disk; it goes on by itself"
_CHECK_PATH = "check path and permissions"

_BUSY = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})
_NO_SPACE = frozenset({sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_PROTOCOL})
_DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_CLOSED_TO_US = frozenset({sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH})


@dataclass(frozen=True, slots=True)
class Naming:
    """How errors name this database: codes begin with `prefix`, messages with `what`; `repair` says what to do about damage."""

    prefix: str
    what: str
    repair: str


class Database:
    """`open` once, then any number of `run` and `write` (one at a time, in the order of the calls), then `close`.

    `look` reads beside them, on a connection and a thread of its own, so that it never waits for a commit's disk.

    A cancelled caller leaves its call to finish in the thread: the work is then done, or not, as a whole.
    """

    def __init__(self, path: Path, naming: Naming, *, busy_timeout: float = BUSY_TIMEOUT) -> None:
        self.path = path
        self._naming = naming
        self._busy_timeout = busy_timeout
        self._executor: ThreadPoolExecutor | None = None
        self._connection: sqlite3.Connection | None = None
        self._watcher: _Watcher | None = None

    async def open(self, prepare: Callable[[sqlite3.Connection], T], *, create: bool) -> T:
        """Connect, and run `prepare` (checks and migrations) before anything is changed in the file.

        :param create: make the file, and the directories above it, where they are missing.
        :raises Unavailable: busy or no space; nothing is left open, so the call may be repeated.
        :raises EnvironmentFault: `PREFIX.damaged`, `PREFIX.inaccessible`, or what `prepare` raises.
        """
        executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"sqlite {self.path.name}")
        try:
            result = await asyncio.get_running_loop().run_in_executor(executor, self._open, prepare, create)
        except BaseException:
            executor.shutdown(wait=False)
            raise
        self._executor = executor
        return result

    def _open(self, prepare: Callable[[sqlite3.Connection], T], create: bool) -> T:
        mode = "rwc" if create else "rw"
        if create:
            self._make_directory()
        with self.errors():
            connection = sqlite3.connect(
                f"{self.path.absolute().as_uri()}?mode={mode}", uri=True, isolation_level=None, timeout=self._busy_timeout
            )
            try:
                result = prepare(connection)
                for pragma in _PRAGMAS:
                    connection.execute(pragma)
            except BaseException:
                connection.close()
                raise
        self._connection = connection
        return result

    def _make_directory(self) -> None:
        """SQLite syncs the entries of its own files, not that of the directory they are in."""
        try:
            make_directory_durably(self.path.parent)
        except OSError as error:
            prefix, what = self._naming.prefix, f"the directory {self.path.parent} cannot be made: {error.strerror}"
            if error.errno in DISK_FULL:
                raise Unavailable(f"{prefix}.no_space", what, help=_MAKE_SPACE) from error
            raise EnvironmentFault(f"{prefix}.inaccessible", what, help=_CHECK_PATH) from error

    async def close(self) -> None:
        """Close the connection; harmless when it is not open."""
        executor, connection, watcher = self._executor, self._connection, self._watcher
        self._executor = self._connection = self._watcher = None
        if watcher is not None:
            await watcher.close()
        if executor is None or connection is None:
            return
        await asyncio.get_running_loop().run_in_executor(executor, connection.close)
        executor.shutdown(wait=False)

    async def run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """`work(connection)` on the thread. SQLite's errors come out classified."""
        if self._executor is None or self._connection is None:
            raise Fatal(f"{self._naming.prefix}.closed", f"{self._naming.what} {self.path} is not open")
        return await asyncio.get_running_loop().run_in_executor(self._executor, self._run, work, self._connection)

    async def write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """`work(connection)` inside one transaction: all of it is durable on return, or none of it."""

        def transact(connection: sqlite3.Connection) -> T:
            with transaction(connection):
                return work(connection)

        return await self.run(transact)

    async def look(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """`work(connection)` on what is committed now, all of one moment, beside a commit that may be under way."""
        if self._connection is None:
            raise Fatal(f"{self._naming.prefix}.closed", f"{self._naming.what} {self.path} is not open")
        if self._watcher is None:
            self._watcher = _Watcher(self.path, self._busy_timeout)
        with self.errors():
            return await self._watcher.run(work)

    async def read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """`work(connection)` with several statements that all see the same moment."""

        def look(connection: sqlite3.Connection) -> T:
            connection.execute("BEGIN")
            try:
                return work(connection)
            finally:
                connection.execute("ROLLBACK")

        return await self.run(look)

    def _run(self, work: Callable[[sqlite3.Connection], T], connection: sqlite3.Connection) -> T:
        with self.errors():
            return work(connection)

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Inside, `sqlite3.Error` becomes a `ComponentError`, and so does what a stored value cannot be read for."""
        try:
            yield
        except sqlite3.Error as error:
            raise self.classify(error) from error
        except (UnicodeDecodeError, msgspec.MsgspecError) as error:
            raise self._damaged(error) from error

    def _damaged(self, error: Exception) -> EnvironmentFault:
        naming = self._naming
        return EnvironmentFault(
            f"{naming.prefix}.damaged", f"{naming.what} {self.path} is damaged", why=str(error), help=naming.repair
        )

    def classify(self, error: sqlite3.Error) -> ComponentError:
        """What the engine should do about an error of SQLite."""
        prefix, what = self._naming.prefix, f"{self._naming.what} {self.path}"
        primary = (getattr(error, "sqlite_errorcode", None) or sqlite3.SQLITE_ERROR) & 0xFF
        if primary in _BUSY:
            return Unavailable(
                f"{prefix}.busy", f"{what} is locked by another process", why=str(error), help="it goes on when the other ends"
            )
        if primary in _NO_SPACE:
            return Unavailable(f"{prefix}.no_space", f"{what} cannot be written: {error}", help=_MAKE_SPACE)
        if primary in _DAMAGED:
            return self._damaged(error)
        if primary in _CLOSED_TO_US:
            return EnvironmentFault(
                f"{prefix}.inaccessible",
                f"{what} cannot be opened for writing",
                why=str(error),
                help=_CHECK_PATH,
            )
        return Fatal(f"{prefix}.failed", f"{what} refused a statement: {error}")


class _Watcher:
    """A read-only connection on its own thread, opened when it is first used (WAL: readers and the writer do not wait)."""

    def __init__(self, path: Path, busy_timeout: float) -> None:
        self._path = path
        self._busy_timeout = busy_timeout
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"sqlite reader {path.name}")
        self._connection: sqlite3.Connection | None = None

    async def run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, self._run, work)

    def _run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        if self._connection is None:
            self._connection = sqlite3.connect(
                f"{self._path.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None, timeout=self._busy_timeout
            )
        self._connection.execute("BEGIN")
        try:
            return work(self._connection)
        finally:
            self._connection.execute("ROLLBACK")

    async def close(self) -> None:
        if self._connection is not None:
            await asyncio.get_running_loop().run_in_executor(self._executor, self._connection.close)
        self._executor.shutdown(wait=False)
