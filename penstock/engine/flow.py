"""Back-pressure: what is in flight is bounded by events and by bytes, from reading to commit (Invariant 8). A pause is the same
with a bound of nothing: what has its credits goes on to its commit, nothing follows."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from penstock.config.model import Limits
from penstock.observe.status import RunStatus


@dataclass(slots=True)
class Flow:
    """Credits of one run. `acquire` before a batch goes on, `release` after its commit.

    :ivar batches: how many have credits; none: everything that was read is committed.
    :ivar paused: nothing is given credits; `ending`: nor will be any more, where it is paused.
    """

    limits: Limits
    status: RunStatus
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)
    pressed: asyncio.Event = field(default_factory=asyncio.Event)
    batches: int = 0
    waiting: int = 0
    paused: bool = False
    ending: bool = False

    async def acquire(self, events: int, size: int) -> bool:
        """Wait until the batch fits. One that is larger than the limits alone goes when nothing else is in flight.

        :return: False where the run ends while it is paused: the batch goes nowhere, and is read again by the next run.
        """
        await self.until(lambda: self.ending if self.paused else self._fits(events, size))  # Invariant 8: bounded
        if self.paused:
            return False
        self.batches += 1
        self.status.in_flight_events += events
        self.status.in_flight_bytes += size
        return True

    async def opened(self) -> bool:
        """Wait while it is paused; False where the run ends meanwhile."""
        if self.paused:
            await self.until(lambda: self.ending or not self.paused)
        return not self.paused

    def pause(self) -> None:
        """No further credits; what has some is committed without waiting for more."""
        self.paused = True
        self.waiting += 1
        self.pressed.set()

    async def resume(self) -> None:
        """Credits are to be had again."""
        self.paused = False
        self._wait_no_more()
        await self.tell()

    async def end(self) -> None:
        """The run ends: nobody waits for the end of a pause."""
        self.ending = True
        await self.tell()

    async def tell(self) -> None:
        """Something has changed that somebody may wait for."""
        async with self.changed:
            self.changed.notify_all()

    def _wait_no_more(self) -> None:
        self.waiting -= 1
        if not self.waiting:
            self.pressed.clear()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for commits until the condition holds. Meanwhile `pressed` is set: nothing is gained by waiting for more to
        commit."""
        async with self.changed:
            if condition():
                return
            self.waiting += 1
            self.pressed.set()
            try:
                await self.changed.wait_for(condition)
            finally:
                self._wait_no_more()

    def _fits(self, events: int, size: int) -> bool:
        if self.batches == 0:
            return True
        return (
            self.status.in_flight_events + events <= self.limits.in_flight_events
            and self.status.in_flight_bytes + size <= self.limits.in_flight_bytes
        )

    async def release(self, events: int, size: int, batches: int) -> None:
        async with self.changed:
            self.batches -= batches
            self.status.in_flight_events -= events
            self.status.in_flight_bytes -= size
            self.changed.notify_all()
