"""Deadlocks and serialization failures: what the sink wrote is undone, told as transient, and written once by the next try."""

from __future__ import annotations

import asyncio

import psycopg
import pytest
from postgres_sink_parts import Bench
from postgres_sink_parts import bench as bench
from sink_parts import commit, events

from penstock.errors import Transient

WAITING = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
TABLE = """
CREATE TABLE orders (id int PRIMARY KEY, qty int, times int DEFAULT 0);
INSERT INTO orders VALUES (1, 0), (2, 0);
CREATE FUNCTION count_it() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN NEW.times := OLD.times + 1; RETURN NEW; END$$;
CREATE TRIGGER count_it BEFORE UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION count_it()
"""


async def waiting(bench: Bench, count: int = 1) -> None:
    while await bench.sql(WAITING) < [(count,)]:
        await asyncio.sleep(0)


async def serializable(bench: Bench, level: str) -> None:
    """Let the sink's transactions run at this level, as a trigger of the table's owner may ask for."""
    for sink in bench.sinks:
        await sink._ask(lambda connection: connection.execute(f"SET default_transaction_isolation = '{level}'".encode()))


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
async def test_a_row_that_another_transaction_changed_first_is_written_by_the_next_try(bench: Bench, level: str) -> None:
    await bench.sql(TABLE)
    sink = await bench.sink(key=["id"])
    await serializable(bench, level)
    other = psycopg.connect(bench.database.dsn)
    other.execute("UPDATE orders SET qty = 5 WHERE id = 2")
    found = events({"id": 1, "qty": 7}, {"id": 2, "qty": 7}, {"id": 3, "qty": 7})
    writing = asyncio.create_task(sink.write_and_commit(found, commit(1, 1)))
    await waiting(bench)
    other.commit()
    other.close()
    with pytest.raises(Transient) as caught:
        await writing
    assert (caught.value.code, caught.value.why) == ("postgres.conflict", "SQLSTATE 40001")
    assert await bench.sql("SELECT id, qty, times FROM orders ORDER BY id") == [(1, 0, 0), (2, 5, 1)]
    assert await sink.committed() == (1, 0)
    await sink.write_and_commit(found, commit(1, 1))
    assert await bench.sql("SELECT id, qty, times FROM orders ORDER BY id") == [(1, 7, 1), (2, 7, 2), (3, 7, 0)]
    assert await sink.committed() == (1, 1)


async def test_a_commit_that_would_break_the_order_of_serializable_transactions_is_tried_again(bench: Bench) -> None:
    await bench.sql(
        "CREATE TABLE orders (id int PRIMARY KEY, total int); CREATE TABLE limits (total int); INSERT INTO limits VALUES (0);"
        "CREATE FUNCTION summed() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN"
        " NEW.total := (SELECT sum(total) FROM public.limits); RETURN NEW; END$$;"
        "CREATE TRIGGER summed BEFORE INSERT ON orders FOR EACH ROW EXECUTE FUNCTION summed()"
    )
    sink = await bench.sink(key=["id"])
    await serializable(bench, "serializable")
    other = psycopg.connect(bench.database.dsn)
    other.isolation_level = psycopg.IsolationLevel.SERIALIZABLE
    assert other.execute("SELECT count(*) FROM orders").fetchall() == [(0,)]  # reads what the sink writes, and the reverse
    other.execute("UPDATE limits SET total = 9")
    lock = psycopg.connect(bench.database.dsn)
    lock.execute("SELECT FROM penstock.penstock_ledgers FOR UPDATE")  # the sink's rows are written, its commit waits
    writing = asyncio.create_task(sink.write_and_commit(events({"id": 1}), commit(1, 1)))
    await waiting(bench)
    await asyncio.to_thread(other.commit)
    lock.rollback()
    for connection in (other, lock):
        connection.close()
    with pytest.raises(Transient) as caught:
        await writing
    assert (caught.value.code, caught.value.why) == ("postgres.conflict", "SQLSTATE 40001")
    await sink.write_and_commit(events({"id": 1}), commit(1, 1))
    assert await bench.sql("SELECT id, total FROM orders") == [(1, 9)]


async def test_two_sinks_that_wait_for_each_other_both_write_their_rows_once(bench: Bench) -> None:
    await bench.sql(TABLE + "; CREATE TABLE lines (id int PRIMARY KEY, n int); INSERT INTO lines VALUES (1, 0)")
    name = bench.database.name
    await bench.sql(f"ALTER DATABASE {name} SET deadlock_timeout = '20ms'")
    await bench.sql(
        "CREATE FUNCTION crossing() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN"
        " PERFORM pg_advisory_xact_lock_shared(1);"
        " IF TG_TABLE_NAME = 'orders' THEN UPDATE public.lines SET n = n + 1 WHERE id = 1;"
        " ELSE UPDATE public.orders SET qty = qty + 1 WHERE id = 1; END IF; RETURN NULL; END$$;"
        "CREATE TRIGGER crossing AFTER UPDATE ON orders FOR EACH ROW WHEN (pg_trigger_depth() = 0) EXECUTE FUNCTION crossing();"
        "CREATE TRIGGER crossing AFTER UPDATE ON lines FOR EACH ROW WHEN (pg_trigger_depth() = 0) EXECUTE FUNCTION crossing()"
    )
    one = await bench.sink(key=["id"])
    two = await bench.sink(key=["id"], table="lines", ledger_schema="other")
    tries = 0
    told: set[tuple[str, str | None]] = set()

    async def surely(sink: object, row: dict[str, int], group: int) -> None:
        nonlocal tries
        assert sink in (one, two)
        while True:
            tries += 1
            try:
                await (one if sink is one else two).write_and_commit(events(row), commit(group, group))
                return
            except Transient as error:
                told.add((error.code, error.why))

    lock = psycopg.connect(bench.database.dsn)
    for group in range(1, 6):
        lock.execute("SELECT pg_advisory_xact_lock(1)")
        both = asyncio.gather(surely(one, {"id": 1, "qty": 100 * group}, group), surely(two, {"id": 1, "n": 100 * group}, group))
        await waiting(bench, 2)
        lock.rollback()  # each has its own row, and now waits for the other's
        async with asyncio.timeout(30):
            await both
    lock.close()
    assert tries >= 15
    assert told == {("postgres.conflict", "SQLSTATE 40P01")}
    assert await one.committed() == await two.committed() == (1, 5)
    assert await bench.sql("SELECT times FROM orders WHERE id = 1") == [(10,)]  # five of its own, five of the other's trigger
