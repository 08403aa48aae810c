"""Keys that have several texts, and the order of rows of different columns: what one event after the other would leave."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from postgres_sink_parts import Bench, changes, commit, events

from penstock.testing.servers import Database

DELETE = '$event.type == "del"'


@pytest.fixture
async def bench(database: Database, tmp_path: Path) -> AsyncIterator[Bench]:
    bench = Bench(database, tmp_path)
    yield bench
    await bench.close()


@pytest.mark.parametrize(("kind", "texts"), [("numeric", ("1", "1.0")), ("int", ("1", "+01")), ("char(3)", ("x", "x "))])
@pytest.mark.parametrize(("on_conflict", "left"), [("update", 3), ("ignore", 2)])
async def test_rows_of_one_key_under_two_texts_come_in_their_order(
    bench: Bench, kind: str, texts: tuple[str, str], on_conflict: str, left: int
) -> None:
    await bench.sql(f"CREATE TABLE orders (id {kind} PRIMARY KEY, a int, b int)")
    sink = await bench.sink(key=["id"], on_conflict=on_conflict)
    one, other = texts
    await sink.write_and_commit(
        events({"id": "5", "a": 1, "b": 1}, {"id": one, "a": 2}, {"id": other, "a": 3, "b": 3}), commit(1)
    )
    assert await bench.sql("SELECT a FROM orders ORDER BY a") == [(1,), (left,)]


@pytest.mark.parametrize(("kind", "value", "text"), [("int", 1, " 01"), ("bool", True, "true"), ("int", 31, "0x1f")])
async def test_a_row_is_deleted_by_another_text_of_its_key(bench: Bench, kind: str, value: Any, text: str) -> None:
    await bench.sql(f"CREATE TABLE orders (id {kind} PRIMARY KEY, a int)")
    sink = await bench.sink(key=["id"], delete=DELETE)
    await sink.write_and_commit(changes(("put", {"id": value, "a": 1}), ("del", {"id": text})), commit(1))
    assert await bench.sql("SELECT * FROM orders") == []


async def test_rows_that_are_appended_keep_their_order_whatever_their_columns(bench: Bench) -> None:
    await bench.sql("CREATE TABLE orders (n bigserial, v int, note text)")
    sink = await bench.sink()
    await sink.write_and_commit(events({"v": 1, "note": "x"}, {"v": 2}, {"v": 3, "note": "y"}), commit(1))
    assert await bench.sql("SELECT n, v FROM orders ORDER BY n") == [(1, 1), (2, 2), (3, 3)]


async def test_defaults_of_the_database_change_neither_nulls_nor_isolation(bench: Bench) -> None:
    name = bench.database.name
    await bench.sql(
        f"ALTER DATABASE {name} SET array_nulls = off; ALTER DATABASE {name} SET default_transaction_isolation = 'serializable';"
        "CREATE TABLE orders (id int PRIMARY KEY, a text, level text);"
        "CREATE FUNCTION level() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " NEW.level := current_setting('transaction_isolation'); RETURN NEW; END $$;"
        "CREATE TRIGGER level BEFORE INSERT ON orders FOR EACH ROW EXECUTE FUNCTION level()"
    )
    sink = await bench.sink(key=["id"])
    await sink.write_and_commit(events({"id": 1, "a": None}, {"id": 2, "a": "x"}), commit(1))
    assert await bench.sql("SELECT * FROM orders ORDER BY id") == [(1, None, "read committed"), (2, "x", "read committed")]
