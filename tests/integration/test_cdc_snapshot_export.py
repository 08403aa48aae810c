"""Making a slot and reading its snapshot, beside those who change tables meanwhile."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import psycopg
from cdc_parts import SECONDS, make_source, sql
from cdc_snapshot_parts import Ledger, Running, drive, table_rows

from penstock.spi import Resume
from penstock.testing.servers import Database

INITIAL: dict[str, Any] = {"snapshot": {"mode": "initial"}}
TABLES = "CREATE TABLE orders (id int PRIMARY KEY, v int); INSERT INTO orders SELECT n, n FROM generate_series(1, 9) AS n; "


async def until(database: Database, query: str) -> None:
    async with asyncio.timeout(SECONDS):
        while not await sql(database, query):
            await asyncio.sleep(0.01)


async def slot_waits(database: Database) -> None:
    """Until the server waits for a transaction, to make a slot."""
    await until(
        database, "SELECT 1 FROM pg_stat_activity WHERE wait_event = 'transactionid' AND query LIKE 'CREATE_REPLICATION_SLOT%'"
    )


async def test_a_table_can_be_altered_while_the_slot_waits_for_a_transaction(database: Database, tmp_path: Path) -> None:
    await sql(database, TABLES + "CREATE TABLE other (id int)")
    source = make_source(database, tmp_path, **INITIAL)
    with psycopg.connect(database.dsn, application_name="nightly") as long:
        long.execute("INSERT INTO other VALUES (1)")
        opening = asyncio.create_task(source.open(Resume(1, {}, once=True)))
        await slot_waits(database)
        async with asyncio.timeout(SECONDS):
            await sql(database, "ALTER TABLE orders ALTER v TYPE bigint, ADD price int NOT NULL DEFAULT 42")
            while not (said := source.health()):
                await asyncio.sleep(0.05)
        assert said.startswith("slot.waits: ")
        assert "(nightly), since" in said
        long.commit()
    await opening
    assert source.health() is None
    await source.close()
    ledger = Ledger()
    await drive(make_source(database, tmp_path, slot={"name": "another"}, **INITIAL), [ledger], 1)
    assert ledger.rows["orders"] == await table_rows(database)


async def test_a_table_that_is_rewritten_between_slot_and_lock_is_read_from_another_slot(
    database: Database, tmp_path: Path
) -> None:
    await sql(database, TABLES)
    source = make_source(database, tmp_path, **INITIAL)
    look, looks, slots = source._beginning._initial_tables, [0], []

    async def rewriting() -> Any:
        looks[0] += 1
        if looks[0] == 2:
            slots.extend(await sql(database, "SELECT slot_name, confirmed_flush_lsn FROM pg_replication_slots"))
            await sql(database, "ALTER TABLE orders ALTER v TYPE bigint")
        return await look()

    source._beginning._initial_tables = rewriting  # type: ignore[method-assign]
    ledger = Ledger()
    async with Running(source, ledger) as running:
        ((_, confirmed),) = await sql(
            database, f"SELECT slot_name, confirmed_flush_lsn FROM pg_replication_slots WHERE database = '{database.name}'"
        )
        assert confirmed not in [lsn for _, lsn in slots]
        await running.finish()
    assert ledger.rows["orders"] == await table_rows(database)


async def test_rows_of_a_table_that_is_being_made_with_the_slot_are_read(database: Database, tmp_path: Path) -> None:
    await sql(database, "CREATE SCHEMA s")
    source = make_source(database, tmp_path, tables=[], schemas=["s"], **INITIAL)
    with psycopg.connect(database.dsn) as migration:
        migration.execute("CREATE TABLE s.orders (id int PRIMARY KEY); INSERT INTO s.orders VALUES (1), (2)")
        ledger = Ledger()
        opening = asyncio.create_task(source.open(Resume(1, {}, once=True)))
        await slot_waits(database)
        migration.commit()
    await opening
    await source.close()
    await sql(database, f"SELECT pg_drop_replication_slot('slot_{database.name}')")
    assert [table.progress.title for table in source._snapshots._tables] == ["s.orders"]
    await sql(database, "INSERT INTO s.orders VALUES (3)")
    await drive(make_source(database, tmp_path, tables=[], schemas=["s"], **INITIAL), [ledger], 1)
    assert sorted(ledger.rows["orders"]) == [(1,), (2,), (3,)]
