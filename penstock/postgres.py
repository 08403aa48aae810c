"""PostgreSQL from one thread: the driver, a session, and what its errors mean to the engine.

Shared by the state store and the connectors. psycopg is imported when a session is opened, never before (extra
`penstock[postgres]`). Calls block in a thread that the session owns, so that the event loop goes on.

Source: psycopg documentation, "Transactions management"; PostgreSQL documentation, "Database Connection Control Functions".
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from penstock._postgres_errors import classify, invalid_dsn
from penstock.errors import Fatal, MissingExtra, Transient

if TYPE_CHECKING:
    import psycopg

__all__ = ["Session", "classify", "driver", "errors"]

T = TypeVar("T")

CONNECT_TIMEOUT = 10
"""Seconds for one address of the server; fewer where a call's deadline is shorter."""

_SHORTEST_CONNECT_TIMEOUT = 2  # libpq takes 1 for 2

_CANCEL_TIMEOUT = 2.0
_LONGEST_NAME = 63
_NO_PIPELINE = 0
"""libpq's PQ_PIPELINE_OFF."""
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


@dataclass(slots=True)
class _Call:
    """One call on the session's thread.

    :ivar since: when it began there, or last made progress; None: it waits for those before it.
    :ivar cut: its connection was cut at its deadline.
    """

    since: float | None = None
    cut: bool = False
    timer: asyncio.TimerHandle | None = None


