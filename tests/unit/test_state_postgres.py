"""The state store in PostgreSQL: what a server has and a file has not. The rest is in the tests of both."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from server_parts import MakeProxy
from state_builders import (
    HalfHandClock,
    assert_nothing_was_lost,
    claimant,
    commit,
    key,
    letter,
    make_postgres_store,
    note,
    version,
)
from waiting import until

from penstock.config.secret import Secret
from penstock.errors import EnvironmentFault, Transient
from penstock.faults import Faults
from penstock.state.dialect import Connection
from penstock.state.lease import LEASE, LEASE_SCHEMA, RENEWAL
from penstock.state.ledger_tables import LEDGER_SCHEMA
from penstock.state.pipeline_records import Note
from penstock.state.pipeline_tables import STORE_SCHEMA
from penstock.state.postgres_database import schema_of
from penstock.state.postgres_store import PostgresStateStore
from penstock.state.records import LetterQuery
from penstock.testing.servers import Database

GOLDEN = Path(__file__).parents[1] / "golden/state_postgres_v3.sql"


def test_no_two_pipelines_share_a_schema_and_all_have_names_that_postgresql_keeps() -> None:
    names = ["orders", "Orders", "a" * 54, "a" * 55, "a" * 200, "a" * 199 + "b", "ü" * 40]
    found = [schema_of(name) for name in names]
    assert (found[0], len(set(found)), max(len(name.encode()) for name in found)) == ("penstock_orders", len(names), 63)


async def test_a_store_that_never_was_is_missing_and_looking_makes_none(database: Database) -> None:
    with pytest.raises(EnvironmentFault, match="no schema penstock_orders") as caught:
        await make_postgres_store(database).open(create=False)
    assert caught.value.code == "state.missing"
    assert database.execute("SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'penstock%'") == [(0,)]


async def test_a_newer_store_and_a_foreign_schema_are_refused(database: Database) -> None:
    store = make_postgres_store(database)
    await store.open()
    await store.close()
    database.execute("UPDATE penstock_orders.penstock_meta SET value = '99' WHERE name = 'state store'")
    database.execute("CREATE SCHEMA penstock_other")
    database.execute("CREATE TABLE penstock_other.mine (id int)")
    tables = "SELECT table_schema, table_name FROM information_schema.tables WHERE table_schema LIKE 'penstock%' ORDER BY 1, 2"
    before = database.execute(tables)
    for pipeline, code in (("orders", "state.newer"), ("other", "state.foreign")):
        for create in (True, False) if code == "state.newer" else (True,):
            with pytest.raises(EnvironmentFault) as caught:
                await make_postgres_store(database, pipeline).open(create=create)
            assert (caught.value.code, bool(caught.value.help)) == (code, True)
    assert database.execute(tables) == before


def older_store(database: Database) -> None:
    """The first version that was kept in PostgreSQL, with what an older SQLite store held."""
    database.execute(GOLDEN.read_text())


async def test_an_older_store_is_migrated_and_nothing_of_it_is_lost(database: Database) -> None:
    older_store(database)
    store = make_postgres_store(database)
    await store.open()
    assert await store.holder() is None
    await assert_nothing_was_lost(store, jobs=1)
    await store.close()
    versions = database.execute("SELECT name, value FROM penstock_orders.penstock_meta ORDER BY name")
    assert versions == [(schema.name, str(schema.version)) for schema in (LEASE_SCHEMA, LEDGER_SCHEMA, STORE_SCHEMA)]


async def test_a_migration_that_is_cut_short_leaves_the_old_version(database: Database) -> None:
    def fail(name: str) -> None:
        raise Transient("fault.injected", name)

    older_store(database)
    with pytest.raises(Transient, match="mid_migration"):
        await PostgresStateStore(Secret(database.dsn), "orders", HalfHandClock(), Faults({"mid_migration": [(3, fail)]})).open()
    held = "SELECT value FROM penstock_orders.penstock_meta WHERE name = 'state store'"
    assert database.execute(held) == [("3",)]
    store = make_postgres_store(database)
    await store.open()
    await assert_nothing_was_lost(store, jobs=1)
    await store.close()


async def test_a_migration_takes_as_long_as_it_takes(database: Database) -> None:
    older_store(database)
    slowly = Faults({"mid_migration": [(1, lambda name: time.sleep(0.6))]})
    store = PostgresStateStore(Secret(database.dsn), "orders", HalfHandClock(), slowly)
    store._server._writer._deadline = 0.3
    await store.open()
    await assert_nothing_was_lost(store, jobs=1)
    await store.close()


async def test_a_store_that_somebody_has_emptied_is_damaged(database: Database) -> None:
    store = make_postgres_store(database)
    await store.open()
    database.execute("DELETE FROM penstock_orders.penstock_lease; DELETE FROM penstock_orders.penstock_meta")
    for ask in (store.hold(), store.issue_epoch(version())):
        with pytest.raises(EnvironmentFault) as caught:
            await ask
        assert (caught.value.code, bool(caught.value.help)) == ("state.damaged", True)
    await store.close()


async def test_an_older_store_is_not_migrated_under_a_live_run_of_the_older_program(database: Database) -> None:
    older_store(database)
    ended = threading.Event()

    def run() -> None:
        while not ended.wait(RENEWAL):
            database.execute(
                "UPDATE penstock_orders.penstock_lease SET holder = 'h', host = 'elsewhere', pid = 47, counter = counter + 1"
            )

    async with asyncio.TaskGroup() as group:
        group.create_task(asyncio.to_thread(run))
        while not database.execute("SELECT 1 FROM penstock_orders.penstock_lease WHERE holder = 'h'"):
            await asyncio.sleep(0.01)
        with pytest.raises(EnvironmentFault, match="is being run by process 47 on elsewhere since 1970") as caught:
            await make_postgres_store(database).open()
        assert caught.value.code == "state.held"
        ended.set()
    store = make_postgres_store(database)
    await store.open()
    await assert_nothing_was_lost(store, jobs=1)
    await store.close()


async def test_many_that_open_a_new_store_at_once_make_it_once(database: Database) -> None:
    stores = [make_postgres_store(database) for _ in range(4)]
    await asyncio.gather(*(store.open() for store in stores))
    assert [await store.issue_epoch(version()) for store in stores] == [1, 2, 3, 4]
    await asyncio.gather(*(store.close() for store in stores))


async def test_text_with_nul_comes_back_as_it_was(database: Database) -> None:
    store = make_postgres_store(database)
    await store.open()
    await store.issue_epoch(version())
    odd = letter("\x00\U0010fffe0", message="a\x00b", partition="p\x00")
    await store.put_dead_letters(1, 1, [odd], [])
    assert [one.id for one in await store.standing_letters([odd.id, "other"])] == [odd.id]
    await store.note(1, note(1))
    (found,), _ = await store.letters(LetterQuery(ids=(odd.id,)))
    assert (found.id, found.message, found.partition) == (odd.id, odd.message, odd.partition)
    await store.close()


async def test_a_commit_whose_answer_is_lost_is_settled_by_looking(database: Database, make_proxy: MakeProxy) -> None:
    proxy = make_proxy(database.server.port)
    store = make_postgres_store(database, dsn=database.dsn_through(proxy.port))
    await store.open()
    await store.claim(claimant(await store.issue_epoch(version())))
    proxy.cut_after(b"COMMIT", b"COMMIT")
    with pytest.raises(Transient):
        await store.commit(commit(1, 1))
    assert await store.committed() == (1, 1)
    await store.commit(commit(2, 2))
    assert set(await store.seen([key(1).key, key(2).key])) == {key(1).key, key(2).key}
    await store.close()


async def test_no_default_of_the_user_makes_commits_weaker_even_after_a_cut(database: Database, make_proxy: MakeProxy) -> None:
    """Invariant 7: behind the lock a writer sees what stands, which REPEATABLE READ would keep from it."""
    weak = {
        "synchronous_commit": "off",
        "default_transaction_isolation": "repeatable read",
        "client_encoding": "latin1",
        "default_transaction_read_only": "on",
    }
    for name, value in weak.items():
        database.execute(f"ALTER DATABASE {database.name} SET {name} = '{value}'")
    proxy = make_proxy(database.server.port)
    store = make_postgres_store(database, dsn=database.dsn_through(proxy.port))
    await store.open()
    for _ in range(2):
        for session in (store._server._writer, store._server._reader, store._line):
            shown = [await session.run(lambda db, name=name: db.execute(f"SHOW {name}").fetchone()) for name in weak]
            assert shown == [("on",), ("read committed",), ("UTF8",), ("off",)]
        proxy.cut()
        for ask in (store.read_note, store.has_open_letters, store.holder):
            await _answered(ask)
    await store.close()


async def _answered(ask: Callable[[], Awaitable[object]]) -> None:
    """Asked until it answers: one whose connection was cut opens another."""
    for _ in range(5):
        with contextlib.suppress(Transient):
            await ask()
            return
    raise AssertionError("it stays without a connection")


async def test_two_that_write_at_once_see_each_others_epochs_whatever_the_default_isolation(database: Database) -> None:
    database.execute(f"ALTER DATABASE {database.name} SET default_transaction_isolation = 'serializable'")
    stores = [make_postgres_store(database) for _ in range(3)]
    for store in stores:
        await store.open()
    epochs = await asyncio.gather(*(store.issue_epoch(version()) for store in stores for _ in range(10)))
    assert sorted(epochs) == list(range(1, 31))
    for store in stores:
        await store.close()


async def test_a_transaction_that_stands_still_is_given_up_before_a_standby_could_need_its_lock(database: Database) -> None:
    """As that of a run that was stopped, or whose machine vanished, in the middle of it."""
    store, other = make_postgres_store(database), make_postgres_store(database)
    await store.open()
    await other.open()
    locked, on = threading.Event(), threading.Event()

    def standing_still(db: Connection) -> None:
        locked.set()
        on.wait()
        db.execute("SELECT 1").fetchall()

    writing = asyncio.ensure_future(store._database.write(standing_still))
    await asyncio.to_thread(locked.wait)
    async with asyncio.timeout(LEASE + 5):
        assert await other.issue_epoch(version()) == 1
    on.set()
    with pytest.raises(Transient):
        await writing
    await store.close()
    await other.close()


async def test_a_schema_that_was_made_for_a_user_without_rights_in_the_database_is_enough(database: Database) -> None:
    database.execute("CREATE ROLE penstock_limited LOGIN PASSWORD 'limited'")
    dsn = database.server.dsn(database.name, user="penstock_limited", password="limited")
    with pytest.raises(EnvironmentFault) as caught:
        await make_postgres_store(database, dsn=dsn).open()
    assert caught.value.code == "state.no_grant"
    assert "CREATE SCHEMA" in str(caught.value.help)
    assert "penstock_orders" in str(caught.value.help)
    try:
        database.execute("CREATE SCHEMA penstock_orders")
        for create in (True, False):
            with pytest.raises(EnvironmentFault, match="may not use the schema") as caught:
                await make_postgres_store(database, dsn=dsn).open(create=create)
            assert "GRANT USAGE" in str(caught.value.help)
        database.execute("ALTER SCHEMA penstock_orders OWNER TO penstock_limited")
        store = make_postgres_store(database, dsn=dsn)
        await store.open()
        assert await store.issue_epoch(version()) == 1
        await store.close()
    finally:
        database.execute("DROP OWNED BY penstock_limited; DROP ROLE penstock_limited")


async def test_a_commit_waits_for_the_one_that_is_under_way(database: Database) -> None:
    """Invariant 7: who asks what stands waits behind the transaction in doubt."""
    store, other = make_postgres_store(database), make_postgres_store(database)
    await store.open()
    await other.open()
    await store.claim(claimant(await store.issue_epoch(version())))
    order: list[str] = []
    locked = threading.Event()

    def slow(db: Connection) -> None:
        locked.set()
        db.execute("SELECT pg_sleep(0.2)").fetchall()
        order.append("written")

    writing = asyncio.ensure_future(store._database.write(slow))
    await asyncio.to_thread(locked.wait)
    assert await other.committed() == (1, 0)
    order.append("asked")
    await writing
    assert order == ["written", "asked"]
    await store.close()
    await other.close()


async def test_who_only_looks_has_one_connection_and_another_for_the_lease_when_it_asks_about_it(database: Database) -> None:
    maker = make_postgres_store(database)
    await maker.open()
    await maker.close()
    counts = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'penstock:%'"
    until(lambda: database.execute(counts) == [(0,)])
    store = make_postgres_store(database)
    await store.open(create=False)
    try:
        assert (await store.lanes.count(), await store.read_note(), database.execute(counts)) == (0, Note(), [(1,)])
        assert (await store.holder(), await store.holder(), database.execute(counts)) == (None, None, [(2,)])
    finally:
        await store.close()
