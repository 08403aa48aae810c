"""What tests of snapshots share: ledgers beside a source that is stopped anywhere, and an oracle over what they took."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

import pytest
from cdc_parts import SECONDS, sql

from connectors.sources.postgres_cdc import PostgresCdcSource
from penstock.event import UNSET, Event
from penstock.spi import Batch, Position, Resume
from penstock.testing.servers import Database

INITIAL: dict[str, Any] = {"snapshot": {"mode": "initial"}}
VERSIONED = "CREATE SEQUENCE versions START 1000; CREATE TABLE orders (id int PRIMARY KEY, v int NOT NULL, body text); "
Key = tuple[Any, ...]
Between = Callable[[int], Awaitable[None]]


@pytest.fixture
def shop(database_of_each: Database) -> Database:
    """An empty database, on servers of both versions."""
    return database_of_each


async def fill(database: Database, rows: int, identity: str = "FULL") -> None:
    await sql(
        database,
        f"{VERSIONED} ALTER TABLE orders REPLICA IDENTITY {identity};"
        f"INSERT INTO orders SELECT n, 0, repeat('x', n % 9) FROM generate_series(1, {rows}) AS n",
    )


async def make_slot(database: Database) -> None:
    """As somebody else makes it, with a publication `p`."""
    await sql(database, "CREATE PUBLICATION p FOR TABLE orders")
    await sql(database, f"SELECT pg_create_logical_replication_slot('slot_{database.name}', 'pgoutput')")


@dataclass
class Ledger:
    """Holds positions and what came with them, as one commit: rows folded from events, ids, and each key's versions.

    :ivar key: names of the key's columns.
    """

    key: tuple[str, ...] = ("id",)
    positions: dict[str, Position] = field(default_factory=dict)
    rows: dict[str, dict[Key, dict[str, Any]]] = field(default_factory=dict)
    ids: list[tuple[str, str]] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    versions: dict[tuple[str, Key], int] = field(default_factory=dict)

    def take(self, batch: Batch) -> None:
        """One commit: what lies behind the ledger's own position."""
        assert batch.end is not None
        held = self.positions.get(batch.partition, Position(b"")).order
        for event in batch.events:
            if event.position > held:
                self._fold(event)
        if batch.end.order > held:
            self.positions[batch.partition] = batch.end

    def _fold(self, event: Event) -> None:
        record = event.record
        self.ids.append((event.source, event.id))
        self.events.append(event)
        if record is UNSET:  # stands in for what is no row
            return
        table = self.rows.setdefault(record["table"], {})
        if record["op"] == "truncate":
            table.clear()
            return
        row = record["after"] or record["before"]
        key = tuple(row[name] for name in self.key)
        if record["op"] == "delete":
            table.pop(key, None)
        else:
            table[key] = row
        if "v" in row:
            deleted = record["op"] == "delete"
            version = 2 * row["v"] + deleted
            known = self.versions.get((record["table"], key), -1)
            assert version >= known, f"{event.id}: {key} at {version}, after {known}"
            self.versions[record["table"], key] = version

    def check(self) -> None:
        """Nothing came twice."""
        assert len(self.ids) == len(set(self.ids))


def earliest(ledgers: Sequence[Ledger]) -> dict[str, Position]:
    """Where a run resumes: for each partition that all ledgers have, the smallest position."""
    everywhere = set.intersection(*(set(ledger.positions) for ledger in ledgers))
    return {name: min((ledger.positions[name] for ledger in ledgers), key=lambda p: p.order) for name in everywhere}


