"""What a snapshot reads of a table: every kind of key, the values and columns of the stream, the publication's rows; refusals."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

import psycopg
import pytest
from cdc_parts import SECONDS, make_source, sql
from cdc_snapshot_parts import INITIAL, Ledger, Running, drive, snapshots_of
from cdc_snapshot_parts import shop as shop
from pgoutput_parts import CASES, TYPES_SQL

from connectors._postgres import TableName
from connectors.sources._cdc.snapshot_tables import Layout, inspect
from connectors.sources.postgres_cdc import PostgresCdcSource
from penstock.errors import EnvironmentFault
from penstock.spi import Batch, Resume
from penstock.testing.servers import Database

KEYS: Sequence[tuple[str, str, str]] = [
    ("a int, b text, PRIMARY KEY (b, a)", "n, 'x' || n % 3", "a = a + 1000"),
    (
        "a text PRIMARY KEY",
        "(ARRAY['ä', 'A', 'a', 'Z', '_', 'é', 'o''k', 'q\"q', E'back\\\\slash', ' s', ''])[n % 11 + 1] || n",
        "a = a || '!'",
    ),
    ('a text COLLATE "C" PRIMARY KEY', "chr(60 + n) || 'x'", "a = 'm' || a"),
    ("a text COLLATE pg_c_utf8 PRIMARY KEY", "(ARRAY['a', 'B', 'é', 'D'])[n % 4 + 1] || n", "a = upper(a)"),
    ("a uuid PRIMARY KEY", "md5(n::text)::uuid", "a = md5(a::text)::uuid"),
    ("a numeric PRIMARY KEY", "n / 3.0 - 4", "a = a * 100"),
    (
        "a timestamptz PRIMARY KEY",
        "'2024-03-31 00:30+00'::timestamptz + n * interval '17 min 0.000001 s'",
        "a = a + interval '1 day'",
    ),
    ("a date PRIMARY KEY", "'0044-03-15 BC'::date + n * 10000", "a = a + 1"),
    ("a float8 PRIMARY KEY", "sin(n)", "a = a / 3"),
    ("a bpchar(4) PRIMARY KEY", "'b' || n", "a = 'c' || n"),
    ("a bytea PRIMARY KEY", "decode(md5(n::text), 'hex')", "a = a || '\\x00'"),
    ("a mood PRIMARY KEY", "(ARRAY['sad', 'ok, \"fine\"', 'happy'])[n]::mood", ""),
    ("a bool, b int[], PRIMARY KEY (a, b)", "n % 2 = 0, ARRAY[n, NULL]", "b = b || 7"),
    ("a bit(5) PRIMARY KEY", "n::bit(5)", ""),
    ("a int4range PRIMARY KEY", "int4range(n, n + 5)", ""),
    ('a "odd ""Type" PRIMARY KEY', 'ROW(n, \'x\')::"odd ""Type"', ""),
    ("a int NOT NULL UNIQUE", "n", ""),
]


@pytest.mark.parametrize(("columns", "values", "change"), KEYS, ids=[columns.partition(" PRIMARY")[0] for columns, _, _ in KEYS])
async def test_every_kind_of_key_is_read_in_the_servers_order(
    database: Database, tmp_path: Path, columns: str, values: str, change: str
) -> None:
    """Interrupted, and changed meanwhile: each row comes once, and what was changed is told."""
    await sql(
        database,
        "CREATE TYPE mood AS ENUM ('sad', 'ok, \"fine\"', 'happy'); CREATE TYPE \"odd \"\"Type\" AS (x int, y text);"
        f"CREATE TABLE orders (n int, v int DEFAULT 0, {columns}); ALTER TABLE orders REPLICA IDENTITY FULL;"
        f"INSERT INTO orders SELECT n, 0, {values} FROM generate_series(1, {3 if 'mood' in columns else 30}) AS n",
    )
    ledger, last = Ledger(key=("n",)), 3 if "mood" in columns else 30
    fields = {"snapshot": {"mode": "initial", "batch_rows": 1 if last == 3 else 4}}

    def second_chunk(batch: Batch) -> bool:
        return any(event.position[:8] == (2).to_bytes(8, "big") for event in batch.events)

    await drive(make_source(database, tmp_path, **fields), [ledger], 1, stop_at=second_chunk)
    await sql(database, f"UPDATE orders SET v = 1 WHERE n % 3 = 0; DELETE FROM orders WHERE n = {last - 1}")
    if change:
        await sql(database, f"UPDATE orders SET v = 2, {change} WHERE n % 5 = 1")
    await drive(make_source(database, tmp_path, **fields), [ledger], 2)
    ledger.check()
    rows = dict(await sql(database, "SELECT n, v FROM orders"))
    assert {n: row["v"] for (n,), row in ledger.rows["orders"].items()} == rows
    assert len({event.id for event in snapshots_of(ledger)}) == len(snapshots_of(ledger)) >= last * 2 // 3


async def test_ids_tell_rows_apart_by_their_key(database: Database, tmp_path: Path) -> None:
    await sql(database, "CREATE TABLE orders (a text, b int, PRIMARY KEY (a, b)); CREATE TABLE names (name text PRIMARY KEY)")
    await sql(
        database, "INSERT INTO orders VALUES ('x\"y', 1); INSERT INTO names VALUES ('Ann'), (repeat('n', 65)), (repeat('m', 64))"
    )
    ledger = Ledger(key=())
    await drive(make_source(database, tmp_path, tables=["orders", "names"], **INITIAL), [ledger], 1)
    ids = sorted(event.id.split("-", 2)[2] for event in snapshots_of(ledger))
    assert set(ids) >= {"Ann", "m" * 64, '["x\\"y","1"]'}
    assert sum(name.startswith("blake2b:") and len(name) == 72 for name in ids) == 1


async def test_a_value_of_a_snapshot_is_the_value_of_the_stream(shop: Database, tmp_path: Path) -> None:
    columns = ", ".join(f"c{n} {kind}" for n, (kind, _, _) in enumerate(CASES))
    literals = ", ".join("'" + text.replace("'", "''") + f"'::{kind}" for kind, text, _ in CASES)
    await sql(shop, f"{TYPES_SQL} CREATE TABLE orders (id int PRIMARY KEY, {columns})")
    await sql(shop, f"INSERT INTO orders VALUES (1, {literals}); INSERT INTO orders VALUES (2)")
    ledger = Ledger()
    await drive(make_source(shop, tmp_path, **INITIAL), [ledger], 1)
    await sql(shop, f"INSERT INTO orders VALUES (11, {literals}); INSERT INTO orders VALUES (12)")
    await drive(make_source(shop, tmp_path, **INITIAL), [ledger], 2)
    full, empty, streamed, other = (event.data for event in ledger.events)
    assert {**full, "id": 11} == streamed
    assert {**empty, "id": 12} == other
    assert [full[f"c{n}"] for n in range(len(CASES))] == [value for _, _, value in CASES]
    assert list(full) == list(streamed)


async def test_a_value_that_json_cannot_hold_is_a_reject(database: Database, tmp_path: Path) -> None:
    await sql(database, "CREATE TABLE orders (id int PRIMARY KEY, j json); INSERT INTO orders VALUES (1, '1e999'), (2, '2')")
    batches: list[Batch] = []
    async with Running(make_source(database, tmp_path, **INITIAL), Ledger()) as running:
        while running.source.gauges()["snapshot_tables_left"]:
            batches.append(await running.step())
    (batch,) = [batch for batch in batches if batch.events]
    assert {n: error.code for n, error in batch.rejects.items()} == {0: "decode.number_out_of_range"}
    assert [event.data["j"] for event in batch.events] == ["1e999", 2]
    assert b'"op":"snapshot"' in (batch.events[0].original or b"")


async def rows_of(database: Database, directory: Path, **fields: Any) -> list[tuple[str, Any]]:
    """Type and data of the rows of an initial snapshot."""
    ledger = Ledger(key=())
    await drive(make_source(database, directory, **{**INITIAL, **fields}), [ledger], 1)
    assert len(ledger.events) == len(snapshots_of(ledger))
    return [(event.type, event.data) for event in ledger.events]


async def test_partitions_are_read_by_their_root(shop: Database, tmp_path: Path) -> None:
    await sql(
        shop,
        "CREATE TABLE orders (id int, day date, PRIMARY KEY (id, day)) PARTITION BY RANGE (day);"
        "CREATE TABLE old PARTITION OF orders FOR VALUES FROM (MINVALUE) TO ('2024-01-01') PARTITION BY HASH (id);"
        "CREATE TABLE old_0 PARTITION OF old FOR VALUES WITH (MODULUS 2, REMAINDER 0);"
        "CREATE TABLE old_1 PARTITION OF old FOR VALUES WITH (MODULUS 2, REMAINDER 1);"
        "CREATE TABLE new PARTITION OF orders FOR VALUES FROM ('2024-01-01') TO (MAXVALUE);"
        "INSERT INTO orders SELECT n, '2023-12-20'::date + n FROM generate_series(1, 30) AS n",
    )
    ledger = Ledger(key=("id",))
    await drive(make_source(shop, tmp_path, **INITIAL), [ledger], 1, stop_after=5)
    await sql(shop, "UPDATE orders SET day = '2025-01-01' WHERE id = 30; DELETE FROM old WHERE id = 1")
    await sql(shop, "INSERT INTO new VALUES (31, '2026-01-01')")
    await drive(make_source(shop, tmp_path, **INITIAL), [ledger], 2)
    ledger.check()
    assert {event.source for event in ledger.events} == {f"postgres-cdc:slot_{shop.name}/public.orders"}
    assert sorted(ledger.rows["orders"]) == [(n,) for n in range(2, 32)]
    assert ledger.rows["orders"][30,]["day"] == "2025-01-01"


async def test_children_of_a_table_are_tables_of_their_own(shop: Database, tmp_path: Path) -> None:
    await sql(shop, "CREATE TABLE orders (id int PRIMARY KEY); CREATE TABLE child (PRIMARY KEY (id)) INHERITS (orders)")
    await sql(shop, "INSERT INTO orders VALUES (1); INSERT INTO child VALUES (2)")
    assert await rows_of(shop, tmp_path) == [("orders.snapshot", {"id": 1})]
    assert sorted(
        await rows_of(shop, tmp_path, slot={"name": "both"}, publication={"name": "b"}, tables=["orders", "child"])
    ) == [
        ("child.snapshot", {"id": 2}),
        ("orders.snapshot", {"id": 1}),
    ]


async def test_rows_columns_and_generated_values_are_those_that_the_publication_has(shop: Database, tmp_path: Path) -> None:
    await sql(
        shop,
        "CREATE TABLE orders (id int PRIMARY KEY, a int, b int, c int GENERATED ALWAYS AS (a * 2) STORED);"
        "INSERT INTO orders SELECT n, n, n FROM generate_series(1, 4) AS n;"
        "CREATE PUBLICATION f FOR TABLE orders (id, b) WHERE (id > 1 AND id < 4)",
    )
    fields = {"publication": {"name": "f"}}
    assert await rows_of(shop, tmp_path, **fields) == [("orders.snapshot", {"id": n, "b": n}) for n in (2, 3)]
    whole = await rows_of(shop, tmp_path, slot={"name": "w"}, publication={"name": "w"}, tables=["orders"])
    assert whole[0] == ("orders.snapshot", {"id": 1, "a": 1, "b": 1})
    selected = await rows_of(
        shop,
        tmp_path,
        slot={"name": "s"},
        publication={"name": "w"},
        exclude_columns=["id"],
        include_before=True,
        where=".after.b != 3",
        mask={"a": None},
        snapshot={"mode": "initial", "select": {"orders": "b % 2 = 1 -- or none"}},
    )
    assert selected == [("orders.snapshot", {"before": None, "after": {"a": None, "b": 1}})]


async def test_generated_columns_that_are_published_are_read(database: Database, tmp_path: Path) -> None:
    await sql(
        database,
        "CREATE TABLE orders (id int PRIMARY KEY, c int GENERATED ALWAYS AS (id * 2) STORED); INSERT INTO orders VALUES (1);"
        "CREATE PUBLICATION g FOR TABLE orders WITH (publish_generated_columns = stored)",
    )
    ledger, fields = Ledger(), {"publication": {"name": "g"}, **INITIAL}
    await drive(make_source(database, tmp_path, **fields), [ledger], 1)
    await sql(database, "INSERT INTO orders VALUES (2)")
    await drive(make_source(database, tmp_path, **fields), [ledger], 2)
    assert [event.data for event in ledger.events] == [{"id": 1, "c": 2}, {"id": 2, "c": 4}]


async def test_the_replica_identitys_index_is_the_key(shop: Database, tmp_path: Path) -> None:
    """The stream tells of changes of its columns alone: the primary key may change unseen."""
    await sql(
        shop,
        'CREATE TABLE orders (id int PRIMARY KEY, code text NOT NULL, n int); CREATE UNIQUE INDEX k ON orders (code COLLATE "C");'
        "ALTER TABLE orders REPLICA IDENTITY USING INDEX k;"
        "INSERT INTO orders SELECT n, (ARRAY['a', 'B'])[n % 2 + 1] || n, n FROM generate_series(1, 20) AS n",
    )
    ledger = Ledger(key=("code",))
    await drive(make_source(shop, tmp_path, **INITIAL), [ledger], 1, stop_after=5)
    codes = [event.data["code"] for event in snapshots_of(ledger)]
    assert codes == sorted(f"{'aB'[n % 2]}{n}" for n in range(1, 21))[: len(codes)]
    assert 0 < len(codes) < 20
    await sql(shop, "UPDATE orders SET id = -id; UPDATE orders SET code = 'Z' || code WHERE n = 20")
    await drive(make_source(shop, tmp_path, **INITIAL), [ledger], 2)
    ledger.check()
    rows = {(code,): {"id": identity, "code": code, "n": n} for identity, code, n in await sql(shop, "TABLE orders")}
    assert ledger.rows["orders"] == rows


async def test_the_order_is_that_of_the_keys_index(database: Database, tmp_path: Path) -> None:
    """Its collation may be another than the column's: what is equal, and what comes first, is what the index says."""
    await sql(
        database,
        'CREATE TABLE orders (code text COLLATE "C" NOT NULL, n int NOT NULL);'
        'CREATE UNIQUE INDEX k ON orders (n, code COLLATE "POSIX");'
        "ALTER TABLE orders REPLICA IDENTITY USING INDEX k; CREATE PUBLICATION p FOR TABLE orders",
    )
    source = make_source(database, tmp_path)
    layout = await asyncio.to_thread(inspected, database, source)
    place = 'pg_catalog."POSIX"'
    order = f'"n", "code" COLLATE {place}'
    assert layout.rows_sql(behind=True).endswith(
        f"WHERE ({order}) > ($1::integer, $2::text) AND ({order}) <= ($3::integer, $4::text) ORDER BY {order}"
    )


