"""What a connection to the slot brings, made into changes: frames, whole transactions, blocks of those in progress.

    intake = Intake(wire, changes, blocks, session, told)
    more = await intake.gather(count, size)

A transaction that was streamed is read from `blocks` once it is committed, before anything else that has arrived, so that changes
come in the order of commits. An intake lives as long as its connection.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from connectors._pg_types import TYPES_QUERY, TypeCatalog
from connectors._postgres import ask
from connectors.sources._cdc.blocks import STREAM_STOP, Blocks, Replay
from connectors.sources._cdc.changes import Changes
from connectors.sources._cdc.keys import COLUMNS_QUERY, NumberedColumn, key_of
from connectors.sources._cdc.wire import Wire
from connectors.sources._pg_replication import XLOG_DATA, XLOG_HEADER, Keepalive, frame, protocol_error
from connectors.sources._pgoutput_messages import Relation, ReplicaIdentity, StreamAbort, Streamed, StreamStart
from penstock.postgres import Session

_TURN = 2_000
"""Messages after which other tasks have their turn, where they made no batch."""


class Intake:
    """Feeds `changes`.

    :param blocks: where transactions in progress wait; None: the server was not asked for any.
    :param told: hears of each keepalive, once `changes` has.
    """

    def __init__(
        self, wire: Wire, changes: Changes, blocks: Blocks | None, session: Session, told: Callable[[Keepalive], None]
    ) -> None:
        self._wire = wire
        self._changes = changes
        self._blocks = blocks
        self._session = session
        self._told = told
        self._replay: Replay | None = None

    async def gather(self, count: int, size: int) -> bool:
        """Feed what has arrived, up to a batch of so many events or bytes; False where no more has.

        :raises Transient: the connection was lost; a transaction in progress could not be kept.
        :raises EnvironmentFault: `source.spill_full`.
        """
        if self._replay is not None:
            await self._play(self._replay, count, size)
            return True
        if self._blocks is not None and self._blocks.receiving:
            return await self._keep(self._blocks)
        return await self._read(count, size)

    async def _read(self, count: int, size: int) -> bool:
        """Whole transactions, as they arrive, until one that is streamed has something to say."""
        changes = self._changes
        receive, feed = self._wire.receive, changes.feed
        for _ in range(_TURN):
            if len(changes.events) >= count or changes.size >= size:
                return True
            data = receive()
            if data is None:
                return False
            if data[0] != XLOG_DATA:
                self._keepalive(data)
            elif (found := feed(data.tobytes()[XLOG_HEADER:])) is not None:
                if not isinstance(found, Relation):
                    await self._streamed(found)
                    return True
                await self._look_up(found)
                feed = changes.feed
        await asyncio.sleep(0)
        return True

    async def _keep(self, blocks: Blocks) -> bool:
        """Messages of the open block, as they arrive, until it ends."""
        receive, add = self._wire.receive, blocks.add
        for _ in range(_TURN):
            data = receive()
            if data is None:
                return False
            if data[0] != XLOG_DATA:
                self._keepalive(data)
            elif data[XLOG_HEADER] == STREAM_STOP:
                await blocks.stop()
                return True
            elif add(data[XLOG_HEADER:]):
                await blocks.flush()
        await asyncio.sleep(0)
        return True

    async def _play(self, replay: Replay, count: int, size: int) -> None:
        """Messages of a transaction that was streamed and is committed; the last of them end it."""
        changes, fed = self._changes, 0
        while True:
            feed = changes.feed
            for message in replay.messages:
                found = feed(message, True)
                if isinstance(found, Relation):
                    await self._look_up(found)
                    feed = changes.feed
                fed += 1
                if len(changes.events) >= count or changes.size >= size or fed >= _TURN:
                    return await asyncio.sleep(0)
            if not await replay.advance():
                self._replay = None
                changes.commit(replay.commit.end_lsn)
                return await self._held().discard(replay.commit.xid)

    async def _streamed(self, found: Streamed) -> None:
        if isinstance(found, StreamAbort) and self._blocks is None:
            return  # servers tell of rolled back subtransactions also where nothing is streamed
        blocks = self._held()
        if isinstance(found, StreamStart):
            blocks.start(found)
        elif isinstance(found, StreamAbort):
            await blocks.abort(found)
        else:
            self._replay = blocks.commit(found)
            self._changes.begin(found.commit_lsn, found.time, found.xid)

    def _held(self) -> Blocks:
        if self._blocks is None:
            raise protocol_error("a transaction in progress, which was not asked for")
        return self._blocks

    def _keepalive(self, data: memoryview) -> None:
        found = frame(data)
        if not isinstance(found, Keepalive):
            raise protocol_error("a frame of the replication stream is no keepalive")
        self._changes.keepalive(found.end)
        self._told(found)

    async def _look_up(self, relation: Relation) -> None:
        """What the stream does not tell of a table: types made meanwhile, and the key where the identity is the whole row."""
        changes = self._changes
        if changes.decoder.types.missing(relation.type_oids):
            rows = await ask(self._session, lambda c: c.execute(TYPES_QUERY).fetchall())
            changes.decoder.types = TypeCatalog.of(rows)
        if relation.identity is ReplicaIdentity.FULL:
            rows = await ask(self._session, lambda c: c.execute(COLUMNS_QUERY, (relation.oid,)).fetchall())
            columns = [NumberedColumn(*row) for row in rows]
            changes.keys[relation.oid] = key_of(relation, columns, changes.keys.get(relation.oid))
        else:
            changes.keys.pop(relation.oid, None)
