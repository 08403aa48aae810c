"""The first stage: batches from the source, as fast as back-pressure, the rate and the operator allow."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from penstock.config.model import Batching
from penstock.engine.assemble import Assembly
from penstock.engine.flow import Flow
from penstock.engine.retry import delays, gave_up
from penstock.errors import Transient
from penstock.spi import Batch, Batched, Source

if TYPE_CHECKING:
    from penstock.engine.run import RunOptions


def set_batching(source: Source, batching: Batching, max_events: int | None) -> None:
    """Tell a source that cuts batches itself how large they may be: before its `open`."""
    if isinstance(source, Batched):
        source.batch_count = batching.count if max_events is None else min(batching.count, max(1, max_events))
        source.batch_bytes = batching.bytes


class Reader:
    """Reads one source until it is drained, stopped, or has given `max_events`.

    :ivar drained: afterwards: the source had nothing more.
    """

    def __init__(self, assembly: Assembly, flow: Flow, options: RunOptions) -> None:
        self._source = assembly.source
        self._retry = assembly.pipeline.retry
        self._rate = assembly.pipeline.limits.rate
        self._flow = flow
        self._options = options
        self._left = options.max_events
        self._allowance = 0.0
        self.drained = False

    async def batches(self, stopping: asyncio.Event) -> AsyncIterator[Batch]:
        """Batches, each with its credits taken. A transient failure is waited out, and reading goes on behind the last batch."""
        waits = delays(self._retry, self._options.random, self._options.clock)
        while True:
            try:
                async for batch in self._until(stopping):
                    waits = delays(self._retry, self._options.random, self._options.clock)
                    yield batch
                return
            except Transient as error:
                delay = next(waits, None)
                if delay is None:
                    raise gave_up(error, "source") from error
                self._flow.status.retries["source"] += 1
                await self._options.clock.sleep(delay)

    async def _until(self, stopping: asyncio.Event) -> AsyncIterator[Batch]:
        stopped = asyncio.ensure_future(stopping.wait())
        batches = aiter(self._source.batches())
        try:
            while self._left is None or self._left > 0:
                read = asyncio.ensure_future(self._next(batches))
                await asyncio.wait((read, stopped), return_when=asyncio.FIRST_COMPLETED)
                if not read.done():
                    read.cancel()
                    await asyncio.gather(read, return_exceptions=True)
                    return
                batch = read.result()
                if batch is None:
                    self.drained = True
                    return
                batch = self._limited(batch)
                await self._flow.acquire(len(batch.events), batch.size)
                yield batch
                await self._throttle(len(batch.events))
        finally:
            stopped.cancel()
            close = getattr(batches, "aclose", None)
            if close is not None:
                await close()

    async def _next(self, batches: AsyncIterator[Batch]) -> Batch | None:
        return await anext(batches, None)

    def _limited(self, batch: Batch) -> Batch:
        if self._left is None:
            return batch
        if len(batch.events) > self._left:
            batch, _ = batch.divide(self._left)
        self._left -= len(batch.events)
        return batch

    async def _throttle(self, events: int) -> None:
        """`limits.rate`: after a batch, wait as long as it may take at that rate."""
        if self._rate is None:
            return
        now = self._options.clock.monotonic()
        self._allowance = max(self._allowance, now) + events / self._rate
        if self._allowance > now:
            await self._options.clock.sleep(self._allowance - now)
