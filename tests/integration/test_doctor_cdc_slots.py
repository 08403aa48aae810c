"""What doctor finds about the slot of a postgres_cdc source; and that what it says mends it."""

from __future__ import annotations

import asyncio
import json
import subprocess
from pathlib import Path
from typing import Any

from cdc_parts import ORDERS, make_source, prepare_slot, sql
from doctor_cdc_parts import found_in
from doctor_cdc_parts import shop as shop
from doctor_parts import sound, wrong
from server_parts import MakeDatabase, StartPostgres

from connectors.sources._pg_replication import lsn_text
from penstock.spi import Resume
from penstock.testing.servers import Database, PostgresServer

SECONDS = 20.0


async def test_a_slot_of_another_database_and_of_another_plugin(
    shop: Database, make_database: MakeDatabase, tmp_path: Path
) -> None:
    other = await asyncio.to_thread(make_database)
    await sql(other, f"SELECT pg_create_logical_replication_slot('slot_{other.name}', 'pgoutput')")
    await sql(shop, "CREATE PUBLICATION penstock_test FOR TABLE orders")
    found = await found_in(shop, tmp_path, slot={"name": f"slot_{other.name}"})
    assert {code: finding.message for code, finding in found.items()} == {
        "slot.unfit": f"the slot slot_{other.name} is not one of pgoutput in database {shop.name}: plugin pgoutput, "
        f"database {other.name}"
    }
    await sql(shop, f"SELECT pg_create_physical_replication_slot('slot_{shop.name}')")
    try:
        assert set(await found_in(shop, tmp_path)) == {"slot.unfit"}
    finally:
        await sql(shop, f"SELECT pg_drop_replication_slot('slot_{shop.name}')")


async def test_a_slot_that_is_gone_or_ahead_of_the_checkpoint(shop: Database, tmp_path: Path) -> None:
    known = await prepare_slot(make_source(shop, tmp_path))
    source = make_source(shop, tmp_path, max_slot_lag="10GiB")
    async with asyncio.timeout(SECONDS):
        while (await sql(shop, f"SELECT active FROM pg_replication_slots WHERE slot_name = 'slot_{shop.name}'"))[0][0]:
            await asyncio.sleep(0.01)
    await sql(shop, f"SELECT pg_drop_replication_slot('slot_{shop.name}')")
    missing = wrong(await source.examine(known))["slot.missing"]
    assert missing.help == "pipe checkpoint reset test --all: a new slot is made, without what was lost"
    await sql(shop, "INSERT INTO orders VALUES (1)")
    await sql(shop, f"SELECT pg_create_logical_replication_slot('slot_{shop.name}', 'pgoutput')")
    ahead = wrong(await source.examine(known))["slot.ahead"]
    end = lsn_text(json.loads(known[f"slot_{shop.name}"].detail)["end"])
    assert ahead.message.endswith(f"its checkpoint is {end}")
    never = await found_in(shop, tmp_path, slot={"name": "none", "create": "never"}, publication={"name": "penstock_test"})
    assert never["slot.missing"].help == (
        "SELECT pg_create_logical_replication_slot('none', 'pgoutput'); or `slot: { create: auto }`"
    )


async def test_a_slot_that_is_read_by_this_pipeline_or_by_another(shop: Database, tmp_path: Path) -> None:
    holder = make_source(shop, tmp_path)
    await holder.open(Resume(1, {}))
    try:
        mine = await make_source(shop, tmp_path, max_slot_lag="10GiB").examine({})
        stranger = make_source(shop, tmp_path, max_slot_lag="10GiB", publication={"name": "penstock_test"})
        stranger.context = _named(stranger.context, "other")
        others = wrong(await stranger.examine({}))
    finally:
        await holder.close()
    assert wrong(mine) == {}
    assert sound(mine)["slot"].startswith(f"the slot slot_{shop.name} is read by a run of this pipeline, pid ")
    assert set(others) == {"slot.busy"}
    assert "SELECT pg_terminate_backend(" in (others["slot.busy"].help or "")


def _named(context: Any, pipeline: str) -> Any:
    from dataclasses import replace

    return replace(context, pipeline=pipeline)


async def test_a_slot_that_holds_back_much_and_is_given_up_at_last(start_postgres: StartPostgres, tmp_path: Path) -> None:
    settings = {"max_slot_wal_keep_size": "48MB", "max_wal_size": "32MB", "min_wal_size": "32MB"}
    server = await asyncio.to_thread(start_postgres, settings=settings, durable=False)
    shop = await asyncio.to_thread(server.create_database, "shop")
    await sql(shop, ORDERS)
    known = await prepare_slot(make_source(shop, tmp_path))
    source = make_source(shop, tmp_path, max_slot_lag="1MiB")
    await _fill(shop)
    assert set(wrong(await source.examine(known))) == {"slot.lag", "slot.wal_limit"}
    roomy = make_source(shop, tmp_path)
    for _ in range(8):
        if near := wrong(await roomy.examine(known)).get("slot.near_limit"):
            break
        await _fill(shop)
    assert near is not None
    assert (near.help or "").endswith("ALTER SYSTEM SET max_slot_wal_keep_size = '1GB'; SELECT pg_reload_conf()")
    for _ in range(4):
        await _fill(shop)
    await sql(shop, "CHECKPOINT")
    lost = wrong(await roomy.examine(known))["slot.lost"]
    assert (lost.help or "").startswith("SELECT pg_drop_replication_slot('slot_shop'); then pipe checkpoint reset test --all")


async def _fill(database: Database) -> None:
    """A WAL segment of 16 MiB."""
    await sql(database, "INSERT INTO orders SELECT n FROM generate_series(1, 10) AS n; DELETE FROM orders")
    await sql(database, "SELECT pg_switch_wal()")


async def test_a_slot_that_stand_bys_do_not_keep(
    shop: Database, postgres16: PostgresServer, make_database: MakeDatabase, tmp_path: Path
) -> None:
    slot = {"name": f"slot_{shop.name}", "failover": True}
    assert await found_in(shop, tmp_path, slot=slot) == {}
    await prepare_slot(make_source(shop, tmp_path))
    found = await found_in(shop, tmp_path, slot=slot)
    assert {code: finding.severity for code, finding in found.items()} == {"slot.not_failover": "warning"}
    help = found["slot.not_failover"].help or ""
    assert help.endswith(f"replication=database\" -c 'ALTER_REPLICATION_SLOT slot_{shop.name} (FAILOVER true)'")
    environment = {
        "PGHOST": "127.0.0.1",
        "PGPORT": str(shop.server.port),
        "PGUSER": "postgres",
        "PGPASSWORD": shop.server.password,
    }
    command = help.replace("psql", str(shop.server.program("psql")), 1)
    async with asyncio.timeout(SECONDS):
        while (await sql(shop, f"SELECT active FROM pg_replication_slots WHERE slot_name = 'slot_{shop.name}'"))[0][0]:
            await asyncio.sleep(0.01)
    await asyncio.to_thread(subprocess.run, command, shell=True, check=True, env=environment, capture_output=True)
    assert await found_in(shop, tmp_path, slot=slot) == {}
    older = await asyncio.to_thread(make_database, postgres16)
    await sql(older, ORDERS)
    assert set(await found_in(older, tmp_path, slot={"failover": True})) == {"slot.no_failover"}


async def test_a_temporary_slot_is_no_matter_of_the_server(shop: Database, tmp_path: Path) -> None:
    source = make_source(shop, tmp_path, slot={"temporary": True})
    found = await source.examine({})
    assert wrong(found) == {}
    assert sound(found)["slot"] == "each run makes a slot, which ends with it"