async def drive(
    source: PostgresCdcSource,
    ledgers: Sequence[Ledger],
    epoch: int,
    *,
    stop_after: int | None = None,
    stop_at: Callable[[Batch], bool] = lambda batch: False,
    lag: int = 0,
    between: Between | None = None,
    once: bool = True,
) -> int:
    """One run, as the engine makes it: each batch is committed to all ledgers but the last, which is `lag` batches behind, and
    acknowledged when it is in all of them. A run dies after `stop_after` batches, or at `stop_at`, before the last one is
    acknowledged.

    :param between: called before each batch with its number; what it does to tables is part of the test.
    :return: how many batches there were.
    """
    *quick, slow = ledgers
    behind: list[Batch] = []

    async def settle(left: int) -> None:
        tokens = []
        while len(behind) > left:
            slow.take(behind[0])
            tokens.append(behind.pop(0).token)
        await source.ack(tokens)

    await source.open(Resume(epoch, earliest(ledgers), once=once))
    count = 0
    try:
        async with asyncio.timeout(SECONDS), aclosing(source.batches()) as batches:
            if between is not None:
                await between(count)
            async for batch in batches:
                count += 1
                for ledger in quick:
                    ledger.take(batch)
                behind.append(batch)
                if count == stop_after or stop_at(batch):
                    for _ in range(len(behind) - lag):
                        slow.take(behind.pop(0))
                    return count
                await settle(0 if batch.token is not None else lag)
                if between is not None:
                    await between(count)
            await settle(0)
    finally:
        await source.close()
    return count


async def table_rows(database: Database, table: str = "orders", key: tuple[str, ...] = ("id",)) -> dict[Key, dict[str, Any]]:
    """The table as it is, in the form of `Ledger.rows`."""
    rows = await sql(database, f"SELECT to_jsonb(t) FROM {table} AS t")
    return {tuple(row[name] for name in key): row for (row,) in rows}


async def drop_slot(database: Database, name: str) -> None:
    """Once the server has noticed that the connection which read it is closed."""
    async with asyncio.timeout(SECONDS):
        while await sql(database, f"SELECT 1 FROM pg_replication_slots WHERE slot_name = '{name}' AND active"):
            await asyncio.sleep(0.01)
    await sql(database, f"SELECT pg_drop_replication_slot('{name}')")


def snapshots_of(ledger: Ledger) -> list[Event]:
    return [event for event in ledger.events if event.type.endswith(".snapshot")]


class Running:
    """A source in the middle of a run, given batch by batch to a ledger, each acknowledged at once."""

    def __init__(self, source: PostgresCdcSource, ledger: Ledger, epoch: int = 1, *, once: bool = False) -> None:
        self.source = source
        self.ledger = ledger
        self._resume = Resume(epoch, ledger.positions, once=once)
        self._batches: Any = None

    async def __aenter__(self) -> Running:
        await self.source.open(self._resume)
        self._batches = self.source.batches()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._batches.aclose()
        await self.source.close()

    async def step(self) -> Batch:
        """The next batch."""
        async with asyncio.timeout(SECONDS):
            batch: Batch = await anext(self._batches)
        self.ledger.take(batch)
        await self.source.ack([batch.token])
        return batch

    async def until(self, condition: Callable[[Batch], bool]) -> Batch:
        """Up to and including the first batch of which this is true."""
        while not condition(batch := await self.step()):
            pass
        return batch

    async def finish(self) -> None:
        """Up to the end of all snapshots."""
        while self.source.gauges()["snapshot_tables_left"]:
            await self.step()

    async def holding(self, rows: int) -> None:
        """Until so many chunks were read and not given, whatever their number."""
        tables = self.source._snapshots._tables
        async with asyncio.timeout(SECONDS):
            while sum(len(table.held) for table in tables) < rows:
                await asyncio.sleep(0.005)

    async def sent(self, database: Database) -> None:
        """Until the server has sent what was committed before now."""
        ((end,),) = await sql(database, "SELECT pg_current_wal_flush_lsn()::text")
        query = f"SELECT 1 FROM pg_stat_replication AS r WHERE r.sent_lsn >= '{end}' AND application_name LIKE 'penstock:%'"
        async with asyncio.timeout(SECONDS):
            while not await sql(database, query):
                await asyncio.sleep(0.005)
