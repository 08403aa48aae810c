"""Back-pressure: what is in flight is bounded by events and by bytes, from reading to commit (Invariant 8)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from penstock.config.model import Limits
from penstock.observe.status import RunStatus


@dataclass(slots=True)
class Flow:
    """Credits of one run. `acquire` before a batch goes on, `release` after its commit."""

    limits: Limits
    status: RunStatus
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)
    pressed: asyncio.Event = field(default_factory=asyncio.Event)
    batches: int = 0
    waiting: int = 0

    async def acquire(self, events: int, size: int) -> None:
        """Wait until the batch fits. One that is larger than the limits alone goes when nothing else is in flight."""
        await self.until(lambda: self._fits(events, size))  # Invariant 8: bounded by configuration
        self.batches += 1
        self.status.in_flight_events += events
        self.status.in_flight_bytes += size

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
                self.waiting -= 1
                if not self.waiting:
                    self.pressed.clear()

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
