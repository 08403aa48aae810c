"""What goes into one commit: the batches that are ready, in the order in which they were read."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from penstock.clock import Clock
from penstock.config.model import Batching
from penstock.engine.flow import Flow
from penstock.engine.tasks import call_off
from penstock.engine.work import Work
from penstock.errors import PenstockError


@dataclass(frozen=True, slots=True)
class End:
    """Goes through the stages behind the last batch."""

    error: PenstockError | None = None
    drained: bool = False


@dataclass(slots=True)
class Gathering:
    """Takes from the processed batches, for one task.

    :ivar stopping: the run ends: nothing more is waited for.
    """

    ready: asyncio.Queue[Work | End]
    flow: Flow
    batching: Batching
    clock: Clock
    stopping: asyncio.Event
    _early: Work | None = None

    async def next(self) -> tuple[list[Work], End | None]:
        """What is ready, in order: the first batch is waited for, the others join. With `batching.period`, more is waited for."""
        works: list[Work] = []
        while True:
            item = await self._next(works, self.clock.monotonic() - works[0].started if works else 0.0)
            if item is None:
                return works, None
            if isinstance(item, End):
                return works, item
            if works and not item.processed and not self.batching.period:
                self._early = item
                return works, None
            try:
                await item.settled()  # Invariant 5: in read order, whichever worker was quickest
            except PenstockError as error:
                return works, End(error)
            works.append(item)
            if self.batching.period and self._enough(works):
                return works, None

    def _enough(self, works: list[Work]) -> bool:
        batching = self.batching
        events, size = sum(len(work.batch.events) for work in works), sum(work.batch.size for work in works)
        return events >= batching.count or size >= batching.bytes

    async def _next(self, works: list[Work], waited: float) -> Work | End | None:
        if self._early is not None:
            early, self._early = self._early, None
            return early
        if not works:
            return await self.ready.get()
        if not self.ready.empty():
            return self.ready.get_nowait()
        left = self.batching.period - waited
        if left <= 0 or self.stopping.is_set():
            return None
        more, pressed = asyncio.ensure_future(self.ready.get()), asyncio.ensure_future(self.flow.pressed.wait())
        try:
            await asyncio.wait((more, pressed), timeout=left, return_when=asyncio.FIRST_COMPLETED)
            return more.result() if more.done() else None
        finally:
            await call_off(more, pressed)
