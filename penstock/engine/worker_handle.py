"""The parent's end of one worker process: blocks go in, replies come out, in this order, each within its time.

A second block may be sent while the worker is busy with the first: it lies in the pipe, so that the worker never waits for this
process. When a block gets no answer, the process has had its day, and whoever stands behind that block goes elsewhere.
"""

from __future__ import annotations

import asyncio
import sys
from asyncio.subprocess import PIPE, Process
from pathlib import Path

from penstock.clock import Clock
from penstock.engine.tasks import call_off
from penstock.engine.wire import ANSWER, FRAME, LENGTH, STEP, WAITING
from penstock.engine.worker import OUT_OF_MEMORY, PIPE_BYTES
from penstock.errors import EnvironmentFault

TICK = 0.05
START_TIMEOUT = 60.0
_HOME = str(Path(__file__).resolve().parents[2])
_BOOT = f"import sys; sys.path.insert(0, {_HOME!r}); from penstock.engine.worker import main; main()"


class Exceeded(Exception):  # a verdict about a block, not an error: the pool decides what it means
    """A worker took too long over a block, or died of it.

    :ivar step: where it was, as far as it said.
    """

    def __init__(self, code: str, message: str, help: str, step: str) -> None:
        super().__init__(message)
        self.code, self.message, self.help, self.step = code, message, help, step


class Bystander(Exception):  # as above
    """The worker ended before it came to this block."""


class WorkerHandle:
    """One live worker process. `start`, any number of `exchange`s, which may overlap, `end`."""

    def __init__(self, process: Process, clock: Clock) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._process = process
        self._stdin, self._stdout = process.stdin, process.stdout
        self._clock = clock
        self._turn = asyncio.Lock()
        self._owes = False
        self._step = "transforms"

    @classmethod
    async def start(cls, directory: Path, clock: Clock) -> WorkerHandle:
        """A fresh process in `directory`. Its environment is empty; it finds Penstock where this process did."""
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-P", "-c", _BOOT, stdin=PIPE, stdout=PIPE, limit=PIPE_BYTES, env={}, cwd=directory
        )
        return cls(process, clock)

    @classmethod
    async def ready(cls, directory: Path, clock: Clock, duty: bytes, live: set[WorkerHandle]) -> WorkerHandle:
        """A fresh process that has begun its duty.

        :param duty: a pickled `Duty`.
        :param live: where it is kept from its first moment on, so that `end_all` finds it.
        :raises EnvironmentFault: `worker.not_started`.
        """
        try:
            worker = await cls.start(directory, clock)
        except OSError as error:
            raise EnvironmentFault("worker.not_started", "a worker process could not be started", why=str(error)) from error
        live.add(worker)
        try:
            await worker.exchange(duty, START_TIMEOUT)
        except Exceeded as error:
            raise EnvironmentFault("worker.not_started", "a worker process could not be started", why=error.message) from error
        return worker

    async def exchange(self, body: bytes, seconds: float) -> tuple[bytes, float]:
        """Send a block, wait for its reply; also for how many seconds it took, not counting the blocks ahead of it.

        :raises Exceeded: no reply within so many seconds of the parent's running time, or the process died.
        :raises Bystander: a block ahead of this one got no reply.
        """
        self._stdin.write(LENGTH.pack(len(body)) + body)
        async with self._turn:  # asked for in the order of the writes: nothing is awaited in between
            if self._owes:
                raise Bystander
            self._owes = True
            started = self._clock.monotonic()
            try:
                reply = await self._reply(seconds)
            except (asyncio.IncompleteReadError, ConnectionError) as error:
                raise await self._died() from error
            self._owes = False
            return reply, self._clock.monotonic() - started

    def kill(self) -> None:
        """Now, whatever it is doing. `end` waits for it."""
        if self._process.returncode is None:
            self._process.kill()

    async def end(self) -> None:
        """Now, whatever it is doing."""
        self.kill()
        await self._process.wait()
        self._process._transport.close()  # type: ignore[attr-defined]  # asyncio keeps a killed child's pipes open otherwise

    async def _reply(self, seconds: float) -> bytes:
        """The next answer. The clock stands still while the worker waits for a step's next attempt."""
        left, waiting = seconds, False
        while True:
            reading = asyncio.ensure_future(self._frame())
            try:
                while not (await asyncio.wait((reading,), timeout=TICK if waiting else min(TICK, left)))[0]:
                    # In ticks: time in which this process was stopped or starved is one long tick, and counts as a short one.
                    left -= 0 if waiting else TICK
                    if left <= 0:
                        raise self._late(seconds)
                kind, body = reading.result()
            finally:
                await call_off(reading)
            if kind == ANSWER:
                return body
            waiting = kind == WAITING
            if kind == STEP:
                self._step = body.decode()

    async def _frame(self) -> tuple[bytes, bytes]:
        kind, length = FRAME.unpack(await self._stdout.readexactly(FRAME.size))
        return kind, await self._stdout.readexactly(length)

    def _late(self, seconds: float) -> Exceeded:
        return Exceeded(
            "worker.timeout",
            f"the steps took longer than {seconds:g} s for one event",
            "raise transform_timeout, or mend the program that does not end",
            self._step,
        )

    async def _died(self) -> Exceeded:
        status = await self._process.wait()
        return Exceeded(
            "worker.died",
            f"the event ended its worker process ({_ending(status)})",
            "worker_memory bounds what a step may allocate: look for a program that grows without end",
            self._step,
        )


async def end_all(live: set[WorkerHandle]) -> None:
    """End them all, and forget them."""
    for worker in live:  # at once: whoever waits for their end may be cancelled before it has begun
        worker.kill()
    await asyncio.gather(*(worker.end() for worker in live))
    live.clear()


def _ending(status: int) -> str:
    if status == OUT_OF_MEMORY:
        return "out of memory"
    return f"signal {-status}" if status < 0 else f"exit status {status}"
