"""A run: one execution of one pipeline, from the claim to the last acknowledgement.

Three overlapped stages, a task each: reading ahead, processing, delivering and committing. Back-pressure is the credits of
`Flow`; the queues between the stages hold no more than these allow. An error travels through the stages behind the batches that
were read before it, so that everything in front of it is delivered and committed first.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, field
from typing import TypeVar

from penstock.clock import Clock, SystemClock, moment_of
from penstock.config.model import Pipeline
from penstock.engine.acknowledging import Acknowledging, ask_source
from penstock.engine.assemble import Assembly, Surroundings, assemble
from penstock.engine.beside import Beside
from penstock.engine.carrying import Ground
from penstock.engine.claim import claim_pipeline
from penstock.engine.claimed import Claimed
from penstock.engine.failing import AUTHOR, FailureRow
from penstock.engine.flow import Flow
from penstock.engine.gathering import End, Gathering
from penstock.engine.in_flight import InFlight
from penstock.engine.jobs import Jobs
from penstock.engine.overwriting import stale_of
from penstock.engine.processing import Processor
from penstock.engine.reading import Reader, set_batching
from penstock.engine.signals import Signals
from penstock.engine.supervise import blaming, bug
from penstock.engine.tasks import call_off
from penstock.engine.upkeep import Upkeep
from penstock.engine.watchdog import Watchdog
from penstock.engine.work import Work
from penstock.errors import PenstockError
from penstock.faults import Faults
from penstock.observe.log import Incident
from penstock.observe.status import RunStatus, RunSummary
from penstock.spi import Healthy, Measured, Progress, Resume

T = TypeVar("T")


def _no_log(incident: Incident) -> None:
    """Embedded runs log nothing unless they are given a place for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """How to run.

    :ivar once: end when the source has been drained.
    :ivar max_events: end after so many events, exactly.
    :ivar wait: wait for another run of the pipeline to end; `take_over`: fence it.
    :ivar adopt: take ledgers over that belong to another state store (`pipe checkpoint adopt`).
    :ivar log: is told of incidents, never of single events.
    """

    once: bool = False
    max_events: int | None = None
    wait: bool = False
    take_over: bool = False
    adopt: bool = False
    clock: Clock = field(default_factory=SystemClock)
    faults: Faults = field(default_factory=Faults)
    random: random.Random = field(default_factory=random.Random)
    log: Callable[[Incident], None] = _no_log


