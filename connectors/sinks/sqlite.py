"""The sqlite sink: rows, dedup keys, checkpoint and epoch check in one transaction, so that effects are exactly once.

Collaborators: `_asked` (what an event asks for), `_sqlite.shaping` and `_sqlite.rows` (values), `_sqlite.table` (columns and
statements), `_sqlite.changes` (what is written, and which of two rows is the newer), `penstock.state` (connection, ledger).
Invariants 2, 4, 6, 7, 12 and 13 are enforced there and here.
"""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar

from connectors.sinks._asked import Asked
from connectors.sinks._order import ORDER_COLUMN, order_column
from connectors.sinks._sqlite.changes import Changes, OrderedChanges
from connectors.sinks._sqlite.config import SqliteConfig
from connectors.sinks._sqlite.inspection import Reader, SqliteKeys, SqliteRows, reader_of
from connectors.sinks._sqlite.shaping import Shaping, unfit_for_columns
from connectors.sinks._sqlite.table import Row, Table, Writer, create, load, quote
from connectors.sinks._sqlite.tombstones import Tombstones, collations
from connectors.sinks._table_config import reading, reading_of_keys
from connectors.sinks._table_inspection import KeyInspection, NoTable, RowInspection
from connectors.sinks._table_refusals import refused_without_table
from penstock.errors import BatchError, ComponentError, EnvironmentFault
from penstock.event import Event
from penstock.ledger import Claim, Claimant, Commit
from penstock.places import look_at_file, look_at_room
from penstock.spi import Context, Finding, Inspection, Position
from penstock.state.dialect import transaction
from penstock.state.ledger_tables import LEDGER_SCHEMA, LedgerTables
from penstock.state.migration import migrate
from penstock.state.sqlite_database import Database, Naming

__all__ = ["SqliteConfig", "SqliteSink"]

_REPAIR = "restore the file from a backup; the next run reads again what it lacks, and says so"


@dataclass(frozen=True, slots=True)
class _Known:
    """The table as it was last looked at, and what writes to it."""

    table: Table
    changes: Changes
    shaping: Shaping


