"""The postgres sink when the way or the server fails: what was committed is known, and nothing is written twice."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import psycopg
import pytest
from postgres_sink_parts import ORDERS, Bench
from postgres_sink_parts import bench as bench
from server_parts import MakeProxy, StartPostgres
from sink_parts import commit, events

from connectors.sinks.postgres import PostgresSink
from penstock.errors import BatchError, Fenced, Transient
from penstock.event import Event
from penstock.faults import Faults
from penstock.ledger import Commit

APPENDED = "CREATE TABLE orders (n int)"


async def surely(sink: PostgresSink, found: list[Event], wanted: Commit) -> int:
    """As the engine does it: what became of a commit is asked before it is tried again.

    :returns: how often it was tried.
    """
    for tried in range(1, 50):
        try:
            if tried > 1 and await sink.committed() == (wanted.epoch, wanted.group):
                return tried - 1
            await sink.write_and_commit(found, wanted)
        except Transient:
            continue
        return tried
    raise AssertionError("it never succeeded")


def numbers(count: int, first: int = 0) -> list[Event]:
    return events(*({"n": n} for n in range(first, first + count)))


@pytest.mark.parametrize("answered", [True, False])
async def test_a_connection_lost_around_the_commit_leaves_the_rows_once(
    bench: Bench, make_proxy: MakeProxy, answered: bool
) -> None:
    await bench.sql(APPENDED)
    proxy = make_proxy(bench.database.server.port)
    sink = await bench.sink(dsn=bench.database.dsn_through(proxy.port))
    trap = proxy.cut_after(b"COMMIT", b"COMMIT") if answered else proxy.cut_before(b"COMMIT")
    with pytest.raises(Transient):
        await sink.write_and_commit(numbers(100), commit(1, 1))
    await asyncio.to_thread(trap.wait)
    assert await sink.committed() == (1, int(answered))
    if not answered:
        assert await surely(sink, numbers(100), commit(1, 1)) == 1
    await sink.write_and_commit(numbers(50, 100), commit(2, 2))
    assert await bench.sql("SELECT count(*), count(DISTINCT n) FROM orders") == [(150, 150)]
    assert await sink.seen([(1).to_bytes(16, "big")]) == {(1).to_bytes(16, "big"): b"12345678"}


@pytest.mark.parametrize("at", [b"INSERT INTO", b"string_agg", b"penstock_ledgers", b"BEGIN"])
async def test_a_connection_lost_anywhere_in_a_transaction_undoes_it(bench: Bench, make_proxy: MakeProxy, at: bytes) -> None:
    await bench.sql(ORDERS)
    proxy = make_proxy(bench.database.server.port)
    sink = await bench.sink(dsn=bench.database.dsn_through(proxy.port), key=["id"])
    found = events(*({"id": str(n), "price": 1} for n in range(100)))
    proxy.cut_before(at)
    assert await surely(sink, found, commit(1, 1)) == 2
    proxy.cut_after(at)
    assert await surely(sink, found, commit(2, 2)) == 2
    assert await bench.sql("SELECT count(*) FROM orders") == [(100,)]


async def test_a_look_for_keys_survives_its_connection(bench: Bench, make_proxy: MakeProxy) -> None:
    await bench.sql(APPENDED)
    proxy = make_proxy(bench.database.server.port)
    sink = await bench.sink(dsn=bench.database.dsn_through(proxy.port))
    await sink.write_and_commit(numbers(1), commit(1, 7))
    key = (7).to_bytes(16, "big")
    assert await sink.seen([key]) == {key: b"12345678"}
    proxy.cut()
    with pytest.raises(Transient):
        await sink.seen([key])
    assert await sink.seen([key]) == {key: b"12345678"}


async def test_a_server_that_is_killed_and_comes_back_has_every_row_once(start_postgres: StartPostgres, tmp_path: Path) -> None:
    server = await asyncio.to_thread(start_postgres)
    database = await asyncio.to_thread(server.create_database, "shop")
    bench = Bench(database, tmp_path)
    await bench.sql(APPENDED)
    sink = await bench.sink()
    for group in range(1, 4):
        await sink.write_and_commit(numbers(200, group * 200), commit(group, group))
    await asyncio.to_thread(server.kill)
    with pytest.raises(Transient):
        await sink.write_and_commit(numbers(200), commit(4, 4))
    with pytest.raises(Transient):
        await sink.committed()
    await asyncio.to_thread(server.start)
    assert await sink.committed() == (1, 3)
    await sink.write_and_commit(numbers(200), commit(4, 4))
    assert await bench.sql("SELECT count(*), count(DISTINCT n) FROM orders") == [(800, 800)]
    await bench.close()


async def test_the_server_ends_a_session_in_mid_transaction_and_nothing_is_doubled(bench: Bench) -> None:
    await bench.sql(APPENDED)
    sink = await bench.sink()
    lock = psycopg.connect(bench.database.dsn)
    lock.execute("LOCK TABLE orders")
    writing = asyncio.create_task(surely(sink, numbers(10), commit(1, 1)))
    ended = (
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    )
    while not await bench.sql(ended):
        await asyncio.sleep(0)
    lock.rollback()
    lock.close()
    assert await writing == 2
    assert await bench.sql("SELECT count(*) FROM orders") == [(10,)]


async def test_deadlocks_with_others_are_tried_again_and_nothing_is_doubled(bench: Bench) -> None:
    await bench.sql(
        f"{ORDERS}; INSERT INTO orders VALUES ('a', 1, 0), ('b', 1, 0);"
        "ALTER TABLE orders ADD COLUMN times int DEFAULT 0;"
        "CREATE FUNCTION count_it() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN NEW.times := OLD.times + 1; RETURN NEW; END$$;"
        "CREATE TRIGGER count_it BEFORE UPDATE OF price ON orders FOR EACH ROW EXECUTE FUNCTION count_it()"
    )
    await bench.sql(f"ALTER DATABASE {bench.database.name} SET deadlock_timeout = '50ms'")
    sink = await bench.sink(key=["id"])
    other = psycopg.connect(bench.database.dsn)
    other.execute("SET deadlock_timeout = '60s'")
    other.execute("UPDATE orders SET qty = 1 WHERE id = 'b'")
    writing = asyncio.create_task(surely(sink, events({"id": "a", "price": 2}, {"id": "b", "price": 2}), commit(1, 1)))
    waiting = "SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    while not await bench.sql(waiting):
        await asyncio.sleep(0)
    await asyncio.to_thread(lambda: other.execute("UPDATE orders SET qty = 1 WHERE id = 'a'"))  # the sink is the victim
    other.commit()
    other.close()
    assert await writing >= 2
    assert await bench.sql("SELECT id, price::int, qty, times FROM orders ORDER BY id") == [("a", 2, 1, 1), ("b", 2, 1, 1)]


async def test_a_serializable_default_makes_no_write_fail_that_waits_for_another(bench: Bench) -> None:
    await bench.sql(f"{ORDERS}; INSERT INTO orders VALUES ('a', 1, 0)")
    await bench.sql(f"ALTER DATABASE {bench.database.name} SET default_transaction_isolation = 'serializable'")
    sink = await bench.sink(key=["id"])
    other = psycopg.connect(bench.database.dsn)
    other.execute("UPDATE orders SET qty = 5 WHERE id = 'a'")
    writing = asyncio.create_task(surely(sink, events({"id": "a", "price": 2}), commit(1, 1)))
    waiting = "SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    while not await bench.sql(waiting):
        await asyncio.sleep(0)
    other.commit()
    other.close()
    assert await writing == 1
    assert await bench.sql("SELECT id, price::int, qty FROM orders") == [("a", 2, 5)]


async def test_a_run_that_was_overtaken_while_it_waited_writes_nothing(bench: Bench) -> None:
    await bench.sql(APPENDED)
    old = await bench.sink()
    lock = psycopg.connect(bench.database.dsn)
    lock.execute("LOCK TABLE orders IN SHARE ROW EXCLUSIVE MODE")
    writing = asyncio.create_task(old.write_and_commit(numbers(10), commit(1, 1)))
    waiting = "SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    while not await bench.sql(waiting):
        await asyncio.sleep(0)
    new = await bench.sink(epoch=2)
    lock.rollback()
    lock.close()
    with pytest.raises(Fenced):
        await writing
    await new.write_and_commit(numbers(10), commit(1, 1, epoch=2))
    assert await bench.sql("SELECT count(*) FROM orders") == [(10,)]


async def test_a_run_that_stands_still_in_mid_transaction_keeps_its_rows_for_three_seconds_at_most(bench: Bench) -> None:
    await bench.sql(ORDERS)
    reached, goes_on = threading.Event(), threading.Event()

    def stand_still(name: str) -> None:
        reached.set()
        goes_on.wait(30)

    bench.faults = Faults({"inside_sink_write": [(1, stand_still)]})
    old = await bench.sink(key=["id"])
    row = events({"id": "a", "price": 1})
    writing = asyncio.create_task(old.write_and_commit(row, commit(1, 1)))
    await asyncio.to_thread(reached.wait, 20)
    bench.faults = Faults()
    new = await bench.sink(key=["id"], epoch=2)
    try:
        async with asyncio.timeout(20):
            await new.write_and_commit(row, commit(1, 1, epoch=2))
    finally:
        goes_on.set()
    with pytest.raises(Transient):
        await writing
    with pytest.raises(Fenced):
        await old.write_and_commit(row, commit(1, 1))
    assert await bench.sql("SELECT count(*) FROM orders") == [(1,)]


async def test_a_cut_while_bad_rows_are_looked_for_blames_nobody(bench: Bench, make_proxy: MakeProxy) -> None:
    await bench.sql(ORDERS)
    proxy = make_proxy(bench.database.server.port)
    sink = await bench.sink(dsn=bench.database.dsn_through(proxy.port), key=["id"])
    found = events(*({"id": str(n), "price": n - 20} for n in range(100)))
    proxy.cut_after(b"ROLLBACK TO SAVEPOINT")
    with pytest.raises(Transient):
        await sink.write_and_commit(found, commit(1, 1))
    with pytest.raises(BatchError) as caught:
        await sink.write_and_commit(found, commit(1, 1))
    assert sorted(caught.value.failed) == list(range(21))


async def test_every_row_goes_in_once_whatever_statement_the_connection_is_cut_at(bench: Bench, make_proxy: MakeProxy) -> None:
    await bench.sql(APPENDED)
    proxy = make_proxy(bench.database.server.port)
    sink = await bench.sink(dsn=bench.database.dsn_through(proxy.port))
    texts = [b"BEGIN", b"COPY", b"string_agg", b"FOR UPDATE", b"penstock_keys", b"UPDATE penstock_ledgers", b"COMMIT"]
    for group, text in enumerate([*texts, *texts], 1):
        trap = proxy.cut_before(text) if group <= len(texts) else proxy.cut_after(text)
        await surely(sink, numbers(20, group * 20), commit(group, group))
        await asyncio.to_thread(trap.wait)
    count = 20 * 2 * len(texts)
    assert await bench.sql("SELECT count(*), count(DISTINCT n) FROM orders") == [(count, count)]


async def test_commits_are_flushed_whatever_the_user_prefers(bench: Bench, make_proxy: MakeProxy) -> None:
    await bench.sql(APPENDED)
    await bench.sql(f"ALTER DATABASE {bench.database.name} SET synchronous_commit = 'off'")
    proxy = make_proxy(bench.database.server.port)
    sink = await bench.sink(dsn=bench.database.dsn_through(proxy.port))

    async def setting() -> Any:
        return await sink._ask(lambda connection: connection.execute("SHOW synchronous_commit").fetchone())

    assert await setting() == ("on",)
    proxy.cut()
    with pytest.raises(Transient):
        await setting()
    assert await setting() == ("on",)
