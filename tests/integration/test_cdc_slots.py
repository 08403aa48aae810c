"""The replication slot: what is confirmed and when, lost connections, and each state that a slot can be in."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from cdc_parts import ORDERS, SECONDS, confirmed, events_of, ids, make_source, positions, prepare_slot, read, sql, take_all
from cdc_snapshot_parts import Ledger, drive
from server_parts import MakeProxy, StartPostgres

from connectors.sources import postgres_cdc
from connectors.sources._cdc import stream as cdc_stream
from connectors.sources._pg_replication import lsn_text, parse_lsn
from penstock.errors import EnvironmentFault, PenstockError, Transient
from penstock.spi import Batch, Resume
from penstock.testing.servers import Database


@pytest.fixture
def shop(database: Database) -> Database:
    database.execute(ORDERS)
    return database


async def refused(database: Database, directory: Path, known: dict | None = None, **fields: object) -> PenstockError:  # type: ignore[type-arg]
    source = make_source(database, directory, **fields)
    with pytest.raises(PenstockError) as caught:
        await source.open(Resume(1, known or {}))
    await source.close()
    return caught.value


async def drop_slot(database: Database) -> None:
    """Once the server has noticed that the connection which read it is closed."""
    async with asyncio.timeout(SECONDS):
        while (await sql(database, f"SELECT active FROM pg_replication_slots WHERE slot_name = 'slot_{database.name}'"))[0][0]:
            await asyncio.sleep(0.01)
    await sql(database, f"SELECT pg_drop_replication_slot('slot_{database.name}')")


async def test_what_is_confirmed_is_what_was_acknowledged_and_never_in_mid_transaction(shop: Database, tmp_path: Path) -> None:
    known = await prepare_slot(make_source(shop, tmp_path))
    before = await confirmed(shop)
    await sql(shop, "INSERT INTO orders SELECT n FROM generate_series(1, 6) AS n")
    source = make_source(shop, tmp_path)
    await source.open(Resume(1, known, once=True))
    batches: list[Batch] = []
    try:
        async with asyncio.timeout(SECONDS):
            async for batch in source.batches():
                batches.append(batch)
                await source.ack([batch.token] if len(batches) == 1 else [])
    finally:
        await source.close()
    given = [batch for batch in batches if batch.events]  # of four events at most, of fewer where the others were on their way
    assert [event.data["id"] for event in events_of(given)] == [1, 2, 3, 4, 5, 6]
    assert [batch.token for batch in given[:-1]] == [None] * max(1, len(given) - 1)
    end = min(batch.token for batch in batches[len(given) - 1 :] if batch.token is not None)
    assert parse_lsn(before) <= parse_lsn(await confirmed(shop)) <= end
    await read(make_source(shop, tmp_path), known, ack=True)
    assert parse_lsn(await confirmed(shop)) >= end


async def test_a_lost_connection_is_transient_and_reading_goes_on_behind_the_last_batch(
    shop: Database, tmp_path: Path, make_proxy: MakeProxy
) -> None:
    proxy = make_proxy(shop.server.port)
    await prepare_slot(make_source(shop, tmp_path))
    await sql(shop, "INSERT INTO orders SELECT n FROM generate_series(1, 9) AS n")
    source = make_source(shop, tmp_path, port=proxy.port)
    await source.open(Resume(1, {}))
    given: list[Batch] = []
    try:
        async with asyncio.timeout(SECONDS):
            batches = source.batches()
            given.append(await anext(batches))
            await asyncio.to_thread(proxy.cut)
            with pytest.raises(Transient):
                await take_all(batches, given)
            again = source.batches()
            while len(events_of(given)) < 9:
                given.append(await anext(again))
            await again.aclose()  # type: ignore[attr-defined]
    finally:
        await source.close()
    assert [event.data["id"] for event in events_of(given)] == list(range(1, 10))
    assert len(set(ids(given))) == 9


async def test_a_run_follows_and_keepalives_move_the_slot(shop: Database, tmp_path: Path) -> None:
    source = make_source(shop, tmp_path, status_interval="50ms", heartbeat={"interval": "50ms"})
    await source.open(Resume(1, {}))
    try:
        async with asyncio.timeout(SECONDS):
            batches = source.batches()
            quiet = await anext(batches)
            assert quiet.events == []
            await source.ack([quiet.token])
            while parse_lsn(await confirmed(shop)) < quiet.token:
                await asyncio.sleep(0.01)
            await sql(shop, "INSERT INTO orders VALUES (1)")
            batch = quiet
            while not batch.events:
                batch = await anext(batches)
            assert batch.events[0].data["id"] == 1
            while "slot_lag_bytes" not in source.gauges():
                await asyncio.sleep(0.01)
            await batches.aclose()  # type: ignore[attr-defined]
    finally:
        await source.close()
    assert source.health() is None


async def test_a_slot_that_is_gone_stops_the_run(shop: Database, tmp_path: Path) -> None:
    known = await prepare_slot(make_source(shop, tmp_path))
    await drop_slot(shop)
    error = await refused(shop, tmp_path, known)
    assert (error.code, error.help) == (
        "slot.missing",
        "pipe checkpoint reset test --all: a new slot is made, without what was lost",
    )
    never = {"name": f"slot_{shop.name}", "create": "never"}
    assert "pg_create_logical_replication_slot" in ((await refused(shop, tmp_path, slot=never)).help or "")


async def test_a_slot_ahead_of_the_checkpoint_is_a_gap(shop: Database, tmp_path: Path) -> None:
    known = await prepare_slot(make_source(shop, tmp_path))
    await drop_slot(shop)
    await sql(shop, "INSERT INTO orders VALUES (1)")
    await sql(shop, f"SELECT pg_create_logical_replication_slot('slot_{shop.name}', 'pgoutput')")
    error = await refused(shop, tmp_path, known)
    assert error.code == "slot.ahead"
    assert f"stands at {await confirmed(shop)}" in error.message


async def test_a_busy_slot_names_who_has_it(shop: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cdc_stream, "BUSY_SECONDS", 0.2)
    holder = make_source(shop, tmp_path)
    await holder.open(Resume(1, {}))
    try:
        error = await refused(shop, tmp_path)
    finally:
        await holder.close()
    assert (error.code, isinstance(error, Transient)) == ("slot.busy", True)
    assert "penstock:test/source" in error.message
    assert "pg_terminate_backend" in (error.help or "")
    await read(make_source(shop, tmp_path))


async def test_a_slot_of_another_kind_is_refused(shop: Database, tmp_path: Path) -> None:
    await sql(shop, f"SELECT pg_create_physical_replication_slot('slot_{shop.name}')")
    assert (await refused(shop, tmp_path)).code == "slot.unfit"


async def test_a_slot_that_the_server_gave_up_stops_the_run(start_postgres: StartPostgres, tmp_path: Path) -> None:
    server = await asyncio.to_thread(
        start_postgres, settings={"max_slot_wal_keep_size": "1MB", "max_wal_size": "32MB", "min_wal_size": "32MB"}, durable=False
    )
    shop = await asyncio.to_thread(server.create_database, "shop")
    await sql(shop, ORDERS)
    known = await prepare_slot(make_source(shop, tmp_path))
    for _ in range(4):
        await sql(shop, "SELECT pg_switch_wal()")
        await sql(shop, "INSERT INTO orders SELECT n FROM generate_series(1, 10) AS n; DELETE FROM orders")
    await sql(shop, "CHECKPOINT")
    error = await refused(shop, tmp_path, known)
    assert error.code == "slot.lost"
    assert "pg_drop_replication_slot('slot_shop')" in (error.help or "")
    ledger = Ledger(positions=dict(known))
    await sql(shop, "INSERT INTO orders VALUES (11), (12)")
    await drive(make_source(shop, tmp_path, snapshot={"mode": "when_needed"}), [ledger], 2)
    assert [event.id.rpartition("-")[2] for event in ledger.events] == ["11", "12"]
    await sql(shop, "DELETE FROM orders WHERE id = 11")
    await drive(make_source(shop, tmp_path, snapshot={"mode": "when_needed"}), [ledger], 3)
    assert sorted(ledger.rows["orders"]) == [(12,)]


async def test_publications_that_lack_something_name_the_sql(shop: Database, tmp_path: Path) -> None:
    await sql(shop, 'CREATE TABLE "Odd ""Name" (id int); CREATE PUBLICATION p FOR TABLE orders WITH (publish = \'insert\')')
    publication = {"name": "p"}
    error = await refused(shop, tmp_path, publication=publication, tables=["orders", '"Odd ""Name"'])
    assert (error.code, (error.help or "")[:58]) == (
        "publication.tables",
        'ALTER PUBLICATION "p" ADD TABLE "public"."Odd ""Name"; a p',
    )
    assert (await refused(shop, tmp_path, publication=publication)).code == "publication.operations"
    assert (await refused(shop, tmp_path, tables=["nothing"])).code == "source.no_table"
    assert (await refused(shop, tmp_path, publication={"create": "never"})).code == "publication.missing"


async def test_a_server_without_logical_wal_is_refused(start_postgres: StartPostgres, tmp_path: Path) -> None:
    server = await asyncio.to_thread(start_postgres, settings={"wal_level": "replica"}, durable=False)
    shop = await asyncio.to_thread(server.create_database, "shop")
    error = await refused(shop, tmp_path)
    assert (error.code, isinstance(error, EnvironmentFault)) == ("source.wal_level", True)


async def test_the_identity_names_the_server_the_database_and_the_slot(shop: Database, tmp_path: Path) -> None:
    (row,) = await sql(shop, "SELECT system_identifier FROM pg_control_system()")
    assert await make_source(shop, tmp_path).identify() == f"postgres_cdc:{row[0]}/{shop.name}/slot_{shop.name}"


async def test_positions_are_told_in_words(shop: Database, tmp_path: Path) -> None:
    await prepare_slot(make_source(shop, tmp_path))
    await sql(shop, "INSERT INTO orders VALUES (1), (2)")
    whole = await read(make_source(shop, tmp_path, count=1))
    lsn = events_of(whole)[0].record["lsn"]
    tell = postgres_cdc.PostgresCdcSource.position_text
    assert tell(events_of(whole)[0].position) == f"transaction {lsn}, change 1"
    ends = [tell(position.order) for position in positions(whole).values()]
    assert ends[0] == f"transaction {lsn}, its end" or ends[0].startswith("LSN ")
    assert lsn_text(parse_lsn(lsn)) == lsn


async def test_a_server_that_falls_silent_is_transient(shop: Database, tmp_path: Path, make_proxy: MakeProxy) -> None:
    proxy = make_proxy(shop.server.port)
    source = make_source(shop, tmp_path, port=proxy.port, status_interval="100ms")
    await source.open(Resume(1, {}))
    given: list[Batch] = []
    try:
        await asyncio.to_thread(proxy.stall)
        async with asyncio.timeout(SECONDS):
            with pytest.raises(Transient) as caught:
                await take_all(source.batches(), given)
        await asyncio.to_thread(proxy.forward)
    finally:
        await source.close()
    assert caught.value.code == "source.silent"


async def test_a_slot_that_holds_back_too_much_is_unhealthy(shop: Database, tmp_path: Path) -> None:
    source = make_source(shop, tmp_path, status_interval="50ms", max_slot_lag=1)
    await source.open(Resume(1, {}))
    try:
        await sql(shop, "INSERT INTO orders VALUES (1)")
        async with asyncio.timeout(SECONDS):
            while source.health() is None:
                await asyncio.sleep(0.01)
        assert (source.health() or "").startswith(f"slot.lag: the slot slot_{shop.name} holds back ")
        assert set(source.gauges()) == {
            "slot_lag_bytes",
            "slot_lag_seconds",
            "slot_held_bytes",
            "schema_changes",
            "snapshot_rows",
            "snapshot_tables_left",
        }
    finally:
        await source.close()
