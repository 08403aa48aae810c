"""How far a slot is behind: what is said of it, what too much does to a run, and what moves it: keepalives and heartbeats."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from cdc_governance_parts import ended, refused, until
from cdc_parts import ORDERS, SECONDS, make_source, prepare_slot, sql
from cdc_parts import shop as shop
from server_parts import MakeDatabase, StartPostgres

from connectors.sources._pg_replication import parse_lsn
from connectors.sources.postgres_cdc import PostgresCdcSource
from penstock.errors import EnvironmentFault
from penstock.spi import Resume
from penstock.testing.servers import Database


async def test_too_much_lag_that_grows_stops_the_run_and_less_does_not(shop: Database, tmp_path: Path) -> None:
    fields: dict[str, Any] = {"status_interval": "50ms", "max_slot_lag": {"size": 1, "action": "stop"}}
    known = await prepare_slot(make_source(shop, tmp_path))
    await sql(shop, "INSERT INTO orders SELECT n FROM generate_series(1, 3) AS n")
    source = make_source(shop, tmp_path, **fields)

    async def fall_behind() -> None:
        await until(lambda: source.health() is not None)
        await sql(shop, "INSERT INTO orders SELECT n FROM generate_series(4, 500) AS n")

    _, error = await ended(source, known, fall_behind)
    assert (error.code, isinstance(error, EnvironmentFault)) == ("slot.lag", True)
    assert f"the slot slot_{shop.name} holds back " in error.message
    assert "max_slot_lag.action=unhealthy" in (error.help or "")
    assert f"pg_drop_replication_slot('slot_{shop.name}')" in (error.help or "")


async def test_the_lag_is_what_the_server_says(shop: Database, tmp_path: Path) -> None:
    known = await prepare_slot(make_source(shop, tmp_path))
    await sql(shop, "INSERT INTO orders SELECT n FROM generate_series(1, 1000) AS n")
    lag = "SELECT (pg_current_wal_flush_lsn() - confirmed_flush_lsn)::int8, (pg_current_wal_flush_lsn() - restart_lsn)::int8"
    lag += f" FROM pg_replication_slots WHERE slot_name = 'slot_{shop.name}'"
    (before,) = await sql(shop, lag)
    source = make_source(shop, tmp_path)
    await source.open(Resume(1, known))
    try:
        await until(lambda: "slot_lag_bytes" in source.gauges())
        (after,) = await sql(shop, lag)
    finally:
        await source.close()
    found = source.gauges()
    assert before[0] <= found["slot_lag_bytes"] <= after[0]
    assert before[1] <= found["slot_held_bytes"] <= after[1]
    assert found["slot_lag_bytes"] > 50_000


async def test_a_slot_in_danger_is_unhealthy_before_it_is_lost(start_postgres: StartPostgres, tmp_path: Path) -> None:
    server = await asyncio.to_thread(start_postgres, settings={"max_slot_wal_keep_size": "1MB"}, durable=False)
    shop = await asyncio.to_thread(server.create_database, "shop")
    await sql(shop, ORDERS)
    known = await prepare_slot(make_source(shop, tmp_path))
    source = make_source(shop, tmp_path, status_interval="50ms")
    await source.open(Resume(1, known))
    try:
        assert source.health() is None
        for _ in range(3):
            await sql(shop, "SELECT pg_switch_wal()")
            await sql(shop, "INSERT INTO orders VALUES (1); DELETE FROM orders")
        await until(lambda: source.health() is not None)
        said = source.health() or ""
        assert said.startswith("slot.near_limit: the slot slot_shop holds back ")
        assert "(wal_status unreserved): ALTER SYSTEM SET max_slot_wal_keep_size" in said
    finally:
        await source.close()


async def test_a_slot_that_nobody_read_for_too_long_is_lost(start_postgres: StartPostgres, tmp_path: Path) -> None:
    server = await asyncio.to_thread(start_postgres, settings={"idle_replication_slot_timeout": "1s"}, durable=False)
    shop = await asyncio.to_thread(server.create_database, "shop")
    await sql(shop, ORDERS)
    known = await prepare_slot(make_source(shop, tmp_path))
    async with asyncio.timeout(SECONDS):
        while (await sql(shop, "SELECT invalidation_reason FROM pg_replication_slots"))[0][0] is None:
            await sql(shop, "CHECKPOINT")
    error = await refused(make_source(shop, tmp_path), known)
    assert (error.code, error.message) == ("slot.lost", "the server has given up the slot slot_shop: idle_timeout")


async def test_keepalives_move_the_slot_beside_a_busy_database(
    shop: Database, make_database: MakeDatabase, tmp_path: Path
) -> None:
    other = make_database(shop.server)
    source = make_source(shop, tmp_path, status_interval="50ms")
    await source.open(Resume(1, await prepare_slot(make_source(shop, tmp_path))))
    try:
        await sql(other, "CREATE TABLE t AS SELECT n FROM generate_series(1, 10000) AS n")
        ((busy,),) = await sql(other, "SELECT pg_current_wal_flush_lsn()::text")
        await confirm_until(source, shop, busy)
    finally:
        await source.close()


async def test_a_heartbeat_moves_the_slot_of_a_server_that_stands_still_and_carries_its_message(
    shop: Database, tmp_path: Path
) -> None:
    known = await prepare_slot(make_source(shop, tmp_path))
    await sql(shop, "SELECT pg_create_logical_replication_slot('looker', 'pgoutput')")
    heartbeat = {"interval": "50ms", "message": "from the shop"}
    source = make_source(shop, tmp_path, status_interval="50ms", heartbeat=heartbeat)
    try:
        await source.open(Resume(1, known))
        ((now,),) = await sql(shop, "SELECT pg_current_wal_flush_lsn()::text")
        await confirm_until(source, shop, f"{now}", beyond=True)
        peek = "SELECT data FROM pg_logical_slot_peek_binary_changes('looker', NULL, NULL, 'proto_version', '1', "
        peek += "'publication_names', 'penstock_test', 'messages', 'true')"
        assert any(b"penstock\0" in bytes(data) and b"from the shop" in bytes(data) for (data,) in await sql(shop, peek))
    finally:
        await source.close()
        await sql(shop, "SELECT pg_drop_replication_slot('looker')")


async def confirm_until(source: PostgresCdcSource, database: Database, lsn: str, beyond: bool = False) -> None:
    """Acknowledge what is given until the server knows that everything up to `lsn` is durable."""
    async with asyncio.timeout(SECONDS):
        async for batch in source.batches():
            await source.ack([batch.token])
            slot = f"SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = '{source.slot}'"
            ((text,),) = await sql(database, slot)
            if parse_lsn(text) >= parse_lsn(lsn) + beyond:
                return


async def test_a_heartbeat_that_is_not_allowed_is_told_with_the_grant(shop: Database, tmp_path: Path) -> None:
    role = f"beater_{shop.name}"
    await sql(shop, f"CREATE ROLE {role} LOGIN REPLICATION PASSWORD 'x'; GRANT SELECT ON orders TO {role}")
    function = f"pg_logical_emit_message(boolean, text, text{', boolean' * (shop.server.version >= 17)})"
    await sql(shop, f"REVOKE EXECUTE ON FUNCTION {function} FROM PUBLIC")
    known = await prepare_slot(make_source(shop, tmp_path))
    dsn = shop.dsn.replace("//postgres:", f"//{role}:").replace(shop.server.password, "x")
    source = make_source(shop, tmp_path, dsn=dsn, heartbeat={"interval": "50ms"}, status_interval="50ms")
    try:
        await source.open(Resume(1, known))
        await until(lambda: source.health() is not None)
        assert (source.health() or "").startswith("no heartbeat could be written: postgres.refused: ")
        assert f"; GRANT EXECUTE ON FUNCTION {function} TO the pipeline's user" in (source.health() or "")
        await sql(shop, f"GRANT EXECUTE ON FUNCTION {function} TO {role}")
        await until(lambda: source.health() is None)
    finally:
        await source.close()
        await sql(shop, f"DROP OWNED BY {role}; DROP ROLE {role}")
