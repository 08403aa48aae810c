"""What follows a commit: the source is acknowledged, then credits and keys are free again."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from penstock.config.model import Retry
from penstock.engine.flow import Flow
from penstock.engine.processing import Processor
from penstock.engine.retry import persistently
from penstock.engine.supervise import blaming
from penstock.engine.work import Work
from penstock.errors import Transient
from penstock.observe.status import RunStatus
from penstock.spi import Source

if TYPE_CHECKING:
    from penstock.engine.run import RunOptions


@dataclass(frozen=True, slots=True)
class Acknowledging:
    """Whom a run tells that works are committed."""

    source: Source
    processor: Processor
    flow: Flow
    retry: Retry
    options: RunOptions
    status: RunStatus

    async def finish(self, works: Sequence[Work]) -> None:
        """These are committed (Invariant 1).

        :raises PenstockError: the source cannot be told; it gives them again.
        """
        options, status = self.options, self.status
        options.faults.hit("before_ack")
        await self._acknowledge([work.batch.token for work in works if work.batch.token is not None])
        options.faults.hit("after_ack")
        now = options.clock.monotonic()
        for work in works:
            status.reread += len(work.verdicts.reread)
            status.steps.update(work.steps)
            status.batch_seconds.observe(now - work.started)
        status.committed_at = options.clock.now()
        self.processor.forget(works)
        events = sum(len(work.batch.events) for work in works)
        await self.flow.release(events, sum(work.batch.size for work in works), sum(work.whole for work in works))

    async def _acknowledge(self, tokens: Sequence[object]) -> None:
        if tokens:
            await ask_source(lambda: self.source.ack(tokens), self.retry, self.options, self.status)


async def ask_source(action: Callable[[], Awaitable[None]], retry: Retry, options: RunOptions, status: RunStatus) -> None:
    """Something that the source is asked to do, until it is done. What it raises by mistake is blamed on it.

    :raises EnvironmentFault: `retry` allows no further attempt.
    """

    async def attempt() -> None:
        with blaming("source"):
            await action()

    def tell(error: Transient) -> None:
        status.retries["source"] += 1
        status.wait("ack", f"source: {error}")

    await persistently(attempt, retry, options.random, options.clock, tell, "source")
    status.wait("ack", None)
