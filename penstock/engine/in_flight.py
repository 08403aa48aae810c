"""Dedup keys on their way: from the look at ledgers and dead letters to the commit (rule 6 of docs/guarantees.md).

The source's batches and a job's portion are processed beside each other. A key of the one waits for the other's commit, so that
what is decided about it is decided after it. A job says first which keys it wants; batches with these wait, and the job waits for
those that went before. Neither waits for the other at the same time: what went before needs nothing but its commit.
"""

from __future__ import annotations

from collections.abc import Iterable, Set
from dataclasses import dataclass, field

from penstock.clock import Clock
from penstock.engine.flow import Flow


@dataclass(slots=True)
class InFlight:
    """Of one run. `live`: keys of the source's batches; `job`: keys that a job has reserved.

    :ivar waited: seconds that jobs have waited for batches that have their keys, all in all.
    """

    flow: Flow
    clock: Clock
    live: set[bytes] = field(default_factory=set)
    job: set[bytes] = field(default_factory=set)
    waited: float = 0.0

    async def enter(self, keys: Set[bytes]) -> None:
        """A batch comes with these keys, none of them `live`; it waits as long as a job has one of them."""
        if not self.job.isdisjoint(keys):
            await self.flow.until(lambda: self.job.isdisjoint(keys))
        self.live |= keys

    def leave(self, keys: Iterable[bytes]) -> None:
        """A batch with these keys is committed."""
        if self.live:
            self.live.difference_update(keys)

    async def reserve(self, keys: Set[bytes]) -> bool:
        """A job comes with these keys; whether it had to wait for batches that have one of them. `release` them in any case."""
        self.job |= keys
        if self.live.isdisjoint(keys):
            return False
        began = self.clock.monotonic()
        await self.flow.until(lambda: self.live.isdisjoint(keys))
        self.waited += self.clock.monotonic() - began
        return True

    async def release(self) -> None:
        """The job's portion is committed, or given up."""
        if self.job:
            self.job.clear()
            await self.flow.tell()
