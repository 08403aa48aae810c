"""The initial snapshot and what follows it: nothing lost or doubled, wherever a run dies, whatever is written meanwhile."""

from __future__ import annotations

import asyncio
import random
import threading
from contextlib import aclosing
from pathlib import Path
from typing import Any

import psycopg
import pytest
from cdc_parts import SECONDS, events_of, ids, make_source, positions, read, sql
from cdc_snapshot_parts import INITIAL, Between, Ledger, drive, drop_slot, earliest, fill, make_slot, snapshots_of, table_rows
from cdc_snapshot_parts import shop as shop
from server_parts import MakeProxy, StartPostgres

from connectors.sources._cdc.snapshot_positions import END_OF_CHUNK, order, row_order
from penstock.errors import Transient
from penstock.spi import Batch, Resume
from penstock.testing.servers import Database


async def test_rows_come_first_and_changes_follow(shop: Database, tmp_path: Path) -> None:
    await fill(shop, 10)
    source = make_source(shop, tmp_path, count=4, **INITIAL)
    await source.open(Resume(1, {}))
    await sql(shop, "INSERT INTO orders VALUES (11, 1, 'late'); UPDATE orders SET v = 1 WHERE id = 1")
    given: list[Batch] = []
    try:
        async with asyncio.timeout(SECONDS), aclosing(source.batches()) as batches:
            async for batch in batches:
                given.append(batch)
                await source.ack([batch.token])
                if len(events_of(given)) == 12:
                    break
        assert source.gauges()["snapshot_rows"] == 10
        assert source.gauges()["snapshot_tables_left"] == 0
    finally:
        await source.close()
    rows = [event for event in events_of(given) if event.type == "orders.snapshot"]
    assert [event.data for event in rows] == [{"id": n, "v": 0, "body": "x" * (n % 9)} for n in range(1, 11)]
    assert [len(batch.events) for batch in given if batch.partition.startswith("snapshot:")] == [0, 0, 4, 4, 2]
    first = rows[0]
    assert first.record == {**first.record, "op": "snapshot", "before": None, "after": first.data, "xid": None}
    assert (first.id, first.source) == (f"initial-{first.record['lsn']}-1", f"postgres-cdc:slot_{shop.name}/public.orders")
    assert [(event.type, event.data["id"]) for event in events_of(given)[10:]] == [("orders.insert", 11), ("orders.update", 1)]
    assert events_of(await read(make_source(shop, tmp_path, **INITIAL), positions(given))) == []


def changes(database: Database, seed: int = 0) -> Between:
    """A step of writing before each batch: rows are changed all over the table, some of it in vain."""
    rng = random.Random(seed)

    async def between(count: int) -> None:
        one, two, three, four = (rng.randint(1, 25) for _ in range(4))
        v = "nextval('versions')"
        await sql(
            database,
            f"UPDATE orders SET v = {v} WHERE id = {one};"
            f"DELETE FROM orders WHERE id = {two};"
            f"INSERT INTO orders VALUES ({two}, {v}, 'again');"
            f"BEGIN; UPDATE orders SET v = {v} WHERE id = {three}; SAVEPOINT s; DELETE FROM orders WHERE id < {one};"
            f"ROLLBACK TO s; INSERT INTO orders VALUES ({v}, {v}, 'new'); COMMIT;"
            f"BEGIN; DELETE FROM orders; ROLLBACK;"
            f"UPDATE orders SET v = {v}, id = -{v} WHERE id = {four}",
        )

    return between


