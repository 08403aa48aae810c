"""Whether rows that were delivered are in a SQLite table: by key and by values, with deletions, truncations and orders."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from sink_parts import changes, write
from sqlite_sink_parts import Bench

from connectors.sinks._sqlite.inspection import reader_of
from connectors.sinks.sqlite import SqliteSink
from penstock.errors import EnvironmentFault
from penstock.event import Event
from penstock.testing.inspection_contract import inspect

NO_KEY = "no row of orders has its key"
NO_VALUES = "no row of orders has its values, or fewer than were delivered"
TABLE = "CREATE TABLE orders (id INTEGER PRIMARY KEY, v TEXT, rev INTEGER)"
MIRROR: dict[str, Any] = {"key": ["id"], "delete": '$event.type == "delete"', "truncate": '$event.type == "truncate"'}


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    await bench.close()


def puts(*found: Any) -> list[Event]:
    return changes(*(("put", value) for value in found))


def put(id: Any, rev: Any = 0) -> tuple[str, Any]:
    return "put", {"id": id, "v": "x", "rev": rev}


def gone(id: Any, rev: Any = 0) -> tuple[str, Any]:
    return "delete", {"id": id, "rev": rev}


async def absent(sink: SqliteSink, found: Sequence[Event], later: Sequence[Event] = ()) -> list[tuple[int, str]]:
    count, absences = await inspect(sink, range(len(found)), found, later)
    assert count == len(absences)
    return [(absence.token, absence.why) for absence in absences]


async def tokens(sink: SqliteSink, found: Sequence[Event], later: Sequence[Event] = ()) -> list[int]:
    return [token for token, _ in await absent(sink, found, later)]


async def test_a_row_is_there_by_its_key_whatever_it_holds_by_now(bench: Bench) -> None:
    bench.execute(TABLE)
    sink = await bench.sink(key=["id"])
    found = changes(put(1), put(2), put(1))
    await write(sink, found)
    bench.execute("UPDATE orders SET v = 'by hand'")
    assert await absent(sink, found) == []
    bench.execute("DELETE FROM orders WHERE id = 1")
    assert await absent(sink, found) == [(0, NO_KEY), (2, NO_KEY)]


async def test_what_a_later_event_deletes_need_not_be_there(bench: Bench) -> None:
    bench.execute(TABLE)
    sink = await bench.sink(**MIRROR)
    found = changes(put(1), put(2), gone(1), put(3), gone(3), put(3))
    await write(sink, found)
    assert await tokens(sink, found) == []
    bench.execute("DELETE FROM orders")
    assert await tokens(sink, found) == [1, 5]
    assert await tokens(sink, found, later=changes(gone(2), put(3))) == [5]
    assert await tokens(sink, found, later=changes(gone(7), ("truncate", None))) == []


@pytest.mark.parametrize(
    ("declared", "one", "same", "other"),
    [
        ("INTEGER", 1, 1.0, 2),
        ("INTEGER", "12", 12, "13"),
        ("REAL", 5, 5.0, 5.5),
        ("TEXT", 7, "7", "7.0"),
        ("TEXT COLLATE NOCASE", "Ab", "aB", "ac"),
        ("TEXT COLLATE RTRIM", "a", "a  ", " a"),
        ("", 1, 1.0, "1"),
        ("TEXT", True, "1", "true"),
    ],
)
async def test_keys_are_compared_as_the_table_compares_them(bench: Bench, declared: str, one: Any, same: Any, other: Any) -> None:
    bench.execute(f"CREATE TABLE orders (id {declared}, v TEXT, rev INTEGER, UNIQUE (id))")
    sink = await bench.sink(**MIRROR)
    assert await tokens(sink, changes(put(one), gone(other))) == [0]
    assert await tokens(sink, changes(put(one), gone(same))) == []
    await write(sink, changes(put(one)))
    assert await tokens(sink, changes(put(same), put(other))) == [1]


async def test_a_row_that_lost_against_something_newer_need_not_be_there(bench: Bench) -> None:
    bench.execute(TABLE)
    sink = await bench.sink(**MIRROR, order_by="rev")
    found = changes(gone(1, 5), put(1, 3), put(2, 4), put(2, 2), put(3, 9))
    await write(sink, found)
    assert bench.execute("SELECT id, rev FROM orders ORDER BY id") == [(2, 4), (3, 9)]
    assert await tokens(sink, found) == []
    bench.execute("DELETE FROM orders")
    assert await tokens(sink, found) == [2, 3, 4]
    await write(sink, changes(("truncate", {"rev": 4})))
    assert await tokens(sink, found) == [2, 4]  # at its own order a truncation excuses what comes before it alone
    assert await tokens(sink, found, later=changes(("truncate", {"rev": 4}))) == []


async def test_an_order_that_does_not_compare_with_what_is_remembered_is_named(bench: Bench) -> None:
    bench.execute("CREATE TABLE orders (id INTEGER PRIMARY KEY, v TEXT, rev)")
    sink = await bench.sink(**MIRROR, order_by="rev")
    await write(sink, changes(gone(1, 5)))
    why = "the sink would refuse it today (sink.order), so that nobody can say what to look for"
    assert await absent(sink, changes(put(1, "text"))) == [(0, why)]


async def test_without_a_key_a_row_has_to_be_there_as_often_as_it_was_delivered(bench: Bench) -> None:
    bench.execute("CREATE TABLE orders (a INTEGER, b TEXT, c REAL, d, added TEXT DEFAULT 'now')")
    sink = await bench.sink()
    found = puts(
        {"a": "1", "b": None, "c": 1, "d": [1]},
        {"a": 1, "b": "", "c": 1.0, "d": "1"},
        {"a": 1, "b": None, "c": 1.0, "d": [1]},
        {"b": 5},
        {"a": -1, "b": "é"},
        {"a": -2, "b": "é"},
    )
    await write(sink, found)
    assert await absent(sink, found) == []
    bench.execute("DELETE FROM orders WHERE rowid = 1")
    bench.execute("UPDATE orders SET a = -2 WHERE a = -1")
    assert await absent(sink, found) == [(2, NO_VALUES), (4, NO_VALUES)]


async def test_without_a_key_rows_before_the_last_truncation_are_not_looked_for(bench: Bench) -> None:
    bench.execute("CREATE TABLE orders (a INTEGER)")
    sink = await bench.sink(truncate='$event.type == "truncate"')
    found = changes(("put", {"a": 1}), ("truncate", {}), ("put", {"a": 2}), ("put", {"a": 3}))
    await write(sink, found)
    assert await tokens(sink, found) == []
    bench.execute("DELETE FROM orders WHERE a = 3")
    assert await tokens(sink, found) == [3]
    assert await tokens(sink, found, later=changes(("truncate", {}))) == []


async def test_text_that_is_no_text_disturbs_no_look(bench: Bench) -> None:
    bench.execute("CREATE TABLE orders (a TEXT)")
    sink = await bench.sink()
    await write(sink, puts({"a": "x"}))
    bench.execute("INSERT INTO orders VALUES (CAST(x'ff61' AS TEXT))")
    assert await tokens(sink, puts({"a": "x"}, {"a": "y"})) == [1]


async def test_what_the_sink_would_refuse_today_is_named_with_the_reason(bench: Bench) -> None:
    bench.execute(TABLE)
    sink = await bench.sink(key=["id"])
    why = "the sink would refuse it today (sink.{}), so that nobody can say what to look for"
    found = puts({"id": 1 << 70}, {"id": None}, [1], {"v": "x"})
    assert await absent(sink, found) == [
        (0, why.format("value")),
        (1, why.format("missing_key")),
        (2, why.format("not_an_object")),
        (3, why.format("missing_key")),
    ]
    rows = bench.unopened()
    assert await absent(rows, puts({"nobody": 1})) == [(0, why.format("unknown_column"))]


async def test_a_table_or_file_that_is_gone_is_an_error_once_something_was_delivered_to_it(bench: Bench) -> None:
    sink = bench.unopened(create=True)
    assert await absent(sink, []) == []
    with pytest.raises(EnvironmentFault, match="there is no table orders"):
        await absent(sink, puts({"id": 1}))
    assert list(bench.project.iterdir()) == []
    bench.execute("CREATE TABLE other (id INTEGER)")
    with pytest.raises(EnvironmentFault, match="there is no table orders"):
        await absent(sink, puts({"id": 1}))


async def test_a_file_that_is_no_database_is_an_error(bench: Bench) -> None:
    bench.path.parent.mkdir()
    bench.path.write_bytes(b"no database" * 100)
    with pytest.raises(EnvironmentFault) as caught:
        await absent(bench.unopened(), puts({"id": 1}))
    assert caught.value.code == "sink.damaged"


async def test_nothing_can_be_written_through_an_inspection(bench: Bench) -> None:
    bench.execute(TABLE)
    sink = bench.unopened()
    async with reader_of(sink._database) as reader:
        with pytest.raises(EnvironmentFault) as caught:
            await reader.run(lambda connection: connection.execute("INSERT INTO orders VALUES (1, 'x', 1)"))
    assert caught.value.why == "attempt to write a readonly database"
    assert bench.execute("SELECT count(*) FROM orders") == [(0,)]


async def test_a_look_at_all_rows_that_is_cancelled_ends_at_once(bench: Bench) -> None:
    bench.execute("CREATE TABLE orders (a INTEGER)")
    begun = asyncio.Event()
    loop = asyncio.get_running_loop()

    def endless(connection: sqlite3.Connection) -> None:
        connection.create_function("begun", 0, lambda: loop.call_soon_threadsafe(begun.set) and None)
        endless = "WITH RECURSIVE n(i) AS (SELECT begun() UNION ALL SELECT 1 FROM n) SELECT max(i) FROM n"
        connection.execute(endless).fetchone()

    async def look() -> None:
        async with reader_of(bench.unopened()._database) as reader:
            await reader.run(endless)

    looking = asyncio.create_task(look())
    async with asyncio.timeout(10):
        await begun.wait()
        looking.cancel()
        await asyncio.wait([looking])
    assert looking.cancelled()
