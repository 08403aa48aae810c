"""Snapshots in a run: which tables are read, and when what was read of them is given.

    snapshots.resume(positions, epoch)
    await snapshots.plan(id, tables)            # for each table a batch without rows, the first of its partition
    snapshots.start()                           # workers read ahead, until `stop`
    batch = snapshots.take(end)                 # what may be given now that the stream has passed `end`
    snapshots.acked(token)

Nothing here waits on an acknowledgement but the table that it concerns. Where rows are given: the stream's changes up to the end
of the WAL as it was when they were read come first (`_cdc.snapshot_touched`), and the declaration of their chunk is acknowledged
(`_cdc.snapshot_positions`).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from itertools import count

import msgspec

from connectors._postgres import TableName
from connectors.sources._cdc.snapshot_batches import Batches
from connectors.sources._cdc.snapshot_held import Held, Table, Token
from connectors.sources._cdc.snapshot_memory import Memory, Refused
from connectors.sources._cdc.snapshot_positions import INITIAL, VERSION, Progress, Reached, next_generation, partition_of, reached
from connectors.sources._cdc.snapshot_rows import Taken
from connectors.sources._cdc.snapshot_tables import Layout
from connectors.sources._cdc.snapshot_telling import Telling
from connectors.sources._cdc.snapshot_worker import Setup, Worker
from penstock.clock import Clock
from penstock.errors import ComponentError
from penstock.postgres import Session
from penstock.spi import Batch, Position

_ASK = 0.02
"""Seconds between two questions how far the stream is, while rows wait for it."""
_NUDGE = 0.2
"""Seconds after which something is written to the WAL for that."""


class Snapshots:
    """All snapshots of a source.

    :param asked_by_rows: rows of a table ask for snapshots, too.
    :ivar news: set whenever `take` may have something.
    :ivar memory: which requests were taken.
    """

    def __init__(self, setup: Callable[[], Setup], session: Callable[[], Session], told: Telling, *, asked_by_rows: bool) -> None:
        self.news = asyncio.Event()
        self._waits = asyncio.Event()
        self._fault: str | None = None
        self.memory = Memory(rows=asked_by_rows)
        self._batches = Batches(setup)
        self._told = told
        self._setup = setup
        self._session = session
        self._tables: list[Table] = []
        self._plans: deque[Batch] = deque()
        self._exported: Taken | None = None
        self._workers: list[asyncio.Task[None]] = []
        self._sessions: list[Session] = []
        self._epoch = 0
        self._rows = 0
        self._running = False

    def resume(self, positions: Mapping[str, Position], epoch: int, *, initial: bool) -> None:
        """Take up what earlier runs left. Of initial snapshots the last counts.

        :param initial: those are to be taken up, too.
        :raises EnvironmentFault: `source.unknown_checkpoint`.
        """
        self._epoch = epoch
        self._tables.clear()  # of a start that failed and is tried again
        self._plans.clear()
        found = reached(positions)
        self.memory.resume(positions, epoch)
        for one in found:
            if one.progress.snapshot.startswith(INITIAL) and not initial:
                one = msgspec.structs.replace(one, progress=msgspec.structs.replace(one.progress, done=True))
            self._tables.append(Table(one))
        begun = [one for one in found if one.progress.snapshot.startswith(INITIAL) and not one.progress.done]
        if begun:
            self._give_up_others(max(begun, key=lambda one: one.generation).progress.snapshot)
        self._told.resumed(self._tables)
        for table in self._tables.copy():
            if not table.is_done and (table.is_at_plan or not table.progress.key):
                self._begin(table.progress, table)

    def knows(self, snapshot: str) -> list[Table]:
        """The tables of a snapshot, done or not, as far as their partitions were not used again."""
        return [table for table in self._tables if table.progress.snapshot == snapshot]

    def plan(self, snapshot: str, layouts: Sequence[Layout], *, exported: bool = False) -> list[Token]:
        """These tables belong to the snapshot; those that already do are left alone.

        :return: settled once that is durable.
        """
        known = {table.progress.name: table for table in self.knows(snapshot)}
        if snapshot.startswith(INITIAL):
            self._give_up_others(snapshot)
        new = []
        for layout in layouts:
            name = TableName(layout.schema, layout.name)
            if name not in known:
                progress = Progress(VERSION, snapshot, layout.schema, layout.name, layout.key_names, layout.key_types)
                progress = msgspec.structs.replace(progress, collations=layout.key_collations)
                new.append(self._begin(progress, self._free(name), exported=exported))
        self._told.planned(snapshot, new)
        self.start_workers()
        return [token for table in (*known.values(), *new) if (token := table.planned) is not None]

    def remember(self, snapshot: str, plans: Sequence[Token], refused: Refused | None = None) -> Token:
        """That this was asked for, once the plans are durable.

        :return: settled once it is remembered.
        """
        token = self.memory.take(snapshot, plans, refused)
        self._plans.extend(self.memory.batches())
        self.news.set()
        return token

    def export(self, taken: Taken, sessions: Sequence[Session]) -> None:
        """The tables that are planned as exported are read over these sessions, which stand in the snapshot."""
        self._exported = taken
        self._sessions = list(sessions)

    @property
    def exporting(self) -> bool:
        """Whether rows of the exported snapshot are still to be given."""
        return self._exported is not None and any(table.exported and not table.is_done for table in self._tables)

    @property
    def busy(self) -> bool:
        """Whether anything is left to give."""
        return bool(self._plans) or any(not table.is_done for table in self._tables)

    def start(self) -> None:
        """Read, until `stop`."""
        self._running = True
        self.start_workers()

    def start_workers(self) -> None:
        """As many as are allowed and of use, where tables are waiting for one."""
        if not self._running:
            return
        self._workers = [worker for worker in self._workers if not worker.done() or worker.exception() is not None]
        if self._exported is not None:
            sessions = [] if self._workers else self._sessions
            self._workers += [asyncio.create_task(self._work(session, exported=True)) for session in sessions]
            return
        waiting = sum(not (table.is_done or table.taken) for table in self._tables)
        room = self._setup().config.snapshot.parallel_tables - len(self._workers)
        for _ in range(min(waiting, room)):
            self._workers.append(asyncio.create_task(self._open_and_work()))

    async def stop(self) -> None:
        """Nothing is read any more; what was read and not given comes again."""
        self._running = False
        workers, self._workers = self._workers, []
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
        sessions, self._sessions = self._sessions, []
        for session in sessions:
            await session.close()
        self._exported = None
        for table in [table for table in self._tables if not table.is_done]:
            table.exported = False
            table.forget()
            if not table.progress.key and table.chunk:
                self._begin(table.progress, table)

    async def press(self, question: Callable[[], None], nudge: Callable[[], Awaitable[object]], clock: Clock) -> None:
        """For ever: while rows wait for the stream, ask the server where it is, and write to a WAL that stands still."""
        while True:
            await self._waits.wait()
            nudged = clock.monotonic()
            while self._waits.is_set():
                question()
                await clock.sleep(_ASK)
                if self._waits.is_set() and clock.monotonic() - nudged >= _NUDGE:
                    nudged = clock.monotonic()
                    try:
                        await nudge()
                        self._fault = None
                    except ComponentError as error:
                        self._fault = f"the stream cannot be moved on for a snapshot: {error.code}: {error}"

    def check(self) -> None:
        """:raises Exception: what ended a worker."""
        for worker in self._workers:
            if worker.done():
                worker.result()

    def take_plan(self) -> Batch | None:
        """What is planned, before anything else: a stream that has begun is taken to have been joined by its snapshot."""
        return self._plans.popleft() if self._plans else None

    def take(self, end: int) -> Batch | None:
        """The next rows or declaration, once what came in the stream has been given."""
        found = self._ready(end)
        if found is None:
            return None
        table, held = found
        table.release()
        batch = self._batches.next(table, held, self._epoch, self._exported)
        if held.result is not None:
            self._rows += len(batch.events)
            table.rows += len(batch.events)
        self._tables.append(self._tables.pop(self._tables.index(table)))  # each in its turn
        if table.is_done and table.listener is not None:
            self._setup().tap.remove(table.listener)
        if table.is_done and held.fault is None:
            self._told.given(table)
        return batch

    def acked(self, token: Token) -> None:
        """A batch is durable."""
        token.settle()
        self._plans.extend(self.memory.batches())
        self.news.set()

    def gauges(self) -> Mapping[str, float]:
        """See `Measured`."""
        left = sum(not table.is_done for table in self._tables)
        return {"snapshot_rows": float(self._rows), "snapshot_tables_left": float(left)}

    def health(self) -> str | None:
        """Whom a snapshot waits for, and why it cannot ask."""
        for table in self._tables:
            if table.waits_for:
                return (
                    f"snapshot.waits: {table.progress.title} is read once {table.waits_for} transactions have ended that were "
                    "writing to it before"
                )
        return self._fault

    def _give_up_others(self, snapshot: str) -> None:
        """There is one initial snapshot, the last. That others are over is kept: its own partitions may be used again."""
        for table in self._tables.copy():
            progress = table.progress
            if progress.snapshot.startswith(INITIAL) and progress.snapshot != snapshot and not progress.done:
                self._begin(progress.given_up(), table)

    def _free(self, name: TableName) -> Table | None:
        """A partition of the table that may be used again."""
        known = (table for table in self._tables if table.progress.name == name and table.is_done)
        return next((table for table in known if not self.memory.may_come_again(table.progress.snapshot)), None)

    def _begin(self, progress: Progress, place: Table | None, *, exported: bool = False) -> Table:
        """A generation of a partition: another use of one that there is, or the first of a new one."""
        if place is None:
            taken = {table.partition for table in self._tables}
            names = (partition_of(progress.schema, progress.table, number) for number in count(1))
            partition, before = next(name for name in names if name not in taken), 0
        else:
            partition, before = place.partition, place.generation
            self._tables.remove(place)
        table = Table(Reached(partition, progress, next_generation(before, self._epoch)), exported=exported)
        self._tables.append(table)
        self._plans.append(self._batches.plan(table))
        self.news.set()
        return table

    def _ready(self, end: int) -> tuple[Table, Held] | None:
        """What may be given now. What cannot be told to be newer than what was given is thrown away, to be read again."""
        self._waits.clear()
        for table in self._tables:
            if not table.may_be_given:
                continue
            held = table.held[0]
            if held.seen is not None and held.seen.end > end:
                self._waits.set()
            elif held.seen is not None and table.listener is not None and not table.listener.touched.is_clear(held.seen):
                table.throw_away()
            else:
                return table, held
        return None

    async def _open_and_work(self) -> None:
        while self._next(exported=False) is not None:  # also a table that found no room for a worker while this one was leaving
            session = self._session()
            try:
                await session.open()
                await self._work(session, exported=False)
            finally:
                await session.close()

    async def _work(self, session: Session, *, exported: bool) -> None:
        worker = Worker(self._setup(), session, self.news.set)
        try:
            while (table := self._next(exported)) is not None:
                table.taken = True
                await worker.read(table)
        finally:
            self.news.set()

    def _next(self, exported: bool) -> Table | None:
        waiting = (table for table in self._tables if not table.is_done and not table.taken and table.exported is exported)
        return next(waiting, None)
