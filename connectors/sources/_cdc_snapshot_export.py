"""The snapshot that a new slot exports: what it holds, and nothing later, is what the slot's changes begin behind.

Tables are locked before the slot is made, and looked at once they are: nobody rewrites or re-keys them between the slot's place
and the first row that is read. The snapshot lives on in the transactions that import it, so that its wire need not stay.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from connectors.sources._cdc_snapshot_reader import adopt, begin, now
from connectors.sources._cdc_snapshot_rows import Taken
from connectors.sources._cdc_snapshot_tables import Layout
from connectors.sources._cdc_wire import Wire
from connectors.sources._pg_replication import parse_lsn
from penstock.postgres import Session

Look = Callable[[], Awaitable[list[Layout]]]
"""Finds out what tables look like now."""


async def export_snapshot(
    sessions: Sequence[Session], connect: Callable[[], Awaitable[Wire]], command: Callable[[int], str], look: Look
) -> tuple[Taken, list[Layout]]:
    """Make the slot; the sessions stand in its snapshot then, which holds what lies before the LSN.

    :param sessions: not open yet; the first of them locks the tables.
    :param command: that makes the slot and exports its snapshot, on a server of this version.
    """
    for session in sessions:
        await session.open()
    tables = await look()
    await sessions[0].run(lambda c: begin(c, tables))
    for session in sessions[1:]:
        await session.run(begin)
    tables = await look()
    wire = await connect()
    try:
        _, consistent, snapshot, *_ = await wire.query(command(wire.server_version))
        for session in sessions:
            await session.run(lambda c: adopt(c, snapshot))
    finally:
        await wire.close()
    time = (await sessions[0].run(now)).time
    return Taken(parse_lsn(consistent), time), tables
