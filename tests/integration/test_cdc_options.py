"""What options make of changes of a real database: masks, values read again, metadata of transactions, schema changes."""

from __future__ import annotations

import asyncio
import json
from hashlib import blake2b
from pathlib import Path
from typing import Any

import pytest
from cdc_parts import SECONDS, events_of, ids, make_source, positions, prepare_slot, read, sql, take_all, told
from cdc_parts import shop as shop

from connectors.sources.postgres_cdc import PostgresCdcSource
from penstock.errors import EnvironmentFault, Fatal
from penstock.spi import Batch, Position, Resume, Signal
from penstock.testing.servers import Database

KEY = "sixteen bytes, or more"
LARGE = "ALTER TABLE orders ALTER body SET STORAGE EXTERNAL; INSERT INTO orders VALUES (1, 'new', repeat('x', 9000))"


def digest(text: str) -> str:
    return blake2b(text.encode(), digest_size=16, key=KEY.encode()).hexdigest()


def rejected(batches: list[Batch]) -> dict[str, str]:
    """Code by id of the event."""
    return {batch.events[index].id: error.code for batch in batches for index, error in batch.rejects.items()}


async def stopped(source: PostgresCdcSource, known: dict[str, Position]) -> tuple[list[Batch], Fatal]:
    """What is given before the source stops, and why."""
    given: list[Batch] = []
    await source.open(Resume(1, known, once=True))
    try:
        with pytest.raises(Fatal) as caught:
            await take_all(source.batches(), given)
    finally:
        await source.close()
    return given, caught.value


async def test_masked_columns_are_masked_in_every_row_key_and_dead_letter(shop: Database, tmp_path: Path) -> None:
    mask = {"id": "hash", "status": {"keep_last": 2}, "body": None}
    fields: dict[str, Any] = {"mask": mask, "mask_key": KEY, "include_before": True}
    await sql(shop, "ALTER TABLE orders ADD extra json; ALTER TABLE orders REPLICA IDENTITY FULL")
    await prepare_slot(make_source(shop, tmp_path, **fields))
    await sql(shop, "INSERT INTO orders VALUES (1, 'secret-42', 'b', '{\"n\": 1e999}')")
    await sql(shop, "UPDATE orders SET id = 2, extra = NULL")
    await sql(shop, "UPDATE orders SET status = '42'")
    await sql(shop, "DELETE FROM orders")
    batches = await read(make_source(shop, tmp_path, **fields))
    one = {"id": digest("1"), "status": "***42", "body": None, "extra": '{"n": 1e999}'}
    two = {"id": digest("2"), "status": "***42", "body": None, "extra": None}
    last = {**two, "status": "***"}
    assert told(batches) == [
        ("orders.insert", {"before": None, "after": one}),
        ("orders.delete", {"before": one, "after": None}),
        ("orders.insert", {"before": None, "after": two}),
        ("orders.update", {"before": two, "after": last}),
        ("orders.delete", {"before": last, "after": None}),
    ]
    (first, *_) = events_of(batches)
    assert rejected(batches) == {event.id: "decode.number_out_of_range" for event in events_of(batches)[:3]}
    assert json.loads(first.original or b"") == first.record
    assert not any(b"secret" in (event.original or b"") + str(event.record).encode() for event in events_of(batches))


async def test_rows_of_a_snapshot_are_masked_their_ids_too(shop: Database, tmp_path: Path) -> None:
    fields: dict[str, Any] = {
        "mask": {"status": "hash", "body": {"keep_last": 1}},
        "mask_key": KEY,
        "snapshot": {"mode": "initial", "keyless": "at_least_once"},
    }
    await sql(shop, "ALTER TABLE orders DROP CONSTRAINT orders_pkey, ADD PRIMARY KEY (status, id)")
    await sql(shop, "INSERT INTO orders VALUES (1, 'secret', 'body')")
    batches: list[Batch] = []
    source = make_source(shop, tmp_path, **fields)
    await source.open(Resume(1, {}, once=True))
    try:
        async with asyncio.timeout(SECONDS):
            async for batch in source.batches():
                batches.append(batch)
                await source.ack([batch.token])
    finally:
        await source.close()
    (event,) = events_of(batches)
    assert event.data == {"id": 1, "status": digest("secret"), "body": "***y"}
    assert "secret" not in event.id
    assert not [batch for batch in batches if batch.end is not None and b"secret" in batch.end.detail]


