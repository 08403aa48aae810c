"""Tables that are read beside the stream: a row never comes behind a newer change of it, whichever transactions are under way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from cdc_parts import SECONDS, make_source, sql
from cdc_snapshot_parts import Ledger, Running, drive, snapshots_of, table_rows
from server_parts import StartPostgres

from connectors.sources._cdc import snapshot_touched as touched
from connectors.sources._cdc.snapshot_held import HELD
from penstock.errors import EnvironmentFault, Transient
from penstock.event import Event
from penstock.spi import Batch, Signal
from penstock.testing.servers import Database

ROWS = 20
INITIAL: dict[str, Any] = {"publication": {"name": "p"}, "snapshot": {"mode": "initial", "batch_rows": 1}}
"""Chunks of one row each."""


@pytest.fixture
async def shop(database: Database) -> Database:
    """Twenty orders, and a slot that somebody else made, so that they are read beside the stream."""
    await prepare(database)
    return database


async def prepare(database: Database) -> None:
    await sql(
        database,
        "CREATE TABLE orders (id int PRIMARY KEY, v int NOT NULL, body text); ALTER TABLE orders REPLICA IDENTITY FULL;"
        f"INSERT INTO orders SELECT n, 0, '' FROM generate_series(1, {ROWS}) AS n; CREATE PUBLICATION p FOR TABLE orders",
    )
    await sql(database, f"SELECT pg_create_logical_replication_slot('slot_{database.name}', 'pgoutput')")


@asynccontextmanager
async def transaction(database: Database, *statements: str) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
    """A transaction that is left open, unless it is ended inside."""
    async with await psycopg.AsyncConnection.connect(database.dsn, autocommit=True) as connection:
        await connection.execute("BEGIN")
        for statement in statements:
            await connection.execute(statement.encode())
        yield connection


def of(ledger: Ledger, identity: int) -> list[Event]:
    rows = ((event, event.record["after"] or event.record["before"]) for event in ledger.events)
    return [event for event, row in rows if row is not None and row["id"] == identity]


def first_row(batch: Batch) -> bool:
    return any(event.record["op"] == "snapshot" for event in batch.events)


async def near_the_end(running: Running) -> None:
    """All but the last rows were given, and these were read."""
    await running.until(lambda batch: any(event.data["id"] == ROWS - HELD for event in batch.events))
    await running.holding(HELD)


async def finished(running: Running, database: Database) -> None:
    """The run reads on to its end; ledger and table are the same."""
    await running.finish()
    await sql(database, "UPDATE orders SET body = 'end' WHERE id = 1")
    await running.until(lambda batch: any(event.data.get("body") == "end" for event in batch.events))
    running.ledger.check()
    assert running.ledger.rows["orders"] == await table_rows(database)


@pytest.mark.parametrize("change", ["UPDATE orders SET v = 1 WHERE id = 20", "DELETE FROM orders WHERE id = 20"])
@pytest.mark.parametrize("savepoint", [False, True])
async def test_a_row_that_was_read_before_its_change_was_given_is_left_out(
    shop: Database, tmp_path: Path, change: str, savepoint: bool
) -> None:
    ledger = Ledger()
    async with Running(make_source(shop, tmp_path, **INITIAL), ledger) as running:
        await running.until(first_row)
        statements = ["INSERT INTO orders VALUES (21, 1, '')", "SAVEPOINT s", change] if savepoint else [change]
        async with transaction(shop, *statements) as other:
            await near_the_end(running)
            await other.execute("COMMIT")
            await running.sent(shop)
            await running.finish()
        assert [event.record["op"] for event in of(ledger, 20)] == ["update" if "UPDATE" in change else "delete"]
        assert [event.record["op"] for event in of(ledger, 19)] == ["snapshot"]
        await sql(shop, "INSERT INTO orders VALUES (1000, 1, '') ON CONFLICT DO NOTHING")
        await finished(running, shop)


async def test_a_row_of_a_transaction_that_is_rolled_back_is_given(shop: Database, tmp_path: Path) -> None:
    ledger = Ledger()
    async with Running(make_source(shop, tmp_path, **INITIAL), ledger) as running:
        await running.until(first_row)
        async with transaction(shop, "UPDATE orders SET v = 1 WHERE id = 20") as other:
            await near_the_end(running)
            await other.execute("ROLLBACK")
        await finished(running, shop)
    assert [event.record["op"] for event in of(ledger, 20)] == ["snapshot"]


async def test_a_transaction_that_ends_after_the_rows_were_given_follows_them(shop: Database, tmp_path: Path) -> None:
    ledger = Ledger()
    async with Running(make_source(shop, tmp_path, **INITIAL), ledger) as running:
        await running.until(first_row)
        async with transaction(shop, "UPDATE orders SET v = 1 WHERE id = 20") as other:
            await running.finish()
            await other.execute("COMMIT")
        await finished(running, shop)
    assert [event.record["op"] for event in of(ledger, 20)] == ["snapshot", "update"]


async def test_a_changed_key_touches_the_old_and_the_new_one(shop: Database, tmp_path: Path) -> None:
    ledger = Ledger()
    async with Running(make_source(shop, tmp_path, **INITIAL), ledger) as running:
        await running.until(first_row)
        await near_the_end(running)
        moves = "UPDATE orders SET id = 100, v = 1 WHERE id = 19; UPDATE orders SET id = 19, v = 2 WHERE id = 20"
        await sql(shop, f"BEGIN; {moves}; COMMIT")
        await running.sent(shop)
        await finished(running, shop)
    assert [event.record["op"] for event in of(ledger, 19)] == ["delete", "insert"]
    assert [event.record["op"] for event in of(ledger, 20)] == ["delete"]


@pytest.mark.parametrize("more", ["", "; INSERT INTO orders VALUES (20, 5, 'again')"])
async def test_rows_of_a_table_that_was_truncated_meanwhile_are_left_out(shop: Database, tmp_path: Path, more: str) -> None:
    ledger = Ledger()
    async with Running(make_source(shop, tmp_path, **INITIAL), ledger) as running:
        await running.until(first_row)
        await near_the_end(running)
        await sql(shop, f"BEGIN; TRUNCATE orders{more}; COMMIT")
        await running.sent(shop)
        await running.finish()
        await sql(shop, "INSERT INTO orders VALUES (1, 1, '')")
        await finished(running, shop)
    assert [event.record["op"] for event in of(ledger, 20)] == (["insert"] if more else [])
    assert [event.record["op"] for event in of(ledger, 19)] == []


async def test_only_changes_that_become_events_keep_a_row_away(shop: Database, tmp_path: Path) -> None:
    ledger = Ledger()
    source = make_source(shop, tmp_path, where='.op == "snapshot" or .before.v != .after.v', **INITIAL)
    async with Running(source, ledger) as running:
        await running.until(first_row)
        await near_the_end(running)
        await sql(shop, "UPDATE orders SET body = 'quiet' WHERE id = 20; UPDATE orders SET v = 1 WHERE id = 19")
        await running.sent(shop)
        await running.finish()
    assert [(event.record["op"], event.data["body"]) for event in of(ledger, 20)] == [("snapshot", "")]
    assert [event.record["op"] for event in of(ledger, 19)] == ["update"]


async def test_a_change_that_becomes_a_dead_letter_does_not_keep_its_row_away(shop: Database, tmp_path: Path) -> None:
    await sql(shop, "ALTER TABLE orders ADD extra json")
    ledger = Ledger()
    async with Running(make_source(shop, tmp_path, **INITIAL), ledger) as running:
        await running.until(first_row)
        await near_the_end(running)
        await sql(shop, "UPDATE orders SET extra = '1e999' WHERE id = 20")
        await running.sent(shop)
        batch = await running.until(lambda batch: bool(batch.rejects))
        await running.finish()
    assert {error.code for error in batch.rejects.values()} == {"decode.number_out_of_range"}
    assert [event.record["op"] for event in of(ledger, 20)] == ["update", "snapshot"]


async def test_keys_that_are_masked_or_not_wanted_are_told_apart(shop: Database, tmp_path: Path) -> None:
    ledger = Ledger(key=("v",))
    fields = {"columns": ["v", "body"], **INITIAL}
    async with Running(make_source(shop, tmp_path, **fields), ledger) as running:
        await running.until(first_row)
        await running.until(lambda batch: bool(batch.events) and batch.events[0].id.endswith(f"-{ROWS - HELD}"))
        await running.holding(HELD)
        await sql(shop, "UPDATE orders SET v = 1 WHERE id = 20")
        await running.sent(shop)
        await running.finish()
    assert [event.id.rpartition("-")[2] for event in snapshots_of(ledger)] == [str(n) for n in range(1, ROWS)]
    assert all(set(event.data) == {"v", "body"} for event in snapshots_of(ledger))


_HANGING = "FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND application_name = 'hanging'"


async def hanging(database: Database, statement: str) -> asyncio.Task[None]:
    """A transaction whose commit is written and waits for a stand-by that does not come: streamed, and seen by nobody."""

    async def commit() -> None:
        async with await psycopg.AsyncConnection.connect(database.dsn, autocommit=True, application_name="hanging") as connection:
            await connection.execute("SET synchronous_commit = on")
            await connection.execute(statement.encode())

    task = asyncio.create_task(commit())
    async with asyncio.timeout(SECONDS):
        while not await sql(database, f"SELECT 1 {_HANGING}"):
            await asyncio.sleep(0.01)
    return task


async def let_go(database: Database, task: asyncio.Task[None]) -> None:
    await sql(database, f"SELECT pg_cancel_backend(pid) {_HANGING}")
    await task


@pytest.fixture
async def waiting_shop(start_postgres: StartPostgres) -> Database:
    """As `shop`, on a server whose commits wait for a stand-by, if they are asked to."""
    server = await asyncio.to_thread(start_postgres, durable=False)
    database = await asyncio.to_thread(server.create_database, "waiting")
    await sql(database, "ALTER SYSTEM SET synchronous_commit = 'local'")
    await sql(database, "ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
    await sql(database, "SELECT pg_reload_conf()")
    async with asyncio.timeout(SECONDS):
        while (await sql(database, "SHOW synchronous_standby_names"))[0][0] != "nobody":
            await asyncio.sleep(0.01)
    await prepare(database)
    return database


async def test_a_commit_that_hangs_after_it_was_given_keeps_its_row_away(waiting_shop: Database, tmp_path: Path) -> None:
    shop, ledger = waiting_shop, Ledger()
    async with Running(make_source(shop, tmp_path, **INITIAL), ledger) as running:
        await running.until(first_row)
        task = await hanging(shop, "UPDATE orders SET v = 1 WHERE id = 20")
        await running.until(lambda batch: any(event.record["op"] == "update" for event in batch.events))
        await running.finish()
        assert [event.record["op"] for event in of(ledger, 20)] == ["update"]
        await let_go(shop, task)
        await finished(running, shop)


async def test_a_commit_that_hangs_since_an_earlier_run_is_waited_for(waiting_shop: Database, tmp_path: Path) -> None:
    shop, ledger = waiting_shop, Ledger()
    changes_only = {**INITIAL, "snapshot": {"mode": "never", "batch_rows": 1}}
    async with Running(make_source(shop, tmp_path, **changes_only), ledger) as running:
        task = await hanging(shop, "UPDATE orders SET v = 1 WHERE id = 20")
        await running.until(lambda batch: bool(batch.events))
    async with Running(make_source(shop, tmp_path, **changes_only), ledger, 2) as running:
        asked = asyncio.create_task(running.source.signal(Signal(1, "snapshot", ("orders",))))
        await running.until(lambda batch: batch.partition == "snapshots-asked")
        await asked
        async with asyncio.timeout(SECONDS):
            while running.source.health() is None:
                await asyncio.sleep(0.01)
        assert (running.source.health() or "").startswith("snapshot.waits: public.orders is read once 1 transactions have ended")
        assert snapshots_of(ledger) == []
        await let_go(shop, task)
        await finished(running, shop)
    assert len(snapshots_of(ledger)) == ROWS


async def test_too_many_changes_are_forgotten_and_their_rows_read_again(
    waiting_shop: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(touched, "MOST_TOUCHED", 3)
    shop, ledger = waiting_shop, Ledger()
    async with Running(make_source(shop, tmp_path, **INITIAL), ledger) as running:
        await running.until(first_row)
        task = await hanging(shop, "UPDATE orders SET v = 1 WHERE id > 12")
        await running.until(
            lambda batch: any(event.record["op"] == "update" and event.data["id"] == 20 for event in batch.events)
        )
        before = len(snapshots_of(ledger))
        ahead = asyncio.create_task(running.step())
        await asyncio.wait((ahead,), timeout=0.5)
        assert all(not batch.events for batch in ([ahead.result()] if ahead.done() else []))
        await let_go(shop, task)
        await ahead
        await finished(running, shop)
    assert len(snapshots_of(ledger)) == ROWS
    assert before < 12


async def test_columns_that_are_added_meanwhile_are_read(shop: Database, tmp_path: Path) -> None:
    ledger = Ledger()
    async with Running(make_source(shop, tmp_path, **INITIAL), ledger) as running:
        await running.until(first_row)
        await sql(shop, "ALTER TABLE orders ADD extra text DEFAULT 'new'")
        with pytest.raises(Transient) as caught:
            await running.finish()
    assert caught.value.code == "snapshot.table_changed"
    await drive(make_source(shop, tmp_path, **INITIAL), [ledger], 2)
    ledger.check()
    assert snapshots_of(ledger)[-1].data == {"id": 20, "v": 0, "body": "", "extra": "new"}
    assert len(snapshots_of(ledger)) == ROWS


async def test_a_key_that_is_changed_meanwhile_stops_the_run(shop: Database, tmp_path: Path) -> None:
    ledger = Ledger()
    await drive(make_source(shop, tmp_path, **INITIAL), [ledger], 1, stop_at=first_row)
    await sql(shop, "ALTER TABLE orders ALTER id TYPE bigint")
    with pytest.raises(EnvironmentFault) as caught:
        await drive(make_source(shop, tmp_path, **INITIAL), [ledger], 2)
    assert caught.value.code == "snapshot.key_changed"
    assert "it was id integer, and is id bigint" in (caught.value.why or "")
    await drive(make_source(shop, tmp_path, **{**INITIAL, "snapshot": {"mode": "never"}}), [ledger], 3)


async def test_a_table_that_is_rewritten_while_an_exported_snapshot_is_read_waits(database: Database, tmp_path: Path) -> None:
    await sql(
        database, "CREATE TABLE orders (id int PRIMARY KEY, v int); INSERT INTO orders SELECT n, 0 FROM generate_series(1, 9) n"
    )
    ledger = Ledger()
    source = make_source(database, tmp_path, snapshot={"mode": "initial"})
    async with Running(source, ledger) as running:
        rewriting = asyncio.create_task(sql(database, "ALTER TABLE orders ALTER v TYPE bigint"))
        async with asyncio.timeout(SECONDS):
            while not await sql(database, "SELECT 1 FROM pg_locks WHERE NOT granted AND mode = 'AccessExclusiveLock'"):
                await asyncio.sleep(0.01)
        await running.finish()
        await asyncio.gather(rewriting, running.step())
    assert len(snapshots_of(ledger)) == 9
