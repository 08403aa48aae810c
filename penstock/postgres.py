"""PostgreSQL from one thread: the driver, a session, and what its errors mean to the engine.

Shared by the state store and the connectors. psycopg is imported when a session is opened, never before (extra
`penstock[postgres]`). Calls block in a thread that the session owns, so that the event loop goes on.

Source: psycopg documentation, "Transactions management"; PostgreSQL documentation, "Database Connection Control Functions".
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from penstock._postgres_errors import classify, invalid_dsn
from penstock.errors import Fatal, MissingExtra, Transient

if TYPE_CHECKING:
    import psycopg

__all__ = ["Session", "classify", "driver", "errors"]

T = TypeVar("T")

CONNECT_TIMEOUT = 10
"""Seconds for one address of the server."""

_CANCEL_TIMEOUT = 2.0
_LONGEST_NAME = 63
_KEEPALIVE: Mapping[str, Any] = {
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,  # ms: a machine that vanished is noticed, whatever was under way
}


def driver(component: str = "postgres") -> Any:
    """The module `psycopg`.

    :param component: named by the error.
    :raises MissingExtra: it is not installed.
    """
    try:
        import psycopg
    except ImportError as error:
        raise MissingExtra(component, "postgres") from error
    return psycopg


@contextmanager
def errors(what: str) -> Iterator[None]:
    """Inside, a `psycopg.Error` becomes a `ComponentError`."""
    psycopg = driver()
    try:
        yield
    except psycopg.Error as error:
        raise classify(error, what) from error


class Session:
    """One synchronous connection in autocommit mode, in one thread of its own: `open`, any number of `run`, `close`.

    A connection that was lost stays lost until `reopen`: every `run` then raises `Transient`, and where it was lost during a
    COMMIT the outcome is unknown. A cancelled caller leaves its call to finish in the thread.

    :param dsn: libpq's URI or keywords. Never shown.
    :param what: names the database in messages.
    :param application: as `pg_stat_activity` shows it.
    :param parameters: further connection parameters, such as `sslmode`, over those of the DSN.
    :param settings: set when the connection begins, such as `{"TimeZone": "UTC"}`.
    :param deadline: seconds for one call; after them the connection is cut, and the call raises `Transient`.
    """

    def __init__(
        self,
        dsn: str,
        *,
        what: str,
        application: str,
        parameters: Mapping[str, Any] | None = None,
        settings: Mapping[str, str] | None = None,
        deadline: float | None = None,
    ) -> None:
        self.what = what
        self._dsn = dsn
        self._application = application
        self._parameters = dict(parameters or {})
        self._settings = dict(settings or {})
        self._deadline = deadline
        self._executor: ThreadPoolExecutor | None = None
        self._connection: psycopg.Connection[Any] | None = None
        self._under_way = 0
        self._cut = False

    @property
    def is_open(self) -> bool:
        """Whether there is a connection that was not lost, as far as is known."""
        return self._connection is not None and not self._connection.closed

    async def open(self) -> None:
        """Connect.

        :raises MissingExtra: psycopg is not installed.
        :raises Transient: the server is not there; nothing is left open, so the call may be repeated.
        :raises EnvironmentFault: `postgres.refused`, `postgres.invalid_dsn`.
        """
        if self._executor is None:
            self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="postgres session")
        try:
            await self._call(self._connect)
        except BaseException:
            if self._executor is not None:
                self._executor.shutdown(wait=False)
                self._executor = None
            raise

    async def reopen(self) -> None:
        """Connect anew, whatever the old connection had under way. After an error it may be called again."""
        await self._call(self._connect)

    async def run(self, work: Callable[[psycopg.Connection[Any]], T]) -> T:
        """`work(connection)` on the thread, errors classified. A transaction that it begins it must end."""
        return await self._call(lambda: work(self._live()))

    async def close(self) -> None:
        """Close the connection; harmless when not open. A call that is still under way is ended."""
        executor, self._executor = self._executor, None
        if executor is None:
            return
        if self._under_way:
            await asyncio.to_thread(self._cancel)
        await asyncio.get_running_loop().run_in_executor(executor, self._disconnect)
        executor.shutdown(wait=False)

    async def _call(self, work: Callable[[], T]) -> T:
        if self._executor is None:
            raise Fatal("postgres.closed", f"{self.what} is not open")
        call = asyncio.get_running_loop().run_in_executor(self._executor, self._classified, work)
        timer = None if self._deadline is None else asyncio.get_running_loop().call_later(self._deadline, self._cut_off)
        try:
            return await call
        finally:
            if timer is not None:
                timer.cancel()

    def _classified(self, work: Callable[[], T]) -> T:
        psycopg = driver()
        self._under_way += 1
        try:
            return work()
        except psycopg.Error as error:
            if self._cut:
                raise Transient("postgres.timeout", f"{self.what} did not answer within {self._deadline:g} s") from error
            if self._connection is not None and self._connection.closed:
                raise Transient(
                    "postgres.connection_lost", f"{self.what}: the connection was lost", why=type(error).__name__
                ) from error
            raise classify(error, self.what) from error
        finally:
            self._under_way -= 1
            self._cut = False

    def _live(self) -> psycopg.Connection[Any]:
        if self._connection is None or self._connection.closed:
            raise Transient("postgres.connection_lost", f"{self.what}: the connection was lost")
        return self._connection

    def _connect(self) -> None:
        self._disconnect()
        psycopg = driver()
        given = _parameters(self._dsn)
        if given is None:
            raise invalid_dsn(self.what)
        parameters = {"connect_timeout": CONNECT_TIMEOUT, **_KEEPALIVE, **given, **self._parameters}
        parameters["application_name"] = self._application.encode()[:_LONGEST_NAME].decode(errors="ignore")
        connection = psycopg.connect(**parameters, autocommit=True)
        try:
            for name, value in self._settings.items():
                connection.execute("SELECT pg_catalog.set_config(%s, %s, false)", (name, value))
        except BaseException:
            connection.close()
            raise
        self._connection = connection

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _cut_off(self) -> None:
        """On the event loop's thread, while a call blocks: end its wait for the server."""
        connection = self._connection
        if connection is None or connection.closed:
            return
        self._cut = True
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(connection.pgconn.socket)) as line:
            line.shutdown(socket.SHUT_RDWR)

    def _cancel(self) -> None:
        connection = self._connection
        if connection is None or connection.closed:
            return
        with contextlib.suppress(driver().Error):
            connection.cancel_safe(timeout=_CANCEL_TIMEOUT)
        if self._under_way:
            self._cut_off()


def _parameters(dsn: str) -> dict[str, Any] | None:
    """None where it cannot be read: the driver's error quotes it, so nothing may chain to that (Invariant 9)."""
    psycopg = driver()
    try:
        return dict(psycopg.conninfo.conninfo_to_dict(dsn))
    except psycopg.Error:
        return None
