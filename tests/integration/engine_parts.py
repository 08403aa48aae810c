"""Parts for tests of the engine: a source, sinks and steps that live in memory (or in real SQLite), and do as they are told.

What outlives a run (the records there are, what was delivered) is held by `Feed`, `Shelf` and `Table`; components are built anew
by each run from a configuration that refers to them.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import pytest
from pydantic import BaseModel, ConfigDict

from penstock import builtins
from penstock.clock import SystemClock
from penstock.config.model import Component, Dedup, EventFields, Pipeline, SinkEntry, Step
from penstock.engine.run import Run, RunOptions
from penstock.errors import BatchError, ComponentError, Fatal, Location
from penstock.event import Event
from penstock.faults import Faults
from penstock.ledger import Claim, Claimant, Commit, Counts
from penstock.observe.status import RunSummary
from penstock.spi import Batch, Context, Position, Resume
from penstock.state.records import DeadLetter, LetterQuery, Note, Status
from penstock.state.sqlite_database import Database, Naming
from penstock.state.sqlite_ledger import LEDGER_SCHEMA, LedgerTables
from penstock.state.sqlite_migrate import migrate
from penstock.state.sqlite_store import SqliteStateStore

PLACE = Location("orders.yaml", 1, 1)
NOTHING = Counts()


class PartConfig(BaseModel):
    """Refers to what a part works on."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    of: Any


# ---- what is read

BEAT = b"beat"


@dataclass
class Feed:
    """The records that there are, and what the source was told.

    :ivar records: JSON text by partition. A record may be an exception: a `ComponentError` that the source rejects it with; or
        `BEAT`, of which no event is made: it only moves the position.
    :ivar ids: an id for a record, instead of its number; several records may share one.
    :ivar batch: events a batch holds.
    :ivar divisible: batches know their inner positions (`Batch.cut`).
    :ivar unplugged: raised instead of reading record N of any partition, once.
    :ivar faults: raised one after the other by every attempt to read, before it may.
    :ivar after: called with each batch before it is handed over.
    """

    records: dict[str, list[bytes | ComponentError]] = field(default_factory=dict)
    ids: dict[bytes, str] = field(default_factory=dict)
    batch: int = 2
    positions: bool = True
    divisible: bool = True
    identity: str = "list:orders"
    unplugged: dict[int, BaseException] = field(default_factory=dict)
    faults: list[Exception] = field(default_factory=list)
    after: Callable[[Batch], None] = lambda batch: None
    more: asyncio.Event = field(default_factory=asyncio.Event)
    acked: list[tuple[str, int]] = field(default_factory=list)
    resumed: list[dict[str, bytes]] = field(default_factory=list)
    ack_errors: list[Exception] = field(default_factory=list)
    read: int = 0
    closed: int = 0

    @classmethod
    def of(cls, *data: Any, **changes: Any) -> Feed:
        """One partition `p` of these records; values are written as JSON, bytes and errors stay."""
        return cls({"p": [as_record(value) for value in data]}, **changes)

    def add(self, *data: Any, partition: str = "p") -> None:
        self.records.setdefault(partition, []).extend(as_record(value) for value in data)
        self.more.set()


def as_record(value: Any) -> bytes | ComponentError:
    return value if isinstance(value, (bytes, ComponentError)) else msgspec.json.encode(value)


def at(count: int) -> bytes:
    """The position behind `count` records."""
    return count.to_bytes(8, "big")


