"""The postgres query source on real servers: values, order, what is refused, ranges, connections that break."""

from __future__ import annotations

import asyncio
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pgoutput_parts import CASES, TYPES_SQL
from query_source_parts import follow, make_source, rows_of
from server_parts import MakeDatabase, MakeProxy, StartPostgres

from penstock.errors import EnvironmentFault, Fatal, Transient
from penstock.spi import Position, Resume
from penstock.testing.contracts import events_of, read_all
from penstock.testing.servers import Database, PostgresServer

ITEMS = (
    "CREATE TABLE items (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text NOT NULL, at timestamptz DEFAULT now())"
)


@pytest.fixture(params=["postgres", "postgres16"])
def server(request: pytest.FixtureRequest) -> PostgresServer:
    found: PostgresServer = request.getfixturevalue(request.param)
    return found


async def test_every_type_has_the_value_that_the_stream_gives(
    server: PostgresServer, make_database: MakeDatabase, tmp_path: Path
) -> None:
    database = make_database(server)
    columns = ", ".join(f"c{n} {kind}" for n, (kind, _, _) in enumerate(CASES))
    database.execute(f"{TYPES_SQL}; CREATE TABLE every (id int PRIMARY KEY, {columns})")
    marks = ", ".join(f"%s::{kind}" for kind, _, _ in CASES)
    database.execute(f"INSERT INTO every VALUES (1, {marks})", [text for _, text, _ in CASES])
    database.execute("INSERT INTO every (id) VALUES (2)")
    names = [f"c{n}" for n in range(len(CASES))]
    assert await rows_of(make_source(tmp_path, database.dsn, table="every")) == [
        {"id": 1, **{name: value for name, (_, _, value) in zip(names, CASES, strict=True)}},
        {"id": 2, **dict.fromkeys(names)},
    ]


async def test_an_event_says_which_row_of_which_table_and_when(database: Database, tmp_path: Path) -> None:
    database.execute(ITEMS + "; INSERT INTO items (name, at) VALUES ('a, b@c', '2026-01-02 03:04:05.6+00'), ('x', 'infinity')")
    source = make_source(tmp_path, database.dsn, table="items", cursor="at", time="at", columns=["name"])
    events = events_of(await read_all(source))
    assert [(e.id, e.source, e.type, e.time, e.data) for e in events] == [
        (
            "1@2026-01-02 03:04:05.6+00",
            f"postgres:{database.name}/public.items",
            "items.row",
            "2026-01-02T03:04:05.6Z",
            {"name": "a, b@c"},
        ),
        ("2@infinity", f"postgres:{database.name}/public.items", "items.row", None, {"name": "x"}),
    ]
    assert source.position_text(events[0].position) == "2026-01-02T03:04:05.600000Z, 1"
    (system,) = database.execute("SELECT system_identifier FROM pg_control_system()")[0]
    assert await source.identify() == f"postgres:{system}/{database.name}/public.items(at,|)"


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("int2", ["-32768", "-1", "0", "32767"]),
        ("int8", ["-9223372036854775808", "-1", "0", "9223372036854775807"]),
        ("oid", ["0", "4294967295"]),
        (
            "timestamptz",
            [
                "-infinity",
                "4000-01-01 00:00:00+00 BC",
                "1999-12-31 23:59:59.999999+00",
                "2000-01-01 00:00:00+00",
                "99999-01-01 00:00:00+00",
                "infinity",
            ],
        ),
        ("timestamp", ["-infinity", "1970-01-01 00:00:00", "2026-01-01 00:00:00.000001", "infinity"]),
        (
            "uuid",
            [
                "00000000-0000-0000-0000-000000000001",
                "80000000-0000-0000-0000-000000000000",
                "ffffffff-ffff-ffff-ffff-ffffffffffff",
            ],
        ),
        ("text", ["", " ", "A", "Z", "a", "a ", "aa", "z", "~", "é", "☃", "😀"]),
        ("varchar(9)", ["B", "a"]),
        ("bytea", ["\\x", "\\x00", "\\x0000", "\\x0001", "\\x00ff", "\\x01", "\\xff"]),
    ],
)
async def test_positions_sort_as_rows_do_and_resume_at_every_row(
    database: Database, tmp_path: Path, kind: str, values: list[str]
) -> None:
    database.execute(f"CREATE TABLE k (v {kind} PRIMARY KEY)")
    for value in reversed(values):
        database.execute(f"INSERT INTO k VALUES (%s::{kind})", [value])
    found = await read_all(make_source(tmp_path, database.dsn, table="k", batch_count=1))
    ids = [event.id for event in events_of(found)]
    orders = [event.position for event in events_of(found)]
    assert (len(ids), orders) == (len(values), sorted(set(orders)))
    for n in range(1, len(values) + 1):
        rest = events_of(
            await read_all(make_source(tmp_path, database.dsn, table="k"), {"rows": found[n - 1].end or Position(b"")})
        )
        assert [event.id for event in rest] == ids[n:]


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"table": "items", "cursor": "nothing"}, "source.unknown_column"),
        ({"table": "items", "columns": ["nothing"]}, "source.unknown_column"),
        ({"table": "items", "cursor": "name"}, "source.cursor_type"),
        ({"table": "items", "cursor": "second"}, "source.cursor_type"),
        ({"table": "items", "cursor": "price"}, "source.unordered_type"),
        ({"table": "items", "key": "name"}, "source.key_not_unique"),
        ({"table": "items", "time": "name"}, "source.time_type"),
        ({"table": "keyless"}, "source.no_key"),
        ({"table": "cached", "cursor": "id"}, "source.cached_sequence"),
        ({"query": "SELECT id, name AS id FROM public.items", "key": "id"}, "source.duplicate_column"),
        ({"table": "missing"}, "postgres.failed"),
    ],
)
async def test_what_cannot_be_read_in_order_is_refused_when_it_opens(
    database: Database, tmp_path: Path, fields: dict[str, Any], code: str
) -> None:
    database.execute(ITEMS + "; ALTER TABLE items ADD price numeric, ADD second timestamptz(0); CREATE TABLE keyless (id int)")
    database.execute("CREATE TABLE cached (id bigint GENERATED ALWAYS AS IDENTITY (CACHE 20) PRIMARY KEY)")
    with pytest.raises(Fatal) as caught:
        await make_source(tmp_path, database.dsn, **fields).open(Resume(1, {}, once=True))
    assert caught.value.code == code


