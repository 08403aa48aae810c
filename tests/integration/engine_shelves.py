"""Where tests of the engine deliver to: sinks without a ledger that keep all in memory, and a real SQLite table with one."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import msgspec
from engine_records import PartConfig, at
from pydantic import BaseModel

from penstock.errors import BatchError, ComponentError, Permanent
from penstock.event import Event
from penstock.faults import Faults
from penstock.ledger import Claim, Claimant, Commit
from penstock.spi import Context
from penstock.state.ledger_tables import LEDGER_SCHEMA, LedgerTables
from penstock.state.migration import migrate
from penstock.state.sqlite_database import Database, Naming

Plan = Callable[[Sequence[Event]], None]


def take_all(events: Sequence[Event]) -> None:
    """A plan: nothing fails."""


@dataclass
class Shelf:
    """What a sink without a ledger has delivered: (id, data) in order. `plan` is called with each write, and may raise."""

    taken: list[tuple[str, Any]] = field(default_factory=list)
    plan: Plan = take_all
    flush_errors: list[Exception] = field(default_factory=list)
    writes: list[int] = field(default_factory=list)
    opened: list[bytes | None] = field(default_factory=list)
    rollbacks: int = 0

    @property
    def ids(self) -> list[str]:
        return [identity for identity, _ in self.taken]


class ShelfSink:
    """Delivers for good at once, as a message to a server does."""

    name: ClassVar[str] = "shelf"
    Config: ClassVar[type[BaseModel]] = PartConfig

    def __init__(self, config: PartConfig, context: Context) -> None:
        self.shelf: Shelf = config.of
        self.context = context

    async def open(self, recovered: bytes | None) -> None:
        self.shelf.opened.append(recovered)

    async def write(self, events: Sequence[Event]) -> None:
        shelf = self.shelf
        shelf.writes.append(len(events))
        try:
            shelf.plan(events)
        except BatchError as error:
            left = {*error.failed, *error.not_attempted}
            if not error.nothing_delivered:
                shelf.taken += [(event.id, event.data) for place, event in enumerate(events) if place not in left]
            raise
        shelf.taken += [(event.id, event.data) for event in events]

    async def flush(self) -> bytes | None:
        if self.shelf.flush_errors:
            raise self.shelf.flush_errors.pop(0)
        return None

    async def close(self) -> None:
        pass


class TapeSink(ShelfSink):
    """Delivers onto a tape whose length is committed, and which is cut back to it: a file, in short."""

    name: ClassVar[str] = "tape"

    def __init__(self, config: PartConfig, context: Context) -> None:
        super().__init__(config, context)
        self._flushed = 0

    async def open(self, recovered: bytes | None) -> None:
        await super().open(recovered)
        if recovered is not None:
            self._cut(recovered)
        self._flushed = len(self.shelf.taken)

    async def flush(self) -> bytes | None:
        await super().flush()
        self._flushed = len(self.shelf.taken)
        return at(self._flushed)

    async def rollback(self, recovered: bytes | None = None) -> None:
        self.shelf.rollbacks += 1
        self._cut(at(self._flushed) if recovered is None else recovered)

    def _cut(self, length: bytes) -> None:
        del self.shelf.taken[int.from_bytes(length, "big") :]


@dataclass
class Table:
    """A SQLite table of (id, data) with a ledger beside it.

    :ivar refused: ids that can never go in.
    :ivar before, after: raised by `write_and_commit` before and after its transaction, one a call.
    :ivar slow: each commit waits for it; `waiting` says that one does.
    """

    path: Path
    refused: set[str] = field(default_factory=set)
    before: list[Exception] = field(default_factory=list)
    after: list[Exception] = field(default_factory=list)
    commits: list[Commit] = field(default_factory=list)
    slow: asyncio.Event | None = None
    waiting: bool = False

    def query(self, statement: str) -> list[tuple[Any, ...]]:
        if not self.path.exists():
            return []
        connection = sqlite3.connect(self.path)
        try:
            return connection.execute(statement).fetchall()
        finally:
            connection.close()

    @property
    def rows(self) -> list[tuple[str, Any]]:
        return [(identity, msgspec.json.decode(data)) for identity, data in self.query("SELECT id, data FROM rows ORDER BY n")]

    @property
    def ids(self) -> list[str]:
        return [identity for identity, _ in self.rows]


class TableSink:
    """Rows, keys, positions and epoch in one transaction."""

    name: ClassVar[str] = "table"
    Config: ClassVar[type[BaseModel]] = PartConfig

    def __init__(self, config: PartConfig, context: Context) -> None:
        self.table: Table = config.of
        self._database = Database(self.table.path, Naming("sink", "the table", "make it again"))
        self._ledger = LedgerTables(f"{context.pipeline}/{context.component}")

    async def open(self, recovered: bytes | None) -> None:
        def prepare(db: sqlite3.Connection) -> None:
            migrate(db, [LEDGER_SCHEMA], Faults())
            db.execute("CREATE TABLE IF NOT EXISTS rows (n INTEGER PRIMARY KEY, id TEXT NOT NULL, data BLOB NOT NULL)")

        await self._database.open(prepare, create=True)

    async def close(self) -> None:
        await self._database.close()

    async def claim(self, claimant: Claimant) -> Claim:
        return await self._database.write(lambda db: self._ledger.claim(db, claimant))

    async def seen(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        return await self._database.read(lambda db: self._ledger.seen(db, keys))

    async def committed(self) -> tuple[int, int]:
        return await self._database.write(self._ledger.committed)

    async def forget_jobs(self, job: str) -> None:
        await self._database.write(lambda db: self._ledger.forget_jobs(db, job))

    async def commit(self, commit: Commit) -> None:
        await self.write_and_commit([], commit)

    async def write_and_commit(self, events: Sequence[Event], commit: Commit) -> None:
        table = self.table
        refused = {n: bad(event.id) for n, event in enumerate(events) if event.id in table.refused}
        if refused:
            raise BatchError(refused, nothing_delivered=True)
        if table.before:
            raise table.before.pop(0)

        def work(db: sqlite3.Connection) -> None:
            db.executemany("INSERT INTO rows (id, data) VALUES (?, ?)", [(event.id, event.json()) for event in events])
            self._ledger.commit(db, commit)

        await self._database.write(work)
        table.commits.append(commit)
        if table.slow is not None:
            table.waiting = True
            await table.slow.wait()
        if table.after:
            raise table.after.pop(0)


def bad(identity: str) -> ComponentError:
    """A refusal that stays."""
    return Permanent("row.refused", f"{identity} does not fit")


def refusing(*refused: str) -> Plan:
    """A plan that names what it refuses, and takes the others of that write."""

    def plan(events: Sequence[Event]) -> None:
        failed = {n: bad(event.id) for n, event in enumerate(events) if event.id in refused}
        if failed:
            raise BatchError(failed)

    return plan
