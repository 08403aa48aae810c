"""Worker processes that share a range: portions go out in order, what came of them comes back in order.

A portion that kills its worker, or takes too long, is divided until one event stands alone; then that one is counted as the dead
letter it would be, and the others go on. With no processes at all, the work is done here, and nothing can interrupt it.
"""

from __future__ import annotations

import asyncio
import io
import pickle
from collections import deque
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass, field

from backfill.portions import Portion
from backfill.rehearsal import Rehearsal, decode_reply, encode_block, records_of
from backfill.request import LetterGroup, Request, Result
from backfill.results import merge
from penstock.builtins import room
from penstock.clock import Clock
from penstock.engine.pool import START_TIMEOUT
from penstock.engine.recompute import BATCH
from penstock.engine.worker import Serve, Talk
from penstock.engine.worker_handle import Exceeded, WorkerHandle
from penstock.errors import EnvironmentFault
from penstock.journal.opened import Record
from penstock.journal.reader import JournalReader, ids_of


@dataclass(slots=True)
class Pace:
    """No more events a second than so many, counted as portions go out; None: as fast as it goes."""

    rate: float | None
    clock: Clock
    _started: float | None = None
    _given: int = 0

    async def wait(self, portion: Portion) -> None:
        """Until the portion may go out."""
        if self._started is None:
            self._started = self.clock.monotonic()
        if self.rate:
            await self.clock.sleep(max(0.0, self._started + self._given / self.rate - self.clock.monotonic()))
        self._given += min(portion.lines, portion.most)


@dataclass(slots=True)
class Crew:
    """`async with`, then `results`.

    :ivar size: processes; 0: none.
    """

    rehearsal: Rehearsal
    size: int
    clock: Clock
    _free: asyncio.Queue[WorkerHandle] = field(default_factory=asyncio.Queue)
    _live: set[WorkerHandle] = field(default_factory=set)
    _here: Serve | None = None

    async def __aenter__(self) -> Crew:
        """:raises EnvironmentFault: `worker.not_started`; none is left behind then."""
        if not self.size:
            self._here = self.rehearsal.begin(Talk(io.BytesIO()))
            return self
        try:
            for worker in await asyncio.gather(*(self._spawn() for _ in range(self.size))):
                self._free.put_nowait(worker)
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        for worker in self._live:  # at once: whoever waits for their end may be cancelled before it has begun
            worker.kill()
        await asyncio.gather(*(worker.end() for worker in self._live))
        self._live.clear()

    async def results(self, portions: Iterator[Portion], pace: Pace) -> AsyncGenerator[tuple[Portion, Result], None]:
        """What came of each portion, in order. Close it before the crew ends: what is under way would look for another worker.

        :raises ComponentError: what stops the backfill.
        """
        under_way: deque[tuple[Portion, asyncio.Task[Result]]] = deque()
        try:
            for portion in portions:
                await pace.wait(portion)
                under_way.append((portion, asyncio.create_task(self._run(portion), name="portion")))
                while len(under_way) > self.size or (under_way and under_way[0][1].done()):
                    first, task = under_way.popleft()
                    yield first, await task
            while under_way:
                first, task = under_way.popleft()
                yield first, await task
        finally:
            for _, task in under_way:
                task.cancel()
            await asyncio.gather(*(task for _, task in under_way), return_exceptions=True)

    async def _run(self, portion: Portion) -> Result:
        if self._here is not None:
            return _told(await self._here(encode_block(portion)))
        worker = await self._free.get()
        allowed = self.rehearsal.pipeline.transform_timeout * (1 + min(portion.lines, portion.most) // BATCH)
        try:
            reply, _ = await worker.exchange(encode_block(portion), allowed)
        except Exceeded as why:
            worker = await self._another(worker)
            self._free.put_nowait(worker)
            return await self._parts(portion, why)
        except BaseException:
            self._free.put_nowait(worker)
            raise
        self._free.put_nowait(worker)
        return _told(reply)

    async def _parts(self, portion: Portion, why: Exceeded) -> Result:
        """The portion in two halves, one behind the other; of a single event, what it would come to."""
        records = list(records_of(JournalReader(self.rehearsal.directory), self.rehearsal.request, portion))
        if len(records) <= 1:
            return _died(self.rehearsal.request, why, records)
        first, second = portion.halves([record.mark for record in records])
        result = await self._run(first)
        merge(result, await self._run(second))
        return result

    async def _another(self, spent: WorkerHandle) -> WorkerHandle:
        await spent.end()
        self._live.discard(spent)
        return await self._spawn()

    async def _spawn(self) -> WorkerHandle:
        try:
            worker = await WorkerHandle.start(self.rehearsal.pipeline.project, self.clock)
        except OSError as error:
            raise EnvironmentFault("worker.not_started", "a worker process could not be started", why=str(error)) from error
        self._live.add(worker)
        try:
            await worker.exchange(pickle.dumps(self.rehearsal), START_TIMEOUT)
        except Exceeded as error:
            raise EnvironmentFault("worker.not_started", "a worker process could not be started", why=error.message) from error
        return worker


def _told(reply: bytes) -> Result:
    said = decode_reply(reply)
    if said.error is not None:
        raise said.error.error()
    assert said.result is not None
    return said.result


def _died(request: Request, why: Exceeded, records: list[Record]) -> Result:
    """An event that no worker survives."""
    if not records:
        return Result()
    key = room("fingerprint")(why.step, why.code, [])
    result = Result(read=1, dead_lettered=1)
    result.letters[key] = LetterGroup(key, why.step, why.code, why.message, 1, ids_of(records[0].line)[-1])
    if request.mode == "shadow":
        result.unlike[f"it ends its worker: {why.message}"] = 1
    return result
