"""Where a run begins: server, publication and slot as they have to be, and the initial snapshot, where there is to be one.

A slot without a checkpoint is read from where it stands, with the initial snapshot beside it, whoever made it: nothing is dropped
because a run died. Only `when_needed` takes a slot's place, of one that cannot give what comes next.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Literal

import msgspec

from connectors._postgres import TableName, parse_table, quoted
from connectors.sources._cdc.config import PostgresCdcConfig
from connectors.sources._cdc.history import DIVERGED, behind, check_history
from connectors.sources._cdc.positions import Start
from connectors.sources._cdc.publication import check_columns, check_server, prepare_publication, refuse_standby
from connectors.sources._cdc.slot import Slot, check_slot, creation, drop, in_the_way, made_later, missing, read_slot, waited_for
from connectors.sources._cdc.snapshot_export import Export
from connectors.sources._cdc.snapshot_positions import INITIAL
from connectors.sources._cdc.snapshot_reader import FIRST
from connectors.sources._cdc.snapshot_tables import Layout, inspect, published
from connectors.sources._cdc.snapshots import Snapshots
from connectors.sources._cdc.tables import Selection
from connectors.sources._cdc.wire import BUSY_SECONDS, SlotBusy, Target, Wire
from connectors.sources._pg_replication import lsn_text, parse_lsn
from penstock.errors import ComponentError, EnvironmentFault, Fatal
from penstock.postgres import Session

_GAPS = ("slot.missing", "slot.lost", "slot.ahead", "slot.behind", DIVERGED)
"""What `when_needed` takes a new snapshot for."""
_LOOK = 1.0
"""Seconds between two looks at whom the making of a slot waits for."""
_WAL_END = """
SELECT (CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn()
        ELSE pg_catalog.pg_current_wal_insert_lsn() END)::pg_catalog.text
