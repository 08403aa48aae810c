"""Events that carry only some columns of a table whose other columns must have a value."""

from __future__ import annotations

import pytest
from postgres_sink_parts import Bench
from postgres_sink_parts import bench as bench
from sink_parts import commit, events, refused

from penstock.errors import BatchError

TABLE = """
CREATE TABLE orders (id {kind} PRIMARY KEY, name text NOT NULL, price numeric(8,2) NOT NULL, note text DEFAULT 'n', qty int);
INSERT INTO orders VALUES ('1', 'one', 1), ('2', 'two', 2)
"""


@pytest.mark.parametrize("kind", ["int", "text", "numeric", "varchar(5)"])
async def test_rows_that_are_there_are_updated_without_columns_that_a_new_row_must_have(bench: Bench, kind: str) -> None:
    await bench.sql(TABLE.format(kind=kind))
    sink = await bench.sink(key=["id"])
    await sink.write_and_commit(
        events({"id": "1", "price": 1.5}, {"id": "2", "qty": 7, "note": None}, {"id": "3", "name": "x", "price": 3}), commit(1)
    )
    assert await bench.sql("SELECT id::text, name, price::text, note, qty FROM orders ORDER BY id") == [
        ("1", "one", "1.50", "n", None),
        ("2", "two", "2.00", None, 7),
        ("3", "x", "3.00", "n", None),
    ]


async def test_rows_that_are_not_there_are_refused_and_the_others_go_in(bench: Bench) -> None:
    await bench.sql(TABLE.format(kind="int"))
    sink = await bench.sink(key=["id"])
    found = events({"id": 1, "price": 5}, {"id": 7, "price": 5}, {"id": 2, "price": 6})
    with pytest.raises(BatchError) as caught:
        await sink.write_and_commit(found, commit(1))
    assert {place: (error.code, error.help) for place, error in caught.value.failed.items()} == {
        1: ("sink.constraint", "only events for rows that are there may leave name out: send it, or give the column a default")
    }
    await sink.write_and_commit([found[0], found[2]], commit(1))
    assert await bench.sql("SELECT price::int FROM orders ORDER BY id") == [(5,), (6,)]


async def test_a_row_that_is_made_and_changed_in_one_batch_needs_its_columns_once(bench: Bench) -> None:
    await bench.sql(TABLE.format(kind="int"))
    sink = await bench.sink(key=["id"])
    await sink.write_and_commit(events({"id": 9, "name": "n", "price": 1}, {"id": 9, "qty": 4}, {"id": 9, "price": 2}), commit(1))
    assert await bench.sql("SELECT name, price::int, qty FROM orders WHERE id = 9") == [("n", 2, 4)]


async def test_two_texts_of_one_key_are_updated_in_their_order(bench: Bench) -> None:
    await bench.sql(TABLE.format(kind="numeric"))
    sink = await bench.sink(key=["id"])
    await sink.write_and_commit(events({"id": "1.0", "qty": 1}, {"id": "1", "qty": 2}, {"id": "1.00", "qty": 3}), commit(1))
    assert await bench.sql("SELECT qty FROM orders ORDER BY id") == [(3,), (None,)]


@pytest.mark.parametrize("row", [{"id": 1}, {"id": 1, "price": 9}])
async def test_rows_that_are_there_are_ignored_without_columns_that_a_new_row_must_have(
    bench: Bench, row: dict[str, int]
) -> None:
    await bench.sql(TABLE.format(kind="int"))
    sink = await bench.sink(key=["id"], on_conflict="ignore")
    assert list(await refused(sink, events(row, row | {"id": 8}))) == [1]
    await sink.write_and_commit(events(row), commit(1))
    assert await bench.sql("SELECT id, price::int FROM orders ORDER BY id") == [(1, 1), (2, 2)]


async def test_a_column_that_is_made_not_null_while_it_runs_is_noticed(bench: Bench) -> None:
    await bench.sql(TABLE.format(kind="int"))
    sink = await bench.sink(key=["id"])
    await sink.write_and_commit(events({"id": 1, "name": "x", "price": 1}), commit(1))
    await bench.sql("UPDATE orders SET qty = 0; ALTER TABLE orders ALTER COLUMN qty SET NOT NULL")
    await sink.write_and_commit(events({"id": 1, "name": "y", "price": 1}), commit(2))
    assert await bench.sql("SELECT name, qty FROM orders WHERE id = 1") == [("y", 0)]