async def test_a_mask_that_makes_keys_look_the_same_is_refused(shop: Database, tmp_path: Path) -> None:
    source = make_source(shop, tmp_path, mask={"id": None})
    with pytest.raises(EnvironmentFault) as caught:
        await source.open(Resume(1, {}))
    await source.close()
    assert (caught.value.code, caught.value.help) == ("source.masked_key", "mask: { id: hash }")


async def test_a_masked_column_that_becomes_the_key_while_it_is_read_stops_the_run(shop: Database, tmp_path: Path) -> None:
    known = await prepare_slot(make_source(shop, tmp_path))
    await sql(shop, "INSERT INTO orders VALUES (1, 'a')")
    await sql(shop, "ALTER TABLE orders ALTER status SET NOT NULL; CREATE UNIQUE INDEX u ON orders (status)")
    await sql(shop, "ALTER TABLE orders REPLICA IDENTITY USING INDEX u; INSERT INTO orders VALUES (2, 'b')")
    await sql(shop, "ALTER TABLE orders REPLICA IDENTITY DEFAULT")
    given, error = await stopped(make_source(shop, tmp_path, mask={"status": None}), known)
    assert ([event.data["id"] for event in events_of(given)], error.code) == ([1], "source.masked_key")


@pytest.mark.parametrize("field", [{"columns": ["id", "nam"]}, {"exclude_columns": ["nam"]}, {"mask": {"nam": None}}])
async def test_a_column_that_no_table_has_is_refused(shop: Database, tmp_path: Path, field: dict[str, Any]) -> None:
    source = make_source(shop, tmp_path, **field)
    with pytest.raises(EnvironmentFault) as caught:
        await source.open(Resume(1, {}))
    await source.close()
    (name,) = field
    assert (caught.value.code, caught.value.why) == ("source.no_column", "public.orders has id, status, body")
    assert caught.value.message == f"no table that is read has the column nam ({name})"


async def test_a_large_value_is_read_again_by_key_and_said_to_be(shop: Database, tmp_path: Path) -> None:
    await sql(shop, "ALTER TABLE orders ALTER body SET STORAGE EXTERNAL")
    await sql(shop, "INSERT INTO orders SELECT n, 'new', repeat(n::text, 9000) FROM generate_series(1, 3) AS n")
    await prepare_slot(make_source(shop, tmp_path))
    await sql(shop, "UPDATE orders SET status = 'paid'")
    await sql(shop, "UPDATE orders SET id = 10 WHERE id = 3")
    await sql(shop, "UPDATE orders SET body = 'newer' WHERE id = 2; DELETE FROM orders WHERE id = 10")
    batches = await read(make_source(shop, tmp_path, toast="reselect"))
    events = events_of(batches)
    assert [(event.type, event.data["id"], event.data.get("body", "")[:5]) for event in events] == [
        ("orders.update", 1, "11111"),
        ("orders.update", 2, "newer"),
        ("orders.update", 3, "__pen"),
        ("orders.delete", 3, ""),
        ("orders.insert", 10, "__pen"),
        ("orders.update", 2, "newer"),
        ("orders.delete", 10, ""),
    ]
    assert [event.record.get("reselected") for event in events] == [["body"], ["body"], *[None] * 5]
    assert [(event.extensions or {}).get("reselected") for event in events] == ["body", "body", *[None] * 5]
    assert rejected(batches) == {events[n].id: "source.unchanged_toast" for n in (2, 4)}


