"""The `postgres_cdc` source: changes of tables, in the order of their commits, from a replication slot.

A partition is the slot; positions are told in `_cdc_positions`. What messages become stands in `_cdc_changes`, the connection in
`_cdc_wire`, slot and publication in `_cdc_slot` and `_cdc_publication`. Here is when what is read, confirmed and watched.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, ClassVar, TypeVar

from connectors._pg_types import TYPES_QUERY, TypeCatalog
from connectors._postgres import make_session, tls_parameters
from connectors.sources._cdc_changes import Changes, Options
from connectors.sources._cdc_config import PostgresCdcConfig, default_name
from connectors.sources._cdc_lag import LAG_QUERY, Lag
from connectors.sources._cdc_positions import Start, order_text, start_of
from connectors.sources._cdc_publication import check_server, prepare_publication
from connectors.sources._cdc_slot import Slot, check_slot, missing, read_slot, reader_of
from connectors.sources._cdc_tables import Selection
from connectors.sources._cdc_wire import WHAT, SlotBusy, Target, Wire
from connectors.sources._pg_replication import (
    KEEPALIVE,
    XLOG_DATA,
    XLOG_HEADER,
    Keepalive,
    frame,
    microseconds_since_2000,
    parse_lsn,
    protocol_error,
)
from connectors.sources._pgoutput import Decoder
from connectors.sources._pgoutput_messages import Relation, ReplicaIdentity
from penstock.errors import ComponentError, Fatal, Transient
from penstock.spi import Batch, Context, Resume, Token

T = TypeVar("T")

BUSY_SECONDS = 10.0
"""How long `open` waits for another connection to leave the slot: that of a run that has just ended does at once."""

_BUSY_PAUSE = 0.1
_DEADLINE = 30.0
"""Seconds for one question to the server beside the stream."""
_QUIET = 1.0
"""Seconds between two batches that carry nothing but an LSN to confirm."""
_TURN = 2_000
"""Messages after which other tasks have their turn, where they made no batch."""
_SILENT = 3
"""Intervals of status messages, each of which asks for an answer, after which a silent connection counts as lost."""
_PRIMARY_KEY = """
SELECT a.attname::pg_catalog.text FROM pg_catalog.pg_index AS i
JOIN pg_catalog.pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey)
WHERE i.indisprimary AND i.indrelid = %s
"""
_NOW = "SELECT pg_catalog.pg_current_wal_flush_lsn()::pg_catalog.text"
_BEAT = "SELECT pg_catalog.pg_logical_emit_message(false, 'penstock', 'heartbeat')"


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
        self._options = Options(self.slot, config.include_before, config.toast, config.truncate, where)
        application = f"penstock:{context.pipeline}/{context.component}"
        self._target = Target(config.dsn.reveal(), application, tls_parameters(config.tls, context))
        self._session = make_session(config, context, what=WHAT, deadline=_DEADLINE)
        self._wire: Wire | None = None
        self._changes: Changes | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._lag = Lag()
        self._unwatched: str | None = None
        self._received = self._confirmed = 0
        self._asked = False
        self._goal: int | None = None

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
            decoder = Decoder(types, numeric=self.config.numeric, wanted=self._selection.wanted)
            self._changes = Changes(decoder, self._selection, self._options, start)
            self._confirmed = start.end
            if resume.once:
                self._goal = await self._flushed()
            await self._replicate(start)
        except BaseException:
            await self.close()
            raise
        self._tasks = [asyncio.create_task(self._keep_alive()), asyncio.create_task(self._watch())]

    async def batches(self) -> AsyncIterator[Batch]:
        """Changes as they are committed, cut as soon as no more have arrived.

        :raises Transient: the connection was lost; called again, it connects anew.
        """
        changes = self._opened()
        if self._wire is None:
            await self._reconnect(changes)
        due = 0.0
        try:
            while True:
                self._check_tasks()
                more = await self._gather(changes)
                now = self.context.clock.monotonic()
                over = self._goal is not None and changes.end >= self._goal and not changes.in_transaction
                if (changes.count or self._asked or over or now >= due) and (batch := changes.take()) is not None:
                    due = now + _QUIET
                    yield batch
                self._asked = False
                if over:
                    return
                if not more:
                    await self._wait(changes, due - now)
        except Transient:
            await self._disconnect()
            raise

    async def ack(self, tokens: Sequence[Token]) -> None:
        """Confirms the last end of a transaction among them, at once (Invariant 1)."""
        ends = [token for token in tokens if token is not None]
        if ends and max(ends) > self._confirmed:
            self._confirmed = max(ends)
            self._send_status()

    async def release(self, tokens: Sequence[Token], delay: float) -> None:
        """Nothing to do: the slot keeps what is not confirmed."""

    async def close(self) -> None:
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._disconnect()
        await self._session.close()

    def gauges(self) -> Mapping[str, float]:
        """See `Measured`."""
        if self._lag.bytes is None:
            return {}
        return {"slot_lag_bytes": float(self._lag.bytes), "slot_lag_seconds": self._lag.seconds}

    def health(self) -> str | None:
        """A slot that is too far behind, or cannot be watched."""
        bound = self.config.max_slot_lag
        if bound is not None and self._lag.held > bound:
            return (
                f"slot.lag: the slot {self.slot} holds back {self._lag.held:,} bytes of WAL, more than max_slot_lag ({bound:,})"
            )
        return self._unwatched

    async def _prepare(self, checkpoint: Start | None) -> Start:
        """Publication and slot as they have to be; where reading begins."""
        config, name = self.config, self.slot
        await self._session.run(check_server)
        slot = await self._session.run(lambda c: read_slot(c, name))
        fresh = slot is None and checkpoint is None
        if slot is None and (checkpoint is not None or config.slot.create == "never"):
            raise missing(name, self.context.pipeline, _end_of(checkpoint))
        if slot is not None:
            await self._check(slot, checkpoint)
        await self._session.run(lambda c: prepare_publication(c, config, self.publication, fresh=fresh))
        if slot is None:
            return Start(0, 0, await self._create_slot())
        return checkpoint or Start(0, 0, slot.confirmed)

    async def _check(self, slot: Slot, checkpoint: Start | None) -> None:
        database = await self._session.run(lambda c: c.info.dbname)
        check_slot(slot, database, self.context.pipeline, _end_of(checkpoint))

    async def _create_slot(self) -> int:
        wire = await Wire.connect(self._target)
        try:
            row = await wire.query(f'CREATE_REPLICATION_SLOT "{self.slot}" LOGICAL pgoutput NOEXPORT_SNAPSHOT')
        finally:
            await wire.close()
        return parse_lsn(row[1])

    async def _flushed(self) -> int:
        row = await self._session.run(lambda c: c.execute(_NOW).fetchone())
        return parse_lsn(row[0]) if row else 0

    async def _replicate(self, start: Start) -> None:
        """Begin to receive; while another connection has the slot, wait for it to leave."""
        clock = self.context.clock
        deadline = clock.monotonic() + BUSY_SECONDS
        while True:
            wire = await Wire.connect(self._target)
            try:
                await wire.start(self.slot, start.end, self._stream_options())
            except SlotBusy as error:
                await wire.close()
                if clock.monotonic() >= deadline:
                    raise await self._busy() from error
                await clock.sleep(_BUSY_PAUSE)
            except BaseException:
                await wire.close()
                raise
            else:
                break
        self._wire = wire
        self._received = start.end
        slot = await self._session.run(lambda c: read_slot(c, self.slot))
        if slot is not None:  # held by this connection now: whoever confirmed something in it has done so before
            await self._check(slot, start)
        self._send_status()

    def _stream_options(self) -> list[tuple[str, str]]:
        publication = '"' + self.publication.replace('"', '""') + '"'
        return [("proto_version", "1"), ("publication_names", publication.replace("'", "''"))]

    async def _busy(self) -> Transient:
        slot = await self._session.run(lambda c: read_slot(c, self.slot))
        pid = slot.active_pid if slot else None
        who = await self._session.run(lambda c: reader_of(c, pid)) if pid else "another connection"
        return SlotBusy(
            "slot.busy",
            f"the slot {self.slot} is in use by {who}",
            help=f"stop it, or: SELECT pg_terminate_backend({pid})" if pid else None,
        )

    async def _reconnect(self, changes: Changes) -> None:
        """Go on behind the last batch that was given. What cut one connection has often cut the other, unnoticed."""
        await self._session.reopen()
        slot = await self._session.run(lambda c: read_slot(c, self.slot))
        if slot is None:
            raise missing(self.slot, self.context.pipeline, changes.start.end)
        await self._check(slot, changes.start)
        changes.restart(changes.start)
        await self._replicate(changes.start)

    async def _gather(self, changes: Changes) -> bool:
        """Feed what has arrived, up to a batch; False where no more has."""
        wire = self._wire
        if wire is None:
            raise Transient("source.disconnected", "the connection to the source database was lost")
        receive, feed = wire.receive, changes.feed
        count, size = self.batch_count, self.batch_bytes
        for _ in range(_TURN):
            if len(changes.events) >= count or changes.size >= size:
                return True
            data = receive()
            if data is None:
                wire.take_in()
                data = receive()
                if data is None:
                    return False
            kind = data[0]
            if kind == XLOG_DATA:
                relation = feed(bytes(data[XLOG_HEADER:]))
                if relation is not None:
                    await self._look_up(relation, changes)
            elif kind == KEEPALIVE:
                self._keepalive(frame(data), changes)
            else:
                raise protocol_error(f"a frame of the replication stream is of the unknown kind {kind}")
        await asyncio.sleep(0)
        return True

    def _keepalive(self, found: object, changes: Changes) -> None:
        if isinstance(found, Keepalive):
            changes.keepalive(found.end)
            self._received = max(self._received, found.end)
            if found.reply:
                self._asked = True
                self._send_status()

    async def _look_up(self, relation: Relation, changes: Changes) -> None:
        """What the stream does not tell of a table: types made meanwhile, and the key where the identity is the whole row."""
        if changes.decoder.types.missing(relation.type_oids):
            rows = await self._asked_of(lambda c: c.execute(TYPES_QUERY).fetchall())
            changes.decoder.types = TypeCatalog.of(rows)
        if relation.identity is ReplicaIdentity.FULL:
            rows = await self._asked_of(lambda c: c.execute(_PRIMARY_KEY, (relation.oid,)).fetchall())
            changes.keys[relation.oid] = tuple(name for (name,) in rows)
        else:
            changes.keys.pop(relation.oid, None)

    async def _wait(self, changes: Changes, seconds: float) -> None:
        """Until more arrives, or an LSN is to be handed on."""
        wire, clock = self._wire, self.context.clock
        if wire is None:
            return
        if self._goal is not None:
            self._send_status(reply=True)
        bound = _SILENT * self.config.status_interval
        began = clock.monotonic()
        if await wire.readable(max(0.0, min(seconds, bound)) if changes.moved else bound):
            return
        if not changes.moved and clock.monotonic() - began >= bound:
            raise Transient("source.silent", f"the source database has not answered for {bound:g} s")

    def _send_status(self, reply: bool = False) -> None:
        """What was received and what is durable. A lost connection is left for the reader to notice."""
        wire, changes = self._wire, self._changes
        if wire is None or changes is None:
            return
        written = max(self._received, changes.end, self._confirmed)
        moment = microseconds_since_2000(datetime.fromtimestamp(self.context.clock.now(), UTC))
        try:
            wire.send_status(written, self._confirmed, moment, reply)  # Invariant 1: flushed is what was acknowledged
        except ComponentError as error:
            self._unwatched = f"{error.code}: {error}"

    async def _keep_alive(self) -> None:
        while True:
            await self.context.clock.sleep(self.config.status_interval)
            self._send_status(reply=True)

    async def _watch(self) -> None:
        """Samples the lag, and writes heartbeats."""
        clock, heartbeat = self.context.clock, self.config.heartbeat
        pause = min(self.config.status_interval, heartbeat.interval if heartbeat else self.config.status_interval)
        beat = clock.monotonic()
        while True:
            try:
                if heartbeat is not None and clock.monotonic() >= beat:
                    beat = clock.monotonic() + heartbeat.interval
                    await self._asked_of(lambda c: c.execute(_BEAT))
                row = await self._asked_of(lambda c: c.execute(LAG_QUERY, (self.slot,)).fetchone())
                if row is not None:
                    self._lag.sample(clock.monotonic(), *row)
                self._unwatched = None
            except ComponentError as error:
                self._unwatched = f"the slot {self.slot} cannot be watched: {error.code}: {error}"
            await clock.sleep(pause)

    async def _asked_of(self, work: Callable[[Any], T]) -> T:
        """Ask the session; a connection that was lost is made anew."""
        if not self._session.is_open:
            await self._session.reopen()
        return await self._session.run(work)

    def _opened(self) -> Changes:
        if self._changes is None:
            raise Fatal("source.closed", "the postgres_cdc source is not open")
        return self._changes

    def _check_tasks(self) -> None:
        for task in self._tasks:
            if task.done():
                task.result()

    async def _disconnect(self) -> None:
        wire, self._wire = self._wire, None
        if wire is not None:
            await wire.close()


def _end_of(checkpoint: Start | None) -> int | None:
    return None if checkpoint is None else checkpoint.end