async def test_rows_without_a_cursor_stop_the_run_instead_of_being_skipped(database: Database, tmp_path: Path) -> None:
    database.execute(ITEMS + "; INSERT INTO items (name, at) VALUES ('a', now()), ('b', NULL)")
    with pytest.raises(EnvironmentFault, match="no place in the order"):
        await rows_of(make_source(tmp_path, database.dsn, table="items", cursor="at"))
    query = "SELECT id, at FROM public.items WHERE at IS NOT NULL"
    assert [row["id"] for row in await rows_of(make_source(tmp_path, database.dsn, query=query, cursor="at", key="id"))] == [1]


async def test_a_query_with_equal_rows_is_refused_also_at_the_end_of_a_read(database: Database, tmp_path: Path) -> None:
    query = "SELECT i / 2 AS id FROM generate_series(2, 9) AS i"
    for rows in (1, 3, 100):
        with pytest.raises(Fatal) as caught:
            await rows_of(make_source(tmp_path, database.dsn, query=query, key="id", batch_rows=rows))
        assert caught.value.code == "source.key_not_unique"


async def test_a_value_that_json_cannot_hold_is_a_reject_with_its_column(database: Database, tmp_path: Path) -> None:
    database.execute(
        "CREATE TABLE t (id int PRIMARY KEY, n numeric); INSERT INTO t VALUES (1, 1.5), (2, 0.12345678901234567890), (3, 3)"
    )
    (batch,) = await read_all(make_source(tmp_path, database.dsn, table="t", numeric="number"))
    assert {n: (error.code, error.message[:9]) for n, error in batch.rejects.items()} == {
        1: ("decode.number_inexact", "column n:")
    }
    assert batch.events[1].original == b'{"id":"2","n":"0.12345678901234567890"}'
    assert [event.data for event in (batch.events[0], batch.events[2])] == [{"id": 1, "n": 1.5}, {"id": 3, "n": 3}]


async def test_a_query_is_named_after_its_table_or_else_after_the_pipeline(database: Database, tmp_path: Path) -> None:
    query = {"query": "SELECT 1 AS id", "key": "id"}
    named = events_of(await read_all(make_source(tmp_path, database.dsn, table="s.orders", **query)))
    plain = events_of(await read_all(make_source(tmp_path, database.dsn, **query)))
    assert [(event.source, event.type, event.id) for event in named + plain] == [
        (f"postgres:{database.name}/s.orders", "orders.row", "1"),
        (f"postgres:{database.name}/shop", "shop.row", "1"),
    ]


async def test_a_range_is_half_open_and_gives_the_events_of_the_source(database: Database, tmp_path: Path) -> None:
    database.execute(
        ITEMS + "; INSERT INTO items (name, at) SELECT i, '2026-01-01Z'::timestamptz + (9 - i) * '1 h'::interval "
        "FROM generate_series(1, 9) i"
    )
    source = make_source(tmp_path, database.dsn, table="items", cursor="id", time="at", batch_count=2, batch_rows=3)
    everything = {event.id: (event.data, event.position) for event in events_of(await read_all(source))}
    start, end = datetime(2026, 1, 1, 2, tzinfo=UTC), datetime(2026, 1, 1, 7, tzinfo=UTC)
    events = events_of([batch async for batch in source.read_range((start, end), {})])
    assert [event.id for event in events] == ["7", "6", "5", "4", "3"]
    assert all(everything[event.id] == (event.data, event.position) for event in events)


