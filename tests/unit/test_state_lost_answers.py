"""The state store in PostgreSQL when a connection is cut at a COMMIT: whatever was asked, asked again it is done once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

import psycopg
import pytest
from server_parts import MakeDatabase, MakeProxy
from state_builders import HalfHandClock, at, claim_at, claimant, commit, letter, note, version

from penstock.config.secret import Secret
from penstock.errors import EnvironmentFault, Fenced, Transient
from penstock.faults import Faults
from penstock.ledger import JobRecord
from penstock.state.postgres_store import PostgresStateStore
from penstock.state.records import LetterQuery, Repeat
from penstock.testing.proxy import Proxy, Trap
from penstock.testing.servers import Database

TABLES = (
    "SELECT table_name FROM information_schema.tables WHERE table_schema = 'penstock_orders' "
    "AND table_name NOT IN ('penstock_lease', 'epochs', 'penstock_ledgers') ORDER BY table_name"
)
Call = Callable[[], Awaitable[object]]
CUTS: dict[str, Callable[[Proxy], Trap]] = {
    "the answer": lambda proxy: proxy.cut_after(b"COMMIT", b"COMMIT"),
    "the request": lambda proxy: proxy.cut_before(b"COMMIT"),
}


def open_store(database: Database, proxy: Proxy) -> PostgresStateStore:
    return PostgresStateStore(Secret(database.dsn_through(proxy.port)), "orders", HalfHandClock(), Faults())


def contents(database: Database) -> dict[str, list[tuple[object, ...]]]:
    """Every row of every table but what is random; without its number, for an attempt that was undone leaves one out."""
    rows = "SELECT (to_jsonb(t) - '{number}')::text FROM penstock_orders.{name} AS t"
    with psycopg.connect(database.dsn, autocommit=True) as connection:
        names = {name: "letter" if name == "bodies" else "seq" for (name,) in connection.execute(TABLES)}
        queries = {name: rows.format(name=name, number=number).encode() for name, number in names.items()}
        return {name: sorted(connection.execute(query)) for name, query in queries.items()}


@dataclass
class Story:
    """All that a run asks of its store, call by call."""

    store: PostgresStateStore

    def calls(self) -> list[Call]:
        store = self.store
        loose = letter("loose", 1, position=b"", owed=["state"])
        placed = letter("placed", 2, owed=["state"])
        again = letter("again", 3, owed=["state"])
        repeats = [Repeat("loose", "p", b""), Repeat("placed", "p", at(5).order)]
        failed_again = letter("placed", 2, owed=["state"], attempts=3, job="j1")
        return [
            lambda: store.put_dead_letters(1, 1, [loose, placed], []),
            lambda: store.note(1, note(1, positions={"p": at(2)})),
            lambda: store.put_dead_letters(1, 2, [loose, again], repeats),
            lambda: store.commit_group(commit(2, 3, 4, previous=0, jobs=[JobRecord("j1", "again")]), [], note(2)),
            lambda: store.set_status(1, ["placed", "again", "loose"], "replaying", job="j1"),
            lambda: store.note(1, note(3, failed_again=[failed_again], resolved=["loose"], ledgers={"state": "i"})),
            lambda: store.note(1, note(3, drained=True)),
            lambda: store.put_dead_letters(1, 4, [], [Repeat("again", "p", b"")], [Repeat("placed", "p", at(6).order)]),
            lambda: store.note(1, note(4, repeats=[Repeat("again", "p", at(7).order)])),
            lambda: store.hand_over(1, {"state": ["state", "b"]}, ["placed"]),
            lambda: store.jobs.end(1, "j1", "done"),
            lambda: store.put_dead_letters(1, 5, [letter("late", 9)], [Repeat("placed", "p", at(8).order)]),
            lambda: store.settle(1, {"state": claim_at(9), "b": claim_at(9)}),
            lambda: store.rewind(1, "b", claim_at(1)),
            lambda: store.forget_jobs("j1"),
            lambda: store.reset(1, {"p": at(1)}),
            lambda: store.expire_letters(2.0),
        ]


async def begin(database: Database, proxy: Proxy) -> Story:
    store = open_store(database, proxy)
    await store.open()
    await store.claim(claimant(await store.issue_epoch(version())))
    return Story(store)


async def repeated(story: Story, call: Call) -> object:
    """As the engine does it; a commit that stands is known by its group."""
    try:
        return await call()
    except Transient:
        try:
            return await call()
        except Fenced:
            assert await story.store.committed() == (1, 2)
            return None


@pytest.mark.parametrize("cut", CUTS)
async def test_whatever_a_run_asks_is_done_once_though_every_commit_is_cut(
    cut: str, make_database: MakeDatabase, make_proxy: MakeProxy
) -> None:
    calm, cutting = make_database(), make_database()
    quiet, proxy = make_proxy(calm.server.port), make_proxy(cutting.server.port)
    undisturbed, disturbed = await begin(calm, quiet), await begin(cutting, proxy)
    for number, (one, other) in enumerate(zip(undisturbed.calls(), disturbed.calls(), strict=True)):
        expected = await one()
        trap = CUTS[cut](proxy)
        found = await repeated(disturbed, other)
        await asyncio.to_thread(trap.wait)
        assert contents(cutting) == contents(calm), number
        if cut == "the request":
            assert found == expected, number
    assert [one.id for one in (await disturbed.store.letters(LetterQuery()))[0]] == ["again"]
    await undisturbed.store.close()
    await disturbed.store.close()


@pytest.mark.parametrize("cut", CUTS)
async def test_a_claim_whose_commit_is_cut_is_claimed_again_by_the_same_run(
    cut: str, database: Database, make_proxy: MakeProxy
) -> None:
    proxy = make_proxy(database.server.port)
    store = open_store(database, proxy)
    await store.open()
    for epoch in (1, 2):
        assert await store.issue_epoch(version()) == epoch
        issued = await store.issued(epoch)
        trap = CUTS[cut](proxy)
        with pytest.raises(Transient):
            await store.claim(claimant(epoch, run_id=issued[epoch], issued=issued))
        await asyncio.to_thread(trap.wait)
        claim = await store.claim(claimant(epoch, run_id=issued[epoch], issued=issued))
        assert claim.group == epoch - 1
        assert await store.committed() == (epoch, epoch - 1)
        await store.commit(commit(epoch, epoch, epoch=epoch))
    with pytest.raises(Fenced):
        await store.claim(claimant(2, run_id="another"))
    await store.close()


async def test_where_the_server_was_replaced_after_an_unanswered_commit_nothing_is_guessed(
    database: Database, make_proxy: MakeProxy
) -> None:
    proxy = make_proxy(database.server.port)
    store = open_store(database, proxy)
    await store.open()
    await store.issue_epoch(version())
    proxy.cut_after(b"COMMIT", b"COMMIT")
    with pytest.raises(Transient):
        await store.note(1, note(1))
    (doubt,) = store._server._doubts
    store._server._doubts = [replace(doubt, mark=replace(doubt.mark, timeline="0000000F"))]
    with pytest.raises(EnvironmentFault) as caught:
        await store.note(1, note(1))
    assert caught.value.code == "state.unknown"
    store._server._doubts = [doubt]
    await store.note(1, note(1))
    assert (await store.read_note()).group == 1
    assert store._server._doubts == []
    await store.close()