async def test_a_value_that_is_read_again_is_masked_and_a_hashed_key_finds_it(shop: Database, tmp_path: Path) -> None:
    fields: dict[str, Any] = {"toast": "reselect", "mask": {"id": "hash", "body": {"keep_first": 1}}, "mask_key": KEY}
    await sql(shop, LARGE)
    await prepare_slot(make_source(shop, tmp_path, **fields))
    await sql(shop, "UPDATE orders SET status = 'paid'")
    batches = await read(make_source(shop, tmp_path, **fields))
    assert (told(batches), rejected(batches)) == ([("orders.update", {"id": digest("1"), "status": "paid", "body": "x***"})], {})


async def test_a_table_that_is_no_longer_what_it_was_is_not_read_again(shop: Database, tmp_path: Path) -> None:
    await sql(shop, LARGE)
    await prepare_slot(make_source(shop, tmp_path))
    await sql(shop, "UPDATE orders SET status = 'paid'")
    await sql(shop, "ALTER TABLE orders RENAME body TO content; ALTER TABLE orders ADD body bytea DEFAULT 'x'")
    batches = await read(make_source(shop, tmp_path, toast="reselect"))
    assert list(rejected(batches).values()) == ["source.unchanged_toast"]
    await sql(shop, "ALTER TABLE orders DROP body")
    assert list(rejected(await read(make_source(shop, tmp_path, toast="reselect"))).values()) == ["source.unchanged_toast"]


async def test_a_large_value_that_is_masked_away_is_not_missed(shop: Database, tmp_path: Path) -> None:
    await sql(shop, LARGE)
    await prepare_slot(make_source(shop, tmp_path))
    await sql(shop, "UPDATE orders SET status = 'paid'")
    for toast in ("fail", "reselect"):
        batches = await read(make_source(shop, tmp_path, toast=toast, mask={"body": None}))
        assert (told(batches), rejected(batches)) == ([("orders.update", {"id": 1, "status": "paid", "body": None})], {})


async def test_a_truncate_that_stops_the_run_comes_after_what_was_before_it_and_again(shop: Database, tmp_path: Path) -> None:
    known = await prepare_slot(make_source(shop, tmp_path))
    await sql(shop, "BEGIN; INSERT INTO orders VALUES (1); INSERT INTO orders VALUES (2); TRUNCATE orders; COMMIT")
    given, error = await stopped(make_source(shop, tmp_path, truncate="fail"), known)
    assert ([event.data["id"] for event in events_of(given)], error.code) == ([1, 2], "source.truncated")
    assert (error.where or "").endswith(", change 3")  # type: ignore[union-attr]  # words
    again, error = await stopped(make_source(shop, tmp_path, truncate="fail"), known | positions(given))
    assert (events_of(again), error.code) == ([], "source.truncated")
    rest = await read(make_source(shop, tmp_path), known | positions(given))
    assert [kind for kind, _ in told(rest)] == ["orders.truncate"]


async def test_a_transaction_is_told_with_each_change_and_summed_up_behind_it(shop: Database, tmp_path: Path) -> None:
    await sql(shop, "CREATE TABLE lines (id int PRIMARY KEY); CREATE TABLE other (id int)")
    await sql(shop, "CREATE PUBLICATION wide FOR TABLE orders, lines, other WITH (publish = 'insert, update, delete, truncate')")
    fields: dict[str, Any] = {
        "transaction_metadata": True,
        "sequence": "always",
        "tables": ["orders", "lines"],
        "publication": {"name": "wide"},
        "where": '.table != "lines" or .after.id != 7',
    }
    known = await prepare_slot(make_source(shop, tmp_path, **fields))
    await sql(shop, "INSERT INTO other VALUES (1)")
    await sql(
        shop, "BEGIN; INSERT INTO lines VALUES (7), (8); INSERT INTO other VALUES (2); INSERT INTO orders VALUES (1); COMMIT"
    )
    whole = await read(make_source(shop, tmp_path, count=1, **fields), known)
    line, order, end = events_of(whole)
    lsn, xid = order.record["lsn"], order.record["xid"]
    assert (line.type, line.record["transaction"]) == ("lines.insert", {"id": xid, "lsn": lsn, "index": 2})
    assert (order.type, {name: order.extensions[name] for name in ("txid", "txindex")}) == (
        "orders.insert",
        {"txid": str(xid), "txindex": "4"},
    )
    assert line.extensions["sequence"] < order.extensions["sequence"] < end.extensions["sequence"]
    assert (end.type, end.id, end.source) == ("transaction.end", f"{lsn}-end", f"postgres-cdc:slot_{shop.name}/transaction")
    assert end.data == {"id": xid, "lsn": lsn, "changes": 4, "tables": {"public.lines": 2, "public.orders": 1}}
    for done in range(1, len(whole) + 1):  # from within a transaction the sum is the same, and it comes once
        rest = await read(make_source(shop, tmp_path, count=1, **fields), known | positions(whole[:done]))
        assert [(event.id, event.data) for event in events_of(rest)] == [
            (event.id, event.data) for event in events_of(whole[done:])
        ]


