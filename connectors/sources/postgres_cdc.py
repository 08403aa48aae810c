"""The `postgres_cdc` source: changes of tables, in the order of their commits, from a replication slot.

A partition is the slot; positions are told in `_cdc_positions`. What messages become stands in `_cdc_changes`, the connection to
the slot in `_cdc_stream`, slot and publication in `_cdc_slot` and `_cdc_publication`. Here is when what is read and confirmed.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import ClassVar

from connectors._pg_types import TYPES_QUERY, TypeCatalog
from connectors._postgres import make_session, tls_parameters
from connectors.sources._cdc_blocks import Blocks
from connectors.sources._cdc_changes import Changes, Options
from connectors.sources._cdc_config import PostgresCdcConfig, default_name
from connectors.sources._cdc_doctor import examine
from connectors.sources._cdc_drift import Drift
from connectors.sources._cdc_positions import Start, looks_of, order_text, start_of
from connectors.sources._cdc_publication import check_columns, check_server, prepare_publication
from connectors.sources._cdc_readmit import readmitted
from connectors.sources._cdc_slot import Slot, creation, in_the_way, made_later, missing, read_slot
from connectors.sources._cdc_spill import SpillDirectory
from connectors.sources._cdc_stream import Link, Stream
from connectors.sources._cdc_tables import Selection
from connectors.sources._cdc_toast import ReselectingDecoder, Reselection
from connectors.sources._cdc_transactions import Transactions
from connectors.sources._cdc_watch import Watch, Watched
from connectors.sources._cdc_wire import WHAT, Target, Wire
from connectors.sources._pg_replication import parse_lsn
from connectors.sources._pgoutput import Decoder
from penstock.errors import ComponentError, EnvironmentFault, Fatal, Transient
from penstock.event import Event
from penstock.spi import Batch, Context, Finding, Position, Resume, Token

_DEADLINE = 30.0
"""Seconds for one question to the server beside the stream."""
_QUIET = 1.0
"""Seconds between two batches that carry nothing but an LSN to confirm."""
_NOW = "SELECT pg_catalog.pg_current_wal_flush_lsn()::pg_catalog.text"


class PostgresCdcSource:
    """Reads changes of PostgreSQL tables by logical replication.

    The record is `{op, schema, table, before, after, lsn, xid}`; `op` is `insert`, `update`, `delete` or `truncate`. The id is
    the commit's LSN and the change's number in its transaction; the time is the commit's. `before` holds the whole row only with
    REPLICA IDENTITY FULL, else the key of a deleted row. A changed key is a `delete` and an `insert`.
    """

    name: ClassVar[str] = "postgres_cdc"
    Config: ClassVar[type[PostgresCdcConfig]] = PostgresCdcConfig
    has_positions = True

    def __init__(self, config: PostgresCdcConfig, context: Context) -> None:
        self.config = config
        self.context = context
        self.batch_count = 500
        self.batch_bytes = 1 << 20
        self.slot = default_name(context.pipeline, config.slot.name, "slot")
        self.publication = default_name(context.pipeline, config.publication.name, "publication")
        self._selection = Selection(config, self.slot)
        where = None if config.where is None else context.expressions.program(config.where, "record")
        transactions = Transactions(f"postgres_cdc:{self.slot}") if config.transaction_metadata else None
        self._options = Options(self.slot, config.include_before, config.toast, config.truncate, where, transactions)
        application = f"penstock:{context.pipeline}/{context.component}"
        self._target = Target(config.dsn.reveal(), application, tls_parameters(config.tls, context))
        self._session = make_session(config, context, what=WHAT, deadline=_DEADLINE)
        temporary = (lambda version: creation(self.slot, config.slot, version)) if config.slot.temporary else None
        link = Link(self._target, context.pipeline, self.slot, self.publication, config.status_interval, temporary, config.origin)
        self._stream = Stream(link, self._session, context.clock, self._blocks())
        watched = Watched(context.pipeline, self.slot, self.publication, config)
        self._watch = Watch(watched, self._session, context.clock)
        self._tasks: list[asyncio.Task[None]] = []
        self._reselection = Reselection(self._session)
        self._drift: Drift | None = None
        self._goal: int | None = None
        self._given = 0
        self._sound = False

    @staticmethod
    def position_text(order: bytes) -> str:
        """See `Legible`."""
        return order_text(order)

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
        """Checks server, publication and slot, makes what may be made, and begins to replicate.

        :raises EnvironmentFault: `source.wal_level`, `source.no_table`, `publication.*`, `slot.*`.
        :raises Transient: `slot.busy`, after 10 seconds; the server is not there.
        """
        found = resume.positions.get(self.slot)
        checkpoint = None if found is None else start_of(found)
        try:
            await self._session.open()
            start = await self._prepare(checkpoint)
            types = TypeCatalog.of(await self._session.run(lambda c: c.execute(TYPES_QUERY).fetchall()))
            decoder = self._decoder(types)
            known = {} if found is None else looks_of(found)
            self._drift = Drift(self.config.schema_change, self.context.pipeline, known, lambda oid: decoder.types.name(oid))
            if resume.once:
                self._goal = await self._flushed()
            await self._stream.open(Changes(decoder, self._selection, self._options, start, self._drift))
        except BaseException:
            await self.close()
            raise
        self._tasks = [asyncio.create_task(self._stream.keep_alive()), asyncio.create_task(self._watch.run())]

    async def batches(self) -> AsyncIterator[Batch]:
        """Changes as they are committed, cut as soon as no more have arrived.

        :raises Transient: the connection was lost; called again, it connects anew.
        """
        stream = self._stream
        self._sound = False
        if not stream.connected:
            await stream.reconnect()
        changes, due = stream.changes, 0.0
        try:
            while True:
                self._check_tasks()
                fault = None
                try:
                    more = await stream.gather(self.batch_count, self.batch_bytes)
                except Fatal as error:  # what was read before it is given first
                    fault = error
                if changes.unsent:
                    await self._reselection.fill(changes.unsent, changes.events, changes.rejects)
                    changes.unsent.clear()
                now = self.context.clock.monotonic()
                over = self._goal is not None and changes.end >= self._goal and not changes.in_transaction
                told = changes.count or stream.asked or over or fault or now >= due
                if told and (batch := changes.take()) is not None:
                    due = now + _QUIET
                    self._given = batch.token or self._given
                    yield batch
                if fault is not None:
                    raise await self._explained(fault)
                stream.asked = False
                if over:
                    self._sound = True
                    return
                if not more:
                    await self._wait(due - now)
        except Transient:
            await stream.disconnect()
            raise
        except (asyncio.CancelledError, GeneratorExit):
            self._sound = True
            raise

    async def ack(self, tokens: Sequence[Token]) -> None:
        """Confirms the last end of a transaction among them, at once (Invariant 1)."""
        self._stream.confirm(max((token for token in tokens if token is not None), default=0))

    async def release(self, tokens: Sequence[Token], delay: float) -> None:
        """Nothing to do: the slot keeps what is not confirmed."""

    async def close(self) -> None:
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        try:
            await self._stream.close()
        finally:
            await self._session.close()
        sound, self._sound = self._sound, False
        if sound and self.config.slot.drop_on_stop and self._stream.confirmed >= self._given:
            await self._drop_slot()

    def readmit(self, event: Event, code: str) -> Event:
        """See `Readmitting`: changes that a schema change or a missing value kept apart."""
        return readmitted(event, code, self.config)

    def gauges(self) -> Mapping[str, float]:
        """See `Measured`."""
        return {**self._watch.gauges(), "schema_changes": float(self._drift.changes if self._drift else 0)}

    def health(self) -> str | None:
        """A slot that is too far behind or cannot be watched, a server that cannot be told what is durable."""
        return self._watch.health() or self._stream.fault

    def _blocks(self) -> Blocks | None:
        """Where transactions in progress wait; None: they are not asked for."""
        if self.config.streaming == "off":
            return None
        spill = self.config.spill
        return Blocks(SpillDirectory(self.context.project / spill.directory, self.slot), spill.max)

    async def _prepare(self, checkpoint: Start | None) -> Start:
        """Publication and slot as they have to be; where reading begins."""
        config, name = self.config, self.slot
        await self._session.run(check_server)
        slot = await self._session.run(lambda c: read_slot(c, name))
        if config.slot.temporary:
            return await self._prepare_trial(slot)
        fresh = slot is None and checkpoint is None
        if slot is None and (checkpoint is not None or config.slot.create == "never"):
            raise missing(name, self.context.pipeline, None if checkpoint is None else checkpoint.end)
        await self._stream.check(checkpoint)
        await self._session.run(lambda c: prepare_publication(c, config, self.publication, fresh=fresh))
        await self._session.run(lambda c: check_columns(c, config, self.publication))
        if slot is None:
            return Start(0, 0, await self._create_slot())
        return checkpoint or Start(0, 0, slot.confirmed)

    async def _prepare_trial(self, slot: Slot | None) -> Start:
        """A temporary slot is made by the connection that reads it, behind whatever a checkpoint says."""
        if slot is not None:
            raise in_the_way(self.slot)
        config = self.config
        await self._session.run(lambda c: prepare_publication(c, config, self.publication, fresh=True))
        await self._session.run(lambda c: check_columns(c, config, self.publication))
        return Start(0, 0, 0)

    def _decoder(self, types: TypeCatalog) -> Decoder:
        kind = ReselectingDecoder if self.config.toast == "reselect" else Decoder
        selection = self._selection
        return kind(types, numeric=self.config.numeric, wanted=selection.wanted, converter=selection.masks.converter)

    async def _create_slot(self) -> int:
        wire = await Wire.connect(self._target)
        try:
            row = await wire.query(creation(self.slot, self.config.slot, wire.server_version))
        finally:
            await wire.close()
        return parse_lsn(row[1])

    async def _drop_slot(self) -> None:
        """Once the server has noticed that nobody reads it any more."""
        wire = await Wire.connect(self._target)
        try:
            await wire.query(f'DROP_REPLICATION_SLOT "{self.slot}" WAIT')
        finally:
            await wire.close()

    async def _explained(self, fault: Fatal) -> Fatal:
        """An error of the stream, in the terms of what is wrong with publication or slot, where that is why."""
        if not isinstance(fault, EnvironmentFault) and fault.code == "postgres.failed":
            try:
                await self._session.run(lambda c: prepare_publication(c, self.config, self.publication, fresh=False))
            except EnvironmentFault as reason:
                return reason
            except ComponentError:
                return fault
            if f'publication "{self.publication}" does not exist' in fault.message:
                return made_later(self.publication, self.slot, self.context.pipeline)
        return fault

    async def _flushed(self) -> int:
        row = await self._session.run(lambda c: c.execute(_NOW).fetchone())
        return parse_lsn(row[0]) if row else 0

    async def _wait(self, seconds: float) -> None:
        """Until more arrives, an LSN is to be handed on, or a task beside the stream has ended."""
        waiting = asyncio.ensure_future(self._stream.wait(seconds, hurry=self._goal is not None))
        try:
            await asyncio.wait((waiting, *self._tasks), return_when=asyncio.FIRST_COMPLETED)
            if waiting.done():
                waiting.result()
        finally:
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)

    def _check_tasks(self) -> None:
        """:raises Exception: what ended a task beside the stream, which ends the run."""
        for task in self._tasks:
            if task.done():
                task.result()
