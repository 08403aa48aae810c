"""Who keeps a slot alive, and for how long: temporary, failover and dropped slots, publications that are narrowed while they are
read, origins."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from cdc_governance_parts import ended, refused, until
from cdc_parts import SECONDS, events_of, make_source, positions, prepare_slot, read, slot_is_free, sql, take_all
from cdc_parts import shop as shop

from connectors.sources._cdc import stream as cdc_stream
from connectors.sources._cdc.watch import Watch
from connectors.sources._cdc.wire import Wire
from penstock.errors import EnvironmentFault, PenstockError, Transient
from penstock.spi import Batch, Position, Resume
from penstock.testing.servers import Database


async def slots(database: Database) -> list[str]:
    return [
        name for (name,) in await sql(database, f"SELECT slot_name FROM pg_replication_slots WHERE database = '{database.name}'")
    ]


async def test_a_temporary_slot_sees_what_is_changed_while_it_is_read_and_leaves_nothing(shop: Database, tmp_path: Path) -> None:
    fields: dict[str, Any] = {"slot": {"name": f"slot_{shop.name}", "temporary": True}}
    await sql(shop, "INSERT INTO orders VALUES (1)")
    known: dict[str, Position] = {}
    for number in (2, 4):
        source = make_source(shop, tmp_path, **fields)
        await source.open(Resume(1, known))
        await sql(shop, f"INSERT INTO orders VALUES ({number})")
        given: list[Batch] = []
        async with asyncio.timeout(SECONDS):
            batches = source.batches()
            while not events_of(given):
                given.append(await anext(batches))
            await batches.aclose()  # type: ignore[attr-defined]
        assert await slots(shop) == [f"slot_{shop.name}"]
        await source.close()
        assert [event.data["id"] for event in events_of(given)] == [number]
        assert not known or positions(given)[source.slot].order > known[source.slot].order
        known = positions(given)
        while await slots(shop):
            await asyncio.sleep(0.01)
        await sql(shop, f"INSERT INTO orders VALUES ({number + 1})")
    await sql(shop, f"SELECT pg_create_logical_replication_slot('slot_{shop.name}', 'pgoutput')")
    assert (await refused(make_source(shop, tmp_path, **fields))).code == "slot.unfit"


async def test_a_temporary_slot_is_made_again_after_a_lost_connection(shop: Database, tmp_path: Path) -> None:
    source = make_source(shop, tmp_path, slot={"name": f"slot_{shop.name}", "temporary": True})
    await source.open(Resume(1, {}))
    given: list[Batch] = []
    try:
        await sql(shop, f"SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = 'slot_{shop.name}'")
        with pytest.raises(Transient):
            await take_all(source.batches(), given)
        async with asyncio.timeout(SECONDS):
            batches = source.batches()
            given.append(await anext(batches))
            await sql(shop, "INSERT INTO orders VALUES (1)")
            while not events_of(given):
                given.append(await anext(batches))
            await batches.aclose()  # type: ignore[attr-defined]
    finally:
        await source.close()
    assert [event.data["id"] for event in events_of(given)] == [1]


async def test_a_failover_slot_is_made_where_the_server_has_such(shop: Database, tmp_path: Path) -> None:
    fields: dict[str, Any] = {"slot": {"name": f"slot_{shop.name}", "failover": True}}
    if shop.server.version < 17:
        assert (await refused(make_source(shop, tmp_path, **fields))).code == "slot.no_failover"
        assert await slots(shop) == []
        return
    await prepare_slot(make_source(shop, tmp_path, **fields))
    assert await sql(shop, f"SELECT failover FROM pg_replication_slots WHERE slot_name = 'slot_{shop.name}'") == [(True,)]


async def test_drop_on_stop_drops_the_slot_once_all_is_acknowledged_and_the_next_run_says_so(
    shop: Database, tmp_path: Path
) -> None:
    fields: dict[str, Any] = {"slot": {"name": f"slot_{shop.name}", "drop_on_stop": True}}
    known = await prepare_slot(make_source(shop, tmp_path))
    await sql(shop, "INSERT INTO orders VALUES (1)")
    await read(make_source(shop, tmp_path, **fields), known)
    assert await slots(shop) == [f"slot_{shop.name}"]  # what was given is not durable yet
    given = await read(make_source(shop, tmp_path, **fields), known, ack=True)
    assert [event.data["id"] for event in events_of(given)] == [1]
    assert await slots(shop) == []
    assert (await refused(make_source(shop, tmp_path, **fields), positions(given))).code == "slot.missing"


async def test_a_run_that_fails_keeps_its_slot(shop: Database, tmp_path: Path) -> None:
    fields: dict[str, Any] = {"slot": {"name": f"slot_{shop.name}", "drop_on_stop": True}, "truncate": "fail"}
    known = await prepare_slot(make_source(shop, tmp_path))
    await sql(shop, "TRUNCATE orders")
    with pytest.raises(PenstockError):
        await read(make_source(shop, tmp_path, **fields), known, ack=True)
    assert await slots(shop) == [f"slot_{shop.name}"]


async def test_a_slot_that_another_consumer_moved_is_ahead(shop: Database, tmp_path: Path) -> None:
    known = await prepare_slot(make_source(shop, tmp_path))
    await sql(shop, "INSERT INTO orders VALUES (1)")
    async with asyncio.timeout(SECONDS):
        while (await sql(shop, f"SELECT active FROM pg_replication_slots WHERE slot_name = 'slot_{shop.name}'"))[0][0]:
            await asyncio.sleep(0.01)
    await sql(shop, f"SELECT pg_replication_slot_advance('slot_{shop.name}', pg_current_wal_flush_lsn())")
    error = await refused(make_source(shop, tmp_path), known)
    assert (error.code, error.help) == (
        "slot.ahead",
        "pipe checkpoint reset test --all: reading goes on at the slot, without what lies between",
    )


async def test_the_command_of_a_busy_slot_frees_it(shop: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = await prepare_slot(make_source(shop, tmp_path))
    await sql(shop, "INSERT INTO orders VALUES (1)")
    source = make_source(shop, tmp_path)
    await slot_is_free(shop)
    stuck = await Wire.connect(source._target)  # a client that was stopped: it holds the slot, and reads nothing
    try:
        await stuck.start(source.slot, 0, [("proto_version", "1"), ("publication_names", source.publication)])
        monkeypatch.setattr(cdc_stream, "BUSY_SECONDS", 0.2)
        error = await refused(make_source(shop, tmp_path), known)
        monkeypatch.undo()
        assert (error.code, isinstance(error, Transient)) == ("slot.busy", True)
        await sql(shop, (error.help or "").removeprefix("stop it, or: "))
        assert [event.data["id"] for event in events_of(await read(make_source(shop, tmp_path), known))] == [1]
    finally:
        await stuck.close()


@pytest.mark.parametrize(
    ("change", "code", "message"),
    [
        ("DROP PUBLICATION penstock_test", "publication.missing", "there is no publication penstock_test"),
        (
            "ALTER PUBLICATION penstock_test DROP TABLE orders",
            "publication.tables",
            "the publication penstock_test lacks public.orders",
        ),
        (
            "ALTER PUBLICATION penstock_test SET (publish = 'insert, update')",
            "publication.operations",
            "the publication penstock_test does not publish delete, truncate",
        ),
        ("DROP TABLE orders", "source.no_table", "there is no table public.orders"),
    ],
)
async def test_what_is_taken_from_the_publication_while_it_is_read_stops_the_run(
    shop: Database, tmp_path: Path, change: str, code: str, message: str
) -> None:
    known = await prepare_slot(make_source(shop, tmp_path))
    await sql(shop, "CREATE TABLE lines (id int PRIMARY KEY); ALTER PUBLICATION penstock_test ADD TABLE lines")
    await sql(shop, "INSERT INTO orders VALUES (1)")

    async def take_away() -> None:
        await sql(shop, change)
        await sql(shop, "INSERT INTO lines VALUES (1)")

    given, error = await ended(make_source(shop, tmp_path, status_interval="50ms"), known, take_away)
    assert [event.data["id"] for event in events_of(given)] == [1]
    assert (error.code, error.message, isinstance(error, EnvironmentFault)) == (code, message, True)


async def test_a_publication_that_was_made_after_the_slot_is_said_to_be(shop: Database, tmp_path: Path) -> None:
    await sql(shop, f"SELECT pg_create_logical_replication_slot('slot_{shop.name}', 'pgoutput')")
    await sql(shop, "INSERT INTO orders VALUES (1); CREATE TABLE other (id int)")
    await sql(shop, "CREATE PUBLICATION penstock_test FOR TABLE orders")
    await sql(shop, "INSERT INTO orders VALUES (2)")
    if shop.server.version >= 18:  # the server passes over what it cannot publish, and warns in its own log
        assert [event.data["id"] for event in events_of(await read(make_source(shop, tmp_path)))] == [2]
        return
    with pytest.raises(EnvironmentFault) as caught:
        await read(make_source(shop, tmp_path))
    assert caught.value.code == "publication.made_later"
    assert f"pg_drop_replication_slot('slot_{shop.name}')" in (caught.value.help or "")


async def test_changes_that_came_by_replication_are_left_out(shop: Database, tmp_path: Path) -> None:
    await prepare_slot(make_source(shop, tmp_path))
    origin = f"elsewhere_{shop.name}"
    await sql(shop, f"SELECT pg_replication_origin_create('{origin}')")
    try:
        await sql(
            shop,
            f"SELECT pg_replication_origin_session_setup('{origin}'); SELECT pg_replication_origin_xact_setup('0/1', now());"
            "INSERT INTO orders VALUES (1)",
        )
        await sql(shop, "INSERT INTO orders VALUES (2)")
        assert [event.data["id"] for event in events_of(await read(make_source(shop, tmp_path)))] == [1, 2]
        assert [event.data["id"] for event in events_of(await read(make_source(shop, tmp_path, origin="none")))] == [2]
    finally:
        await sql(shop, f"SELECT pg_replication_origin_drop('{origin}')")


async def test_a_table_without_an_identity_gives_inserts_and_the_server_refuses_the_rest(shop: Database, tmp_path: Path) -> None:
    from psycopg import Error

    await prepare_slot(make_source(shop, tmp_path))
    await sql(shop, "ALTER TABLE orders REPLICA IDENTITY NOTHING; INSERT INTO orders VALUES (1)")
    with pytest.raises(Error, match="does not have a replica identity and publishes updates"):
        await sql(shop, "UPDATE orders SET status = 'x'")
    assert [event.type for event in events_of(await read(make_source(shop, tmp_path)))] == ["orders.insert"]


async def test_what_fails_beside_the_stream_ends_the_run_at_once(
    shop: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = asyncio.Event()

    async def fails(watch: Watch) -> None:
        await asked.wait()
        raise ZeroDivisionError

    monkeypatch.setattr(Watch, "run", fails)
    source = make_source(shop, tmp_path, status_interval="1h")
    await source.open(Resume(1, {}))
    try:
        given: list[Batch] = []
        reading = asyncio.create_task(take_all(source.batches(), given))
        await until(lambda: bool(given))
        asked.set()
        with pytest.raises(ZeroDivisionError):
            await reading
    finally:
        await source.close()