CHANGES = [
    ("ALTER TABLE orders ADD note text DEFAULT 'n'", "added note (text)"),
    ("ALTER TABLE orders DROP body", "dropped body"),
    ("ALTER TABLE orders ALTER status TYPE varchar(9)", "changed the type of status (text to varchar, modifier 13)"),
    ("ALTER TABLE orders RENAME body TO content", "added content (text); dropped body"),
]


@pytest.mark.parametrize(("change", "told_as"), CHANGES)
async def test_freeze_stops_before_the_first_row_that_is_different_until_it_is_accepted(
    shop: Database, tmp_path: Path, change: str, told_as: str
) -> None:
    freeze = {"schema_change": "freeze"}
    known = await prepare_slot(make_source(shop, tmp_path, **freeze))
    await sql(shop, "INSERT INTO orders VALUES (1, 'a', 'b')")
    await sql(shop, f"BEGIN; INSERT INTO orders VALUES (2, 'a', 'b'); {change}; INSERT INTO orders (id) VALUES (3); COMMIT")
    given, error = await stopped(make_source(shop, tmp_path, **freeze), known)
    assert [event.data["id"] for event in events_of(given)] == [1, 2]
    assert (error.code, error.message) == ("source.schema_changed", f"table public.orders has {told_as}")
    assert "--set source.postgres_cdc.schema_change=evolve" in (error.help or "")
    known |= positions(given)
    again, error = await stopped(make_source(shop, tmp_path, **freeze), known)
    assert (events_of(again), error.code) == ([], "source.schema_changed")
    accepted = await read(make_source(shop, tmp_path, schema_change="evolve"), known)
    assert [event.data["id"] for event in events_of(accepted)] == [3]
    await sql(shop, "INSERT INTO orders (id) VALUES (4)")
    rest = await read(make_source(shop, tmp_path, **freeze), known | positions(accepted))
    assert [event.data["id"] for event in events_of(rest)] == [4]


async def test_quarantine_keeps_changed_tables_apart_until_they_are_what_they_were(shop: Database, tmp_path: Path) -> None:
    await sql(shop, "CREATE TABLE lines (id int PRIMARY KEY)")
    fields = {"schema_change": "quarantine", "tables": ["orders", "lines"]}
    known = await prepare_slot(make_source(shop, tmp_path, count=100, **fields))
    await sql(shop, "INSERT INTO orders VALUES (1)")
    first = await read(make_source(shop, tmp_path, count=100, **fields), known)
    known |= positions(first)
    await sql(shop, "ALTER TABLE orders ADD note text; INSERT INTO orders VALUES (2); INSERT INTO lines VALUES (3)")
    await sql(shop, "ALTER TABLE orders DROP note; INSERT INTO orders VALUES (4)")
    batches = await read(make_source(shop, tmp_path, count=100, **fields), known)
    held, *others = events_of(batches)
    assert [(event.type, event.data["id"]) for event in others] == [("lines.insert", 3), ("orders.insert", 4)]
    assert rejected(batches) == {held.id: "source.schema_changed"}
    assert json.loads(held.original or b"")["after"] == {"id": 2, "status": None, "body": None, "note": None}
    again = await read(make_source(shop, tmp_path, count=1, **fields), known)
    assert (ids(again), rejected(again)) == (ids(batches), rejected(batches))


