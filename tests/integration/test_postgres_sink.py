"""The postgres sink on real servers: rows and ledger are one transaction; what becomes of rows, deletions, truncation."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from typing import Any

import pytest
from postgres_sink_parts import ORDERS, Bench
from postgres_sink_parts import bench_of_each as bench_of_each
from pydantic import ValidationError
from sink_parts import changes, commit, events

from connectors.sinks.postgres import PostgresSink
from penstock.errors import BatchError, Fatal, Fenced, Transient
from penstock.faults import Faults
from penstock.ledger import Claimant, Counts, LedgerSink
from penstock.spi import Position

MIRROR: dict[str, Any] = {
    "key": ["id"],
    "delete": '$event.type | endswith(".delete")',
    "truncate": '$event.type | endswith(".truncate")',
}


async def test_rows_keys_and_checkpoint_go_in_together(bench: Bench) -> None:
    await bench.sql(ORDERS)
    sink = await bench.sink(key=["id"])
    assert isinstance(sink, LedgerSink)
    await sink.write_and_commit(events(*({"id": f"o{n}", "price": n + 0.5, "qty": n} for n in range(40))), commit(1, 1, 2))
    rows = await bench.sql("SELECT * FROM orders ORDER BY qty")
    assert rows == [(f"o{n}", Decimal(n) + Decimal("0.5"), n, None) for n in range(40)]
    claim = await sink.claim(Claimant(2, "orders/warehouse", "file:in", "k", 100.0))
    assert (claim.group, claim.positions, claim.counts) == (1, {"p": Position(b"\x01")}, Counts(1))
    assert set(await sink.seen([n.to_bytes(16, "big") for n in (1, 2, 3)])) == {n.to_bytes(16, "big") for n in (1, 2)}


@pytest.mark.parametrize("rows", [3, 300])
@pytest.mark.parametrize(("on_conflict", "stays"), [("update", Decimal(2)), ("ignore", Decimal(1))])
async def test_a_row_whose_key_is_there_updates_or_is_ignored(bench: Bench, on_conflict: str, stays: Decimal, rows: int) -> None:
    await bench.sql(ORDERS)
    sink = await bench.sink(key=["id"], on_conflict=on_conflict)
    for price in (1, 2):
        found = [{"id": str(n), "price": price} | ({"note": "n"} if price == 1 else {}) for n in range(rows)]
        await sink.write_and_commit(events(*found), commit(price))
    assert await bench.sql("SELECT DISTINCT price, qty, note FROM orders") == [(stays, 7, "n")]
    assert await bench.sql("SELECT count(*) FROM orders") == [(rows,)]


@pytest.mark.parametrize("others", [0, 50])
async def test_of_several_rows_of_one_key_in_a_batch_the_last_counts_and_what_it_lacks_stays(bench: Bench, others: int) -> None:
    await bench.sql(ORDERS)
    sink = await bench.sink(key=["id"])
    filling = [{"id": f"x{n}", "price": 1} for n in range(others)]
    found = [{"id": "a", "price": 1, "note": "n"}, {"id": "b", "price": 5}, {"id": "a", "price": 2}, {"id": "b", "price": 6}]
    await sink.write_and_commit(events(*filling, *found), commit(1))
    rows = await bench.sql("SELECT id, price, note FROM orders WHERE id IN ('a', 'b') ORDER BY id")
    assert rows == [("a", Decimal(2), "n"), ("b", Decimal(6), None)]


async def test_without_a_key_rows_are_appended(bench: Bench) -> None:
    await bench.sql("CREATE TABLE orders (id int, n serial)")
    sink = await bench.sink()
    await sink.write_and_commit(events({"id": 3}, {"id": 1}, {"id": 3}), commit(1))
    assert await bench.sql("SELECT id, n FROM orders ORDER BY n") == [(3, 1), (1, 2), (3, 3)]


async def test_columns_are_programs_and_one_of_jsonb_can_hold_all_of_the_data(bench: Bench) -> None:
    await bench.sql("CREATE TABLE orders (id text PRIMARY KEY, kind text, body jsonb)")
    sink = await bench.sink(key=["id"], columns={"id": "$event.id", "kind": "$event.type", "body": "."})
    data = {"n": [1, 2.5, None, "x"], "big": 2**70}
    await sink.write_and_commit(events(data, [1], "text", None), commit(1))
    rows = await bench.sql("SELECT id, kind, body::text FROM orders ORDER BY id")
    assert rows == [
        ("e0", "t", '{"n": [1, 2.5, null, "x"], "big": 1180591620717411303424}'),
        ("e1", "t", "[1]"),
        ("e2", "t", '"text"'),
        ("e3", "t", None),
    ]


@pytest.mark.parametrize("rows", [5, 200])
async def test_deletions_and_truncation_mirror_a_table_in_the_order_of_the_events(bench: Bench, rows: int) -> None:
    await bench.sql("CREATE TABLE orders (id int PRIMARY KEY, v int)")
    sink = await bench.sink(**MIRROR)
    first = [("o.insert", {"id": n, "v": 0}) for n in range(rows)]
    await sink.write_and_commit(changes(*first, ("o.delete", {"id": 0, "v": 0})), commit(1))
    await sink.write_and_commit(
        changes(
            ("o.insert", {"id": 0, "v": 1}),
            *[("o.delete", {"id": n}) for n in range(2, rows)],
            ("o.update", {"id": 1, "v": 1}),
            ("o.insert", {"id": 2, "v": 2}),
            ("o.delete", {"id": 0}),
            ("o.delete", {"id": 99_999}),
        ),
        commit(2),
    )
    assert await bench.sql("SELECT * FROM orders ORDER BY id") == [(1, 1), (2, 2)]
    await sink.write_and_commit(
        changes(("o.insert", {"id": 7, "v": 7}), ("o.truncate", None), ("o.insert", {"id": 8, "v": 8})), commit(3)
    )
    assert await bench.sql("SELECT * FROM orders") == [(8, 8)]


async def test_a_key_of_several_columns_with_programs_deletes_by_the_key_alone(bench: Bench) -> None:
    await bench.sql('CREATE TABLE orders (shop text, "No." int, total numeric, PRIMARY KEY (shop, "No."))')
    columns = {"shop": ".shop", "No.": ".number", "total": ".price * .qty"}
    sink = await bench.sink(key=["shop", "No."], columns=columns, delete=".gone")
    found = [{"shop": "a", "number": n, "price": 2, "qty": n} for n in range(40)]
    await sink.write_and_commit(events(*found), commit(1))
    gone = [{"shop": "a", "number": n, "gone": True} for n in range(1, 40)]
    await sink.write_and_commit(events(*gone, {"shop": "b", "number": 0, "gone": True}), commit(2))
    assert await bench.sql("SELECT * FROM orders") == [("a", 0, Decimal(0))]


async def test_rows_that_reach_others_of_their_table_are_deleted_in_their_place(bench: Bench) -> None:
    await bench.sql(
        "CREATE TABLE orders (id int PRIMARY KEY, parent int REFERENCES orders ON DELETE CASCADE, note text);"
        "INSERT INTO orders (id, parent) VALUES (1, NULL), (2, 1)"
    )
    sink = await bench.sink(**MIRROR)
    await sink.write_and_commit(changes(("u", {"id": 2, "note": "x"}), ("x.delete", {"id": 1})), commit(1))
    assert await bench.sql("SELECT * FROM orders") == []


async def test_keys_that_are_equal_to_the_server_alone_are_one_row(bench: Bench) -> None:
    await bench.sql("CREATE TABLE orders (id numeric PRIMARY KEY, v int)")
    sink = await bench.sink(**MIRROR)
    found = [("i", {"id": n, "v": n}) for n in range(20)]
    await sink.write_and_commit(changes(*found, ("u", {"id": "1.00", "v": 5}), ("x.delete", {"id": "2.000"})), commit(1))
    rows = await bench.sql("SELECT id::int, v FROM orders WHERE id < 4 ORDER BY id")
    assert rows == [(0, 0), (1, 5), (3, 3)]


async def test_rows_are_moved_past_each_other_only_where_the_table_takes_them(bench: Bench) -> None:
    await bench.sql("CREATE TABLE orders (id int PRIMARY KEY, mail text UNIQUE)")
    sink = await bench.sink(**MIRROR)
    await sink.write_and_commit(events(*({"id": n, "mail": f"m{n}"} for n in range(20))), commit(1))
    found = [("u", {"id": 1, "mail": "new"}), ("u", {"id": 2, "mail": "m1"}), ("u", {"id": 1, "mail": "newer"})]
    await sink.write_and_commit(changes(*found, *[("u", {"id": n, "mail": f"n{n}"}) for n in range(5, 20)]), commit(2))
    assert await bench.sql("SELECT * FROM orders WHERE id IN (1, 2) ORDER BY id") == [(1, "newer"), (2, "m1")]


async def test_constraints_that_wait_for_the_commit_take_rows_in_any_order(bench: Bench) -> None:
    await bench.sql(
        "CREATE TABLE orders (id int PRIMARY KEY, next int REFERENCES orders DEFERRABLE INITIALLY DEFERRED, n int CHECK (n > 0))"
    )
    sink = await bench.sink(key=["id"])
    rows: list[Any] = [{"id": n, "next": (n + 1) % 40, "n": 1} for n in range(40)]
    with pytest.raises(BatchError) as caught:
        await sink.write_and_commit(events(*rows, {"id": 50, "next": 0, "n": 0}), commit(1))
    assert list(caught.value.failed) == [40]
    await sink.write_and_commit(events(*rows), commit(1))
    assert await bench.sql("SELECT count(*) FROM orders") == [(40,)]
    with pytest.raises(BatchError) as caught:
        await sink.write_and_commit(events({"id": 60, "next": 61, "n": 1}, {"id": 62, "next": 1, "n": 1}), commit(2))
    assert [(place, error.code) for place, error in caught.value.failed.items()] == [(0, "sink.constraint")]


async def test_shapes_that_vary_from_row_to_row_all_go_in(bench: Bench) -> None:
    names = [f"c{n}" for n in range(90)]
    await bench.sql(f"CREATE TABLE orders (id int PRIMARY KEY, {', '.join(f'{name} int' for name in names)})")
    sink = await bench.sink(key=["id"])
    for group in range(1, 4):
        found = [{"id": n * 20 + k, name: group} for n, name in enumerate(names) for k in range(12)]
        await sink.write_and_commit(events(*found), commit(group))
    assert await bench.sql("SELECT count(*), sum(c0), sum(c89) FROM orders") == [(1080, 36, 36)]


async def test_a_column_that_counts_by_itself_takes_values_as_far_as_sql_does(bench: Bench) -> None:
    await bench.sql(
        "CREATE TABLE orders (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, v int,"
        "twice int GENERATED ALWAYS AS (v * 2) STORED)"
    )
    sink = await bench.sink(key=["id"])
    for group in (1, 2):
        await sink.write_and_commit(events(*({"id": n, "v": group} for n in range(30))), commit(group))
        await sink.write_and_commit(events({"id": 40, "v": group}), commit(group + 10, previous=group))
        await sink.commit(commit(group, previous=group + 10))
    assert await bench.sql("SELECT count(*), sum(twice) FROM orders") == [(31, 124)]


@pytest.mark.parametrize("point", ["inside_sink_write", "inside_commit"])
async def test_a_fault_inside_the_transaction_leaves_neither_rows_nor_checkpoint(bench: Bench, point: str) -> None:
    def fail(name: str) -> None:
        raise Transient("test.fault", name)

    await bench.sql(ORDERS)
    bench.faults = Faults({point: [(1, fail)]})
    sink = await bench.sink(key=["id"])
    with pytest.raises(Transient):
        await sink.write_and_commit(events({"id": "a", "price": 1}), commit(1, 1))
    assert (await sink.committed(), await bench.sql("SELECT count(*) FROM orders")) == ((1, 0), [(0,)])
    await sink.write_and_commit(events({"id": "a", "price": 1}), commit(1, 1))
    assert await bench.sql("SELECT id FROM orders") == [("a",)]


async def test_a_fenced_run_delivers_nothing(bench: Bench) -> None:
    await bench.sql(ORDERS)
    old = await bench.sink(key=["id"])
    new = await bench.sink(key=["id"], epoch=2)
    with pytest.raises(Fenced):
        await old.write_and_commit(events({"id": "a", "price": 1}), commit(1))
    with pytest.raises(Fenced):
        await old.commit(commit(1))
    await new.write_and_commit(events({"id": "b", "price": 1}), commit(1, epoch=2))
    assert await bench.sql("SELECT id FROM orders") == [("b",)]


async def test_a_repeated_key_stops_the_run_and_undoes_its_rows(bench: Bench) -> None:
    await bench.sql(ORDERS)
    sink = await bench.sink(key=["id"])
    await sink.write_and_commit(events({"id": "a", "price": 1}), commit(1, 1))
    with pytest.raises(Fatal) as caught:
        await sink.write_and_commit(events({"id": "b", "price": 1}), commit(2, 1))
    assert caught.value.code == "ledger.conflict"
    assert await bench.sql("SELECT id FROM orders") == [("a",)]


async def test_several_sinks_that_begin_at_once_share_the_ledgers_schema(bench: Bench) -> None:
    await bench.sql(ORDERS)
    sinks = await asyncio.gather(*(bench.sink(claim=False, key=["id"]) for _ in range(4)))
    assert await asyncio.gather(*(sink.committed() for sink in sinks)) == [(0, 0)] * 4
    assert await bench.sql("SELECT DISTINCT table_schema FROM information_schema.tables WHERE table_name LIKE 'penstock_%'") == [
        ("penstock",)
    ]


async def test_job_records_are_kept_and_forgotten(bench: Bench) -> None:
    await bench.sql(ORDERS)
    sink = await bench.sink(key=["id"], ledger_schema="Odd Name")
    await bench.sql("INSERT INTO \"Odd Name\".penstock_job_records SELECT number, 'j', 'e' FROM \"Odd Name\".penstock_ledgers")
    claim = await sink.claim(Claimant(2, "orders/warehouse", "file:in", "k", 100.0))
    assert [record.job for record in claim.jobs] == ["j"]
    await sink.forget_jobs("j")
    assert (await sink.claim(Claimant(3, "orders/warehouse", "file:in", "k", 100.0))).jobs == []


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"order_by": ".n"}, "order_by needs a key"),
        ({"on_conflict": "update"}, "on_conflict needs a key"),
        ({"delete": ".gone"}, "delete needs a key"),
        ({"key": ["id"], "columns": {"n": ".n"}}, "key names columns that are not under columns: id"),
        ({"schema": "a@1"}, "schema goes with create"),
        ({"table": "penstock.penstock_meta"}, "belongs to the ledger"),
        ({"ledger_schema": "pg_temp"}, "not pg_…"),
        ({"table": "a.b.c"}, "`schema.table`"),
    ],
)
def test_a_configuration_that_does_not_go_together_is_refused(config: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match="1 validation error") as caught:
        PostgresSink.Config.model_validate({"dsn": "host=x", "table": "orders"} | config)
    assert said in str(caught.value)
