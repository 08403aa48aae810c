"""Keys of a snapshot: sorted as their index sorts them, never with somebody else's functions; tables that change meanwhile."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import psycopg
import pytest
from cdc_parts import SECONDS, make_source, prepare_slot, sql
from cdc_snapshot_parts import INITIAL, Ledger, Running, drive, snapshots_of, table_rows
from cdc_snapshot_parts import shop as shop

from penstock.errors import EnvironmentFault, Transient
from penstock.spi import Batch
from penstock.testing.servers import Database

WORD = "CREATE TYPE word AS (t text);" + "".join(
    f"CREATE FUNCTION word_{name}(word, word) RETURNS {kind} LANGUAGE sql IMMUTABLE AS 'SELECT {body}';"
    + (
        f"CREATE OPERATOR public.{sign} (LEFTARG = word, RIGHTARG = word, FUNCTION = word_{name}, RESTRICT = {rest});"
        if sign
        else ""
    )
    for name, sign, kind, rest, body in [
        ("lt", "<", "bool", "scalarltsel", "lower(($1).t) < lower(($2).t)"),
        ("le", "<=", "bool", "scalarlesel", "lower(($1).t) <= lower(($2).t)"),
        ("eq", "=", "bool", "eqsel", "lower(($1).t) = lower(($2).t)"),
        ("ge", ">=", "bool", "scalargesel", "lower(($1).t) >= lower(($2).t)"),
        ("gt", ">", "bool", "scalargtsel", "lower(($1).t) > lower(($2).t)"),
        ("cmp", "", "int", "", "CASE WHEN lower(($1).t) < lower(($2).t) THEN -1 ELSE (lower(($1).t) > lower(($2).t))::int END"),
    ]
)
OPERATORS = (
    "CREATE OPERATOR CLASS word_ops DEFAULT FOR TYPE word USING btree AS OPERATOR 1 public.<, OPERATOR 2 public.<=, "
    "OPERATOR 3 public.=, OPERATOR 4 public.>=, OPERATOR 5 public.>, FUNCTION 1 word_cmp(word, word);"
)
"""A type that sorts without regard to case, by operators of its own, as citext does."""


@pytest.mark.parametrize("key", ["k", "k, n", "n, k"])
async def test_a_key_is_sorted_by_the_operators_of_its_index(shop: Database, tmp_path: Path, key: str) -> None:
    await sql(
        shop,
        f"SET search_path = public, pg_catalog; {WORD} {OPERATORS}"
        f"CREATE TABLE orders (k word, n int, id int, PRIMARY KEY ({key}));"
        "INSERT INTO orders SELECT ROW(CASE n % 2 WHEN 0 THEN chr(64 + n) ELSE chr(96 + n) END)::word, n % 3, n "
        "FROM generate_series(1, 20) AS n",
    )
    ledger = Ledger()
    await drive(make_source(shop, tmp_path, count=3, **INITIAL), [ledger], 1, stop_after=5)
    await drive(make_source(shop, tmp_path, count=3, **INITIAL), [ledger], 2)
    ledger.check()
    assert sorted(ledger.rows["orders"]) == [(n,) for n in range(1, 21)]
    if key == "k":
        assert [event.data["id"] for event in snapshots_of(ledger)] == list(range(1, 21))


async def test_no_function_of_a_tables_owner_runs_as_the_pipeline(database: Database, tmp_path: Path) -> None:
    who = f"owner_{database.name}"
    await sql(
        database,
        f"CREATE ROLE {who}; CREATE SCHEMA app AUTHORIZATION {who};"
        f"SET ROLE {who};"
        "CREATE FUNCTION app.f(v int) RETURNS bool LANGUAGE plpgsql AS $$ BEGIN IF current_user <> session_user THEN "
        "RETURN true; END IF; RAISE EXCEPTION 'called as %', current_user; END $$;"
        "CREATE DOMAIN app.inner_id AS int CHECK (app.f(VALUE)); CREATE DOMAIN app.id AS app.inner_id;"
        "CREATE TABLE app.orders (id app.id PRIMARY KEY); CREATE TABLE app.lists (id app.id[] PRIMARY KEY);"
        "INSERT INTO app.orders SELECT generate_series(1, 9); INSERT INTO app.lists VALUES ('{1}');"
        "RESET ROLE",
    )
    try:
        for epoch in (1, 2):  # in the exported snapshot, and beside the stream
            ledger = Ledger()
            fields: dict[str, Any] = {"count": 2, "tables": ["app.orders"], **INITIAL}
            await drive(make_source(database, tmp_path, **fields), [ledger], epoch)
            assert sorted(ledger.rows["orders"]) == [(n,) for n in range(1, 10)]
        lists: dict[str, Any] = {"tables": ["app.lists"], "slot": {"name": "lists"}, "publication": {"name": "lists"}, **INITIAL}
        with pytest.raises(EnvironmentFault) as caught:
            await drive(make_source(database, tmp_path, **lists), [Ledger()], 1)
        assert caught.value.code == "snapshot.no_key"
    finally:
        await sql(database, f"DROP SCHEMA app CASCADE; DROP OWNED BY {who}; DROP ROLE {who}")


async def test_an_index_ordered_by_functions_of_others_is_no_key(database: Database, tmp_path: Path) -> None:
    who = f"owner_{database.name}"
    await sql(
        database,
        f"CREATE ROLE {who}; SET search_path = public, pg_catalog; {WORD} {OPERATORS} "
        f"CREATE TABLE orders (id word PRIMARY KEY); ALTER FUNCTION word_lt(word, word) OWNER TO {who}",
    )
    try:
        with pytest.raises(EnvironmentFault) as caught:
            await drive(make_source(database, tmp_path, **INITIAL), [Ledger()], 1)
        assert caught.value.code == "snapshot.no_key"
    finally:
        await sql(database, f"DROP OWNED BY {who} CASCADE; DROP ROLE {who}")


def first_rows(batch: Batch) -> bool:
    return batch.partition.startswith("snapshot:") and bool(batch.events)


async def test_a_key_whose_collation_is_changed_meanwhile_stops_the_run(database: Database, tmp_path: Path) -> None:
    await sql(
        database,
        "CREATE TABLE orders (id text COLLATE pg_c_utf8 PRIMARY KEY);"
        "INSERT INTO orders SELECT chr(64 + n) FROM generate_series(1, 9) AS n",
    )
    ledger = Ledger()
    await drive(make_source(database, tmp_path, **INITIAL), [ledger], 1, stop_at=first_rows)
    await sql(database, 'ALTER TABLE orders ALTER id TYPE text COLLATE "C"')
    with pytest.raises(EnvironmentFault) as caught:
        await drive(make_source(database, tmp_path, **INITIAL), [ledger], 2)
    assert caught.value.code == "snapshot.key_changed"
    assert 'it was id text COLLATE pg_catalog.pg_c_utf8, and is id text COLLATE pg_catalog."C"' in (caught.value.why or "")


async def test_a_table_that_is_altered_while_its_snapshot_waits_is_read_as_it_is_then(database: Database, tmp_path: Path) -> None:
    await sql(
        database, "CREATE TABLE orders (id int PRIMARY KEY, n int); INSERT INTO orders SELECT n, n FROM generate_series(1, 9) n"
    )
    await prepare_slot(make_source(database, tmp_path))
    ledger = Ledger()
    with psycopg.connect(database.dsn) as writer:
        writer.execute("UPDATE orders SET n = -n WHERE id = 1")
        async with Running(make_source(database, tmp_path, **INITIAL), ledger) as running:
            reading = asyncio.create_task(running.finish())
            async with asyncio.timeout(SECONDS):
                while "snapshot.waits" not in (running.source.health() or ""):
                    await asyncio.sleep(0.01)
            altering = asyncio.create_task(sql(database, "ALTER TABLE orders ADD price int NOT NULL DEFAULT 42"))
            await until_locked(database, "ADD price")
            await asyncio.to_thread(writer.commit)
            await altering
            with pytest.raises(Transient) as caught:
                await reading
    assert caught.value.code == "snapshot.table_changed"
    await drive(make_source(database, tmp_path, **INITIAL), [ledger], 2)
    assert ledger.rows["orders"] == await table_rows(database)


async def test_a_table_without_a_key_that_is_being_altered_is_read_as_it_is_then(database: Database, tmp_path: Path) -> None:
    await sql(database, "CREATE TABLE orders (id int); INSERT INTO orders SELECT n FROM generate_series(1, 9) AS n")
    await prepare_slot(make_source(database, tmp_path))
    fields: dict[str, Any] = {"snapshot": {"mode": "initial", "keyless": "at_least_once"}}
    ledger = Ledger()
    async with Running(make_source(database, tmp_path, **fields), ledger) as running:
        with psycopg.connect(database.dsn) as altering:
            altering.execute("ALTER TABLE orders ADD price int NOT NULL DEFAULT 42")
            reading = asyncio.create_task(running.finish())
            await until_locked(database, "AND schemaname = ")
        with pytest.raises(Transient) as caught:
            await reading
    assert caught.value.code == "snapshot.table_changed"
    await drive(make_source(database, tmp_path, **fields), [ledger], 2)
    assert ledger.rows["orders"] == await table_rows(database)


async def until_locked(database: Database, query: str) -> None:
    """Until this query waits for a table."""
    waiting = (
        f"SELECT 1 FROM pg_stat_activity WHERE datname = '{database.name}' AND wait_event = 'relation' AND query LIKE '%{query}%'"
    )
    async with asyncio.timeout(SECONDS):
        while not await sql(database, waiting):
            await asyncio.sleep(0.01)