@pytest.mark.parametrize("policy", ["freeze", "quarantine"])
async def test_rows_of_a_snapshot_are_held_to_what_the_table_looked_like(shop: Database, tmp_path: Path, policy: str) -> None:
    fields: dict[str, Any] = {"schema_change": policy, "snapshot": {"mode": "initial"}}
    await sql(shop, "ALTER TABLE orders ADD code varchar(9); INSERT INTO orders VALUES (1, 'a', 'b', 'c')")
    first = await taken(make_source(shop, tmp_path, **fields), {})
    await sql(shop, "INSERT INTO orders VALUES (2, 'a', 'b', 'c')")
    second = await taken(make_source(shop, tmp_path, **fields), positions(first))
    assert [event.data["id"] for event in events_of(first + second)] == [1, 2]  # the look of rows is that of changes
    assert rejected(first + second) == {}
    known = positions(first + second)
    await sql(shop, "ALTER TABLE orders ADD note text DEFAULT 'n'")
    source = make_source(shop, tmp_path, **fields)
    if policy == "freeze":
        with pytest.raises(EnvironmentFault, match=r"table public\.orders has added note"):
            await taken(source, known, Signal(1, "snapshot", ("orders",)))
        return
    held = await taken(source, known, Signal(1, "snapshot", ("orders",)))
    assert set(rejected(held).values()) == {"source.schema_changed"}
    assert [json.loads(event.original or b"")["after"]["note"] for event in events_of(held)] == ["n", "n"]


async def taken(source: PostgresCdcSource, known: dict[str, Position], signal: Signal | None = None) -> list[Batch]:
    """All that there is, acknowledged as it comes."""
    await source.open(Resume(1, known, once=True))
    asking = [asyncio.create_task(source.signal(signal))] if signal else []
    given: list[Batch] = []
    try:
        while asking and not source.gauges()["snapshot_tables_left"]:
            await asyncio.sleep(0.01)
        async with asyncio.timeout(SECONDS):
            async for batch in source.batches():
                given.append(batch)
                await source.ack([batch.token])
    finally:
        await asyncio.gather(*[one for one in asking if one.cancel()], return_exceptions=True)
        await source.close()
    return given


async def test_evolve_follows_and_counts_and_other_columns_do_not_matter(shop: Database, tmp_path: Path) -> None:
    await prepare_slot(make_source(shop, tmp_path))
    await sql(shop, "INSERT INTO orders VALUES (1)")
    await sql(shop, "ALTER TABLE orders ADD note text; ALTER TABLE orders REPLICA IDENTITY FULL")
    await sql(shop, "INSERT INTO orders VALUES (2)")
    source = make_source(shop, tmp_path)
    assert [data for _, data in told(await read(source))][1] == {"id": 2, "status": None, "body": None, "note": None}
    assert source.gauges()["schema_changes"] == 1
    source = make_source(shop, tmp_path, schema_change="freeze", columns=["id", "body"])
    assert [data for _, data in told(await read(source))] == [{"id": 1, "body": None}, {"id": 2, "body": None}]
    assert source.gauges()["schema_changes"] == 0


async def test_a_table_that_is_renamed_while_it_is_read_stops_the_run(shop: Database, tmp_path: Path) -> None:
    known = await prepare_slot(make_source(shop, tmp_path))
    await sql(shop, "INSERT INTO orders VALUES (1)")
    await sql(shop, "ALTER TABLE orders RENAME TO old_orders; CREATE TABLE orders (id int PRIMARY KEY)")
    await sql(shop, "INSERT INTO old_orders VALUES (2); ALTER PUBLICATION penstock_test ADD TABLE orders")
    given, error = await stopped(make_source(shop, tmp_path), known)
    assert ([event.data["id"] for event in events_of(given)], error.code) == ([1], "source.table_renamed")
    assert "public.orders is called public.old_orders" in error.message
