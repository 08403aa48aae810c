"""The sqlite sink with `delete`, `truncate` and `order_by`: an older row or deletion changes nothing, whenever it comes."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import sink_parts
from pydantic import ValidationError
from sink_parts import changes
from sqlite_sink_parts import Bench

from connectors.sinks.sqlite import SqliteConfig, SqliteSink
from penstock.errors import EnvironmentFault
from penstock.event import Event
from penstock.testing.clock import FakeClock

TABLE = "CREATE TABLE orders (id INTEGER PRIMARY KEY, v TEXT, rev INTEGER)"
MIRROR: dict[str, Any] = {
    "key": ["id"],
    "order_by": "rev",
    "delete": '$event.type == "delete"',
    "truncate": '$event.type == "truncate"',
}
Change = tuple[str, Any]


@pytest.fixture
def clock() -> FakeClock:
    """It stands still."""
    return FakeClock()


@pytest.fixture
async def bench(tmp_path: Path, clock: FakeClock) -> AsyncIterator[Bench]:
    bench = Bench(tmp_path, clock=clock)
    yield bench
    await bench.close()


def put(id: Any, rev: Any, v: str | None = None) -> Change:
    return "put", {"id": id, "v": v or f"v{rev}", "rev": rev}


def gone(id: Any, rev: Any) -> Change:
    return "delete", {"id": id, "rev": rev}


async def write(sink: SqliteSink, *found: Change) -> None:
    await sink_parts.write(sink, changes(*found))


async def refused(sink: SqliteSink, *found: Change) -> dict[int, tuple[str, str]]:
    return await sink_parts.refused(sink, changes(*found))


async def test_without_an_order_deletions_and_truncation_take_effect_as_they_come(bench: Bench) -> None:
    bench.execute(TABLE)
    sink = await bench.sink(**{name: value for name, value in MIRROR.items() if name != "order_by"})
    await write(sink, put(1, 5), put(2, 5), gone(1, 1), ("truncate", None), put(3, 9), put(4, 9), gone(4, 1), put(3, 1))
    assert bench.execute("SELECT * FROM orders") == [(3, "v1", 1)]
    assert (sink.stale, sink.overwrites) == (None, True)
    assert bench.execute("SELECT name FROM sqlite_master WHERE name LIKE 'penstock_tomb%'") == []


async def test_a_deletion_that_the_table_refuses_is_named_and_nothing_is_written(bench: Bench) -> None:
    bench.execute(TABLE)
    bench.execute("CREATE TRIGGER t BEFORE DELETE ON orders WHEN old.id = 2 BEGIN SELECT RAISE(ABORT, 'it stays'); END")
    sink = await bench.sink(**{name: value for name, value in MIRROR.items() if name != "order_by"})
    await write(sink, put(1, 1), put(2, 1))
    assert await refused(sink, gone(1, 2), gone(2, 2), put(3, 3), ("truncate", None)) == {
        1: ("sink.constraint", "table orders refuses the row: it stays"),
        3: ("sink.truncate", "table orders was not emptied: it stays"),
    }
    assert bench.execute("SELECT id FROM orders") == [(1,), (2,)]


async def test_an_older_row_loses_whether_it_comes_in_the_same_batch_or_in_another(bench: Bench) -> None:
    bench.execute(TABLE)
    sink = await bench.sink(key=["id"], order_by="rev")
    await write(sink, put(1, 5), put(2, 1), put(1, 3), put(1, 4), put(2, 2))
    assert (bench.execute("SELECT id, rev FROM orders"), sink.stale) == ([(1, 5), (2, 2)], 2)
    await write(sink, put(1, 4), put(2, 3), put(3, 0), put(1, 5, "again"))
    assert bench.execute("SELECT * FROM orders") == [(1, "again", 5), (2, "v3", 3), (3, "v0", 0)]
    assert (sink.stale, sink.overwrites) == (3, False)


async def test_a_row_that_had_no_order_is_older_than_any(bench: Bench) -> None:
    bench.execute(TABLE)
    bench.execute("INSERT INTO orders VALUES (1, 'old', NULL)")
    sink = await bench.sink(key=["id"], order_by="rev")
    await write(sink, put(1, -(2**62)))
    assert bench.execute("SELECT rev FROM orders") == [(-(2**62),)]


async def test_tombstones_keep_older_rows_away_and_a_newer_one_removes_its_own(bench: Bench) -> None:
    bench.execute(TABLE)
    sink = await bench.sink(**MIRROR)
    await write(sink, put(1, 1), gone(1, 5), put(2, 1), gone(3, 9), put(4, 7), gone(4, 6))
    await write(sink, put(1, 4), put(3, 8), gone(1, 3))
    assert bench.execute("SELECT id FROM orders") == [(2,), (4,)]
    assert bench.execute('SELECT k1, "order" FROM penstock_tombstones_orders') == [(1, 5), (3, 9)]
    assert sink.stale == 4
    await write(sink, put(1, 5))
    assert bench.execute("SELECT id FROM orders") == [(1,), (2,), (4,)]
    assert bench.execute("SELECT k1 FROM penstock_tombstones_orders") == [(3,)]


async def test_a_truncation_spares_newer_rows_and_keeps_older_ones_away(bench: Bench) -> None:
    bench.execute(TABLE)
    sink = await bench.sink(**MIRROR)
    await write(sink, put(1, 1), put(2, 9), gone(3, 2), gone(4, 8))
    await write(sink, ("truncate", {"rev": 5}), put(1, 4), put(3, 3), put(5, 6), gone(6, 4))
    assert bench.execute("SELECT id FROM orders") == [(2,), (5,)]
    assert bench.execute("SELECT k1 FROM penstock_tombstones_orders") == [(4,)]
    assert sink.stale == 3
    await write(sink, ("truncate", {"rev": 3}), ("truncate", {"rev": 20}), put(7, 20))
    assert (bench.execute("SELECT id FROM orders"), sink.stale) == ([(7,)], 4)


async def test_tombstones_are_given_up_after_their_time(bench: Bench, clock: FakeClock) -> None:
    bench.execute(TABLE)
    sink = await bench.sink(**MIRROR, tombstones="1h")
    await write(sink, gone(1, 1), gone(2, 1))
    clock.jump(3000)
    await write(sink, gone(3, 1))
    clock.jump(1000)
    await write(sink, gone(4, 1))
    assert bench.execute("SELECT k1 FROM penstock_tombstones_orders") == [(3,), (4,)]


async def test_without_their_time_tombstones_stay(bench: Bench, clock: FakeClock) -> None:
    bench.execute(TABLE)
    sink = await bench.sink(**MIRROR)
    await write(sink, gone(1, 1))
    clock.jump(10**9)
    await write(sink, gone(5, 1))
    assert bench.execute("SELECT k1 FROM penstock_tombstones_orders") == [(1,), (5,)]


TIMES = [
    "2026-01-01T00:00:00+14:00", "2025-12-31T23:59:60Z", "2026-01-01T00:00:00.0000000001Z", "2026-01-01T00:00:00.1z",
    "2026-01-01T01:00:00.11+01:00", "2025-12-31T19:00:00.1200-05:00",
]  # fmt: skip
ORDERS: list[tuple[str, list[Any]]] = [
    ("INTEGER", [-1, 2**53, 2**53 + 1, 2**63 - 1]),
    ("NUMERIC", [-1.5, 0, 0.1, 1, 2**53 + 1]),
    ("REAL", [-1.5, 0, 1e-300, 2.0**60]),
    ("TEXT", TIMES),
    ("", TIMES),
    ("TEXT", ["10", "9", "Z", "a", "é", "￿", "\U0001f600"]),
    ("TEXT COLLATE NOCASE", ["B", "a"]),
    ("", [1, 2.5, 3]),
]


@pytest.mark.parametrize(("kind", "rising"), ORDERS)
async def test_orders_compare_by_what_they_are_exactly(bench: Bench, kind: str, rising: list[Any]) -> None:
    bench.execute(f"CREATE TABLE orders (id INTEGER PRIMARY KEY, v TEXT, rev {kind})")
    sink = await bench.sink(key=["id"], order_by="rev")
    for older, newer in itertools.pairwise(rising):
        for together in (True, False):
            for first, second in ((older, newer), (newer, older)):
                bench.execute("DELETE FROM orders")
                for batch in [[first, second]] if together else [[first], [second]]:
                    await write(sink, *(put(1, rev, str(rev)) for rev in batch))
                assert bench.execute("SELECT v FROM orders") == [(str(newer),)]


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("INTEGER", None), ("INTEGER", True), ("INTEGER", "5"), ("", [1]), ("TEXT", 5), ("TEXT", 1.5), ("", "abc"), ("", 5),
        ("TEXT", "0000-01-01T00:00:00Z"), ("TEXT", "2026-01-01"), ("TEXT", "0/16B3748"),
    ],
)  # fmt: skip
async def test_what_cannot_be_compared_is_its_events_fault_and_nothing_is_guessed(bench: Bench, kind: str, value: Any) -> None:
    bench.execute(f"CREATE TABLE orders (id INTEGER PRIMARY KEY, v TEXT, rev {kind})")
    sink = await bench.sink(**MIRROR)
    if kind != "INTEGER":
        await write(sink, put(1, "2026-01-01T00:00:00Z"), gone(2, "2026-01-01T00:00:00Z"))
    for change in (put(1, value), put(2, value), gone(1, value)) if kind != "INTEGER" else (put(1, value),):
        failed = await refused(sink, change)
        assert failed[0][0] == "sink.order"
    failed = await refused(sink, ("truncate", {"rev": value}), ("put", {"id": 9}))
    assert {index: code for index, (code, _) in failed.items()} == (
        {0: "sink.order", 1: "sink.order"} if value is None else {1: "sink.order"}
    )


async def test_a_value_that_stands_there_and_has_no_order_is_not_guessed_either(bench: Bench) -> None:
    bench.execute("CREATE TABLE orders (id INTEGER PRIMARY KEY, v TEXT, rev)")
    bench.execute("INSERT INTO orders VALUES (1, 'a', x'00')")
    sink = await bench.sink(**MIRROR)
    assert (await refused(sink, put(1, 5)))[0][0] == "sink.order"
    assert (await refused(sink, ("truncate", {"rev": 5})))[0][0] == "sink.order"


async def test_keys_that_are_equal_in_the_table_are_equal_to_its_tombstones(bench: Bench) -> None:
    bench.execute("CREATE TABLE orders (id TEXT COLLATE NOCASE PRIMARY KEY, v TEXT, rev INTEGER)")
    sink = await bench.sink(**MIRROR)
    await write(sink, put("ab", 1), put("AB", 3), put("Ab", 2))
    assert bench.execute("SELECT v FROM orders") == [("v3",)]
    await write(sink, gone("aB", 5), gone("AB", 4), put("ab", 4))
    assert (bench.execute("SELECT * FROM orders"), sink.stale) == ([], 3)
    assert bench.execute('SELECT k1, "order" FROM penstock_tombstones_orders') == [("aB", 5)]


async def test_a_program_is_kept_in_a_column_of_the_sinks_own(bench: Bench) -> None:
    sink = await bench.sink(key=["id"], order_by="$event.time", create=True)

    def at(time: str, v: str) -> Event:
        return Event(id=v, source="s", type="t", time=time, decoded={"id": 1, "v": v}, origin=0)

    await sink_parts.write(sink, [at("2026-01-01T12:00:00.5Z", "a"), at("2026-01-01T14:00:00.25+02:00", "b")])
    assert bench.execute("SELECT v, penstock_order FROM orders") == [("a", "2026-01-01T12:00:00.5Z")]
    await sink_parts.write(sink, [at("2026-01-01T12:00:00.51Z", "c")])
    assert bench.execute("SELECT v FROM orders") == [("c",)]


async def test_a_table_without_the_sinks_column_says_how_to_add_it(bench: Bench) -> None:
    bench.execute(TABLE)
    with pytest.raises(EnvironmentFault) as caught:
        await bench.sink(key=["id"], order_by="$event.time")
    assert caught.value.code == "sink.unknown_column"
    assert 'ALTER TABLE "orders" ADD COLUMN penstock_order' in (caught.value.help or "")


async def test_tombstones_of_another_key_are_refused(bench: Bench) -> None:
    bench.execute("CREATE TABLE orders (id INTEGER PRIMARY KEY, v TEXT UNIQUE, rev INTEGER)")
    await bench.sink(**MIRROR)
    with pytest.raises(EnvironmentFault) as caught:
        await bench.sink(epoch=2, **MIRROR | {"key": ["v"]})
    assert (caught.value.code, caught.value.why) == ("sink.tombstones", "penstock_tombstones_orders holds INTEGER; v are TEXT")


async def test_a_deletion_before_there_is_a_table_is_refused_for_it_could_not_be_remembered(bench: Bench) -> None:
    sink = await bench.sink(**MIRROR, create=True)
    assert (await refused(sink, gone(1, 5)))[0][0] == "sink.missing_table"
    await write(sink, gone(1, 5), put(1, 4), put(2, 1))
    assert bench.execute("SELECT id FROM orders") == [(2,)]


async def test_an_empty_object_makes_no_table(bench: Bench) -> None:
    sink = await bench.sink(create=True)
    assert (await refused(sink, ("put", {})))[0] == (
        "sink.unknown_column", "no table can be made of the event: it is an empty object"
    )  # fmt: skip


@pytest.mark.parametrize(
    ("config", "why"),
    [
        ({"key": None}, "order_by needs a key"),
        ({"on_conflict": "error"}, "order_by goes with on_conflict: update"),
        ({"columns": {"id": ".id"}}, "order_by names a column that is not under columns: rev"),
        ({"tombstones": "90d"}, "tombstones goes with order_by and delete"),
        ({"order_by": None, "key": None, "delete": "."}, "delete needs a key"),
    ],
)
def test_fields_that_do_not_go_together_are_refused(config: dict[str, Any], why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        SqliteConfig.model_validate({"path": "a.db", "table": "orders", "key": ["id"], "order_by": "rev"} | config)