class Session:
    """One synchronous connection in autocommit mode, in one thread of its own: `open`, any number of `run`, `close`.

    A connection that was lost stays lost until `reopen`: every `run` then raises `Transient`, and where it was lost during a
    COMMIT the outcome is unknown. A cancelled caller leaves its call to finish in the thread.

    :param dsn: libpq's URI or keywords. Never shown.
    :param what: names the database in messages.
    :param application: as `pg_stat_activity` shows it.
    :param parameters: further connection parameters, such as `sslmode`, over those of the DSN.
    :param settings: set when the connection begins, such as `{"TimeZone": "UTC"}`.
    :param first: statements that a connection begins with, after its settings.
    :param deadline: seconds for one call, from its start on the thread, or since its last `progress`; after them the connection
        is cut, and the call raises `Transient`.
    """

    def __init__(
        self,
        dsn: str,
        *,
        what: str,
        application: str,
        parameters: Mapping[str, Any] | None = None,
        settings: Mapping[str, str] | None = None,
        first: Sequence[str] = (),
        deadline: float | None = None,
    ) -> None:
        self.what = what
        self._dsn = dsn
        self._application = application
        self._parameters = dict(parameters or {})
        self._settings = dict(settings or {})
        self._first = tuple(first)
        self._deadline = deadline
        self._executor: ThreadPoolExecutor | None = None
        self._leaving: Future[None] | None = None  # ends with the last connection of the executor before
        self._connection: psycopg.Connection[Any] | None = None
        self._current: _Call | None = None
        self._turn = threading.Lock()  # a call ends, or is cut off, never both

    @property
    def is_open(self) -> bool:
        """Whether there is a connection that was not lost, as far as is known."""
        return self._connection is not None and not self._connection.closed

    async def open(self) -> None:
        """Connect. Where the caller is cancelled, nothing stays open: the connection that is being made is closed in its thread.

        :raises MissingExtra: psycopg is not installed.
        :raises Transient: the server is not there; nothing is left open, so the call may be repeated.
        :raises EnvironmentFault: `postgres.refused`, `postgres.invalid_dsn`.
        """
        if self._executor is None:
            await self._left()
            self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="postgres session")
        try:
            await self._call(self._connect)
        except BaseException:
            self._leave()
            raise

    async def reopen(self) -> None:
        """Connect anew, whatever the old connection had under way. After an error it may be called again."""
        await self._call(self._connect)

    async def run(self, work: Callable[[psycopg.Connection[Any]], T], *, hurried: bool = True) -> T:
        """`work(connection)` on the thread, errors classified. A transaction that it begins it must end.

        :param hurried: False: it may take longer than the deadline, as a migration does.
        """
        return await self._call(lambda: work(self._live()), hurried=hurried)

    def progress(self) -> None:
        """Called by `work` on the thread: its deadline counts anew, for the server has answered."""
        if self._current is not None:
            self._current.since = time.monotonic()

    async def close(self) -> None:
        """Close the connection; harmless when not open. A call that is still under way is ended. Where the caller is cancelled,
        the connection is closed all the same, in its thread."""
        self._leave()
        if self._current is not None:
            await asyncio.to_thread(self._cancel)
        await self._left()

    def _leave(self) -> None:
        """Let go of the thread: behind what it has under way it closes the connection."""
        executor, self._executor = self._executor, None
        if executor is not None:
            self._leaving = executor.submit(self._disconnect)
            executor.shutdown(wait=False)

    async def _left(self) -> None:
        """Until the connection of a thread that was let go of is closed; a caller who is cancelled does not keep it open."""
        if self._leaving is not None:
            await asyncio.shield(asyncio.wrap_future(self._leaving))

    async def _call(self, work: Callable[[], T], *, hurried: bool = True) -> T:
        if self._executor is None:
            raise Fatal("postgres.closed", f"{self.what} is not open")
        call = _Call()
        job = self._executor.submit(self._classified, work, call)
        if self._deadline is not None and hurried:
            self._watch(call, job, self._deadline, self._deadline)
        try:
            return await asyncio.wrap_future(job)
        finally:
            if call.timer is not None and job.done():  # one that a cancelled caller leaves behind keeps its deadline
                call.timer.cancel()

    def _watch(self, call: _Call, job: Future[Any], deadline: float, seconds: float) -> None:
        call.timer = asyncio.get_running_loop().call_later(seconds, self._look_at, call, job, deadline)

    def _look_at(self, call: _Call, job: Future[Any], deadline: float) -> None:
        if job.done():
            return
        left = deadline if call.since is None else call.since + deadline - time.monotonic()
        if left <= 0:
            self._cut_off(call)
        self._watch(call, job, deadline, left if left > 0 else deadline)

    def _classified(self, work: Callable[[], T], call: _Call) -> T:
        psycopg = driver()
        call.since = time.monotonic()
        self._current = call
        try:
            return work()
        except psycopg.Error as error:
            if call.cut:
                raise Transient("postgres.timeout", f"{self.what} did not answer within {self._deadline:g} s") from error
            if self._connection is not None and _is_spoilt(self._connection, error):
                self._connection.close()
                raise Transient(
                    "postgres.connection_lost", f"{self.what}: the connection was lost", why=type(error).__name__
                ) from error
            raise classify(error, self.what) from error
        finally:
            with self._turn:
                self._current = None

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
        parameters = {"connect_timeout": self._connect_timeout(), **_KEEPALIVE, **given, **self._parameters}
        parameters["application_name"] = self._application.encode()[:_LONGEST_NAME].decode(errors="ignore")
        self._connection = connection = psycopg.connect(**parameters, autocommit=True)
        try:
            for name, value in self._settings.items():
                connection.execute("SELECT pg_catalog.set_config(%s, %s, false)", (name, value))
            for statement in self._first:
                connection.execute(statement.encode())
        except BaseException:
            self._disconnect()
            raise

    def _connect_timeout(self) -> int:
        if self._deadline is None:
            return CONNECT_TIMEOUT
        return min(CONNECT_TIMEOUT, max(_SHORTEST_CONNECT_TIMEOUT, math.ceil(self._deadline)))

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _cut_off(self, call: _Call) -> None:
        """On another thread, while a call blocks: end its wait for the server."""
        with self._turn:
            connection = self._connection
            if self._current is not call or connection is None or connection.closed:
                return
            call.cut = True
            with (
                contextlib.suppress(OSError, driver().Error),
                socket.socket(fileno=os.dup(connection.pgconn.socket)) as line,
            ):
                line.shutdown(socket.SHUT_RDWR)

    def _cancel(self) -> None:
        connection = self._connection
        if connection is None or connection.closed:
            return
        with contextlib.suppress(driver().Error):
            connection.cancel_safe(timeout=_CANCEL_TIMEOUT)
        if (call := self._current) is not None:
            self._cut_off(call)


def _is_spoilt(connection: psycopg.Connection[Any], error: psycopg.Error) -> bool:
    """Whether nothing more can be asked of a connection after an error: it is lost; or libpq itself refuses to send, which it
    then does for ever; or the server ended the session among statements that were sent at once."""
    psycopg = driver()
    refused_to_send = isinstance(error, psycopg.OperationalError) and error.sqlstate is None
    return connection.closed or refused_to_send or connection.pgconn.pipeline_status != _NO_PIPELINE


def _parameters(dsn: str) -> dict[str, Any] | None:
    """None where it cannot be read: the driver's error quotes it, so nothing may chain to that (Invariant 9)."""
    psycopg = driver()
    try:
        return dict(psycopg.conninfo.conninfo_to_dict(dsn))
    except psycopg.Error:
        return None
