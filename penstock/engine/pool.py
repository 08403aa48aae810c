"""Workers: processes that can be killed, so that an endless loop or a memory bomb costs only the event that caused it.

A block that exceeds a limit is divided until the guilty event stands alone; when it exceeds the limit again, alone in a fresh
worker, it becomes a dead letter, and everything around it goes on. The clock counts only while the parent itself runs.
"""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from penstock.config.base import ComponentConfig
from penstock.config.model import Component, Pipeline
from penstock.engine.assemble import Surroundings
from penstock.engine.tally import Tally
from penstock.engine.wire import Reply, Request, decode_reply, encode_request, packed
from penstock.engine.worker import StepsDuty
from penstock.engine.worker_handle import Bystander, Exceeded, WorkerHandle, end_all
from penstock.errors import Permanent
from penstock.event import Event
from penstock.observe.status import RunStatus

AHEAD = 2
"""Blocks that a worker is given at a time: one to work on, and one in its pipe."""
LARGEST_BLOCK = 1 << 20
"""Events a block may hold before its size has been found to matter; batches are far smaller."""
Outputs = tuple[list[Event], list[int] | None]
"""Outputs in order with their routes."""


class Task(NamedTuple):
    """What goes with a block, as `Request` has it."""

    now: float
    prepare: bool


@dataclass(slots=True)
class Seat:
    """A worker's place in the pool: when its process ends, another takes it."""

    worker: WorkerHandle
    renewing: asyncio.Lock = field(default_factory=asyncio.Lock)


class WorkerPool:
    """`workers` processes. `start`, any number of concurrent `run`s, `close`. A dead worker is replaced at once."""

    def __init__(self, pipeline: Pipeline, surroundings: Surroundings, status: RunStatus) -> None:
        self._pipeline = pipeline
        self._clock = surroundings.clock
        self._status = status
        self._free: asyncio.Queue[Seat] = asyncio.Queue()
        self._live: set[WorkerHandle] = set()
        self._solitary = asyncio.Lock()
        self._task = pickle.dumps(StepsDuty(without_ends(pipeline), pipeline.worker_memory))
        self._limit = LARGEST_BLOCK

    async def start(self) -> None:
        """:raises EnvironmentFault: `worker.not_started`; none is left behind then."""
        try:
            spawned = await asyncio.gather(*(self._spawn() for _ in range(self._pipeline.workers)), return_exceptions=True)
            seats = [Seat(_alive(worker)) for worker in spawned]
        except BaseException:
            await self.close()
            raise
        for seat in seats * AHEAD:
            self._free.put_nowait(seat)

    async def close(self) -> None:
        await end_all(self._live)

    async def run(self, events: list[Event], tally: Tally, *, now: float, prepare: bool) -> Outputs:
        """Outputs in order with their routes, as `Chain.run` gives them; failures and counts go to the tally.

        :param now: the moment that programs see.
        """
        task = Task(now, prepare)
        events = _packed(events, tally)
        return await self._run(events, tally, task) if events else ([], None)

    async def _run(self, events: list[Event], tally: Tally, task: Task) -> Outputs:
        if len(events) <= self._limit:
            reply = await self._seated(events, task)
            if reply is not None:
                return _told(reply, tally)
            if len(events) == 1:
                return await self._alone(events, tally, task)
            self._limit = max(1, len(events) // 2)
        return await self._halves(events, tally, task)

    async def _seated(self, events: list[Event], task: Task) -> Reply | None:
        """What the next free worker made of a block; None where that exceeded a limit."""
        seat = await self._free.get()
        try:
            while True:
                worker = seat.worker
                try:
                    return await self._exchange(worker, events, task)
                except Bystander:
                    await self._renew(seat, worker)
                except Exceeded:
                    await self._renew(seat, worker)
                    return None
        finally:
            self._free.put_nowait(seat)

    async def _exchange(self, worker: WorkerHandle, events: list[Event], task: Task) -> Reply:
        """One block. Where it took a small part of the time allowed, the next may be larger."""
        allowed = self._pipeline.transform_timeout
        body, seconds = await worker.exchange(encode_request(Request(task.now, task.prepare, events)), allowed)
        if len(events) >= self._limit and seconds < allowed / 4:
            self._limit = min(LARGEST_BLOCK, 2 * self._limit)
        return decode_reply(body)

    async def _halves(self, events: list[Event], tally: Tally, task: Task) -> Outputs:
        """The block in two parts, one behind the other."""
        half = len(events) // 2
        outputs, routes = await self._run(events[:half], tally, task)
        more, more_routes = await self._run(events[half:], tally, task)
        if routes is None and more_routes is None:
            return outputs + more, None
        everywhere = (1 << len(self._pipeline.sinks)) - 1
        joined = [*(routes or [everywhere] * len(outputs)), *(more_routes or [everywhere] * len(more))]
        return outputs + more, joined

    async def _alone(self, events: list[Event], tally: Tally, task: Task) -> Outputs:
        """A single event has one more chance, in a fresh worker of its own."""
        async with self._solitary:
            worker = await self._spawn()
            try:
                return _told(await self._exchange(worker, events, task), tally)
            except Exceeded as why:
                tally.fail(why.step, events[0], Permanent(why.code, why.message, help=why.help), attempts=2)
                return [], None
            finally:
                await self._end(worker)

    async def _renew(self, seat: Seat, spent: WorkerHandle) -> None:
        """Another process in the place of one that has to be ended, unless it has been replaced meanwhile."""
        async with seat.renewing:
            if seat.worker is spent:
                await self._end(spent)
                self._status.retries["workers"] += 1
                seat.worker = await self._spawn()

    async def _end(self, worker: WorkerHandle) -> None:
        await worker.end()
        self._live.discard(worker)

    async def _spawn(self) -> WorkerHandle:
        """A fresh worker, its programs compiled."""
        return await WorkerHandle.ready(self._pipeline.project, self._clock, self._task, self._live)


def _alive(spawned: WorkerHandle | BaseException) -> WorkerHandle:
    if isinstance(spawned, BaseException):
        raise spawned
    return spawned


def _told(reply: Reply, tally: Tally) -> Outputs:
    """What a worker answered; failures and counts go to the tally.

    :raises ComponentError: why the run must stop.
    """
    if reply.fatal is not None:
        raise reply.fatal.error()
    return reply.into(tally)


def without_ends(pipeline: Pipeline) -> Pipeline:
    """What a worker has to know: nothing of source and sinks but their names, for their configurations may hold secrets."""

    def bare(component: Component) -> Component:
        return replace(component, config=ComponentConfig())

    sinks = [replace(sink, component=bare(sink.component)) for sink in pipeline.sinks]
    return replace(pipeline, source=bare(pipeline.source), sinks=sinks, tests=())


def _packed(events: Sequence[Event], tally: Tally) -> list[Event]:
    """The events that can travel; one whose data has no JSON form fails here."""
    ready = []
    for event in events:
        try:
            ready.append(packed(event))
        except Permanent as error:
            tally.fail("decode", event, error)
    return ready
