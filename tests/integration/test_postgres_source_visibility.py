"""Rows that commit in another order than they took their numbers and times: none may be skipped."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest
from query_source_parts import follow, make_source, rows_of
from server_parts import StartPostgres

from penstock.spi import Resume
from penstock.testing.servers import Database

ITEMS = "CREATE TABLE items (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text, at timestamptz DEFAULT now())"


@contextmanager
def transaction(database: Database) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(database.dsn, autocommit=True) as connection:
        connection.execute("BEGIN")
        yield connection


async def waits(source: Any) -> None:
    async with asyncio.timeout(10):
        while source.health() is None:
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("early", ["SELECT nextval('items_id_seq')", "SELECT 1", "INSERT INTO items (name) VALUES ('old')"])
@pytest.mark.parametrize("cursor", ["id", "at"])
async def test_a_row_that_commits_late_comes_first(database: Database, tmp_path: Path, early: str, cursor: str) -> None:
    database.execute(ITEMS)
    with transaction(database) as late:
        late.execute(early)
        database.execute("INSERT INTO items (name) VALUES ('new')")
        source = make_source(tmp_path, database.dsn, table="items", cursor=cursor)
        reading = asyncio.ensure_future(rows_of(source))
        await waits(source)
        if "INSERT" not in early:
            number = 1 if "nextval" in early else 100
            late.execute("INSERT INTO items OVERRIDING SYSTEM VALUE VALUES (%s, 'old')", [number])
        late.execute("COMMIT")
    names = [row["name"] for row in await reading]
    took_its_number_after_the_look = cursor == "id" and early == "SELECT 1"
    assert names == (["new"] if took_its_number_after_the_look else ["old", "new"])


async def test_a_transaction_that_was_prepared_meanwhile_is_waited_for(start_postgres: StartPostgres, tmp_path: Path) -> None:
    database = start_postgres(settings={"max_prepared_transactions": "5"}, durable=False).create_database("prepared")
    database.execute(ITEMS)
    with transaction(database) as late:
        late.execute("INSERT INTO items (name) VALUES ('old')")
        database.execute("INSERT INTO items (name) VALUES ('new')")
        source = make_source(tmp_path, database.dsn, table="items", cursor="id")
        reading = asyncio.ensure_future(rows_of(source))
        await waits(source)
        assert "1 older transactions: process" in str(source.health())
        late.execute("PREPARE TRANSACTION 'later'")
    async with asyncio.timeout(10):
        while "prepared transaction" not in str(source.health()):
            await asyncio.sleep(0.01)
    database.execute("COMMIT PREPARED 'later'")
    assert [row["name"] for row in await reading] == ["old", "new"]


async def test_a_declared_lag_ends_the_wait(database: Database, tmp_path: Path) -> None:
    database.execute(ITEMS + "; INSERT INTO items (name) VALUES ('a')")
    with transaction(database) as idle:
        idle.execute("SELECT 1")
        for lag in ("0s", "200ms"):
            source = make_source(tmp_path, database.dsn, table="items", cursor="id", lag=lag)
            assert [row["name"] for row in await rows_of(source)] == ["a"]


async def test_transactions_of_other_databases_are_not_waited_for(database: Database, make_database: Any, tmp_path: Path) -> None:
    database.execute(ITEMS + "; INSERT INTO items (name) VALUES ('a')")
    with transaction(make_database()) as other:
        other.execute("SELECT 1")
        async with asyncio.timeout(5):
            assert len(await rows_of(make_source(tmp_path, database.dsn, table="items", cursor="id"))) == 1


async def test_closing_while_rows_wait_is_prompt_and_nothing_was_given(database: Database, tmp_path: Path) -> None:
    database.execute(ITEMS + "; INSERT INTO items (name) VALUES ('a')")
    source = make_source(tmp_path, database.dsn, table="items", cursor="id")
    with transaction(database) as idle:
        idle.execute("SELECT 1")
        await source.open(Resume(1, {}, once=True))
        reading = asyncio.ensure_future(anext(aiter(source.batches())))
        await waits(source)
        reading.cancel()
        assert isinstance((await asyncio.gather(reading, return_exceptions=True))[0], asyncio.CancelledError)
        async with asyncio.timeout(5):
            await source.close()


@pytest.mark.parametrize("cursor", ["id", "at"])
async def test_following_beside_writers_that_commit_out_of_order_misses_nothing(
    database: Database, tmp_path: Path, cursor: str
) -> None:
    database.execute(ITEMS)
    writers = [threading.Thread(target=_write, args=(database, n)) for n in range(4)]
    for writer in writers:
        writer.start()
    rows: list[Any] = []
    source = make_source(tmp_path, database.dsn, table="items", cursor=cursor, follow=True, poll="10ms", batch_count=7)
    await follow(source, rows, lambda found: len(found) >= 400)
    for writer in writers:
        writer.join()
    assert sorted(row["name"] for row in rows) == sorted(f"{n}-{i}" for n in range(4) for i in range(100))
    marks = [(datetime.fromisoformat(row["at"]) if cursor == "at" else row["id"], row["id"]) for row in rows]
    assert marks == sorted(marks)


def _write(database: Database, n: int) -> None:
    with psycopg.connect(database.dsn, autocommit=True) as connection:
        for i in range(0, 100, 5):
            connection.execute("BEGIN")
            for k in range(i, i + 5):
                connection.execute("INSERT INTO items (name) VALUES (%s)", [f"{n}-{k}"])
                connection.execute("SELECT pg_sleep(%s)", [0.002 * (n + 1)])
            connection.execute("COMMIT")
