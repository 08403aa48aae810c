"""Snapshots on request, by a signal and by a table: read beside the stream, once for each id, refused where not exact."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from cdc_parts import SECONDS, make_source, sql
from cdc_snapshot_parts import Ledger, Running, drive, earliest, snapshots_of, table_rows

from penstock.engine.embed import load, run
from penstock.errors import EnvironmentFault, Permanent
from penstock.postgres import Session
from penstock.spi import Batch, Resume, Signal, Signalled
from penstock.testing.servers import Database

TABLES: dict[str, Any] = {"tables": ["orders", "items"]}
BY_TABLE: dict[str, Any] = {**TABLES, "signals": {"table": "public.asks"}}


@pytest.fixture
async def shop(database: Database) -> Database:
    await sql(
        database,
        "CREATE TABLE orders (id int PRIMARY KEY, v int); INSERT INTO orders SELECT n, 0 FROM generate_series(1, 10) AS n;"
        "CREATE TABLE items (id int PRIMARY KEY, v int); INSERT INTO items SELECT n, 0 FROM generate_series(1, 6) AS n;"
        "CREATE TABLE other (id int PRIMARY KEY); CREATE TABLE bare (n int);"
        "CREATE TABLE asks (id serial PRIMARY KEY, kind text, arguments text[])",
    )
    return database


def titles(ledger: Ledger) -> list[str]:
    return [event.record["table"] for event in snapshots_of(ledger)]


async def asked(running: Running, number: int, *tables: str) -> None:
    """A signal that is taken while batches are read."""
    task = asyncio.create_task(running.source.signal(Signal(number, "snapshot", tables)))
    while not task.done():
        step = asyncio.create_task(running.step())
        await asyncio.wait((task, step), return_when=asyncio.FIRST_COMPLETED)
        await step
    await task


async def test_tables_are_read_on_request_while_changes_come(shop: Database, tmp_path: Path) -> None:
    ledger = Ledger()
    async with Running(make_source(shop, tmp_path, **TABLES), ledger) as running:
        assert isinstance(running.source, Signalled)
        assert running.source.signals == {"snapshot"}
        await asked(running, 7, "orders", "public.items", "orders")
        await sql(shop, "UPDATE orders SET v = 1 WHERE id = 10; DELETE FROM items WHERE id = 6")
        await running.finish()
        await sql(shop, "INSERT INTO items VALUES (100, 0)")
        await running.until(lambda batch: any(event.data["id"] == 100 for event in batch.events))
    ledger.check()
    assert ledger.rows == {"orders": await table_rows(shop), "items": await table_rows(shop, "items")}
    assert sorted(name for name in ledger.positions if name.startswith("snapshot:")) == [
        "snapshot:public.items",
        "snapshot:public.orders",
    ]
    assert snapshots_of(ledger)[0].id == "signal-7-1"


async def test_a_request_that_comes_again_changes_nothing(shop: Database, tmp_path: Path) -> None:
    ledger = Ledger()
    async with Running(make_source(shop, tmp_path, **TABLES), ledger) as running:
        await asked(running, 1, "orders")
        await running.until(lambda batch: bool(batch.events))
    async with Running(make_source(shop, tmp_path, **TABLES), ledger, 2) as running:
        await running.source.signal(Signal(1, "snapshot", ("orders",)))
        await running.finish()
        await asked(running, 2, "orders")
        await running.finish()
    ledger.check()
    assert titles(ledger) == ["orders"] * 20


async def test_a_run_that_dies_between_the_plans_of_a_request_plans_the_rest(shop: Database, tmp_path: Path) -> None:
    ledger = Ledger()
    async with Running(make_source(shop, tmp_path, **TABLES), ledger) as running:
        asking = asyncio.create_task(running.source.signal(Signal(1, "snapshot", ("orders", "items"))))
        await running.until(lambda batch: batch.partition.startswith("snapshot:"))
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
    assert len([name for name in ledger.positions if name.startswith("snapshot:")]) == 1
    async with Running(make_source(shop, tmp_path, **TABLES), ledger, 2) as running:
        await asked(running, 1, "orders", "items")
        await running.finish()
    assert sorted(titles(ledger)) == ["items"] * 6 + ["orders"] * 10


async def test_a_table_that_is_asked_for_while_the_last_reader_leaves_is_read(
    shop: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leaves, may_leave, close = asyncio.Event(), asyncio.Event(), Session.close

    async def leave(session: Session) -> None:
        leaves.set()
        await may_leave.wait()
        await close(session)

    ledger = Ledger()
    async with Running(make_source(shop, tmp_path, **TABLES), ledger) as running:
        await asked(running, 1, "orders")
        monkeypatch.setattr(Session, "close", leave)
        await running.finish()
        async with asyncio.timeout(SECONDS):
            await leaves.wait()
        asking = asyncio.create_task(running.source.signal(Signal(2, "snapshot", ("items",))))
        await running.until(lambda batch: batch.partition == "snapshot:public.items")
        may_leave.set()
        await running.finish()
        await asking
    assert titles(ledger) == ["orders"] * 10 + ["items"] * 6


def partitions(ledger: Ledger) -> list[str]:
    return sorted(name for name in ledger.positions if name.startswith("snapshot"))


async def test_a_checkpoint_grows_with_tables_and_not_with_requests(shop: Database, tmp_path: Path) -> None:
    ledger = Ledger()
    for epoch in (1, 2):
        async with Running(make_source(shop, tmp_path, **TABLES), ledger, epoch) as running:
            for number in range(3 * epoch, 3 * epoch + 3):
                await asked(running, number, "orders")
                await running.finish()
            assert len(running.source._snapshots._tables) == 1
    ledger.check()
    assert titles(ledger) == ["orders"] * 60
    assert partitions(ledger) == ["snapshot:public.orders", "snapshots-asked"]


async def test_a_table_that_is_asked_for_before_it_was_given_has_another_partition_until_then(
    shop: Database, tmp_path: Path
) -> None:
    ledger = Ledger()
    async with Running(make_source(shop, tmp_path, **TABLES), ledger) as running:
        await asked(running, 1, "orders")
        await asked(running, 2, "orders")
        await running.finish()
        for number in (3, 4):
            await asked(running, number, "orders")
            await running.finish()
    ledger.check()
    assert titles(ledger) == ["orders"] * 40
    assert partitions(ledger) == ["snapshot:public.orders", "snapshot:public.orders#2", "snapshots-asked"]


async def test_ledgers_that_stand_at_different_snapshots_of_a_table_take_each_row_once(shop: Database, tmp_path: Path) -> None:
    quick, slow = Ledger(), Ledger()
    async with Running(make_source(shop, tmp_path, count=2, **TABLES), quick) as running:
        await asked(running, 1, "orders")
        await running.until(lambda batch: bool(batch.events))
        slow.positions, slow.ids, slow.events = dict(quick.positions), list(quick.ids), list(quick.events)
        await running.finish()
        asking = asyncio.create_task(running.source.signal(Signal(2, "snapshot", ("orders",))))
        await running.until(lambda batch: batch.partition == "snapshot:public.orders")  # the plan reached one ledger
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
    source, epoch = make_source(shop, tmp_path, count=2, **TABLES), 2
    await source.open(Resume(epoch, earliest([quick, slow])))
    asking = asyncio.create_task(source.signal(Signal(2, "snapshot", ("orders",))))
    try:
        async with asyncio.timeout(SECONDS), aclosing(source.batches()) as batches:
            async for batch in batches:
                for ledger in (quick, slow):
                    ledger.take(batch)
                await source.ack([batch.token])
                if asking.done() and not source.gauges()["snapshot_tables_left"]:
                    break
    finally:
        await source.close()
    for ledger in (quick, slow):
        ledger.check()
        assert titles(ledger) == ["orders"] * 20


async def test_requests_wait_for_each_other(shop: Database, tmp_path: Path) -> None:
    ledger = Ledger()
    source = make_source(shop, tmp_path, **TABLES, snapshot={"mode": "initial"})
    async with Running(source, ledger) as running:
        await running.until(lambda batch: bool(batch.events))
        await asked(running, 1, "items")
        await asked(running, 2, "orders")
        await running.finish()
    assert [event.id.split("-")[0] for event in snapshots_of(ledger)].count("initial") == 16
    assert [event.id.rpartition("-")[0] for event in snapshots_of(ledger)][16:] == ["signal-1"] * 6 + ["signal-2"] * 10


@pytest.mark.parametrize(
    ("arguments", "code", "help"),
    [
        (("other",), "snapshot.not_published", 'ALTER PUBLICATION "penstock_test" ADD TABLE "public"."other"'),
        (("bare",), "snapshot.not_published", None),
        (("orders", "nothing"), "source.no_table", None),
        (("no table at all",), "signal.table", None),
        ((), "signal.table", "pipe signal PIPELINE snapshot TABLE…"),
    ],
)
async def test_what_cannot_be_read_is_refused(
    shop: Database, tmp_path: Path, arguments: tuple[str, ...], code: str, help: str | None
) -> None:
    ledger = Ledger()
    async with Running(make_source(shop, tmp_path, **TABLES), ledger) as running:
        with pytest.raises(Permanent) as caught:
            await running.source.signal(Signal(1, "snapshot", arguments))
        assert caught.value.code == code
        assert help is None or caught.value.help == help
        with pytest.raises(Permanent):
            await running.source.signal(Signal(2, "dance", ("orders",)))
        assert running.source.gauges()["snapshot_tables_left"] == 0


async def test_a_published_table_that_the_pipeline_does_not_read_is_refused(shop: Database, tmp_path: Path) -> None:
    await sql(shop, "ALTER TABLE bare REPLICA IDENTITY FULL; CREATE PUBLICATION wide FOR TABLE orders, other, bare")
    source = make_source(shop, tmp_path, publication={"name": "wide"}, tables=["orders"])
    async with Running(source, Ledger()) as running:
        with pytest.raises(Permanent) as caught:
            await running.source.signal(Signal(1, "snapshot", ("other",)))
        assert (caught.value.code, caught.value.help) == ("signal.table", "add it to `tables`")
        with pytest.raises(Permanent) as caught:
            await running.source.signal(Signal(2, "snapshot", ("bare",)))
        assert caught.value.code == "snapshot.no_key"


async def test_rows_of_a_table_ask_for_snapshots_once(shop: Database, tmp_path: Path) -> None:
    ledger, batches = Ledger(), list[Batch]()
    async with Running(make_source(shop, tmp_path, **BY_TABLE), ledger) as running:
        await sql(
            shop, "INSERT INTO asks (kind, arguments) VALUES ('snapshot', '{items}'), ('dance', '{}'), ('snapshot', '{other}')"
        )
        while len(titles(ledger)) < 6 or sum(len(batch.rejects) for batch in batches) < 2:
            batches.append(await running.step())
    assert sorted(error.code for batch in batches for error in batch.rejects.values()) == [
        "signal.kind",
        "snapshot.not_published",
    ]
    refused = [event for batch in batches if batch.rejects for event in batch.events]
    assert [(event.id, event.type, event.data) for event in refused] == [
        ("table-2", "asks.signal", {"id": "2", "kind": "dance", "arguments": []}),
        ("table-3", "asks.signal", {"id": "3", "kind": "snapshot", "arguments": ["other"]}),
    ]
    before = len(ledger.events)
    async with Running(make_source(shop, tmp_path, **BY_TABLE), ledger, 2) as running:
        await sql(shop, "INSERT INTO asks (kind, arguments) VALUES ('snapshot', '{public.orders}')")
        await running.until(lambda batch: bool(batch.events))
        await running.finish()
    ledger.check()
    assert titles(ledger) == ["items"] * 6 + ["orders"] * 10
    assert len(ledger.events) == before + 10


@pytest.mark.parametrize("arguments", ["ARRAY[NULL]::text[]", "ARRAY[ARRAY['public.orders']]", "'{}'", "NULL"])
async def test_a_row_that_makes_no_sense_is_a_dead_letter_and_ends_nothing(
    shop: Database, tmp_path: Path, arguments: str
) -> None:
    await sql(shop, f"INSERT INTO asks (kind, arguments) VALUES ('snapshot', {arguments}), ('snapshot', '{{items}}')")
    ledger = Ledger()
    async with Running(make_source(shop, tmp_path, **BY_TABLE), ledger, once=True) as running:
        refused = await running.until(lambda batch: bool(batch.rejects))
        await running.finish()
    assert [error.code for error in refused.rejects.values()] == ["signal.table"]
    assert titles(ledger) == ["items"] * 6


async def test_a_run_that_ends_takes_what_was_asked_for_before_it(shop: Database, tmp_path: Path) -> None:
    await sql(shop, "INSERT INTO asks (kind, arguments) VALUES ('snapshot', '{orders}')")
    ledger = Ledger()
    for epoch in (1, 2):
        await drive(make_source(shop, tmp_path, **BY_TABLE), [ledger], epoch)
        assert titles(ledger) == ["orders"] * 10


@pytest.mark.parametrize("change", ["DROP TABLE s.items", "ALTER TABLE s.items DROP CONSTRAINT items_pkey"])
async def test_a_table_that_goes_while_it_is_read_on_request_is_refused(shop: Database, tmp_path: Path, change: str) -> None:
    await sql(shop, "CREATE SCHEMA s; ALTER TABLE items SET SCHEMA s; ALTER TABLE orders SET SCHEMA s")
    fields: dict[str, Any] = {"tables": [], "schemas": ["s"]}
    ledger = Ledger()
    async with Running(make_source(shop, tmp_path, count=2, **fields), ledger) as running:
        await asked(running, 1, "s.items")
        await running.until(lambda batch: batch.partition.startswith("snapshot:") and bool(batch.events))
    await sql(shop, f"{change}; INSERT INTO s.orders VALUES (11, 0)")
    async with Running(make_source(shop, tmp_path, count=2, **fields), ledger, 2) as running:
        refused = await running.until(lambda batch: bool(batch.rejects))
        while not any(event.type == "orders.insert" for event in ledger.events):
            await running.step()
    assert [event.data for event in refused.events] == [{"snapshot": "signal-1", "table": "s.items"}]
    async with Running(make_source(shop, tmp_path, **fields), ledger, 3) as running:
        assert running.source.gauges()["snapshot_tables_left"] == 0


async def test_a_table_of_the_initial_snapshot_that_goes_names_the_way_on(shop: Database, tmp_path: Path) -> None:
    await sql(shop, "CREATE SCHEMA s; ALTER TABLE items SET SCHEMA s; ALTER TABLE orders SET SCHEMA s")
    fields: dict[str, Any] = {"tables": [], "schemas": ["s"], "snapshot": {"mode": "initial"}}
    ledger = Ledger()
    await drive(make_source(shop, tmp_path, count=2, **fields), [ledger], 1, stop_after=4)
    await sql(shop, "DROP TABLE s.items")
    with pytest.raises(EnvironmentFault) as caught:
        await drive(make_source(shop, tmp_path, **fields), [ledger], 2)
    name = next(name for name in ledger.positions if name.endswith(":s.items"))
    assert f"pipe checkpoint reset PIPELINE --partition '{name}'" in (caught.value.help or "")
    del ledger.positions[name]
    await drive(make_source(shop, tmp_path, **fields), [ledger], 3)
    assert len([title for title in titles(ledger) if title == "orders"]) == 10


async def test_a_table_for_signals_that_is_not_there_is_told_at_once(shop: Database, tmp_path: Path) -> None:
    with pytest.raises(EnvironmentFault) as caught:
        await drive(make_source(shop, tmp_path, signals={"table": "nothing"}), [Ledger()], 1)
    assert caught.value.code == "signals.table"
    assert (caught.value.help or "").startswith('CREATE TABLE "public"."nothing" (id bigint')


PIPELINE = """
pipeline: shop
source:
  postgres_cdc: {{ dsn: "{dsn}", tables: [orders, items], signals: {{ table: asks }} }}
sink: {{ file: {{ path: {directory}/out.jsonl }} }}
state: sqlite:{directory}/state
"""


async def test_a_pipeline_takes_signals_and_keeps_what_was_refused(shop: Database, tmp_path: Path) -> None:
    file = tmp_path / "shop.yaml"
    file.write_text(PIPELINE.format(dsn=shop.dsn, directory=tmp_path))
    pipeline = load(file)
    assert (await run(pipeline, once=True)).counts.delivered == 16
    await sql(shop, "INSERT INTO asks (kind, arguments) VALUES ('snapshot', '{items}'), ('dance', '{}')")
    async with asyncio.timeout(SECONDS):
        summary = await run(pipeline, max_events=7)
    assert (summary.counts.delivered, summary.counts.dead_lettered) == (6, 1)
    assert (await run(pipeline, once=True)).counts.received == 0
