"""The carriers of what a run takes up by itself: dead letters whose next retry is due, and lanes whose head is parked.

Both ask the state store what is next, portion by portion, instead of going through a set: what was delivered is settled, what
failed again is due later or waits for people, and of a lane the next letters come after the first.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from typing import Literal

import msgspec

from dlq.replay_carrier import ReplayCarrier, ReplayOptions, bounded, replay_carrier
from penstock.engine.carrying import Ground, Portion
from penstock.engine.due_jobs import DueOptions
from penstock.errors import UsageError
from penstock.state.job_records import Job
from penstock.state.records import LetterQuery


@dataclass(slots=True)
class DueCarrier:
    """`JobCarrier` of the kinds `retry` and `release`.

    :ivar status: of the letters that it takes up: `open` for a retry, `parked` for a release.
    """

    ground: Ground
    options: DueOptions
    status: Literal["open", "parked"]
    replay: ReplayCarrier

    async def open(self) -> None:
        """See `JobCarrier.open`. Raises as `ReplayCarrier.open`."""
        await self.replay.open()

    async def close(self) -> None:
        """See `JobCarrier.close`."""
        await self.replay.close()

    async def portions(self, count: Callable[[], int]) -> AsyncGenerator[Portion, None]:
        """See `JobCarrier.portions`. What cannot be taken up is not tried again: nobody is left whom it is owed to, or another
        letter is before it in its lane."""
        claimed, size = self.ground.claimed, self.ground.pipeline.batching.bytes
        lanes, due, upto = claimed.store.lanes, self.options.due, self.options.upto
        while places := await lanes.due_places(self.status, due, upto, count()):
            part = next(bounded(places, size))  # the rest is asked for again: a lane may be held by then
            async for portion in self.replay.portions_of(part):
                self._count(portion)
                yield portion
            await lanes.give_up(claimed.epoch, part)

    def _count(self, portion: Portion) -> None:
        """A retry is one of the schedule's; a release is none."""
        if self.status == "open":
            for work in portion.works:
                work.retries = {origin: work.retries.get(origin, 0) + 1 for origin in work.letters}


def carry_retry(job: Job, ground: Ground) -> DueCarrier:
    """:raises UsageError: `job.bad_options`."""
    return _carrier(job, ground, "open")


def carry_release(job: Job, ground: Ground) -> DueCarrier:
    """:raises UsageError: `job.bad_options`."""
    return _carrier(job, ground, "parked")


def _carrier(job: Job, ground: Ground, status: Literal["open", "parked"]) -> DueCarrier:
    try:
        options = msgspec.json.decode(job.options, type=DueOptions)
    except msgspec.MsgspecError as error:
        raise UsageError("job.bad_options", f"the options of job {job.id} cannot be read", why=str(error)) from error
    replay = replay_carrier(job, ground, ReplayOptions(LetterQuery(status=(status,)), options.upto))
    return DueCarrier(ground, options, status, replay)
