"""What changes of a real database become: order, ids, resuming, keys, TOAST, TRUNCATE, replica identities."""

from __future__ import annotations

from pathlib import Path

import pytest
from cdc_parts import events_of, ids, make_source, positions, prepare_slot, read, sql, told
from cdc_parts import shop as shop

from penstock.errors import Fatal
from penstock.testing.servers import Database


async def test_changes_come_in_the_order_of_commits_with_ids_that_stay(shop: Database, tmp_path: Path) -> None:
    await prepare_slot(make_source(shop, tmp_path))
    await sql(shop, "INSERT INTO orders VALUES (1, 'new', 'a'), (2, 'new', NULL)")
    await sql(shop, "UPDATE orders SET status = 'paid' WHERE id = 1")
    await sql(shop, "DELETE FROM orders WHERE id = 2")
    batches = await read(make_source(shop, tmp_path))
    assert told(batches) == [
        ("orders.insert", {"id": 1, "status": "new", "body": "a"}),
        ("orders.insert", {"id": 2, "status": "new", "body": None}),
        ("orders.update", {"id": 1, "status": "paid", "body": "a"}),
        ("orders.delete", {"id": 2}),
    ]
    first = events_of(batches)[0]
    assert first.source == f"postgres-cdc:slot_{shop.name}/public.orders"
    assert first.record["op"] == "insert"
    assert first.id == f"{first.record['lsn']}-1"
    assert [event.id.rpartition("-")[2] for event in events_of(batches)] == ["1", "2", "1", "1"]
    assert ids(await read(make_source(shop, tmp_path))) == ids(batches)


async def test_a_run_resumes_behind_any_batch_also_in_mid_transaction(shop: Database, tmp_path: Path) -> None:
    await prepare_slot(make_source(shop, tmp_path))
    await sql(shop, "INSERT INTO orders SELECT n, 'new', '' FROM generate_series(1, 10) AS n")
    await sql(shop, "INSERT INTO orders SELECT n, 'new', '' FROM generate_series(11, 13) AS n")
    whole = await read(make_source(shop, tmp_path, count=3))
    assert [event.data["id"] for event in events_of(whole)] == list(range(1, 14))
    batch = next(batch for batch in whole if len(batch.events) > 1)  # as many as had arrived
    assert batch.cut is not None
    rest = await read(make_source(shop, tmp_path), {batch.partition: batch.cut(1)})
    assert ids(rest) == ids(whole)[ids(whole).index(batch.events[1].id) :]
    for done in range(1, len(whole) + 1):
        rest = await read(make_source(shop, tmp_path, count=3), positions(whole[:done]))
        assert ids(rest) == ids(whole[done:])


async def test_what_is_rolled_back_leaves_nothing(shop: Database, tmp_path: Path) -> None:
    await prepare_slot(make_source(shop, tmp_path))
    await sql(
        shop,
        "BEGIN; INSERT INTO orders VALUES (1); ROLLBACK; BEGIN; INSERT INTO orders VALUES (2); SAVEPOINT s;"
        "INSERT INTO orders VALUES (3); ROLLBACK TO s; INSERT INTO orders VALUES (4); COMMIT",
    )
    batches = await read(make_source(shop, tmp_path))
    assert [event.data["id"] for event in events_of(batches)] == [2, 4]
    assert [event.id.rpartition("-")[2] for event in events_of(batches)] == ["1", "2"]


@pytest.mark.parametrize("identity", ["DEFAULT", "FULL", "USING INDEX orders_pkey"])
async def test_a_changed_key_is_a_delete_and_an_insert(shop: Database, tmp_path: Path, identity: str) -> None:
    await sql(shop, f"ALTER TABLE orders REPLICA IDENTITY {identity}; INSERT INTO orders VALUES (1, 'new', 'a')")
    await prepare_slot(make_source(shop, tmp_path))
    await sql(shop, "UPDATE orders SET id = 5, status = 'moved'")
    whole = await read(make_source(shop, tmp_path, count=1))
    old = {"id": 1, "status": "new", "body": "a"} if identity == "FULL" else {"id": 1}
    assert told(whole) == [("orders.delete", old), ("orders.insert", {"id": 5, "status": "moved", "body": "a"})]
    assert [event.id.partition("-")[2] for event in events_of(whole)] == ["1-old", "1"]
    batch = next(batch for batch in whole if batch.events)
    assert batch.cut is not None
    assert ids(await read(make_source(shop, tmp_path), {batch.partition: batch.cut(1)})) == ids(whole)[1:]


async def test_a_key_that_was_renamed_before_its_change_is_read_is_still_the_key(shop: Database, tmp_path: Path) -> None:
    await sql(shop, "ALTER TABLE orders REPLICA IDENTITY FULL; INSERT INTO orders VALUES (1, 'a', 'b')")
    known = await prepare_slot(make_source(shop, tmp_path))
    await sql(shop, "UPDATE orders SET id = 2; UPDATE orders SET status = 'c'; ALTER TABLE orders RENAME id TO number")
    assert [kind for kind, _ in told(await read(make_source(shop, tmp_path), known))] == [
        "orders.delete",
        "orders.insert",
        "orders.update",
    ]


