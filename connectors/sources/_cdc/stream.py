"""The replication stream: a connection to the slot, what it brings, and what it is told to be durable.

    stream = Stream(link, session, clock)
    await stream.open(changes)
    more = await stream.gather(count, size)     # fills `changes`, as far as something has arrived
    await stream.wait(seconds)
    stream.confirm(lsn)                         # after the commit, never before (Invariant 1)

Status messages go out from a task of their own, however busy the others are.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Literal

import msgspec

from connectors._postgres import quoted
from connectors.sources._cdc.blocks import Blocks
from connectors.sources._cdc.changes import Changes
from connectors.sources._cdc.history import check_history
from connectors.sources._cdc.intake import Intake
from connectors.sources._cdc.positions import Start
from connectors.sources._cdc.slot import check_slot, end_reader, missing, origin_options, read_slot, reader_of
from connectors.sources._cdc.wire import BUSY_SECONDS, SlotBusy, Target, Wire
from connectors.sources._pg_replication import Keepalive, microseconds_since_2000, parse_lsn
from penstock.clock import Clock
from penstock.errors import ComponentError, Fatal, Transient
from penstock.postgres import Session

_BUSY_PAUSE = 0.1
_SILENT = 3
"""Intervals of status messages, each of which asks for an answer, after which a silent connection counts as lost."""
_EXISTS = "SQLSTATE 42710"
_STREAMING_SINCE = 140000
"""The first version of the server that can stream transactions in progress."""


class Link(msgspec.Struct, frozen=True):
    """What is read, and for whom.

    :ivar interval: seconds between two status messages.
    :ivar temporary: the command that makes the slot for as long as the connection lives; None: it is there already.
    :ivar origin: `none`: without what came to the server by replication.
    """

    target: Target
    pipeline: str
    slot: str
    publication: str
    interval: float
    temporary: Callable[[int], str] | None = None
    origin: Literal["any", "none"] = "any"


class Stream:
    """One reader of the slot: `open`, then `gather` and `wait` in turns; after a `Transient`, `reconnect`.

    :ivar confirmed: the LSN that the server was told to be durable.
    :ivar asked: the server wants to know what is durable, or the end is awaited: the next batch should not wait.
    :ivar fault: why the last status message did not go out.
    :ivar take_over: the next connection may end the one that holds the slot.
    :param blocks: where transactions in progress wait; None: the server is to keep them.
    """

    def __init__(self, link: Link, session: Session, clock: Clock, blocks: Blocks | None = None) -> None:
        self._link = link
        self._session = session
        self._clock = clock
        self._blocks = blocks
        self._intake: Intake | None = None
        self._wire: Wire | None = None
        self._changes: Changes | None = None
        self._received = 0
        self.confirmed = 0
        self.asked = False
        self.fault: str | None = None
        self.take_over = False

    @property
    def connected(self) -> bool:
        return self._wire is not None

    @property
    def begun(self) -> bool:
        """Whether it was opened, connected or not."""
        return self._changes is not None

    @property
    def changes(self) -> Changes:
        """What has come and was not taken."""
        if self._changes is None:
            raise Transient("source.disconnected", "the source database is not connected")
        return self._changes

    async def open(self, changes: Changes) -> None:
        """Begin to receive, from where `changes` goes on; while another connection has the slot, wait for it to leave.

        :raises Transient: `slot.busy`, after 10 seconds; the server is not there.
        """
        self._changes = changes
        self.confirmed = changes.start.end
        await self._replicate(changes.start)

    async def reconnect(self) -> None:
        """Go on behind the last batch that was given. What cut one connection has often cut the other, unnoticed.

        :raises EnvironmentFault: `slot.*`: the slot cannot give what comes next.
        """
        changes, link = self.changes, self._link
        await self._session.reopen()
        slot = await self._session.run(lambda c: read_slot(c, link.slot))
        if slot is None and link.temporary is None:
            raise missing(link.slot, link.pipeline, changes.start.end)
        await self.check(changes.start)
        changes.restart(changes.start)
        await self._replicate(changes.start)

    async def check(self, checkpoint: Start | None) -> None:
        """:raises EnvironmentFault: `slot.*`, where the slot is there and is not what the checkpoint needs."""
        link = self._link
        slot = await self._session.run(lambda c: read_slot(c, link.slot))
        if slot is not None:
            database = await self._session.run(lambda c: c.info.dbname)
            check_slot(slot, database, link.pipeline, None if checkpoint is None else checkpoint.end)

    async def gather(self, count: int, size: int) -> bool:
        """Feed what has arrived, up to a batch of so many events or bytes; False where no more has.

        :raises Transient: the connection was lost; a transaction in progress could not be kept.
        :raises EnvironmentFault: `source.spill_full`.
        """
        if self._intake is None:
            raise Transient("source.disconnected", "the connection to the source database was lost")
        return await self._intake.gather(count, size)

    async def wait(self, seconds: float, *, hurry: bool) -> None:
        """Until more arrives, or an LSN is to be handed on.

        :param hurry: ask the server where it stands.
        :raises Transient: `source.silent`; the connection was lost.
        """
        wire, changes = self._wire, self.changes
        if wire is None:
            return
        if hurry:
            self.send_status(reply=True)
        bound = _SILENT * self._link.interval
        began = self._clock.monotonic()
        if await wire.readable(max(0.0, min(seconds, bound)) if changes.moved else bound):
            return
        if not changes.moved and self._clock.monotonic() - began >= bound:
            raise Transient("source.silent", f"the source database has not answered for {bound:g} s")

    def confirm(self, lsn: int) -> None:
        """Everything up to here is durable; the server learns of it at once (Invariant 1)."""
        if lsn > self.confirmed:
            self.confirmed = lsn
            self.send_status()

    async def keep_alive(self) -> None:
        """Status messages for ever."""
        while True:
            await self._clock.sleep(self._link.interval)
            self.send_status(reply=True)

    def send_status(self, reply: bool = False) -> None:
        """What was received and what is durable. A lost connection is left for the reader to notice."""
        wire, changes = self._wire, self._changes
        if wire is None or changes is None:
            return
        written = max(self._received, changes.end, self.confirmed)
        moment = microseconds_since_2000(datetime.fromtimestamp(self._clock.now(), UTC))
        try:
            wire.send_status(written, self.confirmed, moment, reply)  # Invariant 1: flushed is what was acknowledged
            self.fault = None
        except ComponentError as error:
            self.fault = f"{error.code}: {error}"

    async def disconnect(self) -> None:
        """Leave the slot; harmless when not connected."""
        wire, self._wire, self._intake = self._wire, None, None
        if wire is not None:
            await wire.close()
        if self._blocks is not None:
            await self._blocks.clear()

    async def close(self) -> None:
        """`disconnect`, and nothing stays on disk."""
        try:
            await self.disconnect()
        finally:
            if self._blocks is not None:
                await self._blocks.close()

    async def _replicate(self, start: Start) -> None:
        link, deadline = self._link, self._clock.monotonic() + BUSY_SECONDS
        if self._blocks is not None:
            await self._blocks.open()
        while True:
            wire = await Wire.connect(link.target)
            try:
                if link.temporary is not None:
                    start = await self._begin_anew(wire, link.temporary)
                self.changes.timeline = (await check_history(wire, link.slot, link.pipeline, start)).timeline
                await wire.start(link.slot, start.end, self._options(wire.server_version))
            except SlotBusy as error:
                await wire.close()
                if self.take_over:
                    self.take_over = False  # once: whoever comes then may have taken it over from this run
                    await self._session.run(lambda c: end_reader(c, link.slot))
                if self._clock.monotonic() >= deadline:
                    raise await self._busy() from error
                await self._clock.sleep(_BUSY_PAUSE)
            except BaseException:
                await wire.close()
                raise
            else:
                break
        self._wire, self.take_over = wire, False
        self._intake = Intake(wire, self.changes, self._blocks, self._session, self._hear)
        self._received = start.end
        await self.check(start)  # held by this connection now: whoever confirmed something in it has done so before
        self.send_status()

    async def _begin_anew(self, wire: Wire, creation: Callable[[int], str]) -> Start:
        """A slot of this connection: what was changed before it is not seen."""
        try:
            row = await wire.query(creation(wire.server_version))
        except Fatal as error:
            if error.why == _EXISTS:  # that of a connection which the server has not yet noticed to be lost
                raise SlotBusy("slot.busy", error.message) from error
            raise
        start = Start(0, 0, parse_lsn(row[1]))
        self.changes.restart(start)
        return start

    async def _busy(self) -> Transient:
        name = self._link.slot
        slot = await self._session.run(lambda c: read_slot(c, name))
        pid = slot.active_pid if slot else None
        who = await self._session.run(lambda c: reader_of(c, pid)) if pid else "another connection"
        return SlotBusy(
            "slot.busy",
            f"the slot {name} is in use by {who}",
            help=f"stop it, or: SELECT pg_terminate_backend({pid})" if pid else None,
        )

    def _options(self, version: int) -> list[tuple[str, str]]:
        """What pgoutput is asked for, of a server of this version."""
        names = quoted(self._link.publication).replace("'", "''")
        streamed = self._blocks is not None and version >= _STREAMING_SINCE
        options = [("proto_version", "2" if streamed else "1"), ("publication_names", names)]
        return [*options, *([("streaming", "on")] if streamed else []), *origin_options(self._link.origin, version)]

    def _hear(self, found: Keepalive) -> None:
        self._received = max(self._received, found.end)
        if found.reply:
            self.asked = True
            self.send_status()
