"""Parts for tests of the engine: pipelines of a source, sinks and steps that live in memory (or in real SQLite), and do as they
are told; runs of them, and what these leave.

What outlives a run (the records there are, what was delivered) is held by `Feed`, `Shelf` and `Table`; components are built anew
by each run from a configuration that refers to them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
from engine_records import BEAT as BEAT
from engine_records import Feed as Feed
from engine_records import ListSource as ListSource
from engine_records import PartConfig
from engine_records import as_record as as_record
from engine_records import at as at
from engine_records import numbers as numbers
from engine_shelves import Plan as Plan
from engine_shelves import Shelf as Shelf
from engine_shelves import ShelfSink as ShelfSink
from engine_shelves import Table as Table
from engine_shelves import TableSink as TableSink
from engine_shelves import TapeSink as TapeSink
from engine_shelves import bad as bad
from engine_shelves import refusing as refusing
from engine_shelves import take_all as take_all
from pydantic import BaseModel

from penstock import builtins
from penstock.clock import SystemClock
from penstock.config.model import Component, Dedup, EventFields, Pipeline, SinkEntry, Step
from penstock.engine.run import Run, RunOptions
from penstock.errors import Fatal, Location
from penstock.event import Event
from penstock.faults import Faults
from penstock.ledger import Counts
from penstock.observe.status import RunSummary
from penstock.spi import Context
from penstock.state.pipeline_records import Note
from penstock.state.records import DeadLetter, LetterQuery, Status
from penstock.state.sqlite_store import SqliteStateStore
from penstock.testing.clock import FakeClock

PLACE = Location("orders.yaml", 1, 1)
NOTHING = Counts()


def delivered(count: int) -> Counts:
    """Everything came through."""
    return Counts(received=count, delivered=count)


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


class Gate:
    """Holds a step until a test opens it."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.waiting = 0

    async def __call__(self, events: Sequence[Event]) -> list[Event]:
        self.waiting += 1
        await self.open.wait()
        return list(events)


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


async def finish(run: asyncio.Task[RunSummary]) -> RunSummary:
    return await asyncio.wait_for(run, 20)


class Stopwatch(SystemClock):
    """The machine's own clock, but that only a test's steps take time."""

    shown = 0.0

    def monotonic(self) -> float:
        return self.shown


async def pass_time(clock: FakeClock, run: asyncio.Task[RunSummary], look: Callable[[], None] = lambda: None) -> None:
    """Let the run's clock go on, a second at a time, until the run ends."""
    async with asyncio.timeout(20):
        while not run.done():
            look()
            await clock.advance(1)
            await asyncio.sleep(0.001)


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
async def open_store(pipeline: Pipeline, *, create: bool = False) -> AsyncIterator[SqliteStateStore]:
    store = SqliteStateStore(pipeline.state / f"{pipeline.name}.db", pipeline.name, SystemClock(), Faults())
    await store.open(create=create)
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
        (builtins.SOURCES, {"list": "engine_records:ListSource"}),
        (
            builtins.SINKS,
            {"shelf": "engine_shelves:ShelfSink", "tape": "engine_shelves:TapeSink", "table": "engine_shelves:TableSink"},
        ),
        (builtins.TRANSFORMS, {"call": "engine_parts:CallStep"}),
    ):
        for kind, place in kinds.items():
            monkeypatch.setitem(table, kind, place)
