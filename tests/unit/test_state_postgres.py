"""The state store in PostgreSQL: what a server has and a file has not. The rest is in the tests of both."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from server_parts import MakeProxy
from state_builders import HalfHandClock, claimant, commit, key, letter, note, version

from penstock.config.secret import Secret
from penstock.errors import EnvironmentFault, Fatal, Fenced, Transient
from penstock.faults import Faults
from penstock.state.dialect import Connection
from penstock.state.lease import LEASE
from penstock.state.postgres_database import schema_of
from penstock.state.postgres_store import PostgresStateStore
from penstock.state.records import LetterQuery
from penstock.testing.servers import Database


def make(database: Database, pipeline: str = "orders", *, dsn: str | None = None) -> PostgresStateStore:
    return PostgresStateStore(Secret(dsn or database.dsn), pipeline, HalfHandClock(), Faults())


def leader(database: Database) -> subprocess.Popen[str]:
    """A run in another process, which holds the pipeline until it is killed."""
    script = (
        "import asyncio, sys; from penstock.config.secret import Secret; from penstock.clock import SystemClock\n"
        "from penstock.faults import Faults; from penstock.state.postgres_store import PostgresStateStore\n"
        "async def main():\n"
        "    store = PostgresStateStore(Secret(sys.argv[1]), 'orders', SystemClock(), Faults())\n"
        "    await store.open(); await store.hold(); print('held', flush=True); await asyncio.sleep(600)\n"
        "asyncio.run(main())"
    )
    root = Path(__file__).parents[2]
    child = subprocess.Popen([sys.executable, "-c", script, database.dsn], cwd=root, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "held\n"
    return child


def test_no_two_pipelines_share_a_schema_and_all_have_names_that_postgresql_keeps() -> None:
    names = ["orders", "Orders", "a" * 54, "a" * 55, "a" * 200, "a" * 199 + "b", "ü" * 40]
    found = [schema_of(name) for name in names]
    assert (found[0], len(set(found)), max(len(name.encode()) for name in found)) == ("penstock_orders", len(names), 63)


async def test_a_store_that_never_was_is_missing_and_looking_makes_none(database: Database) -> None:
    with pytest.raises(EnvironmentFault, match="no schema penstock_orders") as caught:
        await make(database).open(create=False)
    assert caught.value.code == "state.missing"
    assert database.execute("SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'penstock%'") == [(0,)]


async def test_a_newer_store_and_a_foreign_schema_are_refused(database: Database) -> None:
    store = make(database)
    await store.open()
    await store.close()
    database.execute("UPDATE penstock_orders.penstock_meta SET value = '99' WHERE name = 'state store'")
    database.execute("CREATE SCHEMA penstock_other")
    database.execute("CREATE TABLE penstock_other.mine (id int)")
    for pipeline, code in (("orders", "state.newer"), ("other", "state.foreign")):
        with pytest.raises(EnvironmentFault) as caught:
            await make(database, pipeline).open()
        assert caught.value.code == code


async def test_many_that_open_a_new_store_at_once_make_it_once(database: Database) -> None:
    stores = [make(database) for _ in range(4)]
    await asyncio.gather(*(store.open() for store in stores))
    assert [await store.issue_epoch(version()) for store in stores] == [1, 2, 3, 4]
    await asyncio.gather(*(store.close() for store in stores))


async def test_text_with_nul_comes_back_as_it_was(database: Database) -> None:
    store = make(database)
    await store.open()
    await store.issue_epoch(version())
    odd = letter("\x00\U0010fffe0", message="a\x00b", partition="p\x00")
    await store.put_dead_letters(1, 1, [odd], [])
    assert [one.id for one in await store.standing_letters([odd.id, "other"])] == [odd.id]
    await store.note(1, note(1))
    (found,), _ = await store.letters(LetterQuery(ids=(odd.id,)))
    assert (found.id, found.message, found.partition) == (odd.id, odd.message, odd.partition)
    await store.close()


async def test_a_second_run_is_refused_by_host_and_process_until_it_takes_over_and_fences_the_first(database: Database) -> None:
    old, new = make(database), make(database)
    for store in (old, new):
        await store.open()
    assert await new.holder() is None
    await old.hold()
    assert await new.holder() == os.getpid()
    await old.claim(claimant(await old.issue_epoch(version())))
    with pytest.raises(EnvironmentFault) as caught:
        await new.hold()
    since = "1970-01-12T13:46:40.000Z"
    who = f"process {os.getpid()} on {socket.gethostname()} since {since}"
    assert (caught.value.code, caught.value.message) == ("state.held", f"pipeline orders is being run by {who}")
    await new.hold(take_over=True)
    await new.claim(claimant(await new.issue_epoch(version())))
    async with asyncio.timeout(5):
        while old._lease.held:  # until its next renewal
            await asyncio.sleep(0.01)
    with pytest.raises(Fenced, match=f"pipeline orders was taken over by {who}"):
        old.check_hold()
    new.check_hold()
    with pytest.raises(Fenced):
        await old.commit_group(commit(1, 1), [letter("l1")], note(1))
    with pytest.raises(Fenced):
        await old.put_dead_letters(1, 1, [letter("l1")], [])
    await old.close()  # the lease is no longer its own
    assert await new.holder() == os.getpid()
    await new.close()


@pytest.mark.parametrize("lost", ["answer", "request"])
@pytest.mark.parametrize("take_over", [False, True])
async def test_a_hold_whose_answer_is_lost_is_ones_own_when_asked_again(
    lost: str, take_over: bool, database: Database, make_proxy: MakeProxy
) -> None:
    proxy = make_proxy(database.server.port)
    leader, store = make(database), make(database, dsn=database.dsn_through(proxy.port))
    await store.open()
    if take_over:
        await leader.open()
        await leader.hold()
    pattern = b"SET holder = "
    trap = proxy.cut_after(pattern, b"UPDATE 1") if lost == "answer" else proxy.cut_before(pattern)
    with pytest.raises(Transient):
        await store.hold(take_over=take_over)
    await asyncio.to_thread(trap.wait)
    started = time.monotonic()
    await store.hold(take_over=take_over)
    assert time.monotonic() - started < LEASE  # not waited for as if it were another's
    assert await holder_of(database) == os.getpid()
    await store.close()
    await leader.close()
    assert await holder_of(database) is None


async def holder_of(database: Database) -> int | None:
    store = make(database)
    await store.open()
    try:
        return await store.holder()
    finally:
        await store.close()


async def test_a_lease_that_may_no_longer_be_renewed_ends_the_hold_with_the_reason(database: Database) -> None:
    store = make(database)
    await store.open()
    await store.hold()
    database.execute("DROP TABLE penstock_orders.penstock_lease")
    async with asyncio.timeout(5):
        while store._lease.held:
            await asyncio.sleep(0.01)
    with pytest.raises(Fatal, match="penstock_lease"):
        store.check_hold()
    await store.close()


async def test_a_standby_that_is_stopped_in_the_middle_of_taking_over_lets_go(database: Database) -> None:
    leader, standby = make(database), make(database)
    for store in (leader, standby):
        await store.open()
    await leader.hold()
    waiting = asyncio.ensure_future(standby.hold(wait=True))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    await standby.close()
    leader.check_hold()
    await leader.close()
    started = time.monotonic()
    third = make(database)
    await third.open()
    await third.hold()
    assert time.monotonic() - started < LEASE
    await third.close()


async def test_a_standby_takes_over_within_five_seconds_of_the_leaders_death(database: Database) -> None:
    child = await asyncio.to_thread(leader, database)
    store = make(database)
    await store.open()
    waiting = asyncio.ensure_future(store.hold(wait=True))
    done, _ = await asyncio.wait([waiting], timeout=LEASE + 0.5)
    assert not done  # it moves
    child.send_signal(signal.SIGKILL)
    died = time.monotonic()
    await waiting
    assert time.monotonic() - died < 5
    await asyncio.to_thread(child.communicate)
    await store.close()


async def test_a_commit_whose_answer_is_lost_is_settled_by_looking(database: Database, make_proxy: MakeProxy) -> None:
    proxy = make_proxy(database.server.port)
    store = make(database, dsn=database.dsn_through(proxy.port))
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
    store = make(database, dsn=database.dsn_through(proxy.port))
    await store.open()
    for _ in range(2):
        for session in (store._server._writer, store._server._reader, store._line):
            shown = [await session.run(lambda db, name=name: db.execute(f"SHOW {name}").fetchone()) for name in weak]
            assert shown == [("on",), ("read committed",), ("UTF8",), ("off",)]
        proxy.cut()
        for _ in range(3):
            with contextlib.suppress(Transient):
                await asyncio.gather(store.read_note(), store.has_open_letters(), store.holder())
    await store.close()


async def test_two_that_write_at_once_see_each_others_epochs_whatever_the_default_isolation(database: Database) -> None:
    database.execute(f"ALTER DATABASE {database.name} SET default_transaction_isolation = 'serializable'")
    stores = [make(database) for _ in range(3)]
    for store in stores:
        await store.open()
    epochs = await asyncio.gather(*(store.issue_epoch(version()) for store in stores for _ in range(10)))
    assert sorted(epochs) == list(range(1, 31))
    for store in stores:
        await store.close()


async def test_a_transaction_that_stands_still_is_given_up_before_a_standby_could_need_its_lock(database: Database) -> None:
    """As that of a run that was stopped, or whose machine vanished, in the middle of it."""
    store, other = make(database), make(database)
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
        await make(database, dsn=dsn).open()
    assert caught.value.code == "state.no_schema"
    assert "CREATE SCHEMA" in str(caught.value.help)
    assert "penstock_orders" in str(caught.value.help)
    try:
        database.execute("CREATE SCHEMA penstock_orders")
        for create in (True, False):
            with pytest.raises(EnvironmentFault, match="may not use the schema") as caught:
                await make(database, dsn=dsn).open(create=create)
            assert "GRANT USAGE" in str(caught.value.help)
        database.execute("ALTER SCHEMA penstock_orders OWNER TO penstock_limited")
        store = make(database, dsn=dsn)
        await store.open()
        assert await store.issue_epoch(version()) == 1
        await store.close()
    finally:
        database.execute("DROP OWNED BY penstock_limited; DROP ROLE penstock_limited")


async def test_a_commit_waits_for_the_one_that_is_under_way(database: Database) -> None:
    """Invariant 7: who asks what stands waits behind the transaction in doubt."""
    store, other = make(database), make(database)
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
