"""The lease: one run of a pipeline among machines that share its state store in PostgreSQL (rule 1)."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from server_parts import MakeProxy
from state_builders import (
    claimant,
    commit,
    letter,
    make_postgres_store,
    note,
    version,
)

from penstock.errors import EnvironmentFault, Fatal, Fenced, Transient
from penstock.state.lease import LEASE
from penstock.testing.servers import Database

GOLDEN = Path(__file__).parents[1] / "golden/state_postgres_v3.sql"


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


async def test_a_second_run_is_refused_by_host_and_process_until_it_takes_over_and_fences_the_first(database: Database) -> None:
    old, new = make_postgres_store(database), make_postgres_store(database)
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
    leader, store = make_postgres_store(database), make_postgres_store(database, dsn=database.dsn_through(proxy.port))
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
    store = make_postgres_store(database)
    await store.open()
    try:
        return await store.holder()
    finally:
        await store.close()


async def test_a_lease_that_may_no_longer_be_renewed_ends_the_hold_with_the_reason(database: Database) -> None:
    store = make_postgres_store(database)
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
    leader, standby = make_postgres_store(database), make_postgres_store(database)
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
    third = make_postgres_store(database)
    await third.open()
    await third.hold()
    assert time.monotonic() - started < LEASE
    await third.close()


async def test_a_standby_takes_over_within_five_seconds_of_the_leaders_death(database: Database) -> None:
    child = await asyncio.to_thread(leader, database)
    store = make_postgres_store(database)
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
