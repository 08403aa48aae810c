"""The lengths of held lanes, which the database keeps, against the letters themselves, on SQLite and on PostgreSQL."""

from __future__ import annotations

import sqlite3
from collections import Counter
from contextlib import closing
from pathlib import Path
from random import Random
from typing import Any

from state_builders import Store, letter, make_store, note, version

from penstock.faults import Faults
from penstock.state.lane_tables import PARKED
from penstock.state.lane_tally import LANE_TALLY_SCHEMA
from penstock.state.ledger_tables import LEDGER_SCHEMA
from penstock.state.letter_desk import Act
from penstock.state.letter_tables import promote, put
from penstock.state.migration import Schema, migrate
from penstock.state.pipeline_tables import STORE_SCHEMA
from penstock.state.records import STATUSES, UNSETTLED, DeadLetter, Lane, LetterQuery, ParkedLane

LEDGERS = {"a": "i", "b": "i"}


def made(random: Random, arrival: int) -> DeadLetter:
    lane = random.choice([None, "k", "l", "m"])
    parked: dict[str, Any] = {"status": "parked", "code": PARKED} if lane is not None and random.random() < 0.5 else {}
    partition = random.choice(["p", "q"])
    return letter(f"{partition}{lane}{random.randrange(6)}", arrival, partition=partition, lane=lane, arrival=arrival, **parked)


async def lengths(store: Store) -> dict[Lane, int]:
    """By looking at each letter."""
    letters, _ = await store.letters(LetterQuery(status=UNSETTLED), limit=1000, bodies=False)
    return dict(Counter(Lane(one.partition, one.lane) for one in letters if one.lane is not None))


async def kept(store: Store) -> dict[Lane, int]:
    """As the database has them, in the four ways in which it is asked."""
    number, lanes = await store.lanes.parked(100)
    assert number == len(lanes) == await store.lanes.count()
    assert lanes == sorted(lanes, key=lambda each: (-each.behind, each.partition, each.lane))
    assert sorted(await store.lanes.held()) == sorted(Lane(each.partition, each.lane) for each in lanes)
    assert [await store.lanes.find(Lane(each.partition, each.lane)) for each in lanes] == lanes
    return {Lane(each.partition, each.lane): each.behind + 1 for each in lanes}


async def test_lanes_are_as_long_as_their_letters_are_many_whatever_happens_to_these(store: Store) -> None:
    random, epoch = Random(11), await store.issue_epoch(version())
    for group in range(1, 25):
        await store.put_dead_letters(epoch, group, [made(random, group * 10 + n) for n in range(5)], [])
        assert await kept(store) == await lengths(store)
        standing, _ = await store.letters(LetterQuery(status=STATUSES), limit=1000, bodies=False)
        known = [one.id for one in standing]
        some = random.sample(known, min(4, len(known)))
        await store.note(epoch, note(group, ledgers=LEDGERS, resolved=some[:2], superseded=some[2:3]))
        await store.lanes.take_up(epoch, known[:3], "job", ["open", "parked"])
        await store.desk.discard(some[3:], ["open", "parked"], Act("ann@here"))
        if group % 8 == 0:
            await store.jobs.recover(epoch)
            await store.expire_letters(group * 10.0, limit=5)
        assert await kept(store) == await lengths(store)
    assert await lengths(store)
    await store.lanes.unpark(epoch)
    assert await kept(store) == {}


async def test_lanes_that_are_there_already_are_counted_when_the_table_is_made(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    await store.open()
    epoch = await store.issue_epoch(version())
    await store.put_dead_letters(epoch, 1, [letter(f"l{n}", n, lane="k" if n % 3 else "l", arrival=n) for n in range(7)], [])
    await store.note(epoch, note(1, ledgers=LEDGERS))
    with closing(sqlite3.connect(tmp_path / "orders.db", isolation_level=None)) as db:
        for event in ("insert", "delete", "leave", "enter"):
            db.execute(f"DROP TRIGGER lane_tally_{event}")
        db.execute("DROP TABLE lane_tally")
        migrate(db, [Schema("lanes alone", [LANE_TALLY_SCHEMA])], Faults())
    assert await store.lanes.parked(5) == (2, [ParkedLane("p", "k", "l1", 3), ParkedLane("p", "l", "l0", 2)])
    await store.close()


WRITES = (
    "INSERT INTO letters (seq) VALUES (1)",
    "UPDATE letters SET pending = NULL WHERE seq = 1",
    "UPDATE letters SET status = 'replaying' WHERE seq = 1",
    "DELETE FROM letters WHERE seq = 1",
)


async def test_a_store_of_before_is_made_cheap_to_write_and_counts_on(tmp_path: Path) -> None:
    """SQLite makes a temporary tree of an `IN` of three values, with each row, in each partial index and trigger that has one."""
    before = Schema(STORE_SCHEMA.name, STORE_SCHEMA.steps[:13])
    with closing(sqlite3.connect(tmp_path / "orders.db", isolation_level=None)) as db:
        migrate(db, [LEDGER_SCHEMA, before], Faults())
        put(db, 1, [letter(f"l{n}", n, lane="k" if n % 3 else "l", arrival=n) for n in range(7)])
        promote(db, 1)
        assert all(temporary_trees(db, statement) for statement in WRITES)
    store = make_store(tmp_path)
    await store.open()
    epoch = await store.issue_epoch(version())
    await store.note(epoch, note(2, ledgers=LEDGERS, resolved=["l0"]))
    assert await store.lanes.take_up(epoch, ["l1"], "job", ["open"]) == ["l1"]
    assert await kept(store) == await lengths(store) == {Lane("p", "k"): 4, Lane("p", "l"): 2}
    await store.close()
    with closing(sqlite3.connect(tmp_path / "orders.db")) as db:
        assert [temporary_trees(db, statement) for statement in WRITES] == [0, 0, 0, 0]


def temporary_trees(db: sqlite3.Connection, statement: str) -> int:
    """How many instructions make one, in the statement and in the triggers that it fires."""
    return sum(row[1] == "OpenEphemeral" for row in db.execute(f"EXPLAIN {statement}").fetchall())
