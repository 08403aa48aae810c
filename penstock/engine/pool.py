"""Workers: processes that can be killed, so that an endless loop or a memory bomb costs only the event that caused it.

A block that exceeds a limit is divided until the guilty event stands alone; when it exceeds the limit twice, alone, in fresh
workers, it becomes a dead letter, and everything around it goes on. The clock counts only while the parent itself runs.
"""

from __future__ import annotations

import asyncio
import pickle
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from penstock.config.base import ComponentConfig
from penstock.config.model import Component, Pipeline
from penstock.engine.assemble import Surroundings
from penstock.engine.stages import Tally
from penstock.engine.wire import Reply, Request, decode_reply, encode_request, packed
from penstock.engine.worker import LENGTH, OUT_OF_MEMORY, Task
from penstock.errors import EnvironmentFault, Permanent
from penstock.event import Event
from penstock.observe.status import RunStatus

TICK = 0.05
LARGEST_BLOCK = 1 << 20
"""Events a block may hold before its size has been found to matter; batches are far smaller."""
Outputs = tuple[list[Event], list[int] | None]
"""Outputs in order with their routes."""
START_TIMEOUT = 60.0
_HOME = str(Path(__file__).resolve().parents[2])
_BOOT = f"import sys; sys.path.insert(0, {_HOME!r}); from penstock.engine.worker import main; main()"


class Exceeded(Exception):  # a verdict about a block, caught in this module
    """A worker took too long, or died."""

    def __init__(self, code: str, message: str, help: str) -> None:
        super().__init__(message)
        self.code, self.message, self.help = code, message, help


@dataclass(slots=True)
class Worker:
    """One live worker process."""

    process: Process

    async def exchange(self, body: bytes, seconds: float) -> bytes:
        """Send a block, wait for its reply.

        :raises Exceeded: no reply within so many seconds of the parent's running time, or the process died.
        """
        stdin, stdout = self.process.stdin, self.process.stdout
        assert stdin is not None
        assert stdout is not None
        reply = asyncio.ensure_future(_read(stdout))
        try:
            stdin.write(LENGTH.pack(len(body)) + body)
            await stdin.drain()
            return await _within(reply, seconds)
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            status = await self.process.wait()
            raise Exceeded(
                "worker.died",
                f"the event ended its worker process ({_ending(status)})",
                "worker_memory bounds what a step may allocate: look for a program that grows without end",
            ) from error
        finally:
            reply.cancel()
            await asyncio.gather(reply, return_exceptions=True)

    async def end(self) -> None:
        """Now, whatever it is doing."""
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()
        self.process._transport.close()  # type: ignore[attr-defined]  # asyncio keeps a killed child's pipes open otherwise