async def test_a_range_gives_rows_without_a_time_as_well_for_they_may_have_one_by_event(
    database: Database, tmp_path: Path
) -> None:
    database.execute(
        "CREATE TABLE t (id int PRIMARY KEY, at timestamptz); INSERT INTO t VALUES (1, NULL), (2, '2026-01-01Z'), "
        "(3, 'infinity'), (4, '2026-01-02Z'), (5, NULL), (6, '-infinity'), (7, '2026-01-01Z')"
    )
    span = datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 2, tzinfo=UTC)
    source = make_source(tmp_path, database.dsn, table="t", time="at", batch_rows=1)
    events = events_of([batch async for batch in source.read_range(span, {})])
    assert [(event.id, event.time is None) for event in events] == [
        ("2", False),
        ("7", False),
        ("1", True),
        ("3", True),
        ("5", True),
        ("6", True),
    ]


async def test_a_range_refuses_what_a_run_would_refuse(database: Database, tmp_path: Path) -> None:
    database.execute("CREATE TABLE t (id int PRIMARY KEY, at timestamptz); INSERT INTO t VALUES (1, NULL), (2, '2026-01-01Z')")
    span = datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 2, tzinfo=UTC)
    for fields, wanted, code in (
        ({}, span, "source.no_time"),
        ({"cursor": "at"}, None, "source.null_cursor"),
    ):
        with pytest.raises(EnvironmentFault) as caught:
            async for _ in make_source(tmp_path, database.dsn, table="t", **fields).read_range(wanted, {}):
                pass
        assert caught.value.code == code


async def test_columns_that_are_added_are_read_from_the_next_look_on(database: Database, tmp_path: Path) -> None:
    database.execute(ITEMS + "; INSERT INTO items (name) VALUES ('a')")
    rows: list[Any] = []

    def until(found: list[Any]) -> bool:
        if len(found) == 1:
            database.execute("ALTER TABLE items ADD note text; INSERT INTO items (name, note) VALUES ('b', 'new')")
        return len(found) == 2

    await follow(
        make_source(tmp_path, database.dsn, table="items", cursor="id", columns=[], follow=True, poll="20ms"), rows, until
    )
    assert [(row["name"], row.get("note", "-")) for row in rows] == [("a", "-"), ("b", "new")]


@pytest.mark.parametrize("fault", ["cut", "restart"])
async def test_a_broken_connection_is_transient_and_reading_goes_on_behind_the_last_batch(
    start_postgres: StartPostgres, make_database: MakeDatabase, make_proxy: MakeProxy, tmp_path: Path, fault: str
) -> None:
    server = start_postgres(durable=False)
    database = server.create_database("broken")
    proxy = make_proxy(server.port)
    database.execute(ITEMS + "; INSERT INTO items (name) SELECT i FROM generate_series(1, 1000) i")
    source = make_source(tmp_path, database.dsn_through(proxy.port), table="items", cursor="id", batch_count=50, batch_rows=100)
    await source.open(Resume(1, {}, once=True))
    found: list[int] = []
    faults = 0
    async with asyncio.timeout(30):
        while len(found) < 1000:
            try:
                async for batch in source.batches():
                    found += [event.data["id"] for event in batch.events]
                    if len(found) in (250, 700) and faults < 2:
                        await asyncio.to_thread(proxy.cut if fault == "cut" else server.restart)
            except Transient:
                faults += 1
    await source.close()
    assert (found, faults) == (list(range(1, 1001)), 2)


async def test_closing_a_source_whose_server_is_silent_takes_seconds(
    database: Database, make_proxy: MakeProxy, tmp_path: Path
) -> None:
    proxy = make_proxy(database.server.port)
    database.execute(ITEMS)
    source = make_source(tmp_path, database.dsn_through(proxy.port), table="items", cursor="id", follow=True, poll="10ms")
    await source.open(Resume(1, {}))
    proxy.stall()
    reading = asyncio.ensure_future(anext(aiter(source.batches())))
    await asyncio.sleep(0)
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)
    async with asyncio.timeout(10):
        await source.close()


def test_fields_that_do_not_go_together_are_refused(tmp_path: Path) -> None:
    for fields, words in (
        ({}, "`table` or `query`"),
        ({"query": "SELECT 1 AS id"}, "needs `key`"),
        ({"table": "t", "follow": True}, "needs `cursor`"),
        ({"table": "a b"}, "a table is named"),
    ):
        with pytest.raises(ValueError, match=re.escape(words)):
            make_source(tmp_path, "postgresql://h/d", **fields)
