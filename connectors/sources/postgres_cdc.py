"""The `postgres_cdc` source: changes of tables, in the order of their commits, from a replication slot.

Partitions are the slot (`_cdc.positions`), and each table of a snapshot (`_cdc.snapshot_positions`). Where a run begins stands
in `_cdc.begin`, what messages become in `_cdc.changes`, the connection to the slot in `_cdc.stream`, snapshots in
`_cdc.snapshots`, and in which order all of it is given in `_cdc.reading`. Here it is put together.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import ClassVar

from connectors._pg_types import TYPES_QUERY, TypeCatalog
from connectors._postgres import ask, make_session, tls_parameters
from connectors.sources._cdc.begin import Beginning, Names
from connectors.sources._cdc.blocks import Blocks
from connectors.sources._cdc.changes import Changes
from connectors.sources._cdc.collected import Options
from connectors.sources._cdc.config import PostgresCdcConfig, default_name
from connectors.sources._cdc.doctor import examine
from connectors.sources._cdc.drift import Drift
from connectors.sources._cdc.positions import Start, following, looks_of, order_text, start_of, stream_of
from connectors.sources._cdc.reading import Reading
from connectors.sources._cdc.readmit import readmitted
from connectors.sources._cdc.sequence import SEQUENCE, opening
from connectors.sources._cdc.slot import creation
from connectors.sources._cdc.snapshot_held import Token as SnapshotToken
from connectors.sources._cdc.snapshot_memory import SIGNAL
from connectors.sources._cdc.snapshot_positions import order_text as snapshot_text
from connectors.sources._cdc.snapshot_reader import FIRST, SETTINGS
from connectors.sources._cdc.snapshot_signals import KIND, Requests, SignalTable
from connectors.sources._cdc.snapshot_tap import Tap
from connectors.sources._cdc.snapshot_telling import Telling
from connectors.sources._cdc.snapshot_worker import Setup
from connectors.sources._cdc.snapshots import Snapshots
from connectors.sources._cdc.spill import SpillDirectory
from connectors.sources._cdc.stream import Link, Stream
from connectors.sources._cdc.tables import Selection, source_of
from connectors.sources._cdc.toast import ReselectingDecoder, Reselection
from connectors.sources._cdc.transactions import Transactions
from connectors.sources._cdc.watch import Watch, Watched
from connectors.sources._cdc.wire import WHAT, Target, Wire
from connectors.sources._pg_replication import parse_lsn
from connectors.sources._pgoutput import Decoder
from penstock.errors import Fatal
from penstock.event import Event
from penstock.postgres import Session
from penstock.spi import Batch, Context, Finding, Position, Resume, Signal, Token

_DEADLINE = 30.0
"""Seconds for one question to the server beside the stream."""
_GAP = "changes in between cannot be read; rows that were deleted meanwhile are not noticed"
_NUDGE = """
SELECT CASE WHEN NOT pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_logical_emit_message(false, 'penstock', 'snapshot') END
"""
_NOW = """
SELECT (CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn()
        ELSE pg_catalog.pg_current_wal_flush_lsn() END)::pg_catalog.text