async def test_a_change_of_what_may_have_been_the_key_is_a_reject(shop: Database, tmp_path: Path) -> None:
    await sql(shop, "ALTER TABLE orders REPLICA IDENTITY FULL; INSERT INTO orders VALUES (1, 'a', 'b')")
    known = await prepare_slot(make_source(shop, tmp_path))
    await sql(shop, "UPDATE orders SET id = 2; UPDATE orders SET status = 'c'; ALTER TABLE orders DROP id")
    batches = await read(make_source(shop, tmp_path), known)
    assert [kind for kind, _ in told(batches)] == ["orders.update", "orders.update"]
    assert [error.code for batch in batches for error in batch.rejects.values()] == ["source.unknown_key"]
    assert [index for batch in batches for index in batch.rejects] == [0]


async def test_before_is_known_with_replica_identity_full(shop: Database, tmp_path: Path) -> None:
    await sql(shop, "ALTER TABLE orders REPLICA IDENTITY FULL; INSERT INTO orders VALUES (1, 'new', 'a')")
    fields = {"include_before": True, "where": ".before.status != .after.status", "columns": ["id", "status"]}
    await prepare_slot(make_source(shop, tmp_path, **fields))
    await sql(shop, "UPDATE orders SET body = 'b'")
    await sql(shop, "UPDATE orders SET status = 'paid'")
    (event,) = events_of(await read(make_source(shop, tmp_path, **fields)))
    assert event.data == {"before": {"id": 1, "status": "new"}, "after": {"id": 1, "status": "paid"}}


async def test_operations_and_tables_that_are_not_wanted_count_and_are_left_out(shop: Database, tmp_path: Path) -> None:
    await sql(shop, "CREATE TABLE other (id int PRIMARY KEY)")
    await sql(shop, "CREATE PUBLICATION wide FOR TABLE orders, other")
    fields = {"publication": {"name": "wide", "create": "never"}, "operations": ["update"], "exclude_columns": ["body"]}
    await prepare_slot(make_source(shop, tmp_path, **fields))
    await sql(shop, "BEGIN; INSERT INTO other VALUES (1); INSERT INTO orders VALUES (1); UPDATE orders SET status = 'x'; COMMIT")
    (event,) = events_of(await read(make_source(shop, tmp_path, **fields)))
    assert (event.id.partition("-")[2], event.data) == ("3", {"id": 1, "status": "x"})


async def test_a_large_value_that_was_not_sent_is_a_reject_or_a_placeholder(shop: Database, tmp_path: Path) -> None:
    await sql(shop, "ALTER TABLE orders ALTER body SET STORAGE EXTERNAL; INSERT INTO orders VALUES (1, 'new', repeat('x', 9000))")
    await prepare_slot(make_source(shop, tmp_path))
    await sql(shop, "UPDATE orders SET status = 'paid'")
    batch = next(batch for batch in await read(make_source(shop, tmp_path)) if batch.events)
    assert {index: error.code for index, error in batch.rejects.items()} == {0: "source.unchanged_toast"}
    assert "REPLICA IDENTITY FULL" in (batch.rejects[0].help or "")
    batch = next(batch for batch in await read(make_source(shop, tmp_path, toast="placeholder")) if batch.events)
    assert batch.rejects == {}
    assert batch.events[0].data == {"id": 1, "status": "paid", "body": "__penstock_unchanged"}


async def test_truncate_is_an_event_or_stops_the_run_or_is_passed_over(shop: Database, tmp_path: Path) -> None:
    await prepare_slot(make_source(shop, tmp_path))
    await sql(shop, "INSERT INTO orders VALUES (1)")
    await sql(shop, "TRUNCATE orders")
    assert [kind for kind, _ in told(await read(make_source(shop, tmp_path)))] == ["orders.insert", "orders.truncate"]
    assert [kind for kind, _ in told(await read(make_source(shop, tmp_path, truncate="ignore")))] == ["orders.insert"]
    with pytest.raises(Fatal) as caught:
        await read(make_source(shop, tmp_path, truncate="fail"))
    assert caught.value.code == "source.truncated"


async def test_types_made_meanwhile_are_known(shop: Database, tmp_path: Path) -> None:
    await prepare_slot(make_source(shop, tmp_path))
    await sql(
        shop, "CREATE DOMAIN points AS int; ALTER TABLE orders ADD score points; INSERT INTO orders (id, score) VALUES (1, 7)"
    )
    (event,) = events_of(await read(make_source(shop, tmp_path)))
    assert event.data == {"id": 1, "status": None, "body": None, "score": 7}


async def test_a_value_that_json_cannot_hold_is_a_reject(shop: Database, tmp_path: Path) -> None:
    await sql(shop, "ALTER TABLE orders ADD extra json")
    await prepare_slot(make_source(shop, tmp_path))
    await sql(shop, "INSERT INTO orders VALUES (1, 'a', 'b', '{\"n\": 1e999}')")
    batch = next(batch for batch in await read(make_source(shop, tmp_path)) if batch.events)
    assert {index: error.code for index, error in batch.rejects.items()} == {0: "decode.number_out_of_range"}
