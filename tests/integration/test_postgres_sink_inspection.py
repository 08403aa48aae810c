"""Whether rows that were delivered are in a PostgreSQL table: by key and by values, with deletions, truncations and orders."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psycopg
import pytest
from pgoutput_parts import CASES, TYPES_SQL
from postgres_sink_parts import COLUMNS, ORDERS, Bench, decoded
from postgres_sink_parts import bench_of_each as bench_of_each
from sink_parts import changes, commit, events

from connectors.sinks._postgres import inspection as inspections
from connectors.sinks._postgres.config import PostgresSinkConfig
from connectors.sinks.postgres import PostgresSink
from penstock.errors import EnvironmentFault, Transient
from penstock.event import Event
from penstock.testing.contracts import make_context
from penstock.testing.inspection_contract import inspect

NO_KEY = "no row of public.orders has its key"
NO_VALUES = "no row of public.orders has its values, or fewer than were delivered"
NUMBERS = "CREATE TABLE orders (id numeric PRIMARY KEY, v int, rev bigint)"
MIRROR: dict[str, Any] = {"key": ["id"], "delete": '$event.type == "delete"', "truncate": '$event.type == "truncate"'}


async def absent(sink: PostgresSink, found: Sequence[Event], later: Sequence[Event] = ()) -> list[tuple[int, str]]:
    count, absences = await inspect(sink, range(len(found)), found, later)
    assert count == len(absences)
    return [(absence.token, absence.why) for absence in absences]


async def tokens(sink: PostgresSink, found: Sequence[Event], later: Sequence[Event] = ()) -> list[int]:
    return [token for token, _ in await absent(sink, found, later)]


def put(id: Any, rev: int = 0) -> tuple[str, Any]:
    return "put", {"id": id, "v": 1, "rev": rev}


def gone(id: Any, rev: int = 0) -> tuple[str, Any]:
    return "delete", {"id": id, "rev": rev}


async def test_a_row_is_there_by_its_key_whatever_it_holds_by_now(bench: Bench) -> None:
    await bench.sql(ORDERS)
    sink = await bench.sink(key=["id"])
    found = events({"id": "a", "price": 1}, {"id": "b", "price": 2}, {"id": "a", "price": 3})
    await sink.write_and_commit(found, commit(1))
    await bench.sql("UPDATE orders SET price = 7, note = 'by hand'")
    assert await absent(sink, found) == []
    await bench.sql("DELETE FROM orders WHERE id = 'a'")
    assert await absent(sink, found) == [(0, NO_KEY), (2, NO_KEY)]


async def test_what_a_later_event_deletes_need_not_be_there(bench: Bench) -> None:
    await bench.sql(NUMBERS)
    sink = await bench.sink(**MIRROR)
    found = changes(put(1), put(2), gone(1), put(3), gone(3), put(3))
    await sink.write_and_commit(found, commit(1))
    assert await tokens(sink, found) == []
    await bench.sql("DELETE FROM orders")
    assert await tokens(sink, found) == [1, 5]
    assert await tokens(sink, found, later=changes(gone(2), put(3))) == [5]
    assert await tokens(sink, found, later=changes(gone(7), ("truncate", None))) == []


async def test_keys_that_the_table_takes_for_one_are_one_whatever_their_texts(bench: Bench) -> None:
    await bench.sql(NUMBERS)
    sink = await bench.sink(**MIRROR)
    found = changes(put("100"), put("1.50"), put("-0.0"), put("1e400"), gone("1.5"), gone("100.00"), gone("0"), put("10"))
    assert await tokens(sink, found) == [3, 7]
    assert await tokens(sink, found, later=changes(gone("1" + "0" * 400 + ".0"), gone("10.1"))) == [7]


@pytest.mark.parametrize(
    ("kind", "one", "same", "other"),
    [
        ("float8", "-0", "0", "1"),
        ("char(4)", "a", "a  ", "b"),
        ("timestamptz", "2026-01-01T00:00:00Z", "2026-01-01T01:00:00+01:00", "2026-01-01T00:00:00+01:00"),
        ("uuid", "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11", "a0eebc999c0b4ef8bb6d6bb9bd380a11", "b0eebc999c0b4ef8bb6d6bb9bd380a11"),
        ("bytea", "\\x61", "YQ==", "\\x62"),
        ("bool", True, "yes", False),
        ("text", "a", "a", "A"),
    ],
)
async def test_keys_of_each_type_are_compared_as_the_table_compares_them(
    bench: Bench, kind: str, one: Any, same: Any, other: Any
) -> None:
    await bench.sql(f"CREATE TABLE orders (id {kind} PRIMARY KEY, v int, rev int)")
    sink = await bench.sink(**MIRROR)
    assert await tokens(sink, changes(put(one), gone(other))) == [0]
    assert await tokens(sink, changes(put(one), gone(same))) == []
    await sink.write_and_commit(changes(put(one)), commit(1))
    assert await tokens(sink, changes(put(same), put(other))) == [1]


async def test_where_equal_keys_cannot_be_told_a_deletion_excuses_rather_more(bench: Bench) -> None:
    await bench.sql("CREATE TABLE orders (id interval, n int, v int, rev int, PRIMARY KEY (id, n))")
    sink = await bench.sink(**MIRROR | {"key": ["id", "n"]})

    def change(kind: str, id: str, n: int) -> tuple[str, Any]:
        return kind, {"id": id, "n": n, "v": 1, "rev": 1}

    found = changes(change("put", "1 day", 1), change("put", "2 days", 2), change("delete", "24:00:00", 1))
    assert await tokens(sink, found) == [1]
    assert await tokens(sink, found, later=changes(change("delete", "5 days", 2))) == []
    await sink.write_and_commit(changes(change("put", "48:00:00", 2)), commit(1))
    assert await tokens(sink, found) == []


async def test_a_row_that_lost_against_something_newer_need_not_be_there(bench: Bench) -> None:
    await bench.sql(NUMBERS)
    sink = await bench.sink(**MIRROR, order_by="rev")
    found = changes(gone(1, 5), put(1, 3), put(2, 4), put(2, 2), put(3, 9))
    await sink.write_and_commit(found, commit(1))
    assert await bench.sql("SELECT id::int, rev FROM orders ORDER BY id") == [(2, 4), (3, 9)]
    assert await tokens(sink, found) == []
    await bench.sql("DELETE FROM orders")
    assert await tokens(sink, found) == [2, 3, 4]
    await sink.write_and_commit(changes(("truncate", {"rev": 4})), commit(2))
    assert await tokens(sink, found) == [2, 4]  # at its own order a truncation excuses what comes before it alone
    assert await tokens(sink, found, later=changes(("truncate", {"rev": 4}))) == []


async def test_the_order_of_a_program_and_columns_of_programs_are_looked_for_as_they_are_written(bench: Bench) -> None:
    await bench.sql("CREATE TABLE orders (id text PRIMARY KEY, n int, penstock_order timestamptz)")
    sink = await bench.sink(
        **MIRROR | {"order_by": ".at", "columns": {"n": ".n", "id": '"o-" + .id'}, "key": ["id"]}  # the key stands last
    )

    def at(kind: str, id: str, hour: int) -> tuple[str, Any]:
        return kind, {"id": id, "n": 1, "at": f"2026-01-01T{hour:02}:00:00Z"}

    found = changes(at("put", "a", 1), at("put", "b", 2), at("delete", "c", 5), at("put", "c", 3))
    await sink.write_and_commit(found, commit(1))
    assert await tokens(sink, found) == []
    await bench.sql("DELETE FROM orders")
    assert await tokens(sink, found) == [0, 1]


async def test_without_a_key_a_row_has_to_be_there_as_often_as_it_was_delivered(bench: Bench) -> None:
    await bench.sql("CREATE TABLE orders (a int, b text, added timestamptz DEFAULT now())")
    sink = await bench.sink()
    found = events({"a": 1, "b": None}, {"a": 1, "b": ""}, {"a": 1, "b": None}, {"b": "x"}, {"a": 2, "b": "x"})
    await sink.write_and_commit(found, commit(1))
    assert await absent(sink, found) == []
    await bench.sql("DELETE FROM orders WHERE ctid = (SELECT ctid FROM orders WHERE b IS NULL LIMIT 1)")
    assert await absent(sink, found) == [(2, NO_VALUES)]
    await bench.sql("UPDATE orders SET a = 3 WHERE a = 2")
    assert await absent(sink, found) == [(2, NO_VALUES), (4, NO_VALUES)]


async def test_without_a_key_rows_before_the_last_truncation_are_not_looked_for(bench: Bench) -> None:
    await bench.sql("CREATE TABLE orders (a int)")
    sink = await bench.sink(truncate='$event.type == "truncate"')
    found = changes(("put", {"a": 1}), ("truncate", {}), ("put", {"a": 2}), ("put", {"a": 3}))
    await sink.write_and_commit(found, commit(1))
    assert await tokens(sink, found) == []
    await bench.sql("DELETE FROM orders WHERE a = 3")
    assert await tokens(sink, found) == [3]
    assert await tokens(sink, found, later=changes(("truncate", {}))) == []


async def test_a_row_of_every_type_is_found_by_its_values(bench: Bench) -> None:
    defined = ", ".join(f"{name} {kind}" for name, (kind, _, _) in zip(COLUMNS, CASES, strict=True))
    literals = ", ".join(f"$x${literal}$x$::{kind}" for kind, literal, _ in CASES)
    await bench.sql(f"{TYPES_SQL} CREATE TABLE origin ({defined}); CREATE TABLE orders (place serial, {defined})")
    await bench.sql(f"INSERT INTO origin VALUES ({literals})")
    found = events(*[decoded(bench.database.dsn, "origin")] * len(COLUMNS), dict.fromkeys(COLUMNS))
    sink = await bench.sink()
    await sink.write_and_commit(found, commit(1))
    assert await absent(sink, found) == []
    await bench.sql("; ".join(f"UPDATE orders SET {name} = NULL WHERE place = {n}" for n, name in enumerate(COLUMNS, 1)))
    assert await absent(sink, found) == [(n, NO_VALUES) for n in range(len(COLUMNS))]


async def test_values_that_the_server_cannot_read_cost_no_other_event(bench: Bench) -> None:
    await bench.sql("CREATE TABLE orders (id uuid PRIMARY KEY, note text)")
    sink = await bench.sink(key=["id"])
    good = "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"
    await bench.sql(f"INSERT INTO orders VALUES ('{good}')")
    why = "the sink would refuse it today (sink.{}), so that nobody can say what to look for"
    found = events({"id": "no uuid"}, {"id": good}, {"id": 7}, {"id": None}, [1], {"id": "nul\0"})
    assert await absent(sink, found) == [
        (0, why.format("value")),
        (2, why.format("value")),
        (3, why.format("missing_key")),
        (4, why.format("not_an_object")),
        (5, why.format("value")),
    ]


async def test_a_table_that_is_gone_is_an_error_once_something_was_delivered_to_it(bench: Bench) -> None:
    await bench.sql(ORDERS)
    sink = await bench.sink(key=["id"], create=True)
    await bench.sql("DROP TABLE orders")
    assert await absent(sink, []) == []
    with pytest.raises(EnvironmentFault, match="somebody has removed table public") as caught:
        await absent(sink, events({"id": "a", "price": 1}))
    assert caught.value.code == "sink.missing_table"


async def test_who_may_not_read_the_table_is_told_what_is_missing(bench: Bench) -> None:
    await bench.sql("CREATE TABLE orders (a int); CREATE SCHEMA ledger; CREATE ROLE writer LOGIN PASSWORD 'secret'")
    await bench.sql("GRANT INSERT ON orders TO writer; GRANT ALL ON SCHEMA ledger TO writer")
    dsn = psycopg.conninfo.make_conninfo(bench.database.dsn, user="writer", password="secret")
    sink = await bench.sink(dsn=dsn, ledger_schema="ledger")
    with pytest.raises(EnvironmentFault) as caught:
        await absent(sink, events({"a": 1}))
    assert caught.value.code == "sink.no_grant"
    assert caught.value.help == 'GRANT SELECT ON TABLE "public"."orders" TO "writer"'
    await bench.sql("DROP OWNED BY writer; DROP ROLE writer")


async def test_nothing_can_be_written_through_an_inspection(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    await bench.sql(ORDERS)
    sink = await bench.sink(key=["id"])
    monkeypatch.setattr(inspections, "_ask", lambda statement, ops, connection: connection.execute("DELETE FROM public.orders"))
    with pytest.raises(Transient, match="in a read-only transaction"):
        await absent(sink, events({"id": "a", "price": 1}))


async def test_a_server_that_is_not_there_is_said_when_the_inspection_is_entered(tmp_path: Path) -> None:
    config = PostgresSinkConfig.model_validate({"dsn": "host=127.0.0.1 port=1 dbname=x", "table": "orders"})
    sink = PostgresSink(config, make_context(tmp_path))
    with pytest.raises(Transient):
        async with sink.inspection():
            raise AssertionError("it was entered")


async def test_keys_are_looked_up_through_their_index(bench: Bench) -> None:
    await bench.sql("CREATE TABLE orders (id bigint PRIMARY KEY, v int)")
    await bench.sql("INSERT INTO orders SELECT n, n FROM generate_series(1, 20000) AS n; ANALYZE orders")
    sink = await bench.sink(key=["id"])
    found = events(*({"id": n, "v": n} for n in range(1, 4001)))
    assert await tokens(sink, [*found, *events({"id": 20001, "v": 0})]) == [4000]
    await asyncio.to_thread(bench.database.execute, "SELECT pg_stat_force_next_flush()")
    scans = await bench.sql("SELECT seq_scan, idx_scan >= 4000 FROM pg_stat_user_tables WHERE relname = 'orders'")
    assert scans[0][1]
    assert scans[0][0] <= 2  # of ANALYZE and the like, none of the two looks