class Run:
    """One execution. `execute` once; `stop` from anywhere in the loop's thread, a signal handler included."""

    def __init__(self, pipeline: Pipeline, options: RunOptions) -> None:
        self.pipeline = pipeline
        self.options = options
        self.status = RunStatus(pipeline.name, pipeline.version)
        self._flow = Flow(pipeline.limits, self.status)
        self._read: asyncio.Queue[Work | End] = asyncio.Queue()
        self._ready: asyncio.Queue[Work | End] = asyncio.Queue()
        self._row = FailureRow(pipeline.pause_after)
        self.stopping = asyncio.Event()

    def stop(self) -> None:
        """Drain: read nothing more, deliver and commit what was read, then end. `shutdown_timeout` bounds it."""
        self.stopping.set()

    async def execute(self) -> RunSummary:
        """:raises PenstockError: what stopped the run; everything committed before stands."""
        options = self.options
        self.status.started_at, self.status.started = options.clock.now(), options.clock.monotonic()
        try:
            async with AsyncExitStack() as stack:
                assembly = assemble(self.pipeline, Surroundings(options.clock, options.random, options.faults, options.log))
                claimed = await self._unless_stopped(self._begin(assembly, stack))
                if claimed is not None:
                    keys = InFlight(self._flow, self.options.clock)
                    processor = await stack.enter_async_context(Processor(assembly, claimed, self._flow, self.status, keys))
                    stack.enter_context(Watchdog(self.pipeline))
                    signals = await self._listen(assembly, claimed, stack)
                    jobs = Jobs(Ground(assembly, claimed, self.status, keys, reading=True), options)
                    self.status.phase = "running"
                    await self._flow_through(assembly, claimed, processor, Beside(signals, jobs))
        except BaseException:
            self.status.phase = "failed"
            raise
        self.status.phase = "stopped"
        return self.summary()

    def summary(self) -> RunSummary:
        """The run in numbers, so far."""
        status = self.status
        seconds = self.options.clock.monotonic() - status.started
        sinks = {sink.name: status.sinks[sink.name] for sink in self.pipeline.sinks}
        return RunSummary(
            pipeline=status.pipeline,
            version=status.version,
            epoch=status.epoch,
            counts=status.counts,
            reread=status.reread,
            seconds=seconds,
            sinks=sinks,
            open_letters=status.open_letters,
            stale=status.stale(),
        )

    async def _unless_stopped(self, action: Awaitable[T]) -> T | None:
        """What it returns; None where the run was stopped while it waited for another run, for a disk or for a server."""
        acting = asyncio.ensure_future(action)
        stopped = asyncio.ensure_future(self.stopping.wait())
        try:
            await asyncio.wait((acting, stopped), return_when=asyncio.FIRST_COMPLETED)
            return acting.result() if acting.done() else None
        finally:
            await call_off(acting, stopped)

    async def _begin(self, assembly: Assembly, stack: AsyncExitStack) -> Claimed:
        """Claim first; only then is the source opened (rule 1)."""
        claimed = await claim_pipeline(assembly, self.options, self.status, stack)
        source = assembly.source
        stack.push_async_callback(source.close)
        set_batching(source, self.pipeline.batching, self.options.max_events)
        resume = Resume(claimed.epoch, claimed.standing.positions, self.options.once, self.options.take_over)
        await ask_source(lambda: source.open(resume), self.pipeline.retry, self.options, self.status)
        if isinstance(source, Progress):
            self.status.progress = source.progress
        if isinstance(source, Measured):
            self.status.gauges = source.gauges
        self.status.stale = lambda: stale_of(assembly.sinks)
        watched = {"source": source, **assembly.sinks}
        self.status.health = lambda: {
            name: said for name, part in watched.items() if isinstance(part, Healthy) and (said := part.health()) is not None
        }
        return claimed

    async def _listen(self, assembly: Assembly, claimed: Claimed, stack: AsyncExitStack) -> Signals:
        """Follow what people ask from before the first batch on. Time in a pause is no running time (rule 8)."""
        committer = claimed.committer
        signals = Signals(assembly.source, claimed.store.signals, claimed.epoch, self._flow, self.options, self.stop)
        running = committer.running
        committer.running = lambda: running() - signals.paused_seconds()
        stack.push_async_callback(signals.close)
        await self._unless_stopped(signals.begin())
        return signals

    async def _flow_through(self, assembly: Assembly, claimed: Claimed, processor: Processor, beside: Beside) -> None:
        reader, upkeep = Reader(assembly, self._flow, self.options), self._upkeep(claimed)
        tasks = [
            asyncio.create_task(self._reading(reader, beside.signals), name="read"),
            asyncio.create_task(self._processing(processor), name="process"),
            asyncio.create_task(self._beside(upkeep.run(), "upkeep"), name="upkeep"),
            asyncio.create_task(self._beside(beside.signals.run(), "signals"), name="signals"),
        ]
        carry = asyncio.create_task(beside.carry(self._ready), name="jobs")
        deliver = asyncio.create_task(self._delivering(assembly, claimed, processor, carry, beside), name="deliver")
        deadline = asyncio.create_task(self._deadline(deliver), name="deadline")
        try:
            await deliver
            await beside.signals.end()
            await upkeep.recount()  # one that failed again has one dead letter still, which no commit knows
        except asyncio.CancelledError:
            if not self.stopping.is_set() or asyncio.current_task().cancelling():  # type: ignore[union-attr]  # inside a task
                raise
            self.options.log(
                Incident("warning", "shutdown.timeout", f"{self.pipeline.name}: what was in flight is read again by the next run")
            )
        finally:
            upkeep.watch()
            await call_off(*tasks, carry, deliver, deadline)

    def _upkeep(self, claimed: Claimed) -> Upkeep:
        upkeep = Upkeep(self.pipeline.dead_letter, claimed.store, self.status, self.options.clock, self.options.log)
        journalling, declared = claimed.committer.journalling, self.pipeline.journal
        if journalling is not None and declared is not None:
            upkeep.kept = journalling.journal, declared
        return upkeep

    async def _deadline(self, deliver: asyncio.Task[None]) -> None:
        await self.stopping.wait()
        self.status.phase = "draining"
        await self._flow.end()
        await self.options.clock.sleep(self.pipeline.shutdown_timeout)
        deliver.cancel()

    async def _reading(self, reader: Reader, signals: Signals) -> None:
        end = End()
        try:
            await self._read_all(reader)
            while self.options.once and reader.drained and await signals.any_left():
                await self._read_all(reader)
            end = End(drained=reader.drained)
        except PenstockError as error:
            end = End(error)
        except Exception as error:  # supervision point: a bug in a source stops its run with a reason
            end = End(bug("source", error))
        finally:
            self._read.put_nowait(end)

    async def _read_all(self, reader: Reader) -> None:
        async with aclosing(reader.batches(self.stopping)) as batches:
            async for batch in batches:
                self.options.faults.hit("after_read")
                self._read.put_nowait(Work(batch, self.options.clock.monotonic(), moment_of(self.options.clock)))

    async def _processing(self, processor: Processor) -> None:
        while True:
            item = await self._read.get()
            if isinstance(item, End):
                self._ready.put_nowait(item)
                return
            try:
                async for work in processor.process(item):
                    self._ready.put_nowait(work)
                self.options.faults.hit("after_process")
            except PenstockError as error:
                self._ready.put_nowait(End(error))
                return
            except Exception as error:  # supervision point: a bug in a step stops its run with a reason
                self._ready.put_nowait(End(bug("processing", error)))
                return
            await asyncio.sleep(0)

    async def _beside(self, work: Awaitable[None], where: str) -> None:
        try:
            await work
        except PenstockError as error:
            self._ready.put_nowait(End(error))
        except Exception as error:  # supervision point: what goes wrong beside the events ends the run all the same
            self._ready.put_nowait(End(bug(where, error)))

    async def _delivering(
        self,
        assembly: Assembly,
        claimed: Claimed,
        processor: Processor,
        carry: asyncio.Task[PenstockError | None],
        beside: Beside,
    ) -> None:
        committer = claimed.committer
        acknowledging = Acknowledging(assembly.source, processor, self._flow, self.pipeline.retry, self.options, self.status)
        gathering = Gathering(self._ready, self._flow, self.pipeline.batching, self.options.clock, self.stopping)
        while True:
            works, end = await gathering.next()
            if works:
                with blaming("delivery"):
                    refusals = await committer.commit(works, drained=end is not None and end.drained)
                if (why := self._row.after(works, refusals)) is not None:
                    await beside.signals.pause(AUTHOR, why)  # before there is room for more
                await acknowledging.finish(works)  # Invariant 1: after the commit, never before it
            if end is None:
                continue
            if end.error is not None:
                raise end.error
            await beside.end_jobs(carry, self.stopping, finish=end.drained)
            await claimed.finish(drained=end.drained)
            return
