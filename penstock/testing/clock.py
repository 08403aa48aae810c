"""A clock that stands still until a test moves it: wall time, monotonic time and sleeping, without waiting for anything."""

from __future__ import annotations

import asyncio
import heapq
from itertools import count


class FakeClock:
    """A `Clock` moved by hand. Not shared between event loops.

    :param now: wall time at the start, in seconds since 1970.
    """

    def __init__(self, now: float = 1_800_000_000.0) -> None:
        self._wall = now
        self._monotonic = 1000.0
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._order = count()
        self._changed = asyncio.Event()

    def now(self) -> float:
        """Wall time, in seconds since 1970."""
        return self._wall

    def monotonic(self) -> float:
        """Seconds that never go back; they have nothing to do with the wall time."""
        return self._monotonic

    @property
    def sleeping(self) -> int:
        """How many tasks wait in `sleep`."""
        return sum(not sleeper.done() for _, _, sleeper in self._sleepers)

    async def sleep(self, seconds: float) -> None:
        """Wait until `advance` has moved the clock by so much; zero or less only lets other tasks run."""
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        sleeper: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._monotonic + seconds, next(self._order), sleeper))
        self._changed.set()
        await sleeper

    async def advance(self, seconds: float) -> None:
        """Move both times forward. Sleepers wake in the order of their times, each at its own time, and may sleep again within
        the same move.

        :raises ValueError: where `seconds` is negative: only `jump` goes back.
        """
        if seconds < 0:
            raise ValueError("a clock advances forward; the wall clock alone can `jump`")
        target = self._monotonic + seconds
        await self._settle()
        while self._sleepers and self._sleepers[0][0] <= target:
            due, _, sleeper = heapq.heappop(self._sleepers)
            self._move(max(due, self._monotonic))
            if not sleeper.done():
                sleeper.set_result(None)
            await self._settle()
        self._move(target)

    def jump(self, seconds: float) -> None:
        """Set the wall clock forward or back, as an operator or a time server does. Monotonic time and sleepers do not notice."""
        self._wall += seconds

    async def until_sleeping(self, tasks: int = 1) -> None:
        """Wait until at least so many tasks are in `sleep`: what a test does before it advances. Bound it with a timeout."""
        while self.sleeping < tasks:
            self._changed.clear()
            await self._changed.wait()

    def _move(self, monotonic: float) -> None:
        self._wall += monotonic - self._monotonic
        self._monotonic = monotonic

    async def _settle(self) -> None:
        """Let what is ready run, so that it sees this moment and not a later one."""
        for _ in range(10):
            await asyncio.sleep(0)
