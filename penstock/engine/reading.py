"""The first stage: batches from the source, as fast as back-pressure, the rate and the operator allow."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import TYPE_CHECKING

from penstock.config.model import Batching
from penstock.engine.assemble import Assembly
from penstock.engine.flow import Flow
from penstock.engine.retry import Waits, gave_up
from penstock.engine.supervise import blaming
from penstock.engine.tasks import call_off
from penstock.errors import Fatal, Transient
from penstock.spi import Batch, Batched, Source

if TYPE_CHECKING:
    from penstock.engine.run import RunOptions


def set_batching(source: Source, batching: Batching, max_events: int | None) -> None:
    """Tell a source that cuts batches itself how large they may be: before its `open`."""
    if isinstance(source, Batched):
        source.batch_count = batching.count if max_events is None else min(batching.count, max(1, max_events))
        source.batch_bytes = batching.bytes


class Positions:
    """Holds a source to its positions: within a partition they rise from event to event, up to the batch's end.

    After a crash, what a ledger holds is told from what it does not hold by position alone: a source that breaks this would lose
    events, and nothing would show it.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self._reached: dict[str, bytes] = {}

    def check(self, batch: Batch) -> None:
        """:raises Fatal: `source.positions`, before anything of the batch is processed."""
        has = self._source.has_positions
        if (batch.end is not None) is not has:
            raise self._broken(batch, f"`has_positions` is {has}, and the batch has {'an' if batch.end else 'no'} end")
        if batch.end is None:
            return
        reached = last = self._reached.get(batch.partition, b"")
        for event in batch.events:  # Invariant 2: a checkpoint between two events tells them apart
            position = event.position
            if position <= last:
                raise self._broken(
                    batch, f"event {event.id} is at {position.hex() or 'no position'}, what came before it at {last.hex()}"
                )
            last = position
        if batch.end.order < last:
            what = "its last event" if last != reached else "the batch before it"
            raise self._broken(batch, f"it ends at {batch.end.order.hex()}, {what} at {last.hex()}")
        self._reached[batch.partition] = batch.end.order

    def _broken(self, batch: Batch, why: str) -> Fatal:
        return Fatal(
            "source.positions",
            f"the source {self._source.name} gave a batch whose positions do not rise",
            where=f"source {self._source.name}, partition {batch.partition}",
            why=why,
            help="this is a bug of the source: report it; nothing of the batch was processed",
        )


class Reader:
    """Reads one source until it is drained, stopped, or has given `max_events`.

    :ivar drained: afterwards: the source had nothing more. It may be asked again.
    """

    def __init__(self, assembly: Assembly, flow: Flow, options: RunOptions) -> None:
        self._source = assembly.source
        self._retry = assembly.pipeline.retry
        self._rate = assembly.pipeline.limits.rate
        self._flow = flow
        self._options = options
        self._left = options.max_events
        self._next_at = 0.0
        self._positions = Positions(assembly.source)
        self.drained = False

    async def batches(self, stopping: asyncio.Event) -> AsyncGenerator[Batch, None]:
        """Batches, each with its credits taken. A transient failure is waited out, and reading goes on behind the last batch."""
        status, waits = self._flow.status, None
        while True:
            try:
                async with aclosing(self._until(stopping)) as batches:
                    async for batch in batches:
                        if waits is not None:
                            status.wait("source", None)
                            waits = None
                        yield batch
                status.wait("source", None)
                return
            except Transient as error:
                waits = waits or Waits(self._retry, self._options.random, self._options.clock)
                delay = waits.after(error)
                if delay is None:
                    raise gave_up(error, "source") from error
                status.retries["source"] += 1
                status.wait("source", f"source: {error}")
                await self._pause(delay, stopping)

    async def _until(self, stopping: asyncio.Event) -> AsyncGenerator[Batch, None]:
        self.drained = False
        stopped = asyncio.ensure_future(stopping.wait())
        batches = aiter(self._source.batches())
        read: asyncio.Future[Batch | None] | None = None
        try:
            while not stopping.is_set() and (self._left is None or self._left > 0) and await self._allowed():
                read = asyncio.ensure_future(self._next(batches))
                await asyncio.wait((read, stopped), return_when=asyncio.FIRST_COMPLETED)
                if not read.done():
                    return
                batch = read.result()
                if batch is None:
                    self.drained = True
                    return
                self._positions.check(batch)
                batch = self._limited(batch)
                count = len(batch.events)
                if not (await self._paced(count, stopping) and await self._flow.acquire(count, batch.size)):
                    return
                yield batch
        finally:  # reading is ended before its generator, which cannot be closed while it runs
            await call_off(stopped, *([] if read is None else [read]))
            close = getattr(batches, "aclose", None)
            if close is not None:
                await close()

    async def _allowed(self) -> bool:
        """Nothing is read while the pipeline is paused, and a source that is not read is not waited for either."""
        if self._flow.paused:
            self._flow.status.wait("source", None)
        return await self._flow.opened()

    async def _next(self, batches: AsyncIterator[Batch]) -> Batch | None:
        with blaming("source"):
            return await anext(batches, None)

    def _limited(self, batch: Batch) -> Batch:
        """At most what is left of `max_events`; but a batch whose only position is its end is taken whole, for what follows could
        not be told from it by the next run."""
        if self._left is None:
            return batch
        if len(batch.events) > self._left and (batch.end is None or batch.cut is not None):
            batch, _ = batch.divide(self._left)
        self._left -= len(batch.events)
        return batch

    async def _paced(self, events: int, stopping: asyncio.Event) -> bool:
        """`limits.rate`: wait until what came before has had its time; False where the run was stopped meanwhile."""
        if self._rate is None:
            return True
        now = self._options.clock.monotonic()
        if self._next_at > now:
            await self._pause(self._next_at - now, stopping)
        self._next_at = max(self._next_at, now) + events / self._rate
        return not stopping.is_set()

    async def _pause(self, seconds: float, stopping: asyncio.Event) -> None:
        """Sleep, but not beyond the moment at which the run is stopped."""
        tasks = asyncio.ensure_future(self._options.clock.sleep(seconds)), asyncio.ensure_future(stopping.wait())
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await call_off(*tasks)