def inspected(database: Database, source: PostgresCdcSource) -> Layout:
    with psycopg.connect(database.dsn, autocommit=True, options="-c search_path=pg_catalog") as connection:
        return inspect(connection, source.config, "p", TableName("public", "orders"))


async def fault_of(database: Database, directory: Path, dsn: str | None = None, **fields: Any) -> EnvironmentFault:
    given = {**INITIAL, **({} if dsn is None else {"dsn": dsn}), **fields}
    with pytest.raises(EnvironmentFault) as caught:
        await drive(make_source(database, directory, **given), [Ledger()], 1)
    return caught.value


async def slots(database: Database) -> int:
    return len(await sql(database, f"SELECT 1 FROM pg_replication_slots WHERE database = '{database.name}'"))


async def test_what_cannot_be_read_is_refused_before_there_is_a_slot(database: Database, tmp_path: Path) -> None:
    await sql(
        database,
        "CREATE TABLE orders (id int PRIMARY KEY); CREATE TABLE bare (n int); ALTER TABLE bare REPLICA IDENTITY FULL;"
        "CREATE PUBLICATION p FOR TABLE orders, bare;"
        "CREATE ROLE \"Reader\" LOGIN REPLICATION PASSWORD 'r'; GRANT CREATE ON DATABASE " + database.name + ' TO "Reader"',
    )
    try:
        dsn = database.server.dsn(database.name, user="Reader", password="r")
        fields = {"publication": {"name": "p"}, "tables": ["orders"]}
        fault = await fault_of(database, tmp_path, dsn, **fields)
        assert fault.code == "source.no_select"
        assert 'GRANT SELECT ON TABLE "public"."orders" TO "Reader"' in (fault.help or "")
        await sql(database, 'GRANT SELECT ON orders TO "Reader"; ALTER TABLE orders ENABLE ROW LEVEL SECURITY')
        fault = await fault_of(database, tmp_path, dsn, **fields)
        assert (fault.code, 'ALTER ROLE "Reader" BYPASSRLS' in (fault.help or "")) == ("snapshot.row_security", True)
        fault = await fault_of(database, tmp_path, publication={"name": "p"}, tables=["bare"])
        assert (fault.code, 'ALTER TABLE "public"."bare" ADD PRIMARY KEY' in (fault.help or "")) == ("snapshot.no_key", True)
        fault = await fault_of(database, tmp_path, snapshot={"mode": "initial", "select": {"other": "true"}})
        assert fault.code == "snapshot.unknown_table"
        assert await slots(database) == 0
    finally:
        await sql(database, 'DROP OWNED BY "Reader"; DROP ROLE "Reader"')


