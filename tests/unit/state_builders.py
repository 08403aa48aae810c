"""Builders for tests of the state store: whole values, of which a test names only what it is about."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from penstock.config.secret import Secret
from penstock.faults import Faults
from penstock.ledger import Claim, Claimant, Commit, Counts, Key
from penstock.spi import Position
from penstock.state.pipeline_records import Note, RunRecord, Version
from penstock.state.postgres_store import PostgresStateStore
from penstock.state.records import DeadLetter, LetterQuery
from penstock.state.signal_records import Inbox
from penstock.state.sqlite_store import SqliteStateStore
from penstock.state.store import StateStore
from penstock.testing.servers import Database

Store = SqliteStateStore | PostgresStateStore


@dataclass
class HandClock:
    """Wall and monotonic time that move when a test says so; sleeping lets others run and moves on."""

    time: float = 1_000_000.0
    slept: list[float] = field(default_factory=list)

    def now(self) -> float:
        return self.time

    def monotonic(self) -> float:
        return self.time

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.time += seconds
        await asyncio.sleep(0)


@dataclass
class HalfHandClock(HandClock):
    """Wall time by hand, but real sleep and monotonic time: a lease is watched while somebody else renews it."""

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


def make_store(directory: Path, faults: Faults | None = None, busy_timeout: float = 5.0) -> SqliteStateStore:
    return SqliteStateStore(directory / "orders.db", "orders", HandClock(), faults or Faults(), busy_timeout=busy_timeout)


def make_store_in(place: Path | Database, faults: Faults | None = None) -> Store:
    """In a directory, or in a database of a server."""
    if isinstance(place, Path):
        return make_store(place, faults)
    return PostgresStateStore(Secret(place.dsn), "orders", HalfHandClock(), faults or Faults())


def make_postgres_store(database: Database, pipeline: str = "orders", *, dsn: str | None = None) -> PostgresStateStore:
    """:param dsn: another way to the database, such as through a proxy."""
    return PostgresStateStore(Secret(dsn or database.dsn), pipeline, HalfHandClock(), Faults())


def clock_of(store: Store) -> HandClock:
    """By which it tells the time."""
    clock = store._clock
    assert isinstance(clock, HandClock)
    return clock


def keys_left(place: Path | Database) -> list[int]:
    """How many keys each table of keys holds, oldest first."""
    if isinstance(place, Path):
        with closing(sqlite3.connect(place / "orders.db")) as db:
            tables = db.execute("SELECT name FROM sqlite_master WHERE name GLOB 'penstock_keys_*' ORDER BY name").fetchall()
            return [db.execute(f"SELECT count(*) FROM {name}").fetchone()[0] for (name,) in tables]
    found = place.execute("SELECT tablename FROM pg_tables WHERE tablename ~ '^penstock_keys_' ORDER BY tablename")
    return [place.execute(f"SELECT count(*) FROM penstock_orders.{name}")[0][0] for (name,) in found]


def version(name: str = "v1") -> Version:
    return Version(name, '{"pipeline":"orders"}', {"shop@1": "{}"}, {"grade": "abc"}, 5.0)


def claimant(epoch: int, **changes: Any) -> Claimant:
    values: dict[str, Any] = {"scope": "orders/state", "source": "file:in", "key_space": "k1", "window": 100.0}
    return Claimant(epoch, **(values | changes))


def key(number: int, by: str = "e") -> Key:
    return Key(number.to_bytes(16, "big"), f"{by}{number}".encode().ljust(8, b"-")[:8])


def at(number: int) -> Position:
    return Position(number.to_bytes(4, "big"), b"detail")


def commit(group: int, *numbers: int, epoch: int = 1, previous: int | None = None, **changes: Any) -> Commit:
    values: dict[str, Any] = {
        "positions": {"p": at(max(numbers))} if numbers else {},
        "counts": Counts(received=group, delivered=group),
        "keys": [key(number) for number in numbers],
        "running": float(group),
    }
    return Commit(epoch, group - 1 if previous is None else previous, group, **(values | changes))


def letter(name: str, number: int = 1, **changes: Any) -> DeadLetter:
    values: dict[str, Any] = {
        "id": name, "pipeline": "orders", "version": "v1", "step": "validate-1", "code": "validate.failed",
        "message": f"{name} has no price", "fingerprint": "f1", "partition": "p", "position": at(number).order,
        "source": "file:in", "event_id": name, "type": "order.line", "time": None, "record": b'{"id":1}', "event": b"{}",
        "original": b"raw", "original_length": 3, "original_digest": "d", "reread": False, "owed": ["a", "b"],
        "key": key(number).key, "brought_by": b"12345678", "data_digest": b"data", "first_at": float(number),
        "last_at": float(number),
    }  # fmt: skip
    return DeadLetter(**(values | changes))


def claim_at(number: int, **changes: Any) -> Claim:
    values: dict[str, Any] = {
        "instance": "i", "epoch": 1, "group": 1, "positions": {"p": at(number)}, "counts": Counts(), "sink_states": {},
    }  # fmt: skip
    return Claim(**(values | changes))


def note(group: int, **changes: Any) -> Note:
    return Note(group=group, **changes)


async def assert_nothing_was_lost(store: StateStore, jobs: int) -> None:
    """Of the golden stores, once they are open: what is in them, and that they can be gone on with.

    :param jobs: open in them.
    """
    assert await store.read_note() == Note(1, {"p": at(2)}, Counts(), {"state": "i"}, running=1.0, drained=True, at=9.0)
    assert (await store.versions(), await store.runs()) == ([version()], [RunRecord(1, 4711, "host", "v1", 1_000_000.0)])
    assert [one.id for one in (await store.letters(LetterQuery()))[0]] == ["l1"]
    assert [group.count for group in await store.letter_groups(LetterQuery())] == [1]
    epoch = await store.issue_epoch(version("v2"))
    issued = await store.issued(0)
    assert (issued[1], sorted(issued), len(issued[epoch])) == ("", [1, epoch], 16)
    claim = await store.claim(claimant(epoch, instance="1" * 32, run_id=issued[epoch], issued=issued))
    assert (claim.epoch, claim.group, claim.positions, claim.sink_states) == (1, 1, {"p": at(2)}, {"file": b"state"})
    assert await store.seen([key(1).key, key(3).key]) == {key(1).key: key(1).brought_by}
    await store.settle(epoch, {"a": claim})
    assert [one.id for one in (await store.letters(LetterQuery()))[0]] == ["l1"]
    kept = [(job.asked, job.started_at, job.progress.cursor, job.options) for job in await store.jobs.recover(epoch)]
    assert kept == [("cancel", 1_000_000.0, b"", "{}")] * jobs
    assert await store.jobs.create("replay", "{}", "ann@here")
    assert len(await store.jobs.open_ones()) == jobs + 1
    assert await store.signals.inbox() == Inbox(None, [])
    assert await store.signals.pause("ann@here") == 1_000_000
    assert [one.id for one in (await store.signals.inbox()).waiting] == [1_000_000]
    await store.note(epoch, note(2, groups={"a": 7}))
    assert ((await store.read_note()).epoch, (await store.read_note()).groups) == (epoch, {"a": 7})