"""


class PostgresCdcSource:
    """Reads changes of PostgreSQL tables by logical replication.

    The record is `{op, schema, table, before, after, lsn, xid}`; `op` is `insert`, `update`, `delete` or `truncate`. The id is
    the commit's LSN and the change's number in its transaction; the time is the commit's. `before` holds the whole row only with
    REPLICA IDENTITY FULL, else the key of a deleted row. A changed key is a `delete` and an `insert`. The attribute `sequence`
    says which of two events is the newer, also within a transaction: text that sorts, for `order_by: $event.sequence` in a sink.

    The rows that are there at the beginning come first, with the `op` `snapshot`; the id is the snapshot's and the row's key, the
    time is when they were read. A run that dies meanwhile goes on at the chunk of rows where it was, beside the changes: a row
    never comes behind a newer change of it. `pipe signal PIPELINE snapshot TABLE…` gives the rows of tables again.
    """

    name: ClassVar[str] = "postgres_cdc"
    Config: ClassVar[type[PostgresCdcConfig]] = PostgresCdcConfig
    has_positions = True
    signals: ClassVar[frozenset[str]] = frozenset({KIND})

    def __init__(self, config: PostgresCdcConfig, context: Context) -> None:
        self.config = config
        self.context = context
        self.batch_count = 500
        self.batch_bytes = 1 << 20
        self.slot = default_name(context.pipeline, config.slot.name, "slot")
        self.publication = default_name(context.pipeline, config.publication.name, "publication")
        self._selection = Selection(config, self.slot)
        self._sequenced = config.sequence == "always" or SEQUENCE in context.asked
        self._where = None if config.where is None else context.expressions.program(config.where, "record")
        application = f"penstock:{context.pipeline}/{context.component}"
        self._target = Target(config.dsn.reveal(), application, tls_parameters(config.tls, context))
        self._session = make_session(config, context, what=WHAT, deadline=_DEADLINE)
        self._drift: Drift | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._tap = Tap()
        self._partition = self.slot
        self._compose()

    def _compose(self) -> None:
        """Put the parts together."""
        config, session, clock = self.config, self._session, self.context.clock
        names = Names(self.context.pipeline, self.slot, self.publication)
        temporary = (lambda version: creation(self.slot, config.slot, version)) if config.slot.temporary else None
        link = Link(self._target, names.pipeline, self.slot, self.publication, config.status_interval, temporary, config.origin)
        self._stream = Stream(link, session, clock, self._blocks())
        self._watch = Watch(Watched(names.pipeline, self.slot, self.publication, config), session, clock)
        told = Telling(self.context.log)
        self._snapshots = Snapshots(self._setup, self._reader, told, asked_by_rows=config.signals is not None)
        self._beginning = Beginning(config, names, self._selection, self._target, session, self._reader, self._snapshots)
        self._requests = Requests(config, names, self._selection, session, self._snapshots)
        table = config.signals and config.signals.table
        self._signals = SignalTable(table, self._requests, session, self._snapshots, self._selection, clock) if table else None
        only = config.snapshot.mode == "initial_only"
        self._reading = Reading(self._stream, self._snapshots, Reselection(session), clock, snapshot_only=only)

    @staticmethod
    def position_text(order: bytes) -> str:
        """See `Legible`."""
        return snapshot_text(order) or order_text(order)

    @property
    def identity(self) -> str:
        return f"postgres_cdc:{self.slot}"

    async def identify(self) -> str:
        """The server's system identifier, the database, the slot."""
        wire = await Wire.connect(self._target)
        try:
            system, _, _, database = await wire.query("IDENTIFY_SYSTEM")
        finally:
            await wire.close()
        return f"postgres_cdc:{system}/{database}/{self.slot}"

    async def examine(self, checkpoint: Mapping[str, Position]) -> list[Finding]:
        """See `Examined`."""
        return await examine(self.config, self.context, checkpoint)

    async def open(self, resume: Resume) -> None:
        """Checks server, publication and slot, makes what may be made, plans the initial snapshot, and begins to replicate,
        unless rows of a new slot's snapshot come first.

        :raises EnvironmentFault: `source.wal_level`, `source.no_table`, `source.no_select`, `publication.*`, `slot.*`,
            `snapshot.*`, `signals.table`.
        :raises Transient: `slot.busy`, after 10 seconds; the server is not there.
        """
        partition, found = stream_of(resume.positions, self.slot)
        checkpoint = None if found is None else start_of(found)
        self._stream.take_over = resume.take_over
        try:
            await self._session.open()
            self._snapshots.resume(resume.positions, resume.epoch, initial=self.config.snapshot.mode != "never")
            start = await self._beginning.prepare(checkpoint)
            self._partition = following(partition) if self._beginning.goes_back else partition
            if self._beginning.gap is not None:
                self.context.log("snapshot.needed", f"a new snapshot is taken: {self._beginning.gap}", level="warning", why=_GAP)
            if self._signals is not None:
                await self._signals.check()
                await self._signals.look()
            changes = self._changes(await self._types(), start, {} if found is None else looks_of(found))
            await self._reading.begin(changes, await self._flushed() if resume.once else None)
        except BaseException:
            await self.close()
            raise
        work = [self._stream.keep_alive(), self._watch.run(), self._snapshots.press(self._ask, self._nudge, self.context.clock)]
        work += [self._signals.run()] if self._signals is not None else []
        self._reading.tasks = self._tasks = [asyncio.create_task(one) for one in work]

    async def batches(self) -> AsyncGenerator[Batch, None]:
        """Changes as they are committed, cut as soon as no more have arrived; rows of snapshots before and between them.

        :raises Transient: a connection was lost; called again, it connects anew.
        """
        try:
            async with aclosing(self._reading.batches(self.batch_count, self.batch_bytes)) as batches:
                async for batch in batches:
                    yield batch
        except Fatal as fault:
            raise await self._beginning.explained(fault) from fault

    async def ack(self, tokens: Sequence[Token]) -> None:
        """Confirms the last end of a transaction among them, at once (Invariant 1)."""
        for token in tokens:
            if isinstance(token, SnapshotToken):
                self._snapshots.acked(token)
        self._stream.confirm(max((token for token in tokens if isinstance(token, int)), default=0))

    async def release(self, tokens: Sequence[Token], delay: float) -> None:
        """Nothing to do: the slot keeps what is not confirmed."""

    async def signal(self, signal: Signal) -> None:
        """See `Signalled`: a snapshot of the tables that are named, under the signal's id."""
        token = await self._requests.take(f"{SIGNAL}{signal.id}", signal.kind, signal.arguments)
        await token.wait()

    async def close(self) -> None:
        tasks, self._tasks = self._tasks, []
        settled, self._reading.tasks = self._reading.is_settled(self._stream.confirmed), ()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._snapshots.stop()
        try:
            await self._stream.close()
        finally:
            await self._session.close()
        self._reading.sound = False
        if settled and self.config.slot.drop_on_stop:
            await self._beginning.drop_slot()

    def readmit(self, event: Event, code: str) -> Event:
        """See `Readmitting`: changes that a schema change or a missing value kept apart."""
        return readmitted(event, code, self.config)

    def gauges(self) -> Mapping[str, float]:
        """See `Measured`."""
        changes = float(self._drift.changes if self._drift else 0)
        return {**self._watch.gauges(), **self._snapshots.gauges(), "schema_changes": changes}

    def health(self) -> str | None:
        """A slot that is too far behind or cannot be watched, a server that cannot be told what is durable, a snapshot that waits
        or makes up for changes that were lost."""
        found = (
            self._beginning.waits
            or self._watch.health()
            or self._stream.fault
            or self._snapshots.health()
            or (self._signals and self._signals.fault)
        )
        return found or (self._beginning.gap if self._snapshots.busy else None)

    def _blocks(self) -> Blocks | None:
        """Where transactions in progress wait; None: they are not asked for."""
        if self.config.streaming == "off":
            return None
        spill = self.config.spill
        return Blocks(SpillDirectory(self.context.project / spill.directory, self.slot), spill.max)

    def _setup(self) -> Setup:
        return Setup(
            self.config,
            self.publication,
            self._selection,
            self._where,
            self._tap,
            self.context.clock,
            self.batch_count,
            self.batch_bytes,
            opening(self._partition) if self._sequenced else None,
            lambda title, look: self._drift.judge(title, look) if self._drift else None,
        )

    def _reader(self) -> Session:
        """A session that reads rows, for as long as that takes."""
        target = self._target
        return Session(
            target.dsn, what=WHAT, application=target.application, parameters=target.parameters, settings=SETTINGS, first=FIRST
        )

    async def _types(self) -> TypeCatalog:
        return TypeCatalog.of(await self._session.run(lambda c: c.execute(TYPES_QUERY).fetchall()))

    def _changes(self, types: TypeCatalog, start: Start, looks: Mapping[str, Mapping[str, tuple[int, int]]]) -> Changes:
        config, selection = self.config, self._selection
        transactions = Transactions(source_of(self.slot)) if config.transaction_metadata else None
        options = Options(
            self._partition, config.include_before, config.toast, config.truncate, self._where, transactions, self._sequenced
        )
        kind = ReselectingDecoder if config.toast == "reselect" else Decoder
        decoder = kind(types, numeric=config.numeric, wanted=selection.wanted, converter=selection.masks.converter)
        self._drift = Drift(
            config.schema_change, self.context.pipeline, looks, lambda oid: decoder.types.name(oid), self.context.log
        )
        return Changes(decoder, selection, options, start, self._drift, self._tap)

    async def _flushed(self) -> int:
        row = await self._session.run(lambda c: c.execute(_NOW).fetchone())
        return parse_lsn(row[0]) if row else 0

    def _ask(self) -> None:
        self._stream.send_status(reply=True)

    async def _nudge(self) -> None:
        await ask(self._session, lambda c: c.execute(_NUDGE))
