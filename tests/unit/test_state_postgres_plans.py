"""What a replay does with a page of letters costs the same however many others there are, in blocks of PostgreSQL; also where it
has no statistics yet, as behind a burst of failures."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from server_parts import MakeDatabase
from state_builders import letter, make_postgres_store, note, version

from penstock.state.dialect import Connection
from penstock.state.lane_queries import LanePlace
from penstock.state.postgres_store import PostgresStateStore
from penstock.state.records import LetterQuery
from penstock.testing.servers import Database

FEW, MANY = 500, 10_000
EPOCH = 1
IDS = [f"l{n}" for n in range(100, 110)]
OPEN = LetterQuery(status=("open", "parked"))
PLACES = [LanePlace("p", n.to_bytes(8, "big"), n, 3) for n in range(100, 110)]
LEDGERS = {"a": "i", "b": "i"}
Verb = Callable[[PostgresStateStore], Awaitable[Any]]


async def filled(database: Database, number: int) -> PostgresStateStore:
    """A store of so many letters like the first, made by the server."""
    store = make_postgres_store(database)
    await store.open()
    await store.hold()
    await store.issue_epoch(version())
    await store.put_dead_letters(EPOCH, 1, [letter("l1", 1, next_at=1.0)], [])
    await store.note(EPOCH, note(1, ledgers=LEDGERS))

    def fill(db: Connection) -> None:
        db.execute("ALTER TABLE letters SET (autovacuum_enabled = off)")
        db.execute(
            """INSERT INTO letters SELECT (jsonb_populate_record(l, jsonb_build_object('seq', n, 'id', 'l' || n,
                   'position', '\\x' || lpad(to_hex(n), 16, '0')))).* FROM letters AS l, generate_series(2, ?) AS n""",
            (number,),
        )
        db.execute(
            "INSERT INTO bodies SELECT n, record, original, source_record FROM bodies, generate_series(2, ?) AS n", (number,)
        )

    await store._database.write(fill)
    return store


async def blocks_of(store: PostgresStateStore, verb: Verb) -> int:
    """How many blocks of the letters and their indexes a verb reads, on the connection that writes and on the one that looks."""
    before = await _blocks(store)
    await verb(store)
    return await _blocks(store) - before


async def _blocks(store: PostgresStateStore) -> int:
    for run in (store._database.run, store._database.look):
        await run(lambda db: db.execute("SELECT pg_stat_force_next_flush()").fetchall())
    query = """SELECT heap_blks_hit + heap_blks_read + idx_blks_hit + idx_blks_read FROM pg_statio_user_tables
               WHERE schemaname = current_schema() AND relname = 'letters'"""
    return int((await store._database.run(lambda db: db.execute(query).fetchone()))[0])


async def ask_for_places(store: PostgresStateStore) -> None:
    assert await store.lane_places(OPEN, 1 << 40, LanePlace("p", (99).to_bytes(8, "big"), 99), 10) == PLACES


async def read_letters(store: PostgresStateStore) -> None:
    assert [one.id for one in await store.letters_at(PLACES, OPEN)] == IDS


async def ask_for_due_places(store: PostgresStateStore) -> None:
    assert len(await store.lanes.due_places("open", 2.0, 1 << 40, 10)) == 10


async def take_up(store: PostgresStateStore) -> None:
    assert sorted(await store.lanes.take_up(EPOCH, IDS, "job", ["open", "parked"])) == IDS


async def hand_over(store: PostgresStateStore) -> None:
    await store.hand_over(EPOCH, {"gone": ["a"]}, IDS)


async def resolve(store: PostgresStateStore) -> None:
    await store.note(EPOCH, note(2, ledgers=LEDGERS, resolved=IDS))
    letters, _ = await store.letters(LetterQuery(ids=IDS, status=()))
    assert [one.status for one in letters] == ["resolved"] * len(IDS)


async def test_a_page_of_a_replay_costs_the_same_among_many_letters_without_statistics(make_database: MakeDatabase) -> None:
    few, many = [await filled(make_database(), number) for number in (FEW, MANY)]
    for verb in (ask_for_places, ask_for_due_places, read_letters, take_up, hand_over, resolve):
        assert await blocks_of(many, verb) < 1.5 * await blocks_of(few, verb) + 100, verb.__name__
    for store in (few, many):
        await store.close()