@pytest.mark.parametrize("lag", [0, 1, 3])
async def test_a_run_may_die_after_any_batch_of_the_handoff(database: Database, tmp_path: Path, lag: int) -> None:
    await fill(database, 20)
    died = 0
    while True:
        died += 1
        slot = {"name": f"s_{lag}_{died}"}
        ledgers = [Ledger(), Ledger()]
        between = changes(database, died)
        given = await drive(
            make_source(database, tmp_path, slot=slot, **INITIAL), ledgers, 1, stop_after=died, lag=lag, between=between
        )
        await between(0)
        await drive(make_source(database, tmp_path, slot=slot, **INITIAL), ledgers, 2, lag=lag, between=between)
        await drive(make_source(database, tmp_path, slot=slot, **INITIAL), ledgers, 3)
        expected = await table_rows(database)
        for ledger in ledgers:
            ledger.check()
            assert ledger.rows["orders"] == expected
        await drop_slot(database, slot["name"])
        await sql(database, "TRUNCATE orders; INSERT INTO orders SELECT n, 0, 'x' FROM generate_series(1, 20) AS n")
        if given < died:
            break
    assert died > 8


@pytest.mark.parametrize("seed", range(12))
async def test_runs_may_die_again_and_again(database: Database, tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    await fill(database, 20, rng.choice(["FULL", "DEFAULT"]))
    if seed % 2:  # a slot that somebody else made
        fields: dict[str, Any] = {"publication": {"name": "p"}, **INITIAL}
        await make_slot(database)
    else:
        fields = INITIAL
    ledgers = [Ledger(), Ledger(), Ledger()]
    between = changes(database, seed)
    for epoch in range(1, 15):
        fields = {**fields, "snapshot": {"mode": "initial", "batch_rows": rng.randint(1, 6)}}
        source = make_source(database, tmp_path, **fields)
        await drive(source, ledgers, epoch, stop_after=rng.randint(1, 5), lag=rng.randint(0, 4), between=between)
        rng.shuffle(ledgers)
    await drive(make_source(database, tmp_path, **fields), ledgers, 15, between=None)
    expected = await table_rows(database)
    for ledger in ledgers:
        ledger.check()
        assert ledger.rows["orders"] == expected


async def test_rows_wait_until_their_chunk_is_declared_everywhere(database: Database, tmp_path: Path) -> None:
    await fill(database, 5)
    source = make_source(database, tmp_path, **INITIAL)
    await source.open(Resume(1, {}))
    try:
        async with asyncio.timeout(SECONDS), aclosing(source.batches()) as batches:
            given = [await anext(batches) for _ in range(3)]
            following = asyncio.ensure_future(anext(batches))
            await asyncio.wait((following,), timeout=0.3)
            assert not following.done()
            await source.ack([batch.token for batch in given])
            assert len((await following).events) == 4
    finally:
        await source.close()


def declares(batch: Batch) -> bool:
    return batch.partition.startswith("snapshot:") and not batch.events and any(batch.end.order[8:] if batch.end else b"")


def plans(batch: Batch) -> bool:
    return batch.partition.startswith("snapshot:") and not declares(batch) and not batch.events


def second_chunk(batch: Batch) -> bool:
    return batch.partition.startswith("snapshot:") and bool(batch.end) and batch.end.order[8:16] == (2).to_bytes(8, "big")  # type: ignore[union-attr]


@pytest.mark.parametrize("runs", ["0d 1c", "0d 1d 0c", "0d 1d 1c", "1d 1d 0d 1c 0c", "0p 1p", "0p 1p 0p 1d 0c"])
async def test_ledgers_agree_on_chunks_whoever_took_which_declaration(database: Database, tmp_path: Path, runs: str) -> None:
    """Each run dies at a plan (p), a declaration (d) or its second chunk (c), which only one of the two ledgers took; meanwhile
    the table grows at its beginning, so that other chunks would be declared."""
    await fill(database, 20)
    ledgers = [Ledger(), Ledger()]
    for epoch, run in enumerate(runs.split(), 1):
        quick, place = int(run[0]), {"p": plans, "d": declares, "c": second_chunk}[run[1]]
        source = make_source(database, tmp_path, **INITIAL)
        await drive(source, [ledgers[quick], ledgers[1 - quick]], epoch, stop_at=place, lag=2 if run[1] == "c" else 1)
        await sql(database, "INSERT INTO orders SELECT min(id) - n, 0, '' FROM orders, generate_series(1, 10) AS n GROUP BY n")
    await drive(make_source(database, tmp_path, **INITIAL), ledgers, 9)
    expected = await table_rows(database)
    for ledger in ledgers:
        ledger.check()
        assert ledger.rows["orders"] == expected


class Writers:
    """Connections that write at the same time, each to keys of its own, until they are stopped."""

    def __init__(self, database: Database, count: int) -> None:
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._write, args=(database, n, count)) for n in range(count)]
        self.written = 0
        self.failed: list[BaseException] = []

    def __enter__(self) -> Writers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(SECONDS)
        assert self.failed == []

    def _write(self, database: Database, number: int, count: int) -> None:
        rng = random.Random(number)
        try:
            with psycopg.connect(database.dsn, autocommit=True) as connection:
                while not self._stop.is_set():
                    self._step(connection, rng, number, count)
                    self.written += 1
        except BaseException as error:  # told by the test
            self.failed.append(error)

    def _step(self, connection: psycopg.Connection[Any], rng: random.Random, number: int, count: int) -> None:
        keys = [rng.randint(0, 700) * count + number for _ in range(40)]
        with connection.transaction(force_rollback=rng.random() < 0.2):
            for one, other in zip(keys[:: rng.randint(4, 20)], keys[1:], strict=False):
                with connection.transaction(force_rollback=rng.random() < 0.2):
                    connection.execute(self._statement(rng, one, other).encode())

    @staticmethod
    def _statement(rng: random.Random, one: int, other: int) -> str:
        v = "nextval('versions')"
        return rng.choice(
            [
                f"UPDATE orders SET v = {v} WHERE id = {one}",
                f"INSERT INTO orders VALUES ({one}, {v}, 'i') ON CONFLICT (id) DO UPDATE SET v = EXCLUDED.v",
                f"DELETE FROM orders WHERE id = {one}",
                f"UPDATE orders SET v = {v}, id = {other} WHERE id = {one} AND {other} NOT IN (SELECT id FROM orders)",
            ]
        )