async def test_a_table_without_a_key_is_left_out_where_that_is_declared(database: Database, tmp_path: Path) -> None:
    await sql(database, "CREATE TABLE orders (n int); ALTER TABLE orders REPLICA IDENTITY FULL; INSERT INTO orders VALUES (1)")
    assert await rows_of(database, tmp_path, snapshot={"mode": "initial", "keyless": "skip"}) == []


async def test_a_table_without_a_key_is_read_in_one_go_and_all_over_again_after_a_crash(shop: Database, tmp_path: Path) -> None:
    await sql(shop, "CREATE TABLE orders (n int, t text); ALTER TABLE orders REPLICA IDENTITY FULL")
    await sql(shop, "INSERT INTO orders SELECT 1, 'same' FROM generate_series(1, 5)")
    await sql(shop, "INSERT INTO orders SELECT n FROM generate_series(2, 9) AS n")
    fields = {"snapshot": {"mode": "initial", "keyless": "at_least_once"}}
    ledger = Ledger(key=())
    await drive(make_source(shop, tmp_path, **fields), [ledger], 1, stop_after=4)
    assert [event.data["n"] for event in ledger.events] == [1] * 5 + [2, 3, 4]
    first = list(ledger.ids)
    await drive(make_source(shop, tmp_path, **fields), [ledger], 2)
    again = snapshots_of(ledger)[len(first) :]
    assert sorted(event.data["n"] for event in again) == [1] * 5 + list(range(2, 10))
    assert [(event.source, event.id) for event in again][: len(first)] == first
    assert len({event.id for event in again}) == 13
    assert [name for name in ledger.positions if name.startswith("snapshot:")] == ["snapshot:public.orders"]
    await drive(make_source(shop, tmp_path, **fields), [ledger], 3)
    assert len(ledger.events) == len(first) + 13