class ListSource:
    """Records of a `Feed`, in batches of one partition after the other."""

    name: ClassVar[str] = "list"
    Config: ClassVar[type[BaseModel]] = PartConfig

    def __init__(self, config: PartConfig, context: Context) -> None:
        self.feed: Feed = config.of
        self.context = context
        self._at: dict[str, int] = {}
        self._once = True

    @property
    def identity(self) -> str:
        return self.feed.identity

    @property
    def has_positions(self) -> bool:
        return self.feed.positions

    async def open(self, resume: Resume) -> None:
        self.feed.resumed.append({name: position.order for name, position in resume.positions.items()})
        self._once = resume.once
        if self.feed.positions:
            self._at = {name: int.from_bytes(position.order, "big") for name, position in resume.positions.items()}
        else:
            self._at = {name: max((n for p, n in self.feed.acked if p == name), default=0) for name in self.feed.records}

    async def batches(self) -> AsyncIterator[Batch]:
        feed = self.feed
        while True:
            for partition in list(feed.records):
                while (batch := self._next(partition)) is not None:
                    feed.after(batch)
                    yield batch
            if self._once:
                return
            feed.more.clear()
            await feed.more.wait()

    def _next(self, partition: str) -> Batch | None:
        feed, start = self.feed, self._at.get(partition, 0)
        if feed.faults:
            raise feed.faults.pop(0)
        records = feed.records[partition][start : start + feed.batch]
        if not records:
            return None
        fault = next((feed.unplugged.pop(n) for n in range(start, start + len(records)) if n in feed.unplugged), None)
        if fault is not None:
            raise fault
        end = self._at[partition] = start + len(records)
        feed.read += len(records)
        events = [self._event(partition, start + n, record) for n, record in enumerate(records) if record is not BEAT]
        return Batch(
            partition,
            events,
            Position(at(end)) if feed.positions else None,
            (partition, end),
            sum(len(record) for record in records if isinstance(record, bytes)),
            {n: record for n, record in enumerate(records) if isinstance(record, ComponentError)},
            (lambda count: Position(at(start + count))) if feed.positions and feed.divisible else None,
        )

    def _event(self, partition: str, number: int, record: bytes | ComponentError) -> Event:
        raw = record if isinstance(record, bytes) else None
        return Event(
            self.feed.ids.get(raw or b"", f"{partition}{number}"),
            "list:orders",
            "order",
            raw=raw,
            original=b"what came" if raw is None else None,
            position=at(number + 1) if self.feed.positions else b"",
        )

    async def ack(self, tokens: Sequence[Any]) -> None:
        if self.feed.ack_errors:
            raise self.feed.ack_errors.pop(0)
        self.feed.acked.extend(tokens)

    async def release(self, tokens: Sequence[Any], delay: float) -> None:
        raise AssertionError("nothing is released")

    async def close(self) -> None:
        self.feed.closed += 1


# ---- what is delivered


Plan = Callable[[Sequence[Event]], None]


def take_all(events: Sequence[Event]) -> None:
    """A plan: nothing fails."""


@dataclass
class Shelf:
    """What a sink without a ledger has delivered: (id, data) in order. `plan` is called with each write, and may raise."""

    taken: list[tuple[str, Any]] = field(default_factory=list)
    plan: Plan = take_all
    flush_errors: list[Exception] = field(default_factory=list)
    writes: list[int] = field(default_factory=list)
    opened: list[bytes | None] = field(default_factory=list)
    rollbacks: int = 0

    @property
    def ids(self) -> list[str]:
        return [identity for identity, _ in self.taken]


class ShelfSink:
    """Delivers for good at once, as a message to a server does."""

    name: ClassVar[str] = "shelf"
    Config: ClassVar[type[BaseModel]] = PartConfig

    def __init__(self, config: PartConfig, context: Context) -> None:
        self.shelf: Shelf = config.of
        self.context = context

    async def open(self, recovered: bytes | None) -> None:
        self.shelf.opened.append(recovered)

    async def write(self, events: Sequence[Event]) -> None:
        shelf = self.shelf
        shelf.writes.append(len(events))
        try:
            shelf.plan(events)
        except BatchError as error:
            left = {*error.failed, *error.not_attempted}
            if not error.nothing_delivered:
                shelf.taken += [(event.id, event.data) for place, event in enumerate(events) if place not in left]
            raise
        shelf.taken += [(event.id, event.data) for event in events]

    async def flush(self) -> bytes | None:
        if self.shelf.flush_errors:
            raise self.shelf.flush_errors.pop(0)
        return None

    async def close(self) -> None:
        pass