@pytest.mark.parametrize("died", [None, 1, 4, 12, 25])
async def test_writers_run_all_the_time(database: Database, tmp_path: Path, died: int | None) -> None:
    await fill(database, 2000)
    fields: dict[str, Any] = {"snapshot": {"mode": "initial", "batch_rows": 40}}
    ledgers = [Ledger(), Ledger()]
    with Writers(database, 3) as writers:
        if died is not None:
            await drive(make_source(database, tmp_path, count=40, **fields), ledgers, 1, stop_after=died, lag=1)
        await drive(make_source(database, tmp_path, count=40, **fields), ledgers, 2, lag=1)
    assert writers.written > 20
    await drive(make_source(database, tmp_path, count=40, **fields), ledgers, 3)
    expected = await table_rows(database)
    for ledger in ledgers:
        ledger.check()
        assert len(snapshots_of(ledger)) > 1000
        assert ledger.rows["orders"] == expected


async def test_a_run_that_died_goes_on_at_its_chunk(database: Database, tmp_path: Path) -> None:
    await fill(database, 20_000)
    ledger = Ledger()
    await drive(make_source(database, tmp_path, count=500, **INITIAL), [ledger], 1, stop_after=25)
    before = len(snapshots_of(ledger))
    assert before == 22 * 500
    source = make_source(database, tmp_path, count=500, **INITIAL)
    await drive(source, [ledger], 2)
    assert source.gauges()["snapshot_rows"] == 20_000 - before
    ledger.check()
    assert len(ledger.rows["orders"]) == 20_000


async def take_until_cut(source: Any, ledger: Ledger, given: list[Batch]) -> None:
    async for batch in source.batches():
        ledger.take(batch)
        given.append(batch)
        await source.ack([batch.token])


