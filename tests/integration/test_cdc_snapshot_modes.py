"""When a snapshot is taken: by its mode, by what is there of slot and plan, and where changes were lost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from cdc_parts import make_source, sql
from cdc_snapshot_parts import INITIAL, Ledger, drive, drop_slot, fill, make_slot, snapshots_of, table_rows
from cdc_snapshot_parts import shop as shop

from penstock.errors import EnvironmentFault
from penstock.spi import Resume
from penstock.testing.servers import Database


async def test_a_slot_without_a_checkpoint_is_read_with_the_snapshot_beside_it(shop: Database, tmp_path: Path) -> None:
    await fill(shop, 10)
    await make_slot(shop)
    await sql(
        shop, "UPDATE orders SET v = 1 WHERE id = 3; DELETE FROM orders WHERE id = 4; INSERT INTO orders VALUES (11, 0, '')"
    )
    ledger = Ledger()
    await drive(make_source(shop, tmp_path, publication={"name": "p"}, **INITIAL), [ledger], 1)
    ledger.check()
    assert ledger.rows["orders"] == await table_rows(shop)
    assert {event.type for event in ledger.events} >= {"orders.update", "orders.delete", "orders.insert", "orders.snapshot"}


async def test_a_run_that_dies_between_slot_and_plan_is_taken_up(shop: Database, tmp_path: Path) -> None:
    await fill(shop, 10)
    source = make_source(shop, tmp_path, **INITIAL)
    await source.open(Resume(1, {}))
    await source.close()
    ledger = Ledger()
    await drive(make_source(shop, tmp_path, **INITIAL), [ledger], 2)
    ledger.check()
    assert ledger.rows["orders"] == await table_rows(shop)


async def test_the_modes_say_what_is_read(database: Database, tmp_path: Path) -> None:
    await fill(database, 3)
    ledger = Ledger()
    await drive(make_source(database, tmp_path, snapshot={"mode": "never"}), [ledger], 1)
    assert ledger.events == []
    only, slot = Ledger(), {"name": "only"}
    source = make_source(database, tmp_path, slot=slot, snapshot={"mode": "initial_only"})
    await drive(source, [only], 1, once=False)
    assert len(snapshots_of(only)) == 3
    await sql(database, "UPDATE orders SET v = 1")
    await drive(make_source(database, tmp_path, slot=slot, snapshot={"mode": "initial_only"}), [only], 2, once=False)
    assert len(only.events) == 3
    await drive(make_source(database, tmp_path, slot=slot, **INITIAL), [only], 3)
    assert [event.type for event in only.events[3:]] == ["orders.update"] * 3
    assert only.rows["orders"] == await table_rows(database)


@pytest.mark.parametrize("lost", ["missing", "ahead"])
async def test_when_needed_takes_another_snapshot_where_changes_were_lost(shop: Database, tmp_path: Path, lost: str) -> None:
    fields: dict[str, Any] = {"snapshot": {"mode": "when_needed"}}
    await fill(shop, 6)
    ledger = Ledger()
    await drive(make_source(shop, tmp_path, **fields), [ledger], 1)
    await drop_slot(shop, f"slot_{shop.name}")
    await sql(shop, "UPDATE orders SET v = 1 WHERE id = 1; INSERT INTO orders VALUES (7, 0, '')")
    if lost == "ahead":
        await sql(shop, f"SELECT pg_create_logical_replication_slot('slot_{shop.name}', 'pgoutput')")
    with pytest.raises(EnvironmentFault) as caught:
        await drive(make_source(shop, tmp_path, **INITIAL), [ledger], 2)
    assert caught.value.code == f"slot.{lost}"
    source = make_source(shop, tmp_path, **fields)
    await drive(source, [ledger], 3, stop_after=4)
    assert "slot" in (source.health() or "")
    await drive(make_source(shop, tmp_path, **fields), [ledger], 4)
    await sql(shop, "UPDATE orders SET v = 2 WHERE id = 2")
    await drive(make_source(shop, tmp_path, **fields), [ledger], 5)
    ledger.check()
    assert ledger.rows["orders"] == await table_rows(shop)
    assert len(snapshots_of(ledger)) == 13
