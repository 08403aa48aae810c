"""Clocks are passed in, so that tests decide what time it is; and how a time is written."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """Wall time for records that people read, monotonic time for everything that measures."""

    def now(self) -> float:
        """Seconds since 1970-01-01T00:00Z."""
        ...

    def monotonic(self) -> float:
        """Seconds that never go back."""
        ...

    async def sleep(self, seconds: float) -> None: ...


class SystemClock:
    """The machine's own clock."""

    now = staticmethod(time.time)
    monotonic = staticmethod(time.monotonic)
    sleep = staticmethod(asyncio.sleep)


def moment_of(clock: Clock) -> float:
    """Now, in whole milliseconds, which `rfc3339` writes and a reader gets back exactly."""
    return round(clock.now(), 3)


def rfc3339(seconds: float) -> str:
    """Seconds since 1970 as `2026-11-21T05:00:00.250Z`."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