class TapeSink(ShelfSink):
    """Delivers onto a tape whose length is committed, and which is cut back to it: a file, in short."""

    name: ClassVar[str] = "tape"

    def __init__(self, config: PartConfig, context: Context) -> None:
        super().__init__(config, context)
        self._flushed = 0

    async def open(self, recovered: bytes | None) -> None:
        await super().open(recovered)
        if recovered is not None:
            self._cut(recovered)
        self._flushed = len(self.shelf.taken)

    async def flush(self) -> bytes | None:
        await super().flush()
        self._flushed = len(self.shelf.taken)
        return at(self._flushed)

    async def rollback(self, recovered: bytes | None = None) -> None:
        self.shelf.rollbacks += 1
        self._cut(at(self._flushed) if recovered is None else recovered)

    def _cut(self, length: bytes) -> None:
        del self.shelf.taken[int.from_bytes(length, "big") :]


@dataclass
class Table:
    """A SQLite table of (id, data) with a ledger beside it.

    :ivar refused: ids that can never go in.
    :ivar before, after: raised by `write_and_commit` before and after its transaction, one a call.
    :ivar slow: each commit waits for it; `waiting` says that one does.
    """

    path: Path
    refused: set[str] = field(default_factory=set)
    before: list[Exception] = field(default_factory=list)
    after: list[Exception] = field(default_factory=list)
    commits: list[Commit] = field(default_factory=list)
    slow: asyncio.Event | None = None
    waiting: bool = False

    @property
    def rows(self) -> list[tuple[str, Any]]:
        if not self.path.exists():
            return []
        connection = sqlite3.connect(self.path)
        try:
            found = connection.execute("SELECT id, data FROM rows ORDER BY n").fetchall()
        finally:
            connection.close()
        return [(identity, msgspec.json.decode(data)) for identity, data in found]

    @property
    def ids(self) -> list[str]:
        return [identity for identity, _ in self.rows]


