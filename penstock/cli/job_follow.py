"""A stored job seen through to its end: carried out here where no run is alive, followed in the store where one is.

Whoever follows may go at any time: the job does not need it. Where the run dies, the job is taken over here.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from penstock.cli.dlq_render import hint_lines
from penstock.cli.terminal import Terminal
from penstock.config.model import Pipeline
from penstock.engine.carry_out import carry_out_or_withdraw
from penstock.engine.run import RunOptions
from penstock.errors import EnvironmentFault, ExitStatus, PenstockError
from penstock.observe.text import printable
from penstock.state.job_records import Job, JobProgress
from penstock.state.store import StateStore

LOOK = 0.2
"""Seconds between two looks at a job that is followed."""
ALIVE = 1.0
"""Seconds between two looks whether the run lives."""


@dataclass(slots=True)
class Seeing:
    """What a command has to see a job through.

    :ivar options: to carry it out with, where no run is alive.
    :ivar show: is told how the job stands.
    """

    pipeline: Pipeline
    store: StateStore
    options: RunOptions
    terminal: Terminal
    show: Callable[[Job], None]

    async def through(self, job: Job) -> Job:
        """Until it has ended, was paused, or somebody interrupts the command.

        :return: the job as it stands then.
        :raises PenstockError: why it failed.
        """
        with _interruptible() as stopping:
            while not stopping.is_set():
                pid = await self.store.holder()
                job = await self._here(job, stopping) if pid is None else await self._there(job, pid, stopping)
                if not job.open or job.state == "paused":
                    break
        if job.error is not None:
            raise PenstockError(job.error.code, job.error.message, why=job.error.why, help=job.error.help)
        if job.open:
            await self._say_open(job)
        return job

    async def _here(self, job: Job, stopping: asyncio.Event) -> Job:
        def told(progress: JobProgress) -> None:
            self.show(replace(job, progress=progress))

        try:
            return await carry_out_or_withdraw(self.pipeline, job.id, self.options, told, stopping)
        except EnvironmentFault as fault:
            if fault.code != "state.held":
                raise
            return await self.store.jobs.find(job.id)  # somebody was quicker

    async def _there(self, job: Job, pid: int, stopping: asyncio.Event) -> Job:
        """As long as that process lives."""
        clock = self.options.clock
        looked = clock.monotonic()
        while not stopping.is_set():
            job = await self.store.jobs.find(job.id)
            self.show(job)
            if not job.open or job.state == "paused":
                break
            if clock.monotonic() - looked >= ALIVE:
                looked = clock.monotonic()
                if await self.store.holder() is None:
                    self.terminal.say(f"{printable(self.pipeline.name)}: process {pid} has ended; its job {job.id} goes on here")
                    break
            await _rest(LOOK, stopping)
        return job

    async def _say_open(self, job: Job) -> None:
        """How an open job goes on."""
        pid, name = await self.store.holder(), printable(self.pipeline.name)
        hints = [(f"pipe jobs show {job.id}", "how far it is"), (f"pipe jobs cancel {job.id}", "ends it")]
        if job.state == "paused":
            said, first = "is paused", (f"pipe jobs resume {job.id}", "goes on with it")
        elif pid is not None:
            said, first = f"goes on in process {pid}", None
        else:
            said, first = "waits for the next run", (f"pipe jobs resume {job.id}", "goes on with it here")
        lines = hint_lines([*([first] if first else []), *hints], self.terminal.err_style)
        self.terminal.say(f"{name}: job {job.id} {said}", *lines)


def exit_status(job: Job, found: bool) -> ExitStatus:
    """:param found: the job ended, and what it came to is to be looked at."""
    if job.open:
        return ExitStatus.FOUND if job.state == "paused" else ExitStatus.INTERRUPTED
    return ExitStatus.FOUND if found or job.state == "cancelled" else ExitStatus.DONE


async def _rest(seconds: float, stopping: asyncio.Event) -> None:
    try:
        async with asyncio.timeout(seconds):
            await stopping.wait()
    except TimeoutError:
        return


@contextmanager
def _interruptible() -> Iterator[asyncio.Event]:
    """Set by the first SIGINT or SIGTERM; the second ends the process as ever."""
    loop, stopping = asyncio.get_running_loop(), asyncio.Event()
    numbers = (signal.SIGINT, signal.SIGTERM)

    def stop() -> None:
        stopping.set()
        for number in numbers:
            loop.remove_signal_handler(number)

    for number in numbers:
        loop.add_signal_handler(number, stop)
    try:
        yield stopping
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)