async def test_several_tables_are_read_at_a_time(database: Database, tmp_path: Path) -> None:
    names = [f"t{n}" for n in range(5)]
    tables = (f"CREATE TABLE {name} (id int PRIMARY KEY); INSERT INTO {name} SELECT generate_series(1, 30);" for name in names)
    await sql(database, "".join(tables))
    fields = {"tables": names, "snapshot": {"mode": "initial", "parallel_tables": 3}}
    source = make_source(database, tmp_path, **fields)
    await source.open(Resume(1, {}))
    try:
        async with asyncio.timeout(SECONDS), aclosing(source.batches()) as batches:
            given = [await anext(batches) for _ in range(5 + 1 + 3)]
    finally:
        await source.close()
    assert len({batch.partition for batch in given[:6]}) == 6
    assert sorted(batch.partition.rpartition(".")[2] for batch in given[6:]) == names[:3]
    ledger = Ledger()
    await drive(make_source(database, tmp_path, **fields), [ledger], 2)
    ledger.check()
    assert {name: len(ledger.rows[name]) for name in names} == dict.fromkeys(names, 30)


async def test_odd_names_are_read(database: Database, tmp_path: Path) -> None:
    name = '"a.b"."c ""d%s"'
    await sql(database, f'CREATE SCHEMA "a.b"; CREATE TABLE {name} ("i d" int PRIMARY KEY, "v%s" int)')
    await sql(database, f"INSERT INTO {name} VALUES (1, 2)")
    ledger = Ledger(key=("i d",))
    await drive(make_source(database, tmp_path, tables=[name], **INITIAL), [ledger], 1, stop_after=3)
    await drive(make_source(database, tmp_path, tables=[name], **INITIAL), [ledger], 2)
    assert [event.data for event in ledger.events] == [{"i d": 1, "v%s": 2}]
