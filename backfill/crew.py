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
from penstock.engine.pace import Pace
from penstock.engine.recompute import BATCH
from penstock.engine.worker import Serve, Talk
from penstock.engine.worker_handle import Exceeded, WorkerHandle, end_all
from penstock.journal.opened import Record
from penstock.journal.reader import JournalReader, ids_of


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
        await end_all(self._live)

    async def results(self, portions: Iterator[Portion], pace: Pace) -> AsyncGenerator[tuple[Portion, Result], None]:
        """What came of each portion, in order. Close it before the crew ends: what is under way would look for another worker.

        :raises ComponentError: what stops the backfill.
        """
        under_way: deque[tuple[Portion, asyncio.Task[Result]]] = deque()
        try:
            for portion in portions:
                await self.clock.sleep(pace.wait(self.clock.monotonic()))
                pace.did(min(portion.lines, portion.most), self.clock.monotonic())
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
        return await WorkerHandle.ready(self.rehearsal.pipeline.project, self.clock, pickle.dumps(self.rehearsal), self._live)


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