class WorkerPool:
    """`workers` processes. `start`, any number of concurrent `run`s, `close`. A dead worker is replaced at once."""

    def __init__(self, pipeline: Pipeline, surroundings: Surroundings, status: RunStatus) -> None:
        self._pipeline = pipeline
        self._clock = surroundings.clock
        self._status = status
        self._idle: asyncio.Queue[Worker] = asyncio.Queue()
        self._live: list[Worker] = []
        self._task = pickle.dumps(Task(_without_ends(pipeline), pipeline.worker_memory))
        self._limit = LARGEST_BLOCK

    async def start(self) -> None:
        for worker in await asyncio.gather(*(self._spawn() for _ in range(self._pipeline.workers))):
            self._idle.put_nowait(worker)

    async def close(self) -> None:
        await asyncio.gather(*(worker.end() for worker in self._live))
        self._live.clear()

    async def run(self, events: list[Event], tally: Tally, *, prepare: bool) -> tuple[list[Event], list[int] | None]:
        """Outputs in order with their routes, as `Chain.run` gives them; failures and counts go to the tally."""
        events = _packed(events, tally)
        return await self._run(events, tally, prepare) if events else ([], None)

    async def _run(self, events: list[Event], tally: Tally, prepare: bool) -> Outputs:
        if len(events) > self._limit:
            return await self._halves(events, tally, prepare)
        worker = await self._idle.get()
        try:
            reply = await self._exchange(worker, events, prepare)
        except Exceeded as why:
            if len(events) > 1:
                self._idle.put_nowait(await self._renew(worker))
                self._limit = max(1, len(events) // 2)
                return await self._halves(events, tally, prepare)
            return await self._once_more(await self._renew(worker), events, tally, prepare, why)
        except BaseException:
            await self._end(worker)
            raise
        self._idle.put_nowait(worker)
        return _told(reply, tally)

    async def _exchange(self, worker: Worker, events: list[Event], prepare: bool) -> Reply:
        """One block. Where it took a small part of the time allowed, the next may be larger."""
        allowed = self._pipeline.transform_timeout
        body = encode_request(Request(prepare, events))
        started = self._clock.monotonic()
        reply = decode_reply(await worker.exchange(body, allowed))
        if len(events) >= self._limit and self._clock.monotonic() - started < allowed / 4:
            self._limit = min(LARGEST_BLOCK, 2 * self._limit)
        return reply

    async def _halves(self, events: list[Event], tally: Tally, prepare: bool) -> Outputs:
        """The block in two parts, one behind the other."""
        half = len(events) // 2
        outputs, routes = await self._run(events[:half], tally, prepare)
        more, more_routes = await self._run(events[half:], tally, prepare)
        if routes is None and more_routes is None:
            return outputs + more, None
        everywhere = (1 << len(self._pipeline.sinks)) - 1
        joined = [*(routes or [everywhere] * len(outputs)), *(more_routes or [everywhere] * len(more))]
        return outputs + more, joined

    async def _once_more(self, fresh: Worker, events: list[Event], tally: Tally, prepare: bool, why: Exceeded) -> Outputs:
        """A single event has one more chance, alone in a fresh worker."""
        try:
            reply = await self._exchange(fresh, events, prepare)
        except Exceeded:
            self._idle.put_nowait(await self._renew(fresh))
            error = Permanent(why.code, why.message, help=why.help)
            tally.fail("transforms", events[0], error, attempts=2)
            return [], None
        except BaseException:
            await self._end(fresh)
            raise
        self._idle.put_nowait(fresh)
        return _told(reply, tally)

    async def _renew(self, worker: Worker) -> Worker:
        """Another worker in the place of one that has to be ended."""
        await self._end(worker)
        self._status.retries["workers"] += 1
        return await self._spawn()

    async def _end(self, worker: Worker) -> None:
        await worker.end()
        self._live.remove(worker)

    async def _spawn(self) -> Worker:
        """A fresh worker, its programs compiled. Its environment is empty; it finds Penstock where this process did."""
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-P", "-c", _BOOT, stdin=PIPE, stdout=PIPE, env={}, cwd=self._pipeline.project
        )
        worker = Worker(process)
        self._live.append(worker)
        try:
            await worker.exchange(self._task, START_TIMEOUT)
        except Exceeded as error:
            raise EnvironmentFault("worker.not_started", "a worker process could not be started", why=error.message) from error
        return worker


def _told(reply: Reply, tally: Tally) -> Outputs:
    """What a worker answered; failures and counts go to the tally.

    :raises ComponentError: why the run must stop.
    """
    if reply.fatal is not None:
        raise reply.fatal.error()
    return reply.into(tally)


def _without_ends(pipeline: Pipeline) -> Pipeline:
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


async def _read(stdout: asyncio.StreamReader) -> bytes:
    (length,) = LENGTH.unpack(await stdout.readexactly(LENGTH.size))
    return await stdout.readexactly(length)


async def _within(reply: asyncio.Future[bytes], seconds: float) -> bytes:
    """Wait in ticks: time in which this process was stopped or starved shows as one long tick, and counts as one short one."""
    left = seconds
    while True:
        done, _ = await asyncio.wait((reply,), timeout=min(TICK, left))
        if done:
            return reply.result()
        left -= TICK
        if left <= 0:
            raise Exceeded(
                "worker.timeout",
                f"the steps took longer than {seconds:g} s for one event",
                "raise transform_timeout, or mend the program that does not end",
            )


def _ending(status: int) -> str:
    if status == OUT_OF_MEMORY:
        return "out of memory"
    return f"signal {-status}" if status < 0 else f"exit status {status}"
