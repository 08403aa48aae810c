"""Snapshots where something is done again: a start that failed, a request that arrives while a batch is on its way."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from cdc_parts import SECONDS, make_source, sql
from cdc_snapshot_parts import Ledger, drive
from server_parts import MakeProxy

from penstock.errors import Transient
from penstock.spi import Batch, Resume, Signal
from penstock.testing.servers import Database

INITIAL: dict[str, Any] = {"snapshot": {"mode": "initial"}}
ORDERS = "CREATE TABLE orders (id int PRIMARY KEY, v int); INSERT INTO orders SELECT n, 0 FROM generate_series(1, 40) AS n"


def assert_rising(batches: list[Batch], ledger: Ledger) -> None:
    """In each partition, from where the ledger stood."""
    last = {name: position.order for name, position in ledger.positions.items()}
    for batch in batches:
        assert batch.end is not None
        assert batch.end.order > last.get(batch.partition, b""), batch.partition
        last[batch.partition] = batch.end.order


async def test_a_start_that_failed_and_is_tried_again_reads_each_table_once(
    database: Database, tmp_path: Path, make_proxy: MakeProxy
) -> None:
    await sql(database, ORDERS)
    proxy, ledger = make_proxy(database.server.port), Ledger()
    await drive(make_source(database, tmp_path, port=proxy.port, **INITIAL), [ledger], 1, stop_after=6)
    assert 0 < len(ledger.ids) < 40
    source = make_source(database, tmp_path, port=proxy.port, **INITIAL)
    trap = proxy.cut_before(b"pg_publication")
    with pytest.raises(Transient):
        await source.open(Resume(2, ledger.positions, once=True))
    await asyncio.to_thread(trap.wait)
    await source.open(Resume(2, ledger.positions, once=True))
    try:
        async with asyncio.timeout(SECONDS), aclosing(source.batches()) as batches:
            given = []
            async for batch in batches:
                given.append(batch)
                await source.ack([batch.token])
    finally:
        await source.close()
    assert_rising(given, ledger)
    for batch in given:
        ledger.take(batch)
    ledger.check()
    assert len(ledger.rows["orders"]) == 40


async def test_a_table_asked_for_while_a_batch_is_on_its_way_is_planned_before_it_is_read(
    database: Database, tmp_path: Path
) -> None:
    await sql(database, ORDERS)
    source, given = make_source(database, tmp_path, snapshot={"mode": "never"}), list[Batch]()
    await source.open(Resume(1, {}))
    try:
        async with asyncio.timeout(SECONDS), aclosing(source.batches()) as batches:
            await sql(database, "INSERT INTO orders VALUES (41, 0)")
            while not any(batch.events for batch in given):
                given.append(await anext(batches))
            request = asyncio.create_task(source.signal(Signal(1, "snapshot", ("orders",))))
            await asyncio.wait_for(_declared(source), SECONDS)
            while sum(len(batch.events) for batch in given) < 42:
                given.append(await anext(batches))
                await source.ack([given[-1].token])
            await request
    finally:
        await source.close()
    assert_rising(given, Ledger())


async def _declared(source: object) -> None:
    """Until a declaration of the table was read, and waits to be given."""
    snapshots = source._snapshots  # type: ignore[attr-defined]
    while not any(table.held for table in snapshots.knows("signal-1")):
        await asyncio.sleep(0.005)
