"""One pipeline's schema in a PostgreSQL database, as the state store asks it.

Why READ COMMITTED suffices: every write locks one row of `penstock_meta` first, and keeps it to its end. So the writers of one
store stand in a queue, as behind SQLite's `BEGIN IMMEDIATE`; each statement behind the lock sees all that was committed before,
and nothing that it reads can change before it commits. What a lost connection left in doubt is settled before the next writer
gets the lock (Invariant 7). Reads of several statements are REPEATABLE READ.

A connection that was lost is opened anew by the next call, never in mid-transaction.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from penstock.errors import EnvironmentFault, Fatal, Permanent
from penstock.postgres import Session
from penstock.state.dialect import Connection, transaction
from penstock.state.postgres_connection import PostgresConnection

T = TypeVar("T")

_LONGEST_NAME = 63
_LOCK = "SELECT 1 FROM penstock_meta WHERE name = 'state store' FOR UPDATE"
_DURABLY = "SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'"
WHAT = "the state store"


def schema_of(pipeline: str) -> str:
    """The schema of a pipeline's store: no two pipelines have the same, whatever their length (a name holds no `~`)."""
    name = f"penstock_{pipeline}"
    if len(name.encode()) <= _LONGEST_NAME:
        return name
    digest = hashlib.blake2b(pipeline.encode(), digest_size=12).hexdigest()
    return f"{name.encode()[: _LONGEST_NAME - 25].decode(errors='ignore')}~{digest}"


def make_session(dsn: str, pipeline: str, part: str, *, deadline: float | None = None) -> Session:
    """A session that sees the pipeline's schema alone.

    :param part: of the store, as `pg_stat_activity` shows it.
    """
    path = '"' + schema_of(pipeline).replace('"', '""') + '"'  # Invariant 12
    return Session(dsn, what=WHAT, application=f"penstock:{pipeline}/{part}", settings={"search_path": path}, deadline=deadline)


async def ask(session: Session, work: Callable[[Connection], T]) -> T:
    """`work` on the session's thread, after a new connection where the last was lost."""
    if not session.is_open:
        await session.reopen()

    def on_thread(connection: Any) -> T:
        return work(PostgresConnection(connection))

    try:
        return await session.run(on_thread)
    except Permanent as error:  # of the store's own values: no event is to blame
        raise Fatal(error.code, error.message, why=error.why) from error
    except msgspec.MsgspecError as error:
        raise EnvironmentFault(
            "state.damaged", f"{WHAT} holds what nobody wrote", why=str(error), help="restore its schema from a backup"
        ) from error


class PostgresDatabase:
    """`sql_store.Database`: `open` once, then the others in any order, then `close`."""

    def __init__(self, dsn: str, pipeline: str) -> None:
        self._writer = make_session(dsn, pipeline, "state")
        self._reader = make_session(dsn, pipeline, "state reader")

    async def open(self) -> None:
        """Connect; nothing is left open where it raises, so it may be repeated."""
        await self._writer.open()
        try:
            await self.run(lambda db: db.execute(_DURABLY).fetchall())
            await self._reader.open()
        except BaseException:
            await self._writer.close()
            raise

    async def close(self) -> None:
        """Close both connections; harmless when not open."""
        try:
            await self._reader.close()
        finally:
            await self._writer.close()

    async def run(self, work: Callable[[Connection], T]) -> T:
        """`work` in autocommit mode."""
        return await ask(self._writer, work)

    async def write(self, work: Callable[[Connection], T]) -> T:
        """`work` in one transaction, alone: durable on return, or undone; unknown after `Transient`."""

        def transact(db: Connection) -> T:
            with transaction(db):
                db.execute(_LOCK).fetchall()  # Invariant 7
                return work(db)

        return await self.run(transact)

    async def read(self, work: Callable[[Connection], T]) -> T:
        """`work` on one moment's data."""
        return await self.run(lambda db: _and_undo(db, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY", work))

    async def look(self, work: Callable[[Connection], T]) -> T:
        """`work` on what is committed, on a connection of its own."""
        return await ask(self._reader, lambda db: _and_undo(db, "BEGIN", work))


def _and_undo(db: Connection, begin: str, work: Callable[[Connection], T]) -> T:
    db.execute(begin)
    try:
        return work(db)
    finally:
        if db.in_transaction:
            db.execute("ROLLBACK")
