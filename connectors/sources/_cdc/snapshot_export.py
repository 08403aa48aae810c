"""The snapshot that a new slot exports: what it holds, and nothing later, is what the slot's changes begin behind.

The server makes a slot once every transaction in progress has ended, so nothing is locked meanwhile: an ALTER TABLE that waits
for such a transaction would wait for that lock too, and the slot for it. Tables are locked once the snapshot is adopted. What was
rewritten, emptied or keyed anew between the two would be read wrong or not at all, for rewritten tables look empty to older
snapshots: then slot and snapshot are given up and made again. The snapshot lives on in the transactions that adopted it, so that
its wire need not stay.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from connectors.sources._cdc.snapshot_reader import adopt, begin, end, lock, now
from connectors.sources._cdc.snapshot_rows import Taken
from connectors.sources._cdc.snapshot_tables import Layout
from connectors.sources._cdc.wire import Wire
from connectors.sources._pg_replication import parse_lsn
from penstock.errors import Transient
from penstock.postgres import Session

if TYPE_CHECKING:
    import psycopg

ATTEMPTS = 5
"""Slots that are made one after the other before the run gives up, to be tried again as `retry` says."""
_FORMS = """
SELECT c.oid::int8, md5(concat_ws(' ', c.relfilenode, c.relreplident,
    (SELECT string_agg(i.inhparent::text, ',' ORDER BY 1) FROM pg_inherits AS i WHERE i.inhrelid = c.oid),
    (SELECT string_agg(concat_ws(' ', a.attnum, a.attname, a.atttypid, a.atttypmod, a.attcollation), ',' ORDER BY a.attnum)
     FROM pg_attribute AS a WHERE a.attrelid = c.oid AND a.attnum > 0),
    (SELECT string_agg(concat_ws(' ', i.indexrelid, i.indkey, i.indisunique, i.indisvalid, i.indisreplident), ','
     ORDER BY i.indexrelid) FROM pg_index AS i WHERE i.indrelid = c.oid)))
FROM pg_class AS c WHERE c.oid = ANY(%s::oid[])
"""


class Export(msgspec.Struct, frozen=True):
    """How a slot and its snapshot come to be.

    :ivar connect: a replication connection.
    :ivar create: makes the slot over it; what the server answers.
    :ivar drop: removes the slot that this connection has just made.
    :ivar look: finds out what tables look like now.
    :ivar session: sees what is now, in no transaction.
    """

    connect: Callable[[], Awaitable[Wire]]
    create: Callable[[Wire], Awaitable[tuple[Any, ...]]]
    drop: Callable[[Wire], Awaitable[object]]
    look: Callable[[], Awaitable[list[Layout]]]
    session: Session

    async def take(self, sessions: Sequence[Session]) -> tuple[Taken, list[Layout]]:
        """Make the slot; the sessions stand in its snapshot then, which holds what lies before the LSN.

        :param sessions: not open yet; the first of them locks the tables.
        :return: the tables that the snapshot has: of those that were made later, all changes are in the stream.
        :raises Transient: `snapshot.table_changed`.
        """
        for session in sessions:
            await session.open()
        for _ in range(ATTEMPTS):
            wire = await self.connect()
            try:
                found = await self._try(wire, sessions)
            finally:
                await wire.close()
            if found is not None:
                return found
        raise Transient(
            "snapshot.table_changed",
            f"tables were changed each of {ATTEMPTS} times that a slot was made to read them from",
            help="begin once ALTER TABLE, TRUNCATE and VACUUM FULL are over",
        )

    async def _try(self, wire: Wire, sessions: Sequence[Session]) -> tuple[Taken, list[Layout]] | None:
        """None where a table was changed meanwhile."""
        _, consistent, snapshot, *_ = await self.create(wire)
        try:
            for session in sessions:
                await session.run(begin)
                await session.run(lambda c: adopt(c, snapshot))
            tables = await self._unchanged(sessions[0])
            if tables is not None:
                return Taken(parse_lsn(consistent), (await sessions[0].run(now)).time), tables
        except Exception:
            await self._give_up(wire, sessions)
            raise
        await self._give_up(wire, sessions)
        return None

    async def _give_up(self, wire: Wire, sessions: Sequence[Session]) -> None:
        for session in sessions:
            await session.run(end)
        await self.drop(wire)

    async def _unchanged(self, session: Session) -> list[Layout] | None:
        """The tables, locked; None where one is not what it was."""
        before = await self.look()
        await session.run(lambda c: lock(c, before))
        tables = await self.look()
        if {(table.oid, table.parts) for table in tables} != {(table.oid, table.parts) for table in before}:
            return None
        oids = [oid for table in tables for oid in table.parts]
        then = await session.run(lambda c: _forms(c, oids))
        today = await self.session.run(lambda c: _forms(c, oids))
        tables = [table for table in tables if table.oid in then]
        same = all(then.get(oid) == today.get(oid) for table in tables for oid in table.parts)
        return tables if same else None


def _forms(connection: psycopg.Connection[Any], oids: Sequence[int]) -> Mapping[int, str]:
    """What files and descriptions these tables have, as far as the transaction's snapshot has them."""
    return dict(connection.execute(_FORMS, (list(oids),)).fetchall())
