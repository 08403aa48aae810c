"""Snapshots on request: by `pipe signal`, and by rows of a table in the source's database.

A request has an id, which becomes that of its snapshot, and is remembered (`_cdc.snapshot_memory`), so that one that comes again
changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from connectors._postgres import TableName, ask, parse_table, quoted
from connectors.sources._cdc.begin import Names, refuse_keyless
from connectors.sources._cdc.config import PostgresCdcConfig
from connectors.sources._cdc.publication import refuse_standby
from connectors.sources._cdc.snapshot_held import Token
from connectors.sources._cdc.snapshot_memory import ROW, Refused
from connectors.sources._cdc.snapshot_tables import Layout, inspect
from connectors.sources._cdc.snapshots import Snapshots
from connectors.sources._cdc.tables import Selection
from penstock.clock import Clock
from penstock.errors import ComponentError, EnvironmentFault, Permanent
from penstock.event import Event
from penstock.postgres import Session

KIND = "snapshot"
_TICK = 1.0


class Requests:
    """Plans what is asked for."""

    def __init__(
        self, config: PostgresCdcConfig, names: Names, selection: Selection, session: Session, snapshots: Snapshots
    ) -> None:
        self._config = config
        self._publication = names.publication
        self._selection = selection
        self._session = session
        self._snapshots = snapshots

    async def take(self, snapshot: str, kind: str, arguments: Sequence[str]) -> Token:
        """Plan a snapshot of these tables, unless that was done; the token is settled once it is remembered that it was.

        :raises Permanent: `signal.kind`, `signal.table`, `snapshot.*`, `source.*`: it is refused.
        :raises Transient: the server cannot be asked.
        """
        if kind != KIND:
            raise Permanent("signal.kind", f"a source takes the signal {KIND}, and not {kind!r}")
        if (token := self._snapshots.memory.taken(snapshot)) is not None:
            return token
        names = list(dict.fromkeys(_table(text) for text in arguments))
        if not names:
            raise Permanent("signal.table", "no table was named", help=f"pipe signal PIPELINE {KIND} TABLE…")
        known = {table.progress.name for table in self._snapshots.knows(snapshot)}
        layouts = [await self._layout(name) for name in names if name not in known]
        return self._snapshots.remember(snapshot, self._snapshots.plan(snapshot, layouts))

    async def _layout(self, name: TableName) -> Layout:
        config, publication = self._config, self._publication
        try:
            await ask(self._session, refuse_standby)
            layout = await ask(self._session, lambda c: inspect(c, config, publication, name))
            refuse_keyless(layout, config)
        except EnvironmentFault as fault:  # refused alone: the run goes on
            raise Permanent(fault.code, fault.message, why=fault.why, help=fault.help) from fault
        if not self._selection.reads(*name):
            raise Permanent(
                "signal.table",
                f"the pipeline does not read {name}",
                why="its changes are not read, so that rows of a snapshot would never be brought up to date",
                help="add it to `tables`",
            )
        return layout


class SignalTable:
    """Rows of a table that ask for snapshots: `run` is a task of its own.

    :ivar fault: why the table cannot be looked at.
    """

    def __init__(
        self, table: str, requests: Requests, session: Session, snapshots: Snapshots, selection: Selection, clock: Clock
    ):
        self.fault: str | None = None
        self._table = parse_table(table)
        self._requests = requests
        self._session = session
        self._snapshots = snapshots
        self._source = selection.source(*self._table)
        self._clock = clock

    async def check(self) -> None:
        """:raises EnvironmentFault: `signals.table`, with the SQL that makes it."""
        try:
            await self._session.run(self._rows)
        except ComponentError as error:
            if not isinstance(error, EnvironmentFault) and error.code != "postgres.failed":
                raise
            raise signals_missing(self._table, error.message) from error

    async def run(self) -> None:
        """Look once a second, for ever."""
        while True:
            try:
                await self.look()
                self.fault = None
            except ComponentError as error:
                self.fault = f"the table {self._table} cannot be looked at for signals: {error.code}: {error}"
            await self._clock.sleep(_TICK)

    async def look(self) -> None:
        """Plan what is asked for by now."""
        memory = self._snapshots.memory
        known = memory.rows
        rows = await ask(self._session, lambda c: self._rows(c, known))
        if rows or memory.has_not_looked:
            memory.look([str(row[0]) for row in rows], await ask(self._session, lambda c: self._there(c, known)))
        for identity, kind, arguments in rows:
            await self._take(str(identity), str(kind), arguments or [])

    async def _take(self, identity: str, kind: str, arguments: Sequence[str]) -> None:
        snapshot = f"{ROW}{identity}"
        try:
            await self._requests.take(snapshot, kind, arguments)
        except Permanent as error:  # a dead letter (Invariant 13)
            row = {"id": identity, "kind": kind, "arguments": list(arguments)}
            event = Event(snapshot, self._source, f"{self._table.table}.signal", decoded=row)
            self._snapshots.remember(snapshot, (), Refused(event, error))

    def _rows(self, connection: Any, known: Sequence[str] = ()) -> list[Any]:
        """Those that were not taken."""
        sql = f"SELECT id::text, kind::text, arguments::text[] FROM {quoted(*self._table)} WHERE id::text <> ALL(%s) ORDER BY id"  # noqa: S608 - quoted
        return list(connection.execute(sql.encode(), (list(known),)).fetchall())

    def _there(self, connection: Any, known: Sequence[str]) -> list[str]:
        """Which of these are there still."""
        sql = f"SELECT id::text FROM {quoted(*self._table)} WHERE id::text = ANY(%s)"  # noqa: S608 - quoted
        return [identity for (identity,) in connection.execute(sql.encode(), (list(known),))]


def _table(text: object) -> TableName:
    if not isinstance(text, str):
        raise Permanent("signal.table", f"{text!r} names no table", help="arguments are a list of names, each with a text")
    try:
        return parse_table(text)
    except ValueError as error:
        raise Permanent("signal.table", f"{text!r} names no table", why=str(error)) from error


def signals_missing(table: TableName, why: str) -> EnvironmentFault:
    """Of a table of signals that cannot be read as one."""
    name = quoted(*table)
    return EnvironmentFault(
        "signals.table",
        f"the table {table}, by which snapshots are asked for, cannot be read",
        why=why,
        help=f"CREATE TABLE {name} (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, kind text NOT NULL, "
        f"arguments text[] NOT NULL); GRANT SELECT ON {name} to the pipeline's user",
    )