class SqliteSink:
    """Rows into a SQLite table, exactly once."""

    name: ClassVar[str] = "sqlite"
    Config: ClassVar[type[SqliteConfig]] = SqliteConfig

    def __init__(self, config: SqliteConfig, context: Context) -> None:
        self._config = config
        self._context = context
        self._key = config.names_of_key
        self._reading = reading(config, context)
        self._order = order_column(config.order_by) if config.order_by else None
        self._path: Path = context.project / config.path
        self._database = Database(self._path, Naming("sink", "the database", _REPAIR))
        self._ledger = LedgerTables(f"{context.pipeline}/{context.component}")
        self._known: _Known | None = None
        self._stale = 0

    @property
    def overwrites(self) -> bool:
        """See `Overwriting`."""
        return self._config.overwrites

    @property
    def stale(self) -> int | None:
        """See `Overwriting`."""
        return None if self._order is None else self._stale

    async def examine(self, checkpoint: Mapping[str, Position]) -> list[Finding]:
        """See `Examined`."""
        found = [look_at_file(self._path, "sink.place", "the database"), look_at_room(self._path, "sink.room")]
        if not self._config.create and not self._path.exists():
            found[0] = Finding.of(self._missing())
        return found

    @asynccontextmanager
    async def inspection(self) -> AsyncIterator[Inspection]:
        """See `Verifying`: rows are looked for by their key, or, without one, by their values."""
        if not self._path.exists():
            yield NoTable(self._missing())
            return
        async with reader_of(self._database) as reader:
            found = await reader.run(lambda connection: load(connection, self._config.table))
            if found is None:
                yield NoTable(self._missing())
            elif self._key:
                keys = await reader.run(partial(self._keys, reader, found))
                reading, why = reading_of_keys(self._config, self._context), f"no row of {found.name} has its key"
                yield KeyInspection(keys, reading, why, removes=self._config.removes)
            else:
                await reader.run(partial(self._check, table=found))
                rows, why = SqliteRows(reader, found), f"no row of {found.name} has its values, or fewer than were delivered"
                yield RowInspection(rows, self._reading, why, removes=self._config.removes)

    def _keys(self, reader: Reader, table: Table, connection: sqlite3.Connection) -> SqliteKeys:
        by = self._check(connection, table)
        writer = Writer(table, self._key, self._config.on_conflict, by)
        if self._order is None:
            return SqliteKeys(reader, table, writer, by, None)
        tombstones = Tombstones(table, self._key, by, self._config.tombstones)
        changes = OrderedChanges(writer, self._order, tombstones if tombstones.are_there(connection) else None)
        return SqliteKeys(reader, table, writer, by, changes)

    async def open(self, recovered: bytes | None) -> None:
        """Connect, bring the ledger's tables up to date, and look at the table.

        :raises Unavailable: `sink.busy`, `sink.no_space`.
        :raises EnvironmentFault: `sink.missing_table`, `sink.unknown_column`, `sink.no_unique_key`, `sink.damaged`,
            `sink.inaccessible` or `state.newer`.
        """
        if not self._config.create and not self._path.exists():
            raise self._missing()
        self._known = await self._database.open(self._prepare, create=self._config.create)

    def _prepare(self, connection: sqlite3.Connection) -> _Known | None:
        found = load(connection, self._config.table)
        if found is None and not self._config.create:  # before the ledger's tables: a wrong database stays as it is
            raise self._missing()
        if found is not None:
            self._check(connection, found)
        migrate(connection, [LEDGER_SCHEMA], self._context.faults)
        if found is None or self._order is None:
            return self._look(connection)
        with transaction(connection):
            return self._look(connection)

    def _look(self, connection: sqlite3.Connection) -> _Known | None:
        """The table as it is now. In a transaction, for it may make the tables of deletions."""
        table = load(connection, self._config.table)
        if table is None:
            return None
        by = self._check(connection, table)
        writer = Writer(table, self._key, self._config.on_conflict, by)
        changes = Changes(writer)
        if self._order is not None:
            tombstones = Tombstones(table, self._key, by, self._config.tombstones)
            changes = OrderedChanges(
                writer, self._order, tombstones if tombstones.prepare(connection, deletes=self._config.removes) else None
            )
        return _Known(table, changes, Shaping(table, self._key))

    def _check(self, connection: sqlite3.Connection, table: Table) -> list[str]:
        """:returns: the collations of the key's columns."""
        ours = (ORDER_COLUMN,) if self._order == ORDER_COLUMN else ()
        wanted = dict.fromkeys((*self._key, *(self._config.columns or ()), *([self._order] if self._order else [])))
        unknown = [name for name in wanted if name not in table.columns]
        if unknown:
            add = f"ALTER TABLE {quote(table.name)} ADD COLUMN {ORDER_COLUMN}, where the order of each row is kept; "
            raise EnvironmentFault(
                "sink.unknown_column",
                f"table {table.name} of {self._path} has no column {', '.join(unknown)} to write to",
                help=(add if set(ours) & set(unknown) else "") + f"it has {', '.join(table.columns)}",
            )
        by = collations(connection, table.name, self._key)
        Writer(table, self._key, self._config.on_conflict, by).check(connection)
        return by

    def _missing(self) -> EnvironmentFault:
        return EnvironmentFault(
            "sink.missing_table",
            f"there is no table {self._config.table} in {self._path}",
            help="make it, or set create: true to have it made with the columns of the first event",
        )

    async def close(self) -> None:
        """Close the connection; harmless when not open."""
        await self._database.close()

    async def claim(self, claimant: Claimant) -> Claim:
        """See `Ledger.claim`."""

        def work(connection: sqlite3.Connection) -> Claim:
            claim = self._ledger.claim(connection, claimant)
            self._context.faults.hit("mid_claim")
            return claim

        return await self._database.write(work)

    async def seen(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        """See `Ledger.seen`."""
        return await self._database.look(lambda connection: self._ledger.seen(connection, keys))

    async def committed(self) -> tuple[int, int]:
        """See `Ledger.committed`."""
        return await self._database.write(self._ledger.committed)  # Invariant 7: behind the lock, though it writes nothing

    async def forget_jobs(self, job: str) -> None:
        """See `Ledger.forget_jobs`."""
        await self._database.write(lambda connection: self._ledger.forget_jobs(connection, job))

    async def commit(self, commit: Commit) -> None:
        """See `Ledger.commit`."""
        await self.write_and_commit([], commit)

    async def write_and_commit(self, events: Sequence[Event], commit: Commit) -> None:
        """See `LedgerSink.write_and_commit`."""
        asked = self._reading.read(events) if events else []
        rows = await self._make_rows(asked) if asked else []
        kinds, now = [kind for kind, _ in asked], self._context.clock.now()
        stale = 0

        def work(connection: sqlite3.Connection) -> None:
            nonlocal stale
            if rows and self._known:
                refused, stale = self._known.changes.put(connection, kinds, rows, now)
                if refused:
                    raise BatchError(refused, nothing_delivered=True)
                self._context.faults.hit("inside_sink_write")
            self._ledger.commit(connection, commit)  # Invariants 2, 4 and 6: in the transaction of the rows
            self._context.faults.hit("inside_commit")

        await self._database.write(work)
        self._stale += stale

    # ---- events to rows

    async def _make_rows(self, asked: Sequence[Asked]) -> list[Row]:
        if self._known is None:
            self._known = await self._database.write(partial(self._create, asked))
        rows, failed = self._shape(asked)
        if any(error.code == "sink.unknown_column" for error in failed.values()):
            known = await self._database.write(self._look)  # somebody may have added the column
            if known and self._known and known.table != self._known.table:
                self._known = known
                rows, failed = self._shape(asked)
        if failed:
            raise BatchError(failed, nothing_delivered=True)
        return rows

    def _shape(self, asked: Sequence[Asked]) -> tuple[list[Row], dict[int, ComponentError]]:
        if self._known is not None:
            return self._known.shaping.shape(asked)
        unfit = partial(unfit_for_columns, key=self._key, declared=self._config.columns is not None)
        return [], refused_without_table(asked, unfit, ordered=self._order is not None)

    def _create(self, asked: Sequence[Asked], connection: sqlite3.Connection) -> _Known | None:
        """Make the table after the first event that can say its columns; None where there is none among these."""
        declared = self._config.columns is not None
        for kind, content in asked:
            if kind != "put" or isinstance(content, ComponentError):
                continue
            if unfit_for_columns(content, self._key, declared=declared) is None:
                create(connection, self._config.table, content, self._key)
                return self._look(connection)
        return None
