"""What a run and people do with a few dead letters costs the same however many others there are: in steps of SQLite's machine."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from state_builders import letter, make_store, note, version

from penstock.state.job_records import JobProgress
from penstock.state.letter_desk import Act
from penstock.state.records import LetterQuery
from penstock.state.sqlite_store import SqliteStateStore

FEW, MANY = 200, 2000
EPOCH = 1
CHOSEN = ["l5", "l7", "l9"]
Verb = Callable[[SqliteStateStore], Awaitable[Any]]


@pytest.fixture
async def stores(tmp_path: Path) -> AsyncIterator[list[SqliteStateStore]]:
    """One with a few open letters, one with many."""
    made = []
    for number in (FEW, MANY):
        store = make_store(tmp_path / str(number))
        await store.open()
        await store.hold()
        await store.issue_epoch(version())
        letters = [letter(f"l{n}", n, fingerprint=f"f{n % 3}") for n in range(number)]
        await store.put_dead_letters(EPOCH, 1, letters, [])
        await store.note(EPOCH, note(1, ledgers={"a": "i", "b": "i"}))
        made.append(store)
    yield made
    for store in made:
        await store.close()


async def steps_of(store: SqliteStateStore, verb: Verb) -> int:
    """How many instructions of SQLite's virtual machine a verb takes, on the connection that writes and on the one that looks."""
    steps = 0

    def count() -> None:
        nonlocal steps
        steps += 1

    await store.read_note()
    await store.lanes.count()
    for run in (store._database.run, store._database.look):
        await run(lambda db: db.set_progress_handler(count, 1))
    await verb(store)
    return steps


async def take_up(store: SqliteStateStore) -> None:
    assert sorted(await store.lanes.take_up(EPOCH, CHOSEN, "job", ["open", "parked"])) == CHOSEN


async def resolve(store: SqliteStateStore) -> None:
    progress = JobProgress("job")
    await store.note(EPOCH, note(2, ledgers={"a": "i", "b": "i"}, resolved=CHOSEN, job=progress))
    letters, _ = await store.letters(LetterQuery(ids=CHOSEN, status=()))
    assert [one.status for one in letters] == ["resolved"] * len(CHOSEN)


async def discard(store: SqliteStateStore) -> None:
    assert sorted(await store.desk.discard(CHOSEN, ["open"], Act("ann@here"))) == CHOSEN


async def look_at_lanes(store: SqliteStateStore) -> None:
    assert await store.lanes.parked(5) == (0, [])
    assert (await store.lanes.held(), await store.lanes.versions_held()) == ([], [])


async def stats(store: SqliteStateStore) -> None:
    assert (await store.desk.stats(LetterQuery())).by_status.keys() == {"open"}


@pytest.mark.parametrize("verb", [take_up, resolve, discard, look_at_lanes, stats])
async def test_what_is_done_with_a_few_letters_costs_the_same_among_many(stores: list[SqliteStateStore], verb: Verb) -> None:
    few, many = [await steps_of(store, verb) for store in stores]
    assert many < 1.5 * few + 100