@pytest.mark.parametrize("died", [1, 2, 3, 4, 6, 9])
async def test_a_lost_connection_is_transient_in_each_phase(
    database: Database, tmp_path: Path, make_proxy: MakeProxy, died: int
) -> None:
    proxy = make_proxy(database.server.port)
    await fill(database, 20)
    source = make_source(database, tmp_path, port=proxy.port, **INITIAL)
    await source.open(Resume(1, {}, once=True))
    ledger = Ledger()
    given: list[Batch] = []
    try:
        async with asyncio.timeout(SECONDS):
            async with aclosing(source.batches()) as batches:
                async for batch in batches:
                    ledger.take(batch)
                    await source.ack([batch.token])
                    given.append(batch)
                    if len(given) == died:
                        await asyncio.to_thread(proxy.cut)
                        break
            await sql(database, "UPDATE orders SET v = v + 1 WHERE id IN (2, 19); DELETE FROM orders WHERE id = 18")
            while True:
                try:
                    await take_until_cut(source, ledger, given)
                    break
                except Transient:
                    continue
    finally:
        await source.close()
    await drive(make_source(database, tmp_path, **INITIAL), [ledger], 2)
    ledger.check()
    assert ledger.rows["orders"] == await table_rows(database)


async def test_a_server_that_is_restarted_in_mid_snapshot_is_read_on(start_postgres: StartPostgres, tmp_path: Path) -> None:
    server = await asyncio.to_thread(start_postgres, durable=False)
    shop = await asyncio.to_thread(server.create_database, "shop")
    await fill(shop, 40)
    ledger, given = Ledger(), list[Batch]()
    source = make_source(shop, tmp_path, **INITIAL)
    await source.open(Resume(1, {}, once=True))
    try:
        async with asyncio.timeout(SECONDS), aclosing(source.batches()) as batches:
            async for batch in batches:
                ledger.take(batch)
                await source.ack([batch.token])
                given.append(batch)
                if len(given) == 6:
                    break
        await asyncio.to_thread(server.restart)
        await sql(shop, "UPDATE orders SET v = v + 1 WHERE id IN (2, 39)")
        async with asyncio.timeout(SECONDS):
            while True:
                try:
                    await take_until_cut(source, ledger, given)
                    break
                except Transient:
                    continue
    finally:
        await source.close()
    await drive(make_source(shop, tmp_path, **INITIAL), [ledger], 2)
    ledger.check()
    assert ledger.rows["orders"] == await table_rows(shop)


async def test_ids_stay_the_same_when_a_chunk_is_read_again(database: Database, tmp_path: Path) -> None:
    await fill(database, 12)
    one, other = Ledger(), Ledger()
    await drive(make_source(database, tmp_path, **INITIAL), [one, other], 1, stop_after=6, lag=1)
    await drive(make_source(database, tmp_path, **INITIAL), [one, other], 2)
    assert one.ids == other.ids
    assert len(one.ids) == 12


async def test_positions_of_snapshots_are_told_in_words(database: Database, tmp_path: Path) -> None:
    await fill(database, 5)
    batches = await read_acked(make_source(database, tmp_path, **INITIAL))
    tell = make_source(database, tmp_path).position_text
    told = [tell(batch.end.order) for batch in batches if batch.end and batch.partition.startswith("snapshot:")]
    assert told == [
        "snapshot, planned",
        "snapshot, declared behind chunk 0",
        "snapshot, chunk 1, its end",
        "snapshot, chunk 2, its end",
    ]
    assert {tell(row_order(7, 2, 1, "an id")), tell(order(7, 2, 1))} == {"snapshot, chunk 2, row 1"}
    assert [int.from_bytes(batch.end.order[16:], "big") - END_OF_CHUNK for batch in batches[2:5] if batch.end] == [1, 0, 0]
    assert len(ids(batches)) == 5


async def read_acked(source: Any, epoch: int = 1) -> list[Batch]:
    given: list[Batch] = []
    await source.open(Resume(epoch, {}, once=True))
    try:
        async with asyncio.timeout(SECONDS), aclosing(source.batches()) as batches:
            async for batch in batches:
                given.append(batch)
                await source.ack([batch.token])
    finally:
        await source.close()
    return given


def test_the_earliest_positions_are_those_that_all_have() -> None:
    assert earliest([Ledger(), Ledger()]) == {}
