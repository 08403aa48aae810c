"""The replication connection: psycopg's pq layer on the event loop.

    wire = await Wire.connect(target)
    await wire.start(slot, lsn, options)
    while (data := wire.receive()) is not None: …       # what has arrived; then
    await wire.readable(10.0)

Everything happens on the loop's thread, so that status messages go out while a batch is being made downstream.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from connectors._pg_types import SESSION_SETTINGS
from connectors.sources._pg_replication import lsn_text, standby_status
from penstock._postgres_errors import classify, invalid_dsn
from penstock.errors import ComponentError, Transient
from penstock.postgres import driver

if TYPE_CHECKING:
    import psycopg

COMPONENT = "postgres_cdc"
WHAT = "the source database"
BUSY_SECONDS = 10.0
"""How long another connection is given to leave the slot: that of a run that has just ended does at once."""
_BUSY = "55006"


class Target(msgspec.Struct, frozen=True):
    """Where to connect, and as what.

    :ivar parameters: of libpq, over those of the DSN.
    """

    dsn: str
    application: str
    parameters: Mapping[str, str]


class SlotBusy(Transient):
    """Another connection reads the slot."""


class Wire:
    """One replication connection: `connect`, then `query` or `start`, in the end `close`."""

    def __init__(self, connection: psycopg.AsyncConnection[Any]) -> None:
        self._connection = connection
        self._pgconn = connection.pgconn
        self._get = connection.pgconn.get_copy_data
        self._error: type[psycopg.Error] = driver(COMPONENT).Error
        self._loop = asyncio.get_running_loop()
        self._arrived = asyncio.Event()
        self._writing = False

    @classmethod
    async def connect(cls, target: Target) -> Wire:
        """:raises ComponentError: as `classify` says."""
        psycopg = driver(COMPONENT)
        settings = [f"-c {name}={value}" for name, value in SESSION_SETTINGS.items()]
        try:
            given = psycopg.conninfo.conninfo_to_dict(target.dsn, **target.parameters)
            options = [str(given.get("options") or os.environ.get("PGOPTIONS", "")), *settings]  # of two the last one counts
            own = {"replication": "database", "application_name": target.application[:63], "options": " ".join(options)}
            connection = await psycopg.AsyncConnection.connect(**{"connect_timeout": 10, **given, **own}, autocommit=True)
        except psycopg.ProgrammingError:  # its text quotes the DSN (Invariant 9)
            raise invalid_dsn(WHAT) from None
        except psycopg.Error as error:
            raise classify(error, WHAT) from error
        except asyncio.CancelledError as error:
            raise error.with_traceback(None) from None  # its frames hold half a connection, for which a server waits a minute
        return cls(connection)

    @property
    def server_version(self) -> int:
        """Such as 180004."""
        return int(self._pgconn.server_version)

    async def query(self, command: str) -> tuple[Any, ...]:
        """The row that a replication command answers; none of one that only does something.

        :raises ComponentError: as `classify` says.
        """
        psycopg = driver(COMPONENT)
        try:
            cursor = await self._connection.execute(command.encode())
            row = await cursor.fetchone() if cursor.description else None
        except psycopg.Error as error:
            raise classify(error, WHAT) from error
        return row or ()

    async def start(self, slot: str, lsn: int, options: Sequence[tuple[str, str]]) -> None:
        """START_REPLICATION; from now on `receive`.

        :param slot: its name, of letters, digits and underscores.
        :raises SlotBusy: another connection reads it.
        """
        quoted = ", ".join(f"{name} '{value}'" for name, value in options)
        command = f'START_REPLICATION SLOT "{slot}" LOGICAL {lsn_text(lsn)} ({quoted})'
        psycopg = driver(COMPONENT)
        try:
            self._pgconn.send_query(command.encode())
            self._pgconn.nonblocking = 1
            self._flush()
            while self._pgconn.is_busy():
                if not await self.readable(30.0):
                    raise Transient("source.silent", "the source database did not begin to send within 30 s")
            result = self._pgconn.get_result()
            if result is None or result.status != psycopg.pq.ExecStatus.COPY_BOTH:
                raise psycopg.errors.error_from_result(result)
        except psycopg.Error as error:
            if error.sqlstate == _BUSY:
                raise SlotBusy("slot.busy", f"the slot {slot} is in use", why=error.diag.message_primary) from error
            raise classify(error, WHAT) from error

    def receive(self) -> memoryview | None:
        """One CopyData payload; None where no whole one has arrived.

        :raises ComponentError: the stream has ended: Transient where the connection was lost.
        """
        try:
            count, data = self._get(1)
            if count == 0:
                self._pgconn.consume_input()
                count, data = self._get(1)
            if count > 0:
                return data
            if count == 0:
                return None
            psycopg = driver(COMPONENT)
            result = self._pgconn.get_result()
            if result is not None and result.status == psycopg.pq.ExecStatus.FATAL_ERROR:
                raise psycopg.errors.error_from_result(result)
        except self._error as error:
            raise self._lost(error) from error
        raise Transient("source.disconnected", "the source database ended the stream")

    async def readable(self, seconds: float) -> bool:
        """Wait for bytes, and take them in; False where none came in that time.

        :raises Transient: the connection is lost.
        """
        psycopg = driver(COMPONENT)
        try:
            socket = self._pgconn.socket
            self._arrived.clear()
            self._loop.add_reader(socket, self._arrived.set)
            try:
                async with asyncio.timeout(seconds):
                    await self._arrived.wait()
            except TimeoutError:
                return False
            finally:
                self._loop.remove_reader(socket)
            self._pgconn.consume_input()
        except psycopg.Error as error:
            raise self._lost(error) from error
        return True

    def send_status(self, written: int, flushed: int, moment: int, reply: bool = False) -> None:
        """The standby status update.

        :param moment: microseconds since 2000-01-01 UTC.
        :raises Transient: the connection is lost.
        """
        psycopg = driver(COMPONENT)
        try:
            self._pgconn.put_copy_data(standby_status(written, flushed, flushed, moment, reply))
            self._flush()
        except psycopg.Error as error:
            raise self._lost(error) from error

    def _flush(self) -> None:
        """Send; what the socket does not take now goes when it does."""
        left = self._pgconn.flush()
        if bool(left) is not self._writing:
            self._writing = bool(left)
            if left:
                self._loop.add_writer(self._pgconn.socket, self._flush_more)
            else:
                self._loop.remove_writer(self._pgconn.socket)

    def _flush_more(self) -> None:
        psycopg = driver(COMPONENT)
        try:
            self._flush()
        except psycopg.Error:  # whoever reads learns of it, and says so
            self._loop.remove_writer(self._pgconn.socket)
            self._writing = False

    async def close(self) -> None:
        """At once: the server notices, and frees the slot."""
        if self._writing:
            self._loop.remove_writer(self._pgconn.socket)
            self._writing = False
        await self._connection.close()

    def _lost(self, error: psycopg.Error) -> ComponentError:
        if error.sqlstate is None:
            return Transient(
                "source.disconnected", "the connection to the source database was lost", why=" ".join(str(error).split())
            )
        return classify(error, WHAT)