class TableSink:
    """Rows, keys, positions and epoch in one transaction."""

    name: ClassVar[str] = "table"
    Config: ClassVar[type[BaseModel]] = PartConfig

    def __init__(self, config: PartConfig, context: Context) -> None:
        self.table: Table = config.of
        self._database = Database(self.table.path, Naming("sink", "the table", "make it again"))
        self._ledger = LedgerTables(f"{context.pipeline}/{context.component}")

    async def open(self, recovered: bytes | None) -> None:
        def prepare(db: sqlite3.Connection) -> None:
            migrate(db, [LEDGER_SCHEMA], Faults())
            db.execute("CREATE TABLE IF NOT EXISTS rows (n INTEGER PRIMARY KEY, id TEXT NOT NULL, data BLOB NOT NULL)")

        await self._database.open(prepare, create=True)

    async def close(self) -> None:
        await self._database.close()

    async def claim(self, claimant: Claimant) -> Claim:
        return await self._database.write(lambda db: self._ledger.claim(db, claimant))

    async def seen(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        return await self._database.read(lambda db: self._ledger.seen(db, keys))

    async def committed(self) -> tuple[int, int]:
        return await self._database.write(self._ledger.committed)

    async def forget_jobs(self, job: str) -> None:
        await self._database.write(lambda db: self._ledger.forget_jobs(db, job))

    async def commit(self, commit: Commit) -> None:
        await self.write_and_commit([], commit)

    async def write_and_commit(self, events: Sequence[Event], commit: Commit) -> None:
        table = self.table
        refused = {n: bad(event.id) for n, event in enumerate(events) if event.id in table.refused}
        if refused:
            raise BatchError(refused, nothing_delivered=True)
        if table.before:
            raise table.before.pop(0)

        def work(db: sqlite3.Connection) -> None:
            db.executemany("INSERT INTO rows (id, data) VALUES (?, ?)", [(event.id, event.json()) for event in events])
            self._ledger.commit(db, commit)

        await self._database.write(work)
        table.commits.append(commit)
        if table.slow is not None:
            table.waiting = True
            await table.slow.wait()
        if table.after:
            raise table.after.pop(0)


def bad(identity: str) -> ComponentError:
    """A refusal that stays."""
    from penstock.errors import Permanent

    return Permanent("row.refused", f"{identity} does not fit")


# ---- what happens in between


class CallStep:
    """Calls a function: with each event, or (`batched`) with all of them, which may be awaitable."""

    name: ClassVar[str] = "call"
    Config: ClassVar[type[BaseModel]] = PartConfig

    def __init__(self, config: PartConfig, context: Context) -> None:
        self._function, self._batched = config.of

    def apply(self, events: Sequence[Event], /) -> Any:
        if self._batched:
            return self._function(events)
        return [self._function(event) for event in events]


def part(kind: str, of: Any) -> Component:
    """A component of the file."""
    return Component(kind, PartConfig(of=of), PLACE)


def step(name: str, function: Callable[..., Any], *, batched: bool = False, **changes: Any) -> Step:
    return Step(name, part("call", (function, batched)), named=True, **changes)


def sink(name: str, of: Shelf | Table, kind: str | None = None, when: str | None = None) -> SinkEntry:
    return SinkEntry(name, part(kind or ("table" if isinstance(of, Table) else "shelf"), of), when)


def make_pipeline(directory: Path, feed: Feed, *sinks: SinkEntry, steps: Sequence[Step] = (), **changes: Any) -> Pipeline:
    values: dict[str, Any] = {
        "name": "orders", "description": "", "file": directory / "orders.yaml", "project": directory,
        "source": part("list", feed), "event": EventFields(), "steps": list(steps), "sinks": list(sinks), "version": "v1",
        "resolved": "{}", "schemas": {},
        "steps_digest": {}, "state": directory / ".penstock",
    }  # fmt: skip
    return Pipeline(**(values | changes))


def dedup(key: str | None = ".data", window: float = 3600.0) -> Dedup:
    return Dedup(window, key)


# ---- running, and looking afterwards


async def run_once(pipeline: Pipeline, **options: Any) -> RunSummary:
    """Run until the source is drained."""
    return await asyncio.wait_for(Run(pipeline, RunOptions(once=True, **options)).execute(), 30)


def crash_at(point: str, nth: int = 1) -> Faults:
    """The run ends there, with nothing more done than what is durable: what a crash leaves, without one."""

    def crash(name: str) -> None:
        raise Fatal("test.crash", f"crashed at {name}")

    return Faults({point: [(nth, crash)]})


async def crash(pipeline: Pipeline, point: str, nth: int = 1, **options: Any) -> None:
    """A run that ends at a fault point."""
    with pytest.raises(Fatal, match="crashed at"):
        await run_once(pipeline, faults=crash_at(point, nth), **options)


@dataclass(frozen=True)
class Kept:
    """What the state store holds when nobody runs."""

    note: Note
    letters: list[DeadLetter]

    @property
    def totals(self) -> Counts:
        return self.note.counts

    @property
    def open(self) -> list[DeadLetter]:
        return [letter for letter in self.letters if letter.status == "open"]


ANY_STATUS: tuple[Status, ...] = ("open", "parked", "replaying", "resolved", "superseded", "discarded")


@asynccontextmanager
async def open_store(pipeline: Pipeline) -> AsyncIterator[SqliteStateStore]:
    store = SqliteStateStore(pipeline.state / f"{pipeline.name}.db", pipeline.name, SystemClock(), Faults())
    await store.open(create=False)
    try:
        yield store
    finally:
        await store.close()


async def kept(pipeline: Pipeline) -> Kept:
    async with open_store(pipeline) as store:
        letters, _ = await store.letters(LetterQuery(status=ANY_STATUS))
        return Kept(await store.read_note(), letters)


@pytest.fixture(autouse=True)
def parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the parts known by name, in every module that imports this."""
    for table, kinds in (
        (builtins.SOURCES, {"list": "ListSource"}),
        (builtins.SINKS, {"shelf": "ShelfSink", "tape": "TapeSink", "table": "TableSink"}),
        (builtins.TRANSFORMS, {"call": "CallStep"}),
    ):
        for kind, name in kinds.items():
            monkeypatch.setitem(table, kind, f"engine_parts:{name}")