"""


class Names(msgspec.Struct, frozen=True):
    """What is read, and for whom."""

    pipeline: str
    slot: str
    publication: str


class Beginning:
    """Prepares one run.

    :ivar gap: why changes were lost before it, where `when_needed` took a snapshot for that.
    :ivar goes_back: the stream begins before the checkpoint, for the server's log ends there: no position of it would rise.
    :ivar waits: whom the slot waits for that is being made.
    :param reader: makes a session that reads rows, not open yet.
    """

    def __init__(
        self,
        config: PostgresCdcConfig,
        names: Names,
        selection: Selection,
        target: Target,
        session: Session,
        reader: Callable[[], Session],
        snapshots: Snapshots,
    ) -> None:
        self.gap: str | None = None
        self.goes_back = False
        self.waits: str | None = None
        self._config = config
        self._names = names
        self._selection = selection
        self._target = target
        self._session = session
        self._reader = reader
        self._snapshots = snapshots

    async def prepare(self, checkpoint: Start | None) -> Start:
        """Where the stream begins.

        :raises EnvironmentFault: `source.wal_level`, `source.no_table`, `source.no_select`, `publication.*`, `slot.*`,
            `snapshot.*`.
        """
        await self._session.run(check_server)
        slot = await self._session.run(lambda c: read_slot(c, self._names.slot))
        if self._config.slot.temporary:
            return await self._prepare_trial(slot, checkpoint)
        slot, known = await self._usable(slot, checkpoint)
        await self._publish(fresh=slot is None and checkpoint is None)
        if known is not None:
            return known
        start = Start(0, 0, await self._make_slot() if slot is None else slot.confirmed)
        if checkpoint is not None and start.end < checkpoint.commit:
            fault = behind(self._names.slot, self._names.pipeline, start.end, checkpoint)
            if self._config.snapshot.mode != "when_needed":
                raise fault
            self.gap, self.goes_back = self.gap or fault.message, True
        if slot is not None:
            await self._plan_beside(start.end)
        return start

    async def explained(self, fault: Fatal) -> Fatal:
        """An error of the stream, in the terms of what is wrong with publication or slot, where that is why."""
        names = self._names
        if not isinstance(fault, EnvironmentFault) and fault.code == "postgres.failed":
            try:
                await self._session.run(lambda c: prepare_publication(c, self._config, names.publication, fresh=False))
            except EnvironmentFault as reason:
                return reason
            except ComponentError:
                return fault
            if f'publication "{names.publication}" does not exist' in fault.message:
                return made_later(names.publication, names.slot, names.pipeline)
        return fault

    async def drop_slot(self) -> None:
        """Once the server has noticed that nobody reads it any more.

        :raises SlotBusy: somebody does, after 10 seconds.
        """
        wire = await Wire.connect(self._target)
        try:
            async with asyncio.timeout(BUSY_SECONDS):
                await wire.query(f'DROP_REPLICATION_SLOT "{self._names.slot}" WAIT')
        except TimeoutError:
            raise SlotBusy(
                "slot.busy", f"the slot {self._names.slot} is in use, and stays: it could not be dropped at the end of the run"
            ) from None
        finally:
            await wire.close()

    async def _usable(self, slot: Slot | None, checkpoint: Start | None) -> tuple[Slot | None, Start | None]:
        """The slot, where it is there and fit, and the checkpoint, where the slot can go on from it."""
        name, pipeline, mode = self._names.slot, self._names.pipeline, self._config.snapshot.mode
        end = None if checkpoint is None else checkpoint.end
        try:
            if slot is not None:
                database = await self._session.run(lambda c: c.info.dbname)
                check_slot(slot, database, pipeline, end)
                await self._check_history(checkpoint)
                return slot, checkpoint
            if checkpoint is not None or self._config.slot.create == "never":
                raise missing(name, pipeline, end)
            return None, None
        except EnvironmentFault as fault:
            if mode != "when_needed" or checkpoint is None or fault.code not in _GAPS:
                raise
            if slot is None and self._config.slot.create == "never":
                raise
            self.gap = fault.message
            if fault.code in ("slot.lost", "slot.behind", DIVERGED):
                await self._session.run(lambda c: c.execute(drop(name).encode()))
                slot = None
            return slot, None

    async def _check_history(self, checkpoint: Start | None) -> None:
        if checkpoint is not None:
            wire = await Wire.connect(self._target)
            try:
                await check_history(wire, self._names.slot, self._names.pipeline, checkpoint)
            finally:
                await wire.close()

    async def _publish(self, *, fresh: bool) -> None:
        config, publication = self._config, self._names.publication
        await self._session.run(lambda c: prepare_publication(c, config, publication, fresh=fresh))
        await self._session.run(lambda c: check_columns(c, config, publication))

    async def _prepare_trial(self, slot: Slot | None, checkpoint: Start | None) -> Start:
        """A temporary slot is made by the connection that reads it, behind whatever a checkpoint says."""
        if slot is not None:
            raise in_the_way(self._names.slot)
        await self._publish(fresh=True)
        if checkpoint is None:
            row = await self._session.run(lambda c: c.execute(_WAL_END.encode()).fetchone())
            await self._plan_beside(parse_lsn(row[0]) if row else 0)
        return Start(0, 0, 0)

    # The initial snapshot.

    async def _make_slot(self) -> int:
        """The slot's place; its snapshot is planned, where it has to be read."""
        config, names = self._config, self._names
        if config.snapshot.mode == "never":
            wire = await Wire.connect(self._target)
            try:
                row = await self._create(wire, "nothing")
            finally:
                await wire.close()
            return parse_lsn(row[1])
        tables = await self._initial_tables()
        sessions = [self._reader() for _ in range(max(1, min(config.snapshot.parallel_tables, len(tables))))]
        try:
            export = Export(
                lambda: Wire.connect(self._target),
                lambda wire: self._create(wire, "export"),
                lambda wire: wire.query(f'DROP_REPLICATION_SLOT "{names.slot}"'),
                self._initial_tables,
                self._session,
            )
            taken, tables = await export.take(sessions)
        except BaseException:
            for session in sessions:
                await session.close()
            raise
        if not tables:
            for session in sessions:
                await session.close()
            return taken.lsn
        self._snapshots.export(taken, sessions)
        self._snapshots.plan(INITIAL + lsn_text(taken.lsn), tables, exported=True)
        return taken.lsn

    async def _create(self, wire: Wire, snapshot: Literal["nothing", "export"]) -> tuple[Any, ...]:
        """Make the slot, which the server does once every transaction in progress has ended."""
        await wire.query(FIRST[0])
        (pid,) = await wire.query("SELECT pg_catalog.pg_backend_pid()")
        command = creation(self._names.slot, self._config.slot, wire.server_version, snapshot=snapshot)
        making = asyncio.ensure_future(wire.query(command))
        try:
            while not (await asyncio.wait((making,), timeout=_LOOK))[0]:
                whom = await self._session.run(lambda c: waited_for(c, pid))
                self.waits = (
                    whom and f"slot.waits: the slot {self._names.slot} is made once these transactions have ended: {whom}"
                )
            return making.result()
        finally:
            self.waits = None
            making.cancel()
            await asyncio.gather(making, return_exceptions=True)

    async def _plan_beside(self, end: int) -> None:
        """The initial snapshot, read beside a stream that begins at `end`."""
        if self._config.snapshot.mode != "never":
            await self._session.run(refuse_standby)
            self._snapshots.plan(INITIAL + lsn_text(end), await self._initial_tables())

    async def _initial_tables(self) -> list[Layout]:
        """:raises EnvironmentFault: `snapshot.no_key`, `snapshot.unknown_table`; as `inspect`."""
        config, publication, reads = self._config, self._names.publication, self._selection.reads
        names = [name for name in await self._session.run(lambda c: published(c, publication)) if reads(*name)]
        unknown = [text for text in config.snapshot.select if parse_table(text) not in names]
        if unknown:
            raise EnvironmentFault(
                "snapshot.unknown_table",
                f"`snapshot.select` names {', '.join(unknown)}, which is not among the tables that are read",
                help=f"read are {', '.join(map(str, names)) or 'none'}",
            )
        layouts = [await self._session.run(lambda c, n=name: inspect(c, config, publication, n)) for name in names]  # type: ignore[misc]
        if config.snapshot.keyless == "skip":
            layouts = [layout for layout in layouts if layout.key]
        for layout in layouts:
            refuse_keyless(layout, config)
        return layouts


def refuse_keyless(layout: Layout, config: PostgresCdcConfig) -> None:
    """:raises EnvironmentFault: `snapshot.no_key`, unless tables without a key may be read."""
    if layout.key or config.snapshot.keyless != "fail":
        return
    raise no_key(TableName(layout.schema, layout.name), layout.masked)


def no_key(table: TableName, masked: Sequence[str]) -> EnvironmentFault:
    """:param masked: columns of the key that are; none where there is no key."""
    columns = ", ".join(masked)
    mended = f"no mask for {columns}" if masked else f"ALTER TABLE {quoted(*table)} ADD PRIMARY KEY (…)"
    return EnvironmentFault(
        "snapshot.no_key",
        f"the key of {table} has masked columns ({columns}), so that where a snapshot stands could not be stored"
        if masked
        else f"no key tells the rows of {table} apart, so that a snapshot could not go on where it was interrupted",
        help=f"{mended}; or `snapshot: {{ keyless: at_least_once }}`, which reads it in one go, and anew after a crash; or "
        "`keyless: skip`",
    )
