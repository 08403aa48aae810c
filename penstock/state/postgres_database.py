"""One pipeline's schema in a PostgreSQL database, as the state store asks it.

Why READ COMMITTED suffices: every write locks one row of `penstock_meta` first, and keeps it to its end. So the writers of one
store stand in a queue, as behind SQLite's `BEGIN IMMEDIATE`; each statement behind the lock sees all that was committed before,
and nothing that it reads can change before it commits. What a lost connection left in doubt is settled before the next writer
gets the lock (Invariant 7). Reads of several statements are REPEATABLE READ.

A connection that was lost is opened anew by the next call, never in mid-transaction. Where that happened during a COMMIT, a call
that is repeated asks the server what became of the transaction, so that it is done once (`write_once`).

A run that was stopped in mid-transaction, or whose machine vanished, keeps the lock until the server gives it up: after
`IDLE_TIMEOUT`, so that a stand-by need not wait for longer than for its lease.

Source: PostgreSQL documentation, "Transaction Isolation", "System Information Functions" (`txid_status`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import msgspec

from penstock.errors import EnvironmentFault, Fatal, Permanent
from penstock.postgres import Session
from penstock.state.dialect import Connection, transaction
from penstock.state.postgres_connection import PostgresConnection

T = TypeVar("T")

_LONGEST_NAME = 63
IDLE_TIMEOUT = 3.0
"""Seconds that a transaction may stand still between two statements, as many as a lease lasts without a move."""

ANSWER_TIMEOUT = 30.0
"""Seconds without an answer, after which a connection counts as lost: as many as a machine that vanished is given."""

_SETTINGS = {
    "default_transaction_isolation": "read committed",
    "default_transaction_read_only": "off",
    "idle_in_transaction_session_timeout": f"{IDLE_TIMEOUT:g}s",
}
_LOCK = (  # Invariant 7; and how the transaction is found again
    "SELECT txid_current(), substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8) "
    "FROM penstock_meta WHERE name = 'state store' FOR UPDATE"
)
_DURABLY = "SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'"
WHAT = "the state store"


def schema_of(pipeline: str) -> str:
    """The schema of a pipeline's store: no two pipelines have the same, whatever their length (a name holds no `~`)."""
    name = f"penstock_{pipeline}"
    if len(name.encode()) <= _LONGEST_NAME:
        return name
    digest = hashlib.blake2b(pipeline.encode(), digest_size=12).hexdigest()
    return f"{name.encode()[: _LONGEST_NAME - 25].decode(errors='ignore')}~{digest}"


def make_session(dsn: str, pipeline: str, part: str, *, deadline: float = ANSWER_TIMEOUT) -> Session:
    """A session that sees the pipeline's schema alone, whatever its user, its database or its server have as defaults.

    :param part: of the store, as `pg_stat_activity` shows it.
    :param deadline: seconds for a statement.
    """
    path = '"' + schema_of(pipeline).replace('"', '""') + '"'  # Invariant 12
    return Session(
        dsn,
        what=WHAT,
        application=f"penstock:{pipeline}/{part}",
        parameters={"client_encoding": "utf8"},
        settings={"search_path": path, **_SETTINGS},
        first=[_DURABLY],
        deadline=deadline,
    )


async def ask(session: Session, work: Callable[[Connection], T], *, hurried: bool = True) -> T:
    """`work` on the session's thread, after a new connection where the last was lost. `hurried`: see `Session.run`."""
    if not session.is_open:
        await session.reopen()

    def on_thread(connection: Any) -> T:
        return work(PostgresConnection(connection, session.progress))

    try:
        return await session.run(on_thread, hurried=hurried)
    except Permanent as error:  # of the store's own values: no event is to blame
        raise Fatal(error.code, error.message, why=error.why) from error
    except msgspec.MsgspecError as error:
        raise damaged(str(error)) from error


