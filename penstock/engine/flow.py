"""Back-pressure: what is in flight is bounded by events and by bytes, from reading to commit (Invariant 8)."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from penstock.config.model import Limits
from penstock.observe.status import RunStatus


@dataclass(slots=True)
class Flow:
    """Credits of one run. `acquire` before a batch goes on, `release` after its commit."""

    limits: Limits
    status: RunStatus
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)
    batches: int = 0

    async def acquire(self, events: int, size: int) -> None:
        """Wait until the batch fits. One that is larger than the limits alone goes when nothing else is in flight."""
        async with self.changed:
            await self.changed.wait_for(lambda: self._fits(events, size))  # Invariant 8: bounded by configuration
            self.batches += 1
            self.status.in_flight_events += events
            self.status.in_flight_bytes += size

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
