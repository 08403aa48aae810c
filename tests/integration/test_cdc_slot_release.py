"""Who gives a slot up, and when: what is dropped at the end of a run, and who is ended for the next one."""

from __future__ import annotations

from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from cdc_parts import ORDERS, events_of, make_source, prepare_slot, read, sql

from connectors.sources._cdc import begin as cdc_begin
from connectors.sources._cdc import stream as cdc_stream
from connectors.sources._cdc.wire import Wire
from penstock.errors import Transient
from penstock.spi import Position, Resume
from penstock.testing.servers import Database


@pytest.fixture
def shop(database: Database) -> Database:
    database.execute(ORDERS)
    return database


async def slots(database: Database) -> list[str]:
    found = await sql(database, f"SELECT slot_name FROM pg_replication_slots WHERE database = '{database.name}'")
    return [name for (name,) in found]


def dropping(database: Database) -> dict[str, Any]:
    return {"slot": {"name": f"slot_{database.name}", "drop_on_stop": True}}


@pytest.mark.parametrize("rows", ["in mid-transaction", "of a snapshot"])
async def test_a_run_that_leaves_rows_unacknowledged_keeps_its_slot(shop: Database, tmp_path: Path, rows: str) -> None:
    known: dict[str, Position] = {}
    if rows == "in mid-transaction":
        known = await prepare_slot(make_source(shop, tmp_path))
    await sql(shop, "INSERT INTO orders SELECT n FROM generate_series(1, 20) AS n")
    mode = "never" if known else "initial"
    source = make_source(shop, tmp_path, snapshot={"mode": mode}, **dropping(shop))
    await source.open(Resume(1, known))
    async with aclosing(source.batches()) as batches:
        async for batch in batches:
            if batch.events:
                break  # a sink refuses it
            await source.ack([batch.token])
    await source.close()
    assert await slots(shop) == [f"slot_{shop.name}"]


async def test_a_slot_that_another_has_taken_is_not_waited_for_at_the_end(
    shop: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cdc_begin, "BUSY_SECONDS", 0.2)
    known = await prepare_slot(make_source(shop, tmp_path))
    other = make_source(shop, tmp_path)
    await other.open(Resume(1, known))
    try:
        with pytest.raises(Transient) as caught:
            await make_source(shop, tmp_path, **dropping(shop))._beginning.drop_slot()
    finally:
        await other.close()
    assert caught.value.code == "slot.busy"
    assert await slots(shop) == [f"slot_{shop.name}"]


async def test_a_run_that_has_nothing_to_give_drops_its_slot(shop: Database, tmp_path: Path) -> None:
    known = await prepare_slot(make_source(shop, tmp_path))
    await read(make_source(shop, tmp_path, **dropping(shop)), known, ack=True)
    assert await slots(shop) == []


@pytest.mark.parametrize("take_over", [False, True])
async def test_who_takes_over_ends_the_connection_that_holds_the_slot_and_nobody_else_does(
    shop: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, take_over: bool
) -> None:
    monkeypatch.setattr(cdc_stream, "BUSY_SECONDS", 10.0 if take_over else 0.2)
    known = await prepare_slot(make_source(shop, tmp_path))
    await sql(shop, "INSERT INTO orders VALUES (1)")
    source = make_source(shop, tmp_path)
    stuck = await Wire.connect(source._target)  # of a run that hangs
    try:
        await stuck.start(source.slot, 0, [("proto_version", "1"), ("publication_names", source.publication)])
        if not take_over:
            with pytest.raises(Transient, match="is in use by"):
                await source.open(Resume(2, known, once=True))
            return
        await source.open(Resume(2, known, once=True, take_over=True))
        given = [batch async for batch in source.batches()]
        assert [event.data["id"] for event in events_of(given)] == [1]
    finally:
        await source.close()
        await stuck.close()