def damaged(why: str) -> EnvironmentFault:
    """`state.damaged`."""
    return EnvironmentFault(
        "state.damaged", f"{WHAT} does not hold what was written to it", why=why, help="restore its schema from a backup"
    )


@dataclass(frozen=True, slots=True)
class _Mark:
    """By which a transaction is found again.

    :ivar timeline: of the server's history. After a failover or a restore the same number is another transaction's.
    """

    number: int
    timeline: str


@dataclass(frozen=True, slots=True)
class _Doubt:
    """A COMMIT that may not have been answered."""

    call: object
    mark: _Mark
    result: Any


class PostgresDatabase:
    """`sql_store.Database`: `open` once, then the others in any order, then `close`."""

    def __init__(self, dsn: str, pipeline: str) -> None:
        self._writer = make_session(dsn, pipeline, "state")
        self._reader = make_session(dsn, pipeline, "state reader")
        self._doubts: list[_Doubt] = []

    async def open(self, *, one: bool = False) -> None:
        """Connect; nothing is left open where it raises, so it may be repeated.

        :param one: with one connection, for who commits nothing that a `look` could have to wait for.
        """
        await self._writer.open()
        if one:
            self._reader = self._writer
            return
        try:
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

    async def prepare(self, work: Callable[[Connection], T]) -> T:
        """As `run`, for what makes or migrates tables: that takes as long as it takes."""
        return await ask(self._writer, work, hurried=False)

    async def write(self, work: Callable[[Connection], T]) -> T:
        """`work` in one transaction, alone: durable on return, or undone; unknown after `Transient`."""

        def transact(db: Connection) -> T:
            with transaction(db):
                _lock(db)
                return work(db)

        return await self.run(transact)

    async def write_once(self, call: object, work: Callable[[Connection], T]) -> T:
        """As `write`, and after `Transient` it may be repeated: what was done is not done again.

        :param call: compared; no two calls have the same but a call and its repetitions.
        :raises EnvironmentFault: `state.unknown`: the server cannot say what became of the last attempt.
        """

        def transact(db: Connection) -> T:
            with transaction(db):
                mark = _lock(db)
                for doubt in self._doubts:
                    if doubt.call == call and _stands(db, doubt.mark, mark):
                        return cast(T, doubt.result)
                result = work(db)
                self._doubts = [*self._without(call), _Doubt(call, mark, result)]
            return result

        result = await self.run(transact)
        self._doubts = self._without(call)
        return result

    def _without(self, call: object) -> list[_Doubt]:
        return [doubt for doubt in self._doubts if doubt.call != call]

    async def read(self, work: Callable[[Connection], T]) -> T:
        """`work` on one moment's data."""
        return await self.run(lambda db: _and_undo(db, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY", work))

    async def look(self, work: Callable[[Connection], T]) -> T:
        """`work` on what is committed, on a connection of its own."""
        return await ask(self._reader, lambda db: _and_undo(db, "BEGIN", work))


def _lock(db: Connection) -> _Mark:
    """No other writer until this transaction ends; one in doubt has ended before (Invariant 7)."""
    row = db.execute(_LOCK).fetchone()
    if row is None:
        raise damaged("its version is gone")
    return _Mark(*row)


def _stands(db: Connection, then: _Mark, now: _Mark) -> bool:
    """Whether a transaction of this session was committed."""
    status = db.execute("SELECT txid_status(?)", (then.number,)).fetchone()[0] if then.timeline == now.timeline else None
    if status is None:
        raise EnvironmentFault(
            "state.unknown",
            f"{WHAT} did not answer a commit, and cannot say what became of it",
            why="the server has been replaced or restored meanwhile",
            help="start the run again: it reads what stands, and goes on from there",
        )
    return bool(status == "committed")


def _and_undo(db: Connection, begin: str, work: Callable[[Connection], T]) -> T:
    db.execute(begin)
    try:
        return work(db)
    finally:
        if db.in_transaction:
            db.execute("ROLLBACK")
