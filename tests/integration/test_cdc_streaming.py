"""Transactions that the server streams in progress: the same events as of whole ones, whatever else happens, and nothing left."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from cdc_parts import ORDERS, events_of, ids, make_source, positions, prepare_slot, read, sql
from cdc_streaming_parts import LARGE, left, reading, spilled, streamed
from cdc_streaming_parts import large as large

from connectors.sources.postgres_cdc import PostgresCdcSource
from penstock.event import Event
from penstock.spi import Batch
from penstock.testing.servers import Database

WHOLE = "whole"


@pytest.fixture
def shop(database_of_each: Database) -> Database:
    """A database whose transactions are streamed from the first change on."""
    database_of_each.execute(ORDERS)
    database_of_each.execute(f"ALTER DATABASE {database_of_each.name} SET debug_logical_replication_streaming = immediate")
    return database_of_each


def whole_source(database: Database, directory: Path, **fields: Any) -> PostgresCdcSource:
    """The same with protocol version 1 and a slot of its own."""
    return make_source(database, directory, slot={"name": WHOLE + database.name}, streaming="off", **fields)


def plain(events: list[Event]) -> list[tuple[Any, ...]]:
    """Everything that an event says, but for the slot."""
    return [
        (event.id, event.source.partition("/")[2], event.type, event.time, event.data, event.position, event.record)
        for event in events
    ]


async def both(database: Database, directory: Path) -> list[Event]:
    """What either protocol gives of the same transactions, which must be the same."""
    batches = await read(make_source(database, directory, count=7))
    expected = plain(events_of(await read(whole_source(database, directory))))
    assert plain(events_of(batches)) == expected
    assert await streamed(database)
    assert left(directory) == []
    return events_of(batches)


async def prepare(database: Database, directory: Path) -> None:
    await prepare_slot(make_source(database, directory))
    await prepare_slot(whole_source(database, directory))


class Workload:
    """Clients that change tables at random, in transactions of their own that overlap, with savepoints and DDL."""

    def __init__(self, database: Database, seed: int) -> None:
        self.random = random.Random(seed)
        self.clients = [psycopg.connect(database.dsn) for _ in range(4)]
        self.next = 1

    def run(self, steps: int) -> None:
        for _ in range(steps):
            self.step(self.random.choice(self.clients))
        for client in self.clients:
            self.random.choice([client.commit, client.commit, client.rollback])()
            client.close()

    def step(self, client: psycopg.Connection[Any]) -> None:
        kind = self.random.choices(range(9), [8, 4, 2, 3, 3, 2, 3, 1, 1])[0]
        nested = client.info.transaction_status is psycopg.pq.TransactionStatus.INTRANS
        if kind == 0:
            self.insert(client)
        elif kind == 1:
            client.execute(f"UPDATE mine SET status = 'changed', body = NULL WHERE client = {id(client)} AND id % 2 = 0")
        elif kind == 2:
            client.execute(f"DELETE FROM mine WHERE client = {id(client)} AND id % 5 = 0")
        elif kind == 3:
            client.execute("SAVEPOINT one")
            self.insert(client)
        elif kind == 4 and nested:
            client.execute("SAVEPOINT two")
            self.insert(client)
            client.execute("SAVEPOINT three")
            client.execute(f"UPDATE mine SET id = -id WHERE client = {id(client)} AND id % 7 = 0")
            client.execute("ROLLBACK TO three" if self.random.random() < 0.5 else "ROLLBACK TO two")
        elif kind == 5:
            self.random.choice([client.commit, client.rollback])()
        elif kind == 6:
            client.commit()
        elif kind == 7:
            self.describe(client)
        else:
            client.execute("SELECT pg_logical_emit_message(true, 'penstock', 'hello')")

    def insert(self, client: psycopg.Connection[Any]) -> None:
        count = self.random.choice([1, 3, 40])
        first, self.next = self.next, self.next + count
        client.execute(
            f"INSERT INTO mine (client, id, status, body) SELECT {id(client)}, n, 'new', repeat('x', n % 90) "
            f"FROM generate_series({first}, {first + count - 1}) AS n"
        )

    def describe(self, client: psycopg.Connection[Any]) -> None:
        """A table that is made, described and changed in a transaction, with a type that it made: sometimes rolled back."""
        name = f"t{self.next}"
        self.next += 1
        client.execute(f"CREATE DOMAIN d{name} AS int; CREATE TABLE {name} (id int PRIMARY KEY, score d{name})")
        client.execute(f"INSERT INTO {name} VALUES (1, 1)")
        client.execute("SAVEPOINT four")
        client.execute(f"ALTER TABLE {name} ADD more text DEFAULT 'm'; INSERT INTO {name} VALUES (2, 2, 'two')")
        if self.random.random() < 0.5:
            client.execute("ROLLBACK TO four")
        client.execute(f"INSERT INTO {name} VALUES (3, 3)")
        if self.random.random() < 0.3:
            client.rollback()


@pytest.mark.parametrize("seed", range(4))
async def test_streamed_and_whole_transactions_give_the_same_events(shop: Database, tmp_path: Path, seed: int) -> None:
    await sql(shop, "CREATE TABLE mine (client bigint, id int, status text, body text, PRIMARY KEY (client, id))")
    await sql(shop, "CREATE PUBLICATION everything FOR ALL TABLES")
    fields = {"tables": [], "publication": {"name": "everything", "create": "never"}}
    await prepare_slot(make_source(shop, tmp_path, **fields))
    await prepare_slot(whole_source(shop, tmp_path, **fields))
    await asyncio.to_thread(Workload(shop, seed).run, 120)
    batches = await read(make_source(shop, tmp_path, count=7, **fields))
    assert plain(events_of(batches)) == plain(events_of(await read(whole_source(shop, tmp_path, **fields))))
    assert len(events_of(batches)) > 20
    assert await streamed(shop) > 20
    assert left(tmp_path) == []


async def test_large_transactions_that_overlap_come_in_the_order_of_their_commits(large: Database, tmp_path: Path) -> None:
    await prepare(large, tmp_path)

    def overlap() -> None:
        with psycopg.connect(large.dsn) as one, psycopg.connect(large.dsn) as two, psycopg.connect(large.dsn) as three:
            for step in range(4):
                for start, client in ((10_000, one), (20_000, two), (30_000, three)):
                    client.execute(LARGE.format(start + 1000 * step, start + 1000 * step + 499))
                large.execute(f"INSERT INTO orders VALUES ({step})")
            two.commit()
            three.rollback()
            one.commit()

    await asyncio.to_thread(overlap)
    given = [event.data["id"] for event in await both(large, tmp_path)]
    thousands = [*range(4), *(start + 1000 * step for start in (20_000, 10_000) for step in range(4))]
    assert given == [*thousands[:4], *(first + n for first in thousands[4:] for n in range(500))]


async def test_what_is_rolled_back_leaves_neither_events_nor_files(large: Database, tmp_path: Path) -> None:
    await prepare(large, tmp_path)
    async with reading(make_source(large, tmp_path, status_interval="20ms")) as batches:
        with psycopg.connect(large.dsn) as client:
            await asyncio.to_thread(client.execute, LARGE.format(1, 5000))
            waiting = asyncio.ensure_future(take(batches, "the end"))
            while not spilled(tmp_path):
                await asyncio.sleep(0.01)
            assert {path.stat().st_mode & 0o777 for path in spilled(tmp_path)} == {0o600}
            assert {path.parent.stat().st_mode & 0o777 for path in spilled(tmp_path)} == {0o700}
            await asyncio.to_thread(client.rollback)
        while spilled(tmp_path):
            await asyncio.sleep(0.01)
        await sql(large, "INSERT INTO orders VALUES (1, 'the end')")
        assert [event.data["id"] for event in await waiting] == [1]
    assert left(tmp_path) == []


async def take(batches: AsyncIterator[Batch], status: str) -> list[Event]:
    """Events up to the one of this status."""
    given: list[Event] = []
    while not given or given[-1].data["status"] != status:
        given.extend((await anext(batches)).events)
    return given


async def test_a_table_described_in_what_is_rolled_back_is_known_behind_it(shop: Database, tmp_path: Path) -> None:
    await prepare(shop, tmp_path)
    await sql(
        shop,
        "BEGIN; SAVEPOINT a; INSERT INTO orders VALUES (1); ROLLBACK TO a; INSERT INTO orders VALUES (2); SAVEPOINT b;"
        "ALTER TABLE orders ADD extra int; INSERT INTO orders VALUES (3, 'x', 'y', 4); ROLLBACK TO b;"
        "INSERT INTO orders VALUES (5); COMMIT",
    )
    events = await both(shop, tmp_path)
    assert [(event.data["id"], event.id.rpartition("-")[2]) for event in events] == [(2, "1"), (5, "2")]


async def test_types_and_columns_made_in_a_streamed_transaction_are_known(shop: Database, tmp_path: Path) -> None:
    await prepare(shop, tmp_path)
    await sql(
        shop,
        "BEGIN; INSERT INTO orders VALUES (1); CREATE DOMAIN points AS int; ALTER TABLE orders ADD score points;"
        "INSERT INTO orders (id, score) VALUES (2, 7); ALTER TABLE orders REPLICA IDENTITY FULL;"
        "UPDATE orders SET id = 3 WHERE id = 2; ALTER TABLE orders DROP body; INSERT INTO orders VALUES (4);"
        "TRUNCATE orders; COMMIT",
    )
    events = await both(shop, tmp_path)
    assert [event.data for event in events] == [
        {"id": 1, "status": None, "body": None},
        {"id": 2, "status": None, "body": None, "score": 7},
        {"id": 2, "status": None, "body": None, "score": 7},
        {"id": 3, "status": None, "body": None, "score": 7},
        {"id": 4, "status": None, "score": None},
        None,
    ]


async def test_a_run_resumes_anywhere_in_a_streamed_transaction(shop: Database, tmp_path: Path) -> None:
    await prepare(shop, tmp_path)
    await sql(shop, "BEGIN; INSERT INTO orders SELECT n FROM generate_series(1, 7) AS n; UPDATE orders SET id = -id; COMMIT")
    await sql(shop, "INSERT INTO orders VALUES (100)")
    whole = await read(make_source(shop, tmp_path, count=3))
    assert len(ids(whole)) == 7 + 2 * 7 + 1
    cuts = 0
    for done, batch in enumerate(whole, 1):  # in this order: what one of them begins with is confirmed for the next
        before = sum(len(batch.events) for batch in whole[: done - 1])
        if len(batch.events) == 3 and batch.cut is not None:
            cuts += 1
            rest = await read(make_source(shop, tmp_path), {batch.partition: batch.cut(2)})
            assert ids(rest) == ids(whole)[before + 2 :]
        rest = await read(make_source(shop, tmp_path, count=3), positions(whole[:done]))
        assert ids(rest) == ids(whole)[before + len(batch.events) :]
    assert cuts


@pytest.mark.parametrize(("end", "ids"), [("COMMIT", [1, *range(5000, 7000), 2]), ("ROLLBACK", [2])])
async def test_a_rolled_back_savepoint_of_a_large_transaction_is_left_out_without_streaming(
    large: Database, tmp_path: Path, end: str, ids: list[int]
) -> None:
    known = await prepare_slot(make_source(large, tmp_path, streaming="off"))
    inserts = LARGE.format(10, 2009), LARGE.format(5000, 6999)
    await sql(
        large,
        f"BEGIN; INSERT INTO orders VALUES (1); SAVEPOINT a; {inserts[0]}; ROLLBACK TO a; SAVEPOINT b; {inserts[1]}; {end}",
    )
    await sql(large, "INSERT INTO orders VALUES (2)")
    events = events_of(await read(make_source(large, tmp_path, streaming="off"), known))
    assert [event.data["id"] for event in events] == ids
