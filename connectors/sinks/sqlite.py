"""The sqlite sink: rows, dedup keys, checkpoint and epoch check in one transaction, so that effects are exactly once.

Collaborators: `_sqlite_rows` (values), `_sqlite_table` (columns and statements), `penstock.state` (connection, ledger tables).
Invariants 2, 4, 6, 7, 12 and 13 are enforced there and here.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from connectors.sinks._sqlite_rows import Rows
from connectors.sinks._sqlite_table import Row, Table, Writer, create, load
from penstock.config.base import ComponentConfig, DataField, ProjectPath
from penstock.errors import BatchError, ComponentError, EnvironmentFault, Permanent
from penstock.event import Event
from penstock.ledger import Claim, Claimant, Commit
from penstock.places import look_at_file, look_at_room
from penstock.spi import Context, Finding, Position
from penstock.state.ledger_tables import LEDGER_SCHEMA, LedgerTables
from penstock.state.migration import migrate
from penstock.state.sqlite_database import Database, Naming

_REPAIR = "restore the file from a backup; the next run reads again what it lacks, and says so"
_LONGEST_NAME = 63


class SqliteConfig(ComponentConfig):
    """Fields of the sqlite sink."""

    path: ProjectPath = Field(description="Database file, relative to the project.", examples=["out/orders.db"])
    table: str = Field(description="Table that takes the rows.", min_length=1, max_length=_LONGEST_NAME, examples=["orders"])
    key: list[str] | None = Field(
        default=None, min_length=1, description="Columns that identify a row; without them rows are appended.", examples=[["id"]]
    )
    on_conflict: Literal["update", "ignore", "error"] = Field(
        default="update", description="What a row does whose key is there already; `error` makes a dead letter of its event."
    )
    columns: dict[str, DataField] | None = Field(
        default=None,
        min_length=1,
        description="jq per column, over the data with `$event`. Without it, each key of the data fills the column of its name, "
        "and a key that an event lacks leaves its column alone. Objects and lists are stored as JSON text, true and false as 1 "
        "and 0, a number in a TEXT column as its JSON text.",
        examples=[{"id": "$event.id", "total": ".total"}],
    )
    create: bool = Field(
        default=False,
        description="Make database and table where they are missing, with the columns and types of the first event.",
    )

    @model_validator(mode="before")
    @classmethod
    def _not_yet(cls, values: Any) -> Any:
        if isinstance(values, Mapping) and "order_by" in values:
            raise ValueError("order_by is not supported yet: rows are written in the order in which their events are read")
        return values

    @field_validator("table")
    @classmethod
    def _not_reserved(cls, table: str) -> str:
        if "\0" in table or table.lower().startswith(("sqlite_", "penstock_")):
            raise ValueError("the name belongs to SQLite or to the ledger: choose another")
        return table

    @model_validator(mode="after")
    def _key_goes_together(self) -> SqliteConfig:
        missing = [name for name in self.key or () if self.columns is not None and name not in self.columns]
        if missing:
            raise ValueError(f"key names columns that are not under columns: {', '.join(missing)}")
        if self.key is None and "on_conflict" in self.model_fields_set:
            raise ValueError("on_conflict needs a key; without one, rows are appended")
        return self


class SqliteSink:
    """Rows into a SQLite table, exactly once."""

    name: ClassVar[str] = "sqlite"
    Config: ClassVar[type[SqliteConfig]] = SqliteConfig

    def __init__(self, config: SqliteConfig, context: Context) -> None:
        self._config = config
        self._context = context
        self._key = tuple(config.key or ())
        self._program = context.expressions.fields(config.columns, "data") if config.columns else None
        self._path: Path = context.project / config.path
        self._database = Database(self._path, Naming("sink", "the database", _REPAIR))
        self._ledger = LedgerTables(f"{context.pipeline}/{context.component}")
        self._writer: Writer | None = None
        self._rows: dict[tuple[str, ...], Rows] = {}

    async def examine(self, checkpoint: Mapping[str, Position]) -> list[Finding]:
        """See `Examined`."""
        found = [look_at_file(self._path, "sink.place", "the database"), look_at_room(self._path, "sink.room")]
        if not self._config.create and not self._path.exists():
            found[0] = Finding.of(self._missing())
        return found

    async def open(self, recovered: bytes | None) -> None:
        """Connect, bring the ledger's tables up to date, and look at the table.

        :raises Unavailable: `sink.busy`, `sink.no_space`.
        :raises EnvironmentFault: `sink.missing_table`, `sink.unknown_column`, `sink.no_unique_key`, `sink.damaged`,
            `sink.inaccessible` or `state.newer`.
        """
        if not self._config.create and not self._path.exists():
            raise self._missing()
        self._use(await self._database.open(self._prepare, create=self._config.create))

    def _prepare(self, connection: sqlite3.Connection) -> Writer | None:
        writer = self._look(connection)
        if writer is None and not self._config.create:  # before the ledger's tables: a wrong database stays as it is
            raise self._missing()
        migrate(connection, [LEDGER_SCHEMA], self._context.faults)
        return writer

    def _look(self, connection: sqlite3.Connection) -> Writer | None:
        table = load(connection, self._config.table)
        if table is None:
            return None
        unknown = [name for name in (*self._key, *(self._config.columns or ())) if name not in table.columns]
        if unknown:
            raise EnvironmentFault(
                "sink.unknown_column",
                f"table {table.name} of {self._path} has no column {', '.join(dict.fromkeys(unknown))} to write to",
                help=f"it has {', '.join(table.columns)}",
            )
        writer = Writer(table, self._key, self._config.on_conflict)
        writer.check(connection)
        return writer

    def _missing(self) -> EnvironmentFault:
        return EnvironmentFault(
            "sink.missing_table",
            f"there is no table {self._config.table} in {self._path}",
            help="make it, or set create: true to have it made with the columns of the first event",
        )

    def _use(self, writer: Writer | None) -> None:
        self._writer = writer
        self._rows.clear()

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
        rows = await self._make_rows(events) if events else []

        def work(connection: sqlite3.Connection) -> None:
            if rows and self._writer:
                refused = self._writer.put(connection, rows)
                if refused:
                    raise BatchError(refused, nothing_delivered=True)
                self._context.faults.hit("inside_sink_write")
            self._ledger.commit(connection, commit)  # Invariants 2, 4 and 6: in the transaction of the rows
            self._context.faults.hit("inside_commit")

        await self._database.write(work)

    # ---- events to rows

    async def _make_rows(self, events: Sequence[Event]) -> list[Row]:
        contents = self._contents(events)
        if self._writer is None:
            self._use(await self._database.write(partial(self._create, contents)))
        rows, failed = self._convert(contents)
        if any(error.code == "sink.unknown_column" for error in failed.values()):
            writer = await self._database.read(self._look)  # somebody may have added the column
            if writer and self._writer and writer.table != self._writer.table:
                self._use(writer)
                rows, failed = self._convert(contents)
        if failed:
            raise BatchError(failed, nothing_delivered=True)
        return rows

    def _contents(self, events: Sequence[Event]) -> list[dict[str, Any] | ComponentError]:
        """For each event its values by column name, or why there are none."""
        if self._program is None:
            return [_object(event) for event in events]
        names = tuple(self._config.columns or ())
        return [
            result if isinstance(result, ComponentError) else dict(zip(names, result, strict=True))
            for result in self._program(events)
        ]

    def _create(self, contents: Sequence[dict[str, Any] | ComponentError], connection: sqlite3.Connection) -> Writer | None:
        """Make the table after the first event that can say its columns; None where there is none among these."""
        for content in contents:
            if isinstance(content, ComponentError) or self._unfit_for_columns(content):
                continue
            create(connection, self._config.table, content, self._key)
            return self._look(connection)
        return None

    def _unfit_for_columns(self, content: Mapping[str, Any]) -> str | None:
        if self._program is None and not all(name.isidentifier() and len(name) <= _LONGEST_NAME for name in content):
            return "a column is named by letters, digits and underscores, 63 at most"  # Invariant 12
        if len({name.lower() for name in content}) < len(content):
            return "two of its keys differ only in case"
        missing = [name for name in self._key if content.get(name) is None]
        return f"it has no {', '.join(missing)}, the table's key" if missing else None

    def _convert(self, contents: Sequence[dict[str, Any] | ComponentError]) -> tuple[list[Row], dict[int, ComponentError]]:
        rows: list[Row] = []
        failed: dict[int, ComponentError] = {}
        for index, content in enumerate(contents):
            if isinstance(content, ComponentError):
                failed[index] = content
                continue
            try:
                names = tuple(content)
                converter = self._rows.get(names) or self._shape(names, content)
                values = tuple(content.values())
                if None in values:
                    self._check_key(content)
                rows.append((index, names, converter.convert(values)))
            except Permanent as error:
                failed[index] = error
        return rows, failed

    def _shape(self, names: tuple[str, ...], content: Mapping[str, Any]) -> Rows:
        """What converts rows of these columns, once they are known to be the table's."""
        if self._writer is None:
            raise Permanent("sink.unknown_column", f"no table can be made of the event: {self._unfit_for_columns(content)}")
        table = self._writer.table
        unknown = [name for name in names if name not in table.columns]
        if unknown or not names:  # Invariant 12: names come from the table, never from the data
            raise _unknown_columns(unknown, table)
        self._check_key(content)
        if len(self._rows) > 256:  # shapes that vary without end: start over instead of growing with the data
            self._rows.clear()
        rows = self._rows[names] = Rows([table.columns[name] for name in names])
        return rows

    def _check_key(self, content: Mapping[str, Any]) -> None:
        missing = [name for name in self._key if content.get(name) is None]
        if missing:
            raise Permanent("sink.missing_key", f"the event has no {', '.join(missing)}, which the table's key needs")


def _object(event: Event) -> dict[str, Any] | ComponentError:
    try:
        data = event.data
    except Permanent as error:
        return error
    if isinstance(data, dict):
        return data
    return Permanent(
        "sink.not_an_object", "the data is no object, so it has no columns", help="name the columns: columns: {NAME: JQ}"
    )


def _unknown_columns(unknown: Sequence[str], table: Table) -> Permanent:
    if not unknown:
        return Permanent("sink.unknown_column", "the data is an empty object: there is no column to write")
    shown = ", ".join(name[:_LONGEST_NAME] for name in unknown[:5])
    return Permanent(
        "sink.unknown_column",
        f"table {table.name} has no column {shown}",
        help="add it to the table, or choose the columns: columns: {NAME: JQ}",
    )
